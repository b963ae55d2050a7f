"""Predictions that survive a kill.

`write` is called with all batches in order. When the process is killed in between, it is called again with the same
batches; what the folder held stays. In the end each sample ought to be there once. Mend it: the second attempt should
neither repeat what is done nor trust what is torn. How the folder looks is up to you, as long as `read` fits.
"""

import json
from collections.abc import Iterable
from pathlib import Path

Batch = dict[str, float]  # sample's id: its prediction


def write(folder: Path, batches: Iterable[Batch]) -> None:
    """Writes all batches; may be called again after an attempt that ended in between."""
    with (folder / "predictions.jsonl").open("a") as file:
        for batch in batches:
            for name, value in batch.items():
                file.write(json.dumps([name, value]) + "\n")
                file.flush()


def read(folder: Path) -> list[tuple[str, float]]:
    """Every sample's id and prediction, in the order of the batches."""
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    return [(name, value) for name, value in map(json.loads, lines)]
