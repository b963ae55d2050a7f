"""A solution of the exercise evaluation/writer."""

import json
from collections.abc import Iterable
from pathlib import Path

Batch = dict[str, float]  # sample's id: its prediction


def write(folder: Path, batches: Iterable[Batch]) -> None:
    """Writes all batches; may be called again after a killed attempt."""
    for number, batch in enumerate(batches):
        whole = folder / f"{number:08}.json"
        if whole.exists():
            continue
        torn = whole.with_suffix(".tmp")
        torn.write_text(json.dumps(list(batch.items())))
        torn.replace(whole)


def read(folder: Path) -> list[tuple[str, float]]:
    """Returns every sample's id and prediction in the order of the batches."""
    parts = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [(name, value) for part in parts for name, value in part]
