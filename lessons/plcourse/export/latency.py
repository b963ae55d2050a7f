"""Which verified format is fastest on this machine, per batch size; the trained model itself where none is.

Each format is open in a process of its own, and all of them take turns within every round, the trained model too: a
machine that gets slower half-way slows all of them. The speed-up is the median over rounds of the ratio within a round.
"""

import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from plcourse.core.errors import UserError
from plcourse.core.layout import broken, width
from plcourse.export.artefacts import Artefacts
from plcourse.export.card import Card
from plcourse.export.verify import percentiles

EAGER = "eager"
# Per format, batch size and round; what a p99 needs comes together over the rounds.
TURN_SECONDS, TURN_CALLS, TURN_WARM_UP = 0.05, 5, 2

Clock = Callable[[Sequence[np.ndarray], float, int, int], list[float]]


def candidates(
    artefacts: Artefacts, checkpoint_digest: str | None, formats: Sequence[str]
) -> tuple[dict[str, Card], dict[str, str]]:
    """The formats that may be recommended, and why each of the others may not.

    Args:
        artefacts: what the run exported.
        checkpoint_digest: SHA-256 of the checkpoint that is to be compared with.
        formats: those that are asked for, whether they were exported or not.

    Raises:
        UserError: there is nothing to compare.
    """
    cards: dict[str, Card] = {}
    left_out: dict[str, str] = {}
    for name in (each for each in formats if each in artefacts.manifest):
        entry = artefacts.manifest[name]
        card = Card.of(entry["card"])
        first = next(iter(cards.values()), card)
        if not entry["verified"]:
            left_out[name] = "exported, not verified"
        elif card.source.get("sha256") != checkpoint_digest:
            left_out[name] = "exported from another checkpoint; export it again"
        elif (card.preprocess, card.probabilities) != (first.preprocess, first.probabilities):
            left_out[name] = "exported with other --preprocess or --probabilities than the rest"
        else:
            cards[name] = card
    if not cards:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or f"none of {', '.join(formats)}"
        command = shlex.join(["plcourse", "export", "--run", str(artefacts.run.path)])
        raise UserError(f"run {artefacts.run.name} has no verified export ({why}): {command}")
    return cards, left_out


def race(clocks: Mapping[str, Clock], inputs: Mapping[int, Sequence[np.ndarray]], rounds: int) -> dict[str, Any]:
    """Lets runtimes take turns.

    Args:
        clocks: times calls of each runtime; `EAGER` among them.
        inputs: one batch per batch size.
        rounds: turns of each, the first not counted.

    Returns:
        By batch size: ``recommended``, and per runtime ``p50_ms``, ``p99_ms``, ``calls``, ``speedup`` over eager and
        its range over the rounds.
    """
    results = {}
    for size, batch in inputs.items():
        calls: dict[str, list[list[float]]] = {name: [] for name in clocks}
        for turn in range(rounds + 1):
            for name, clock in clocks.items():
                seconds = clock(batch, TURN_SECONDS, TURN_CALLS, TURN_WARM_UP)
                if turn:
                    calls[name].append(seconds)
        medians = {name: [statistics.median(each) for each in turns] for name, turns in calls.items()}
        rows = {}
        for name, turns in calls.items():
            ratios = [eager / own for eager, own in zip(medians[EAGER], medians[name], strict=True)]
            found = percentiles(np.concatenate([np.array(each) for each in turns]) * 1e3)
            rows[name] = {**found, "speedup": statistics.median(ratios), "speedup_range": [min(ratios), max(ratios)]}
        results[str(size)] = {"recommended": recommended(rows), "formats": rows}
    return results


def recommended(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The fastest, and eager unless something is faster than it."""
    return max(rows, key=lambda name: (rows[name]["speedup"], name == EAGER))


def lines(results: Mapping[str, Any], left_out: Mapping[str, str]) -> list[str]:
    """The table that is printed."""
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
