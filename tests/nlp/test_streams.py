"""Windows of a text: every token is scored once, tracks go on where they were, lengths are alike in a batch."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plcourse.data import TrainSampler
from plcourse.errors import UserError
from plcourse.nlp.splits import BucketSampler, TokenDataset
from plcourse.nlp.streams import NOT_SCORED, EvalWindows, Stream, TrackSampler, TrainWindows
from plcourse.nlp.tokenizers import END, PAD, UNKNOWN, CharacterTokenizer

LETTERS = CharacterTokenizer("abcdefghij")


def test_an_end_token_follows_each_of_several_texts_but_not_a_single_one() -> None:
    assert Stream(["ab", "c"], LETTERS).tokens.tolist() == [END, 3, 4, END, 5, END]
    assert Stream(["ab", "c"], LETTERS).characters.tolist() == [0, 1, 1, 0, 1, 0]
    assert Stream(["abc"], LETTERS).tokens.tolist() == [END, 3, 4, 5]


@settings(max_examples=60, deadline=None)
@given(st.text("abcdefghij", min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 9), st.integers(1, 5))
def test_evaluation_scores_every_token_once_after_its_context(text: str, length: int, context: int, batch: int) -> None:
    stream = Stream([text], LETTERS)
    windows = EvalWindows(stream, length, context, "val")
    scored: list[int] = []
    characters = 0
    for start in range(0, len(windows), batch):
        rows = windows.fetch(np.arange(start, min(start + batch, len(windows))), 0)
        characters += int(rows["characters"].sum())
        for text_T, target_T in zip(rows["text"].tolist(), rows["target"].tolist(), strict=True):
            places = [i for i, target in enumerate(target_T) if target != NOT_SCORED]
            scored += [target_T[i] for i in places]
            # what is read before a scored token is what stands before it in the text
            read = text_T[: places[-1] + 1]
            end = len(scored)
            assert read == stream.tokens[end - len(read) : end].tolist()
            assert len(read) >= min(end, len(places) + context)
    assert scored == stream.tokens[1:].tolist()
    assert characters == len(text)


def test_training_windows_are_adjacent_and_shift_from_epoch_to_epoch() -> None:
    stream = Stream(["abcdefghij" * 20], LETTERS)
    windows = TrainWindows(stream, 7, seed=1)
    starts = set()
    for epoch in range(12):
        rows = windows.fetch(np.arange(len(windows)), epoch)
        assert torch.equal(rows["text"][:, 1:], rows["target"][:, :-1])
        flat = rows["text"].flatten()
        assert torch.equal(rows["target"].flatten()[:-1], flat[1:])
        starts.add(tuple(flat[:10].tolist()))
    assert len(starts) > 3
    with pytest.raises(UserError, match="fewer than two windows of 7"):
        TrainWindows(Stream(["abcdef"], LETTERS), 7, 0)


@pytest.mark.parametrize("world_size", [1, 2])
def test_each_step_continues_where_the_previous_one_ended(world_size: int) -> None:
    stream = Stream(["abcdefghij" * 30], LETTERS)
    windows = TrainWindows(stream, 5, seed=1)
    seen = []
    for rank in range(world_size):
        sampler = TrackSampler(len(windows), 4 // world_size, 0, rank, world_size)
        steps = [windows.fetch(batch, 2) for batch in sampler.batches(2)]
        assert len(steps) == len(sampler) == len(windows) // 4
        for before, after in pairwise(steps):
            assert torch.equal(before["target"][:, -1], after["text"][:, 0])
        late = next(iter(sampler.batches(2, start=3)))
        assert torch.equal(windows.fetch(late, 2)["text"], steps[3]["text"])
        seen += [index for batch in sampler.batches(0) for index in batch.tolist()]
    assert sorted(seen) == list(range(len(windows) // 4 * 4))
    with pytest.raises(UserError, match="too few for 1000 tracks"):
        TrackSampler(len(windows), 1000)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 400), st.integers(1, 9), st.integers(1, 2), st.integers(0, 3))
def test_buckets_contain_every_text_once_over_all_ranks(n: int, batch: int, world_size: int, epoch: int) -> None:
    lengths = np.random.default_rng(n).integers(1, 50, n)
    seen, n_batches = [], set()
    for rank in range(world_size):
        sampler = BucketSampler(lengths, batch, 5, rank, world_size)
        batches = list(sampler.batches(epoch))
        n_batches.add(len(batches))
        seen += [i for each in batches for i in each.tolist()]
        assert [each.tolist() for each in sampler.batches(epoch, 1)] == [each.tolist() for each in batches[1:]]
    assert sorted(seen) == list(range(n))
    assert len(n_batches) == 1


def test_buckets_leave_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(10, 400, 5000)
    sampler = BucketSampler(lengths, 50)

    def padded(batches: list[np.ndarray]) -> int:
        return sum(int(lengths[batch].max()) * len(batch) for batch in batches)

    bucketed, shuffled = (padded(list(each.batches(0))) for each in (sampler, TrainSampler(5000, 50)))
    assert bucketed < 1.1 * lengths.sum()
    assert shuffled > 1.5 * lengths.sum()
    first, second = (next(iter(sampler.batches(epoch))) for epoch in (0, 1))
    assert first.tolist() != second.tolist()


def test_a_batch_is_padded_and_an_empty_text_is_one_unknown_token() -> None:
    tokens = TokenDataset(LETTERS.encode(["abc", "", "d"]), np.array([1, 0, 1]), ["x", "y", "z"])
    batch = tokens.fetch(np.array([1, 0]), 0)
    assert batch["text"].tolist() == [[UNKNOWN, PAD, PAD], [3, 4, 5]]
    assert batch["length"].tolist() == [1, 3]
    assert batch["label"].tolist() == [0, 1]
    assert batch["id"] == ["y", "x"]
