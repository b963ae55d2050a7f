"""The result of a scaling benchmark as plain data: rows, where the time of a step goes, and sentences that say it.

Of the time T_W that W ranks take for a step, with T_1 that of one rank and N_W that of W ranks which do not exchange
their gradients,

    T_1 / (W T_W)            is the efficiency: the time that a perfect split would take,
    (T_W - N_W) / T_W        is communication, the waiting of the ranks for each other included,
    (N_W - T_1 / W) / T_W    is the rest: costs of a step that do not shrink with the rank's share of the batch, and
                             cores that slow each other down.

The three add up to 1. Each is computed within a round and then taken as the median over the rounds, with the interval
of the median that order statistics give (David and Nagaraja 2003, section 7.1), which assumes no distribution.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from plcourse.verbs.benchmark.plan import Stretch

if TYPE_CHECKING:
    from plcourse.verbs.benchmark.coordinator import Coordinator

CONFIDENCE = 0.95
SCALES = 0.8  # the efficiency above which a model is said to scale
BUSY = 0.1  # the share of the cores' time used by others above which nothing is concluded
FEWEST = 6  # rounds, below which the median has no 95 % interval


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """The narrowest pair of order statistics that holds the median with so much confidence.

    The k-th smallest and k-th largest of n independent values enclose the median with a probability of
    1 - 2 P(B < k), B binomial with n and 1/2, whatever their distribution.

    Returns:
        None where not even the smallest and the largest are enough: below 6 values for 95 %.
    """
    ordered, n = sorted(values), len(values)
    for k in range(n // 2, 0, -1):
        missed = 2 * sum(math.comb(n, i) for i in range(k)) / 2**n
        if 1 - missed >= confidence:
            return ordered[k - 1], ordered[n - k]
    return None


def estimate(values: Sequence[float]) -> dict[str, Any]:
    """Median, range, and interval of the median of one value per round."""
    interval = median_interval(values)
    return {
        "median": median(values),
        "min": min(values),
        "max": max(values),
        "low": interval[0] if interval else None,
        "high": interval[1] if interval else None,
    }


def build_report(conductor: "Coordinator", found: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a finished benchmark.

    Args:
        conductor: what was measured.
        found: the config and the machine, as `plcourse.verbs.benchmark.scaling` resolved them.

    Returns:
        Plain data: `rows`, one per job; `shares`, one per world size above 1; `sentences`; and every round's
        samples per second in `rounds`.
    """
    jobs, rounds = conductor.jobs, conductor.rounds
    first = conductor.reports[0][0]
    model = {
        "parameters": first.parameters,
        "gradient_bytes": first.gradient_bytes,
        "flops_per_step": conductor.flops,
        "flops_per_gradient_byte": _ratio(conductor.flops, first.gradient_bytes),
    }
    rows = []
    for at, job in enumerate(jobs):
        rates = [each[Stretch(at)] for each in rounds]
        speedup = [each[Stretch(at)] / each[Stretch(0)] for each in rounds]
        rows.append(
            {
                "job": job.label,
                "ranks": job.ranks,
                "threads": job.threads,
                "samples_per_second": estimate(rates),
                "speedup": estimate(speedup),
                "efficiency": estimate([value / (job.ranks * job.threads) for value in speedup]),
                "memory_bytes_per_rank": max(report.memory for report in conductor.reports[at]),
            }
        )
    shares = []
    for at, job in enumerate(jobs):
        if job.ranks > 1:
            rival = next((n for n, other in enumerate(jobs) if (other.ranks, other.threads) == (1, job.ranks)), None)
            share = _shares(rounds, at, job.ranks, rival)
            shares.append(share | {"rival": jobs[rival].label if rival else None, "ddp_clock": _clock(conductor, at)})
    report = {
        "device": found["device_name"] or "cpu",
        "available": found["available"],
        "used_by_others": found["used_by_others"],
        "world_sizes": sorted({job.ranks for job in jobs}),
        "global_batch": found["global_batch"],
        "pairs": len(rounds),
        "steps": conductor.steps,
        "warmup": conductor.command.warmup,
        "model": model,
        "rows": rows,
        "shares": shares,
        "rounds": [
            {_name(jobs[stretch.job].label, stretch.exchange): rate for stretch, rate in each.items()}
            for each in rounds
        ],
    }
    return report | {"sentences": sentences(report)}


def _name(label: str, exchange: bool) -> str:
    return label if exchange else f"{label}, gradients not exchanged"


def _ratio(flops: int | None, size: int) -> float | None:
    return flops / size if flops and size else None


