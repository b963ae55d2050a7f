"""The result of a scaling benchmark: a row per job, where the time of a step goes, and sentences that state it.

Let T_W be the time that W ranks take for a step, T_1 that of one rank, and N_W that of W ranks which do not exchange
their gradients. Then

    T_1 / (W T_W)            is the efficiency: the fraction of the step that a perfect split would take,
    (T_W - N_W) / T_W        is communication, including the time that ranks wait for each other,
    (N_W - T_1 / W) / T_W    is the rest: costs of a step that do not shrink with the rank's part of the batch, and
                             cores that slow each other down.

The three add up to 1. Each is computed within a round and summarized by the median over the rounds, with the
distribution-free interval of the median from order statistics (David and Nagaraja 2003, section 7.1).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from plcourse.verbs.benchmark.plan import ScalingSetup, Stretch

if TYPE_CHECKING:
    from plcourse.verbs.benchmark.coordinator import Coordinator

CONFIDENCE = 0.95
SCALES = 0.8  # the efficiency above which a model is said to scale
BUSY = 0.1  # the fraction of the cores' time used by others above which nothing is concluded
FEWEST = 6  # rounds, below which the median has no 95 % interval


@dataclass(frozen=True)
class Estimate:
    """The median of one value per round, with its range and interval; the ends are None for fewer than 6 rounds."""

    median: float
    min: float
    max: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Summarizes one value per round."""
        low, high = median_interval(values) or (None, None)
        return cls(median(values), min(values), max(values), low, high)

    def scaled(self, factor: float = 1.0) -> tuple[float, float, float]:
        """Median, low and high end times a factor; the estimate must have an interval."""
        assert self.low is not None
        assert self.high is not None
        return factor * self.median, factor * self.low, factor * self.high


@dataclass
class ModelSize:
    """The work of one step with the global batch; floating-point operations are None if they were not counted."""

    parameters: int
    gradient_bytes: int
    flops_per_step: int | None
    flops_per_gradient_byte: float | None


@dataclass
class ScalingRow:
    """One job: its speed, its speed relative to one rank, and that per rank or thread."""

    job: str
    ranks: int
    threads: int
    samples_per_second: Estimate
    speedup: Estimate
    efficiency: Estimate
    memory_bytes_per_rank: int


@dataclass
class TimeSplit:
    """Where the time of a step of several ranks goes, as fractions that add up to 1."""

    ranks: int  # how many
    efficiency: Estimate  # useful work
    communication: Estimate  # exchanging gradients and waiting for each other
    rest: Estimate  # everything else
    communication_less_rest: Estimate  # the difference of the two
    against_threads: Estimate | None = None  # samples per second relative to one process with as many threads
    rival: str | None = None  # that process's job
    ddp_clock: dict[str, float] | None = None  # see `ddp_clock`


