from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plcourse.data.loader import BatchLoader
from plcourse.data.samplers import Accumulation, EvalSampler, TrainSampler
from plcourse.errors import UserError

worlds = st.integers(1, 6)
batch_sizes = st.integers(1, 9)


class Numbers:
    """Batches of nothing but their samples' numbers."""

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        return {"at": indices}


def _of_all_ranks(kind, n, batch_size, world_size, **options):
    return [kind(n, batch_size, rank=rank, world_size=world_size, **options) for rank in range(world_size)]


@given(n=st.integers(0, 60), batch_size=batch_sizes, world_size=worlds)
def test_evaluation_sees_each_sample_once_and_in_order(n, batch_size, world_size):
    samplers = _of_all_ranks(EvalSampler, n, batch_size, world_size)
    batches = [list(sampler.batches(0)) for sampler in samplers]
    assert [len(b) for b in batches] == [len(s) for s in samplers]
    assert all(0 < len(b) <= batch_size for rank in batches for b in rank)
    assert [i for rank in batches for b in rank for i in b.tolist()] == list(range(n))
    assert max(map(len, samplers)) - min(map(len, samplers)) <= 1


@given(data=st.data(), batch_size=batch_sizes, world_size=worlds, epoch=st.integers(0, 3))
def test_training_sees_each_sample_once_with_every_rank_in_every_step(data, batch_size, world_size, epoch):
    n = data.draw(st.integers(world_size, 80))
    samplers = _of_all_ranks(TrainSampler, n, batch_size, world_size, seed=5)
    batches = [list(sampler.batches(epoch)) for sampler in samplers]
    assert {len(b) for b in batches} == {len(samplers[0])}
    assert sorted(i for rank in batches for b in rank for i in b.tolist()) == list(range(n))
    for step, shares in enumerate(zip(*batches, strict=True)):
        sizes = [len(share) for share in shares]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == samplers[0].samples(step, step + 1)
        assert max(sizes) <= batch_size + 1
        # a mean of weighted means is the mean over samples
        weights = [sampler.rank_weight(step) for sampler in samplers]
        np.testing.assert_allclose(np.array(weights) / world_size, np.array(sizes) / sum(sizes))
    assert all(b.dtype == np.int64 for rank in batches for b in rank)


@given(world_size=st.integers(1, 4), share=st.integers(1, 4), n=st.integers(30, 90))
def test_global_batches_do_not_depend_on_how_many_ranks_share_them(world_size, share, n):
    n -= n % (share * world_size)  # a short remainder is the one case that may be merged
    alone = list(TrainSampler(n, share * world_size, seed=2).batches(4))
    ranks = [list(s.batches(4)) for s in _of_all_ranks(TrainSampler, n, share, world_size, seed=2)]
    together = [np.concatenate(shares) for shares in zip(*ranks, strict=True)]
    assert [b.tolist() for b in together] == [b.tolist() for b in alone]


def test_a_remainder_smaller_than_the_world_joins_the_last_batch():
    sampler = TrainSampler(13, 2, world_size=4)
    assert [sampler.samples(i, i + 1) for i in range(len(sampler))] == [8, 5]
    sampler = TrainSampler(18, 2, world_size=4)
    assert [sampler.samples(i, i + 1) for i in range(len(sampler))] == [8, 10]
    sampler = TrainSampler(5, 2, world_size=4)
    assert [sampler.samples(i, i + 1) for i in range(len(sampler))] == [5]


@given(
    n=st.integers(8, 90),
    batch_size=batch_sizes,
    world_size=worlds,
    accumulate=st.integers(1, 5),
    limit=st.integers(1, 30),
)
def test_the_weights_of_an_optimizer_step_give_each_of_its_samples_the_same_share(
    n, batch_size, world_size, accumulate, limit
):
    """Means over a rank's samples, weighted, averaged over ranks by DDP and over `accumulate` batches by Lightning."""
    trainer = SimpleNamespace(accumulate_grad_batches=accumulate, num_training_batches=limit)
    steps = Accumulation(trainer)  # pyright: ignore[reportArgumentType]  of a Trainer what it asks for
    samplers = [TrainSampler(n, batch_size, 1, rank, world_size) for rank in range(world_size)]
    limit = min(limit, len(samplers[0]))
    shares = np.zeros((limit, n))
    for sampler in samplers:
        loader = BatchLoader(Numbers(), sampler, accumulation=steps)
        for i, batch in zip(range(limit), loader, strict=False):
            shares[i, batch["at"]] = batch["rank_weight"] / len(batch["at"]) / world_size / accumulate
    for first in range(0, limit, accumulate):
        step = shares[first : first + accumulate].sum(0)
        assert np.allclose(step[step > 0], 1 / np.count_nonzero(step))


@given(n=st.integers(8, 90), share=st.integers(1, 4), world_size=worlds, accumulate=st.integers(1, 4))
def test_accumulated_batches_hold_the_samples_of_one_whole_batch(n, share, world_size, accumulate):
    small = [TrainSampler(n, share, 1, rank, world_size) for rank in range(world_size)]
    whole = list(TrainSampler(n, share * world_size * accumulate, 1).batches(0))
    batches = [np.concatenate(parts) for parts in zip(*(sampler.batches(0) for sampler in small), strict=True)]
    steps = [np.concatenate(batches[i : i + accumulate]) for i in range(0, len(batches), accumulate)]
    if len(steps) == len(whole):  # else a remainder too small for all ranks joined the step before it
        assert all(sorted(a) == sorted(b) for a, b in zip(steps, whole, strict=True))


def test_drop_last_leaves_only_full_batches():
    sampler = TrainSampler(13, 3, rank=1, world_size=2, drop_last=True)
    assert [len(b) for b in sampler.batches(0)] == [3, 3]


def test_epochs_differ_unless_a_few_batches_are_to_be_overfitted():
    def orders(**options):
        return [np.concatenate(list(TrainSampler(50, 8, **options).batches(e))).tolist() for e in range(2)]

    first, second = orders()
    assert first != second
    first, second = orders(reshuffle=False)
    assert first == second


def test_fewer_samples_than_processes_is_the_users_to_mend():
    with pytest.raises(UserError, match="3 training samples for 4 processes: use at most 3"):
        TrainSampler(3, 8, world_size=4)
    with pytest.raises(UserError, match="use batch_size at most 5"):
        TrainSampler(10, 8, world_size=2, drop_last=True)


@pytest.mark.parametrize("kind", [TrainSampler, EvalSampler])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1, "batch_size": 2}, "n=-1"),
        ({"n": 9, "batch_size": 0}, "batch_size=0"),
        ({"n": 9, "batch_size": 2, "rank": 2, "world_size": 2}, "rank=2 of world_size=2"),
    ],
)
def test_impossible_arguments_are_named(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)
