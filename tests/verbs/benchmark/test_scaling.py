"""The jobs of a scaling benchmark, intervals of the median, fractions that add up, and the sentences."""

import math
from typing import Any

import pytest

from plcourse.errors import UserError
from plcourse.verbs.benchmark.plan import Job, Stretch, job_flags, jobs_of, read_command, stretches_of
from plcourse.verbs.benchmark.result import (
    FEWEST,
    Estimate,
    ModelSize,
    ScalingResult,
    ddp_clock,
    median_interval,
    sentences,
    time_split,
)

MODEL = ModelSize(400_000, 1_600_000, 114_080_000, 71.3)


def labels(jobs: list[Job]) -> list[str]:
    return [job.label for job in jobs]


def test_jobs_use_ranks_and_on_a_cpu_also_threads() -> None:
    assert labels(jobs_of(None, "cpu", 1)) == ["1 process, 1 thread"]
    assert labels(jobs_of(None, "cpu", 2)) == ["1 process, 1 thread", "1 process, 2 threads", "2 ranks, 1 thread each"]
    assert labels(jobs_of(None, "cuda", 1)) == ["1 GPU"]
    assert labels(jobs_of(None, "cuda", 6)) == ["1 GPU", "2 GPUs", "4 GPUs", "6 GPUs"]
    assert [job.ranks for job in jobs_of((1, 3), "cpu", 4)] == [1, 1, 3]
    assert stretches_of(jobs_of(None, "cpu", 2)) == [Stretch(0), Stretch(1), Stretch(2), Stretch(2, exchange=False)]


def test_more_ranks_than_cores_are_refused() -> None:
    with pytest.raises(UserError, match="this machine has 2 cores"):
        jobs_of((1, 4), "cpu", 2)


def test_the_global_batch_is_the_same_in_all_jobs() -> None:
    assert "--data.init_args.batch_size=64" in job_flags(Job(1, 2, "cpu"), 64, "auto")
    assert "--data.init_args.batch_size=16" in job_flags(Job(4, 1, "cpu"), 64, "auto")
    with pytest.raises(UserError, match="a multiple of 4"):
        job_flags(Job(4, 1, "cpu"), 66, "auto")


def test_only_jobs_of_several_ranks_keep_the_strategy_of_the_config() -> None:
    own = {"class_path": "DDPStrategy", "init_args": {"static_graph": True}}
    assert "--trainer.strategy=auto" in job_flags(Job(1, 1, "cpu"), 64, own)
    assert any("static_graph: true" in flag for flag in job_flags(Job(2, 1, "cpu"), 64, own))
    assert any("gloo" in flag for flag in job_flags(Job(2, 1, "cpu"), 64, "auto"))
    assert not any("gloo" in flag for flag in job_flags(Job(2, 1, "cuda"), 64, "auto"))


def test_world_sizes_begin_with_one_rank() -> None:
    assert read_command(["-c", "x", "--world_sizes", "4,2", "--trainer.precision", "64-true"]).world_sizes == (1, 2, 4)
    command = read_command(["-c", "x", "--trainer.precision", "64-true", "--pairs", "7"])
    assert command.arguments == ["-c", "x", "--trainer.precision", "64-true"]
    assert (command.pairs, command.steps, command.world_sizes) == (7, None, None)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], "needs -c NAME_OR_PATH"),
        (["-c", "x", "--pairs", "none"], "--pairs is 'none'; it must be a whole number, 1 or more"),
        (["-c", "x", "--world_sizes", "two"], "such as 1,2,4"),
        (["-c", "x", "--then", "test"], "--then has no effect"),
        (["-c", "x", "--json", "numbers.txt"], "ends with .json"),
    ],
)
def test_bad_requests(arguments: list[str], wanted: str) -> None:
    with pytest.raises(UserError, match=wanted):
        read_command(arguments)


@pytest.mark.parametrize("n", range(1, 40))
def test_the_interval_is_the_narrowest_that_covers_the_median(n: int) -> None:
    interval = median_interval([float(value) for value in range(n, 0, -1)])
    if n < FEWEST:
        assert interval is None
        return
    assert interval is not None
    k = int(interval[0])
    assert interval[1] == n + 1 - k

    def coverage(k: int) -> float:
        return 1 - 2 * sum(math.comb(n, i) for i in range(k)) / 2**n

    assert coverage(k) >= 0.95 > coverage(k + 1)


def test_the_published_interval() -> None:
    """Nine values: the second and the eighth, 96.1 % (David and Nagaraja 2003)."""
    assert median_interval([9, 1, 8, 2, 7, 3, 6, 4, 5]) == (2, 8)


