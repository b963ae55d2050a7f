"""What a run refers to: the runs that its config names, and the checkpoint that it started from. No torch.

`curriculum/iid`, `curriculum/iid/latest` and paths through a folder `latest` mean a different run later. A run's
``config.yaml`` therefore contains the folders that they meant at its start, before the run itself became the latest.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from plcourse.errors import UserError
from plcourse.files import folders
from plcourse.runs.folders import age_key, find_folder
from plcourse.runs.record import Start
from plcourse.runs.run import Run

# The arguments of classes that name a run by its folder or name.
RUN_ARGUMENTS = {
    "ReferenceLoss": "checkpoint",
    "CrossValidatedLoss": "run",
    "ExportedModel": "run",
    "SentimentClassifier": "pretrained",
}
Key = list[str | int]
Named = list[tuple[Key, str]]  # the keys and list positions of a value, and the folder that it means
_FILES = (".ckpt", ".parquet")
_LAST = Path("checkpoints", "last.ckpt")


def named_runs(config: Namespace, root: Path, before: Run | None = None) -> Named:
    """Returns the positions of run names in a parsed config, with the folders or paths that they mean.

    If the run `before` continues, the names mean the newest run that is older.
    """
    texts = list(_texts(config, []))
    return [(key, meant) for key, text, names_run in texts if (meant := _meaning(text, names_run, root, before))]


def settle(config: Any, named: Named) -> None:
    """Replaces the run names in a config by what they mean."""
    for (*parents, last), value in named:
        place = config
        for part in parents:
            place = place[part]
        place[last] = value


def start_record(checkpoint: Path | None, run: Run | None = None) -> Start | None:
    """Returns the field ``start`` of ``run.json``, which counts until the run has written a checkpoint itself.

    If a run is killed before its first checkpoint and resumed, it must start where its command said: neither from
    untrained weights nor from a later checkpoint that the command did not choose. `run` is a run that continues.
    """
    if checkpoint is None:
        return None
    path = checkpoint.resolve()
    if run is None:
        return {"checkpoint": str(path), "sha256": digest(path), "last": None}
    if path == (run.path / _LAST).resolve():  # where every run continues
        return None
    return {"checkpoint": relative_to_run(path, run.path), "sha256": digest(path), "last": last_digest(run)}


def pending_start(run: Run) -> Path | None:
    """Returns the checkpoint that a run started from if it has written none since; else None.

    Raises:
        UserError: the file is gone or has changed.
    """
    start = run.record.get("start")
    if not isinstance(start, dict) or "checkpoint" not in start or last_digest(run) != start.get("last"):
        return None
    path = run.path / start["checkpoint"]
    if not path.is_file() or digest(path) != start.get("sha256"):
        what = "has changed since" if path.is_file() else "is gone"
        remedy = f"; to continue from another one: plcourse fit --run {run.name} --ckpt_path FILE"
        raise UserError(f"run {run.name} started from the checkpoint {path}, which {what}{remedy}")
    return path


def last_digest(run: Run) -> str | None:
    """Returns the SHA-256 of a run's last checkpoint; None if it has none."""
    last = run.path / _LAST
    return digest(last) if last.is_file() else None


def digest(checkpoint: Path) -> str:
    """Returns the SHA-256 of a checkpoint, from the file beside it if there is one; loading verifies it."""
    beside = checkpoint.with_name(checkpoint.name + ".sha256")
    known = beside.read_text().split() if beside.is_file() else []
    if len(known) == 1:
        return known[0]
    with checkpoint.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def relative_to_run(checkpoint: Path, folder: Path) -> str:
    """Returns the path of a checkpoint for records: relative to the run's folder if it is inside."""
    checkpoint, folder = checkpoint.resolve(), folder.resolve()
    return checkpoint.relative_to(folder).as_posix() if checkpoint.is_relative_to(folder) else str(checkpoint)


def _texts(
    value: object, key: Key, names_run: bool = False, argument: str | None = None
) -> Iterator[tuple[Key, str, bool]]:
    """Yields each text of a config with its key and whether the argument that holds it names a run."""
    if isinstance(value, Namespace | dict):
        pairs = vars(value) if isinstance(value, Namespace) else value
        names_a_run = RUN_ARGUMENTS.get(str(pairs.get("class_path", "")).rpartition(".")[2])
        for name, inner in pairs.items():
            yield from _texts(inner, [*key, name], name == argument, names_a_run if name == "init_args" else None)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _texts(inner, [*key, place], names_run)
    elif isinstance(value, str):
        yield key, value, names_run


def _meaning(name: str, names_run: bool, root: Path, before: Run | None) -> str | None:
    path = Path(name)
    if "latest" in path.parts:
        at = path.parts.index("latest")
        for base in (Path(), root):
            parent = base.joinpath(*path.parts[:at])
            if folder := _newest(parent, before):
                return str(folder.resolve().joinpath(*path.parts[at + 1 :]))
    if not names_run or path.suffix in _FILES:
        return None
    try:
        run = Run.load(name, root).path
    except UserError:  # the class that uses the name reports the error
        return None
    by_variant = run.resolve() != path.resolve() and run.resolve() != (root / name).resolve()
    return str(((_newest(run.parent, before) if by_variant else None) or run).resolve())


def _newest(parent: Path, before: Run | None) -> Path | None:
    """Returns what `latest` means in a folder of runs or sweeps, for a run `before` that continues, if there is one."""
    latest = find_folder(parent / "latest") or find_folder(parent / "latest", "sweep.json")
    if latest is None or before is None:
        return latest
    older = [each for each in folders(parent) if age_key(each) < age_key(before.path) and (each / "run.json").is_file()]
    return max(older, key=age_key, default=latest)
