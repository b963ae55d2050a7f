"""Finds the fastest verified format on this machine per batch size, or the trained model if no format beats it.

Each format is open in its own process. In every round all of them and the trained model take turns, so that a machine
that gets slower slows all of them. The speed-up is the median over rounds of the ratio within a round.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import numpy as np

from plcourse.console.layout import broken, width
from plcourse.errors import UserError
from plcourse.export.artifacts import Artifacts
from plcourse.export.card import Card
from plcourse.export.certificate import Timing
from plcourse.export.worker import percentiles

EAGER = "eager"
# Per format, batch size and round; the calls of all rounds together give the p99.
TURN_SECONDS, TURN_CALLS, TURN_WARM_UP = 0.05, 5, 2

Clock = Callable[[Sequence[np.ndarray], float, int, int], list[float]]


class Speed(Timing):
    """The times of one runtime, and its speed-up over the trained model: the median and the range over the rounds."""

    speedup: float
    speedup_range: list[float]


class Ranking(TypedDict):
    """The result for one batch size."""

    recommended: str  # the fastest runtime; `EAGER` wins ties
    formats: dict[str, Speed]


def race(clocks: Mapping[str, Clock], inputs: Mapping[int, Sequence[np.ndarray]], rounds: int) -> dict[str, Ranking]:
    """Times runtimes, `EAGER` among them, in turns on one batch per size, and ranks them by batch size.

    One more round comes first and does not count.
    """
    results: dict[str, Ranking] = {}
    for size, batch in inputs.items():
        calls: dict[str, list[list[float]]] = {name: [] for name in clocks}
        for turn in range(rounds + 1):
            for name, clock in clocks.items():
                seconds = clock(batch, TURN_SECONDS, TURN_CALLS, TURN_WARM_UP)
                if turn:
                    calls[name].append(seconds)
        medians = {name: np.array([np.median(seconds) for seconds in turns]) for name, turns in calls.items()}
        rows: dict[str, Speed] = {}
        for name, turns in calls.items():
            ratios = medians[EAGER] / medians[name]
            rows[name] = {
                **percentiles([each for seconds in turns for each in seconds]),
                "speedup": float(np.median(ratios)),
                "speedup_range": [float(ratios.min()), float(ratios.max())],
            }
        best = max(rows, key=lambda name: (rows[name]["speedup"], name == EAGER))
        results[str(size)] = {"recommended": best, "formats": rows}
    return results


def candidates(
    artifacts: Artifacts, checkpoint_digest: str | None, formats: Sequence[str]
) -> tuple[dict[str, Card], dict[str, str]]:
    """Returns the requested formats that may be recommended, and for each other exported one the reason why not.

    A format must have been exported and verified from the checkpoint with this SHA-256.

    Raises:
        UserError: no format may be recommended.
    """
    cards: dict[str, Card] = {}
    left_out: dict[str, str] = {}
    for name in (each for each in formats if each in artifacts.manifest):
        entry = artifacts.manifest[name]
        card = Card.of(entry["card"])
        first = next(iter(cards.values()), card)
        if not entry["verified"]:
            left_out[name] = "exported, not verified"
        elif not artifacts.is_trusted(name):
            left_out[name] = f"a program without your signature; --trust_artifact {artifacts.path(name)} trusts it"
        elif card.source.get("sha256") != checkpoint_digest:
            left_out[name] = "exported from another checkpoint; export again"
        elif (card.preprocess, card.probabilities) != (first.preprocess, first.probabilities):
            left_out[name] = f"exported with other --preprocess or --probabilities than {first.format}"
        else:
            cards[name] = card
    if not cards:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or f"none of {', '.join(formats)}"
        command = shlex.join(["plcourse", "export", "--run", str(artifacts.run.path)])
        raise UserError(f"run {artifacts.run.name} has no verified export ({why}); run: {command}")
    return cards, left_out


def lines(results: Mapping[str, Ranking], left_out: Mapping[str, str]) -> list[str]:
    """Formats the results."""
    names = next(iter(results.values()))["formats"]
    longest = max(map(len, [*names, *left_out]))
    text = []
    for size, found in results.items():
        text.append(f"batch size {size}: {found['recommended']} is recommended")
        for name, row in found["formats"].items():
            slow = "  slower than eager" if row["speedup"] < 1 and name != EAGER else ""
            low, high = row["speedup_range"]
            text.append(
                f"  {name:<{longest}}{row['p50_ms']:>9.3f} ms p50{row['p99_ms']:>9.3f} ms p99"
                f"{row['speedup']:>7.2f} x ({low:.2f} to {high:.2f}){slow}"
            )
    text += [f"  {name:<{longest}}  left out: {reason}" for name, reason in left_out.items()]
    return [part for line in text for part in broken(line, width(), "    ")]
