"""The files of a prediction, which replace those of an earlier one in a single step. No torch.

All files are written to ``_partial/``. Its manifest, complete, is the step: from then on the new files count, and
whoever finds them after a kill can finish moving them. No file of one prediction ever lies beside one of another.
"""

import contextlib
import json
import re
from pathlib import Path

from plcourse.files import sync

MANIFEST, QUARANTINE, PARTIAL = "_manifest.json", "_quarantine.csv", "_partial"
_PART = re.compile(r"part-(\d{5}|\d{12})\.(parquet|csv|jsonl)")


def prediction_files(folder: Path) -> list[Path]:
    """Returns the Parquet files of the prediction in a folder, sorted, also if a kill has interrupted their move."""
    if (names := _complete(folder)) is None:
        return sorted(folder.glob("*.parquet"))
    partial = folder / PARTIAL
    return [
        partial / name if (partial / name).exists() else folder / name for name in names if name.endswith("parquet")
    ]


def finish(folder: Path) -> None:
    """Puts the files in ``_partial/``, if they are complete, in the place of the earlier prediction in a folder.

    After a kill, a second call does the rest.
    """
    partial, names = folder / PARTIAL, _complete(folder)
    if names is None:
        return
    for path in [path for path in folder.iterdir() if _PART.fullmatch(path.name)]:
        if path.name not in names or (partial / path.name).exists():  # otherwise it was moved before the kill
            path.unlink()
    for name in (MANIFEST, QUARANTINE):
        (folder / name).unlink(missing_ok=True)
    for name in (*names, QUARANTINE):
        with contextlib.suppress(FileNotFoundError):  # moved before the kill, or nothing is quarantined
            (partial / name).replace(folder / name)
    sync(folder)
    (partial / MANIFEST).replace(folder / MANIFEST)
    sync(folder)


def _complete(folder: Path) -> list[str] | None:
    """Returns the sorted names of the new files if ``_partial/`` holds all of them, else None."""
    try:
        manifest = json.loads((folder / PARTIAL / MANIFEST).read_bytes())
        if manifest["complete"] is not True:
            return None
        names = [shard["file"] for shard in manifest["shards"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return sorted(names) if all(isinstance(name, str) and _PART.fullmatch(name) for name in names) else None