def _clock(conductor: "Coordinator", at: int) -> dict[str, float] | None:
    """What DDP's own clock says of a job: a second opinion, which misses what communication costs the computation."""
    seen = [(total, exposed) for job, total, exposed in conductor.clock if job == at]
    if not seen:
        return None
    return {"communication": median(total for total, _ in seen), "exposed": median(exposed for _, exposed in seen)}


def _shares(rounds: list[dict[Stretch, float]], at: int, ranks: int, rival: int | None) -> dict[str, Any]:
    """Where the time of a step of several ranks goes, and how they do against one process with as many threads."""
    efficiency = [each[Stretch(at)] / (ranks * each[Stretch(0)]) for each in rounds]
    communication = [1 - each[Stretch(at)] / each[Stretch(at, exchange=False)] for each in rounds]
    rest = [1 - e - c for e, c in zip(efficiency, communication, strict=True)]
    against = [each[Stretch(at)] / each[Stretch(rival)] for each in rounds] if rival else None
    return {
        "ranks": ranks,
        "efficiency": estimate(efficiency),
        "communication": estimate(communication),
        "rest": estimate(rest),
        "communication_less_rest": estimate([c - r for c, r in zip(communication, rest, strict=True)]),
        "against_threads": estimate(against) if against else None,
    }


def sentences(report: dict[str, Any]) -> list[str]:
    """What the numbers say, each from the intervals; `inconclusive` where one holds both answers."""
    if report["world_sizes"] == [1] and report["available"] == 1:
        what = "core" if report["device"] == "cpu" else "GPU"
        return [f"world size 1 only: this machine has one {what}, so nothing can be said about more."]
    if report["used_by_others"] > BUSY:
        share = f"{100 * report['used_by_others']:.0f} %"
        return [
            f"no verdict: others used {share} of this machine's cores before or after; run it again when they rest."
        ]
    if report["pairs"] < FEWEST:
        return [f"no verdict: {report['pairs']} rounds give no 95 % interval; --pairs {FEWEST} or more does."]
    found = []
    for share in report["shares"]:
        found += [_gain(share), _why(share, report["model"])]
        if share["against_threads"] is not None:
            found.append(_against(share))
    return found


def _gain(share: dict[str, Any]) -> str:
    ranks, efficiency = share["ranks"], share["efficiency"]
    low, high = efficiency["low"] * ranks, efficiency["high"] * ranks
    told = f"{efficiency['median'] * ranks:.2f} x the samples/s of one (95 % interval {low:.2f} to {high:.2f})"
    if low > 1:
        return f"{ranks} ranks are faster than one: {told}, an efficiency of {efficiency['median']:.2f}."
    if high < 1:
        return f"{ranks} ranks are slower than one: {told}."
    return f"inconclusive whether {ranks} ranks are faster than one: {told}."


def _why(share: dict[str, Any], model: dict[str, Any]) -> str:
    """Why this model scales or not, from the measured shares."""
    communication, rest = share["communication"], share["rest"]
    size = f"{model['gradient_bytes'] / 1e6:.2g} MB of gradients"
    if model["flops_per_gradient_byte"] is not None:
        size += f", {_rounded(model['flops_per_gradient_byte'])} operations for each byte of them"
    parts = f"{_percent(communication)} of a step is communication ({size}), {_percent(rest)} is not shared"
    difference = share["communication_less_rest"]
    if share["efficiency"]["low"] >= SCALES:
        return f"it scales, because little is lost: {parts}."
    if difference["low"] > 0:
        return f"communication is what holds it back: {parts}."
    if difference["high"] < 0:
        return f"what the ranks do not share holds it back, more than communication: {parts}."
    return f"inconclusive whether communication or what is not shared holds it back more: {parts}."


def _against(share: dict[str, Any]) -> str:
    against, ranks = share["against_threads"], share["ranks"]
    told = f"{against['median']:.2f} x (95 % interval {against['low']:.2f} to {against['high']:.2f})"
    if against["low"] > 1:
        return f"{ranks} ranks are faster than {share['rival']}: {told}."
    if against["high"] < 1:
        return f"{ranks} ranks are slower than {share['rival']}: {told}."
    return f"{ranks} ranks against {share['rival']}: {told}; inconclusive which is faster."


def _percent(part: dict[str, Any]) -> str:
    return f"{100 * part['median']:.0f} % ({100 * part['low']:.0f} to {100 * part['high']:.0f})"


def _rounded(value: float) -> str:
    digits = max(0, 1 - math.floor(math.log10(value))) if value else 0
    return f"{value:,.{digits}f}" if value < 10 else f"{round(value, 1 - math.floor(math.log10(value))):,.0f}"