def rounds_of(one: float, ranks: float, silent: float, threads: float) -> list[dict[Stretch, float]]:
    """Nine rounds on a machine whose speed wanders, which no ratio within a round shows."""
    rounds = []
    for at in range(9):
        speed = 1 + 0.3 * math.sin(at)
        rounds.append(
            {
                Stretch(0): speed / one,
                Stretch(1): speed / threads,
                Stretch(2): speed / ranks,
                Stretch(2, exchange=False): speed / silent,
            }
        )
    return rounds


def test_the_fractions_add_up_to_the_step() -> None:
    split = time_split(rounds_of(one=1.0, ranks=0.8, silent=0.6, threads=0.5), at=2, ranks=2, rival=1)
    assert split.efficiency.median == pytest.approx(1.0 / (2 * 0.8))
    assert split.communication.median == pytest.approx((0.8 - 0.6) / 0.8)
    assert split.rest.median == pytest.approx((0.6 - 0.5) / 0.8)
    assert split.against_threads is not None
    assert split.against_threads.median == pytest.approx(0.5 / 0.8)
    parts = (split.efficiency, split.communication, split.rest)
    assert sum(part.median for part in parts) == pytest.approx(1)


def result_of(**fields: Any) -> ScalingResult:
    known: dict[str, Any] = {
        "config": "ddp/mlp",
        "device": "cpu",
        "available": 2,
        "used_by_others": 0.02,
        "world_sizes": [1, 2],
        "global_batch": 64,
        "pairs": 9,
        "steps": 20,
        "warmup": 20,
        "model": MODEL,
        "rows": [],
        "splits": [],
        "rounds": [],
    }
    return ScalingResult(**{**known, **fields})


def said(*times: float, pairs: int = 9, others: float = 0.02) -> list[str]:
    split = time_split(rounds_of(*times), 2, 2, 1)
    split.rival = "1 process, 2 threads"
    return sentences(result_of(used_by_others=others, pairs=pairs, splits=[split]))


def test_the_file_keeps_its_keys() -> None:
    split = time_split(rounds_of(1.0, 0.8, 0.6, 0.5), 2, 2, 1)
    content = result_of(splits=[split]).as_json()
    assert "splits" not in content
    assert content["shares"][0]["efficiency"]["median"] == split.efficiency.median
    assert content["model"]["flops_per_step"] == MODEL.flops_per_step
    assert len(content["sentences"]) == 3


def test_the_sentences_follow_the_measured_split() -> None:
    bound = said(1.0, 2.0, 0.7, 0.8)
    assert bound[0].startswith("2 ranks are slower than one: 0.50 x")
    assert bound[1].startswith("communication limits it: 65 % (65 to 65) of a step is communication")
    assert "1.6 MB of gradients, 71 operations for each byte of them" in bound[1]
    assert bound[2].startswith("2 ranks are slower than 1 process, 2 threads: 0.40 x")
    good = said(1.0, 0.55, 0.53, 0.6)
    assert good[0].startswith("2 ranks are faster than one: 1.82 x")
    assert good[1].startswith("it scales, because little is lost: 4 %")
    assert good[2].startswith("2 ranks are faster than 1 process, 2 threads: 1.09 x")
    rest = said(1.0, 0.9, 0.88, 0.9)
    assert rest[1].startswith("work that the ranks do not share limits it more than communication: 2 %")
    assert rest[2].startswith("inconclusive whether 2 ranks are faster than 1 process, 2 threads: 1.00 x")


def test_no_verdict_without_an_interval() -> None:
    assert said(1.0, 2.0, 0.7, 0.8, pairs=FEWEST - 1) == [
        "no verdict: 5 rounds give no 95 % interval; use --pairs 6 or more."
    ]


def test_no_verdict_on_a_busy_machine() -> None:
    (line,) = said(1.0, 2.0, 0.7, 0.8, others=0.83)
    assert line.startswith("no verdict: other processes used 83 % of this machine's cores")


@pytest.mark.parametrize(("device", "what"), [("cpu", "core"), ("NVIDIA H100", "GPU")])
def test_one_device_has_one_world_size(device: str, what: str) -> None:
    (line,) = sentences(result_of(world_sizes=[1], available=1, device=device))
    assert line == f"world size 1 only: this machine has one {what}, so nothing can be said about more."


def test_an_estimate_has_a_range() -> None:
    assert Estimate.of([3.0, 1.0, 2.0]) == Estimate(median=2.0, min=1.0, max=3.0, low=None, high=None)


def test_the_ddp_clock_is_summarized_by_job() -> None:
    class Heard:
        clock = ((1, 0.2, 0.1), (2, 0.9, 0.8), (1, 0.4, 0.3))

    heard: Any = Heard()
    assert ddp_clock(heard, 1) == pytest.approx({"communication": 0.3, "exposed": 0.2})
    assert ddp_clock(heard, 0) is None