@dataclass(kw_only=True)
class ScalingResult:
    """All numbers of a finished benchmark; `rounds` has the samples per second of every stretch."""

    config: str
    device: str
    available: int
    used_by_others: float
    world_sizes: list[int]
    global_batch: int
    pairs: int
    steps: int
    warmup: int
    model: ModelSize
    rows: list[ScalingRow]
    splits: list[TimeSplit]
    rounds: list[dict[str, float]]

    def as_json(self) -> dict[str, Any]:
        """The result as `scaling.json` holds it."""
        fields = asdict(self)
        splits = fields.pop("splits")
        return {**fields, "shares": splits, "sentences": sentences(self)}


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """The narrowest pair of order statistics that encloses the median with at least this confidence.

    The k-th smallest and k-th largest of n independent values enclose the median with a probability of
    1 - 2 P(B < k), where B is binomial with n and 1/2, whatever their distribution.

    Returns:
        None if even the smallest and the largest are not enough: below 6 values for 95 %.
    """
    ordered, n = sorted(values), len(values)
    for k in range(n // 2, 0, -1):
        missed = 2 * sum(math.comb(n, i) for i in range(k)) / 2**n
        if 1 - missed >= confidence:
            return ordered[k - 1], ordered[n - k]
    return None


def build_result(coordinator: "Coordinator", setup: ScalingSetup, used_by_others: float) -> ScalingResult:
    """Computes the result from what was measured; see `ScalingResult` for the fields."""
    jobs, rounds = coordinator.jobs, coordinator.rounds
    first = coordinator.reports[0][0]
    intensity = coordinator.flops / first.gradient_bytes if coordinator.flops and first.gradient_bytes else None
    rows, splits = [], []
    for at, job in enumerate(jobs):
        speedup = [each[Stretch(at)] / each[Stretch(0)] for each in rounds]
        rows.append(
            ScalingRow(
                job=job.label,
                ranks=job.ranks,
                threads=job.threads,
                samples_per_second=Estimate.of([each[Stretch(at)] for each in rounds]),
                speedup=Estimate.of(speedup),
                efficiency=Estimate.of([value / (job.ranks * job.threads) for value in speedup]),
                memory_bytes_per_rank=max(report.memory for report in coordinator.reports[at]),
            )
        )
        if job.ranks > 1:
            rival = next((n for n, other in enumerate(jobs) if (other.ranks, other.threads) == (1, job.ranks)), None)
            split = time_split(rounds, at, job.ranks, rival)
            split.rival = jobs[rival].label if rival else None
            split.ddp_clock = ddp_clock(coordinator, at)
            splits.append(split)
    return ScalingResult(
        config=setup.name,
        device=setup.device_name or "cpu",
        available=setup.available,
        used_by_others=used_by_others,
        world_sizes=sorted({job.ranks for job in jobs}),
        global_batch=setup.global_batch,
        pairs=len(rounds),
        steps=coordinator.steps,
        warmup=coordinator.command.warmup,
        model=ModelSize(first.parameters, first.gradient_bytes, coordinator.flops, intensity),
        rows=rows,
        splits=splits,
        rounds=[
            {jobs[s.job].label + ("" if s.exchange else ", gradients not exchanged"): rate for s, rate in each.items()}
            for each in rounds
        ],
    )


def ddp_clock(coordinator: "Coordinator", at: int) -> dict[str, float] | None:
    """The fractions `communication` and `exposed` of a step by DDP's own clock; None if it measured nothing.

    They are a second opinion, which misses how much communication slows the computation.
    """
    seen = [(total, exposed) for job, total, exposed in coordinator.clock if job == at]
    if not seen:
        return None
    return {"communication": median(total for total, _ in seen), "exposed": median(exposed for _, exposed in seen)}


def time_split(rounds: list[dict[Stretch, float]], at: int, ranks: int, rival: int | None) -> TimeSplit:
    """Splits the time of a step of several ranks, and compares them with one process with as many threads."""
    efficiency = [each[Stretch(at)] / (ranks * each[Stretch(0)]) for each in rounds]
    communication = [1 - each[Stretch(at)] / each[Stretch(at, exchange=False)] for each in rounds]
    rest = [1 - e - c for e, c in zip(efficiency, communication, strict=True)]
    difference = [c - r for c, r in zip(communication, rest, strict=True)]
    against = Estimate.of([each[Stretch(at)] / each[Stretch(rival)] for each in rounds]) if rival else None
    return TimeSplit(ranks, *map(Estimate.of, (efficiency, communication, rest, difference)), against_threads=against)


def sentences(result: ScalingResult) -> list[str]:
    """States what the intervals show; a sentence is inconclusive where its interval allows both answers."""
    if result.world_sizes == [1] and result.available == 1:
        what = "core" if result.device == "cpu" else "GPU"
        return [f"world size 1 only: this machine has one {what}, so nothing can be said about more."]
    if result.used_by_others > BUSY:
        used = f"{100 * result.used_by_others:.0f} %"
        return [f"no verdict: other processes used {used} of this machine's cores; run it again when it is idle."]
    if result.pairs < FEWEST:
        return [f"no verdict: {result.pairs} rounds give no 95 % interval; use --pairs {FEWEST} or more."]
    found = []
    for split in result.splits:
        gain = _gain(split.ranks, "one", *split.efficiency.scaled(split.ranks))
        found += [f"{gain}, an efficiency of {split.efficiency.median:.2f}.", _reason(split, result.model)]
        if split.against_threads is not None:
            found.append(f"{_gain(split.ranks, str(split.rival), *split.against_threads.scaled())}.")
    return found


def _gain(ranks: int, other: str, ratio: float, low: float, high: float) -> str:
    """Whether ranks are faster than another job, by the ratio of their samples per second and its interval."""
    numbers = f"{ratio:.2f} x the samples/s (95 % interval {low:.2f} to {high:.2f})"
    if low <= 1 <= high:
        return f"inconclusive whether {ranks} ranks are faster than {other}: {numbers}"
    return f"{ranks} ranks are {'faster' if low > 1 else 'slower'} than {other}: {numbers}"


def _reason(split: TimeSplit, model: ModelSize) -> str:
    """Says why this model scales or not, from the split of its time."""
    size = f"{model.gradient_bytes / 1e6:.2g} MB of gradients"
    if model.flops_per_gradient_byte is not None:
        size += f", {_two_digits(model.flops_per_gradient_byte)} operations for each byte of them"
    parts = f"{_percent(split.communication)} of a step is communication ({size}), {_percent(split.rest)} is not shared"
    _, low, high = split.communication_less_rest.scaled()
    if split.efficiency.scaled()[1] >= SCALES:
        return f"it scales, because little is lost: {parts}."
    if low > 0:
        return f"communication limits it: {parts}."
    if high < 0:
        return f"work that the ranks do not share limits it more than communication: {parts}."
    return f"inconclusive whether communication or work that is not shared limits it more: {parts}."


def _percent(part: Estimate) -> str:
    middle, low, high = part.scaled(100)
    return f"{middle:.0f} % ({low:.0f} to {high:.0f})"


def _two_digits(value: float) -> str:
    digits = 1 - math.floor(math.log10(value)) if value else 0
    return f"{round(value, digits):,.{max(0, digits)}f}"
