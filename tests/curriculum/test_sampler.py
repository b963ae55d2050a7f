"""The sampler draws each admitted sample equally often on all ranks, and with all admitted as in plain training."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plcourse.curriculum.sampler import CurriculumSampler, rank_samples
from plcourse.data import TrainSampler
from plcourse.errors import UserError


def sampler(n: int = 100, batch_size: int = 10, fraction: float = 1.0, **base: Any) -> CurriculumSampler:
    made = CurriculumSampler(TrainSampler(n, batch_size, **base))
    made.begin(np.arange(n)[::-1].copy(), lambda epoch, batch: fraction)
    return made


def epochs(of: CurriculumSampler | TrainSampler, n_epochs: int = 3) -> list[list[list[int]]]:
    return [[batch.tolist() for batch in of.batches(epoch)] for epoch in range(n_epochs)]


@given(n=st.integers(2, 90), batch_size=st.integers(1, 12), world_size=st.integers(1, 2), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_with_everything_admitted_it_is_the_plain_sampler(n: int, batch_size: int, world_size: int, seed: int) -> None:
    for rank in range(world_size):
        plain = TrainSampler(n, batch_size, seed, rank, world_size)
        ours = sampler(n, batch_size, seed=seed, rank=rank, world_size=world_size)
        assert epochs(ours) == epochs(plain)
        assert [ours.rank_weight(i) for i in range(len(ours))] == [plain.rank_weight(i) for i in range(len(plain))]


@given(n=st.integers(4, 90), batch_size=st.integers(1, 6), fraction=st.floats(0.05, 1), world_size=st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_no_admitted_sample_is_dropped(n: int, batch_size: int, fraction: float, world_size: int) -> None:
    """Over all ranks, an epoch draws as many samples as there are, each admitted one equally often, give or take 1."""
    ranks = [sampler(n, batch_size, fraction, rank=rank, world_size=world_size) for rank in range(world_size)]
    least = min(n, batch_size * world_size)
    if np.ceil(fraction * n - 1e-9) < least:
        with pytest.raises(UserError, match="fewer than one batch"):
            ranks[0].plan(0)
        return
    drawn = Counter(i for each in ranks for batch in each.batches(0) for i in batch.tolist())
    admitted = ranks[0].plan(0).passes[0][1]
    assert set(drawn) == set(ranks[0].ranking_N[:admitted].tolist())
    assert sum(drawn.values()) == n
    assert max(drawn.values()) - min(drawn.values()) <= 1


def test_every_pass_visits_each_admitted_sample_once_while_the_fraction_grows() -> None:
    growing = sampler()
    growing.begin(np.arange(100), lambda epoch, batch: 0.2 + 0.02 * (epoch * 10 + batch))
    plan = growing.plan(1)
    borders = [first for first, _ in plan.passes] + [100]
    for (first, admitted), end in zip(plan.passes, borders[1:], strict=True):
        visited = plan.draws[first:end]
        assert len(set(visited.tolist())) == len(visited)
        assert visited.max() < admitted
        if end < 100:
            assert len(visited) == admitted
    assert plan.passes == [(0, 40), (40, 48), (88, 56)]
    assert [growing.fraction(1, batch) for batch in (0, 3, 4, 8, 9)] == [0.4, 0.4, 0.48, 0.48, 0.56]


def test_a_fraction_counts_samples_without_rounding_errors() -> None:
    assert sampler(10, 1, fraction=0.1 + 0.2).plan(0).passes[0][1] == 3


def test_two_ranks_share_the_draws_of_one_process() -> None:
    one = epochs(sampler(101, 12, 0.4))
    two = [epochs(sampler(101, 6, 0.4, rank=rank, world_size=2)) for rank in (0, 1)]
    for epoch, batches in enumerate(one):
        assert [a + b for a, b in zip(two[0][epoch], two[1][epoch], strict=True)] == batches


def test_an_epoch_can_start_in_the_middle() -> None:
    whole = epochs(sampler(101, 7, 0.3))[2]
    assert [batch.tolist() for batch in sampler(101, 7, 0.3).batches(2, start=5)] == whole[5:]


def test_each_pass_and_epoch_is_shuffled_differently() -> None:
    plan = sampler(fraction=0.5).plan(0)
    first, second = plan.draws[:50].tolist(), plan.draws[50:].tolist()
    assert sorted(first) == sorted(second)
    assert first != second
    assert sampler(fraction=0.5).plan(1).draws.tolist() != plan.draws.tolist()


class TestRanking:
    scores = np.array([5.0, 1.0, 3.0, 2.0, 4.0, 0.0])
    labels = np.array([0, 0, 0, 1, 1, 1])

    def test_hard_first_is_the_reverse_of_easy_first(self) -> None:
        easy = rank_samples("easy_first", self.scores, self.labels, False, 0)
        assert easy.tolist() == [5, 1, 3, 2, 4, 0]
        assert rank_samples("hard_first", self.scores, self.labels, False, 0).tolist() == easy.tolist()[::-1]

    def test_random_depends_on_the_seed_and_not_on_the_scores(self) -> None:
        labels = np.zeros(50, np.int64)
        a = rank_samples("random", None, labels, False, 0)
        assert sorted(a.tolist()) == list(range(50))
        assert a.tolist() == rank_samples("random", np.arange(50.0), labels, False, 0).tolist()
        assert a.tolist() != rank_samples("random", None, labels, False, 1).tolist()

    @pytest.mark.parametrize("order", ["easy_first", "hard_first", "random"])
    def test_balanced_fractions_have_the_classes_of_the_whole(self, order: str) -> None:
        labels = np.repeat([0, 1, 2], [60, 30, 10])
        scores = np.arange(100.0)  # class 0 is the easiest throughout
        ranking = rank_samples(order, scores, labels, True, 0)  # pyright: ignore[reportArgumentType]
        assert sorted(ranking.tolist()) == list(range(100))
        for fraction in (0.1, 0.25, 0.5, 0.8):
            counts = np.bincount(labels[ranking[: round(fraction * 100)]], minlength=3)
            assert np.abs(counts - fraction * np.array([60, 30, 10])).max() <= 1
        for label in range(3):
            own = scores[ranking[labels[ranking] == label]]
            if order != "random":
                assert (np.diff(own) > 0).all() == (order == "easy_first")

    def test_equal_scores_are_ordered_by_the_seed(self) -> None:
        same = np.zeros(50)
        a, b = (rank_samples("easy_first", same, np.zeros(50, np.int64), False, seed) for seed in (0, 1))
        assert a.tolist() != b.tolist()
