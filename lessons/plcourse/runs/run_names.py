"""Replaces the names of runs in a config by folders, before the new run becomes the latest. No torch.

`curriculum/iid`, `curriculum/iid/latest` and paths through a folder `latest` mean a different run later. A run's
``config.yaml`` contains the folders that they meant at its start.
"""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from plcourse.errors import UserError
from plcourse.files import folders
from plcourse.runs.folders import age_key, find_folder
from plcourse.runs.run import Run

# The arguments of classes that name a run by its folder or name.
RUN_ARGUMENTS = {
    "ReferenceLoss": "checkpoint",
    "CrossValidatedLoss": "run",
    "ExportedModel": "run",
    "SentimentClassifier": "pretrained",
}
_FILES = (".ckpt", ".parquet")
Named = list[tuple[list[str | int], str]]  # the keys and list positions of a value, and the folder that it means


def named_runs(config: Any, root: Path, before: Run | None = None) -> Named:
    """Returns the positions of run names in a parsed config, with the folders or paths that they mean.

    Args:
        config: the parsed config.
        root: the root folder of all runs.
        before: a run that continues, for which names mean the newest run that is older.
    """
    found: Named = []
    _look(config, [], False, root, before, found)
    return found


def settle(config: Any, named: Named) -> None:
    """Replaces the run names in a config by what they mean."""
    for (*parents, last), value in named:
        place = config
        for part in parents:
            place = place[part]
        place[last] = value


def _look(value: Any, key: list[str | int], names_run: bool, root: Path, before: Run | None, found: Named) -> None:
    if isinstance(value, Namespace | dict):
        pairs = vars(value) if isinstance(value, Namespace) else value
        for name, inner in pairs.items():
            argument = RUN_ARGUMENTS.get(str(pairs.get("class_path", "")).rpartition(".")[2])
            if name == "init_args" and argument is not None:
                for each, given in vars(inner).items() if isinstance(inner, Namespace) else ():
                    _look(given, [*key, name, each], each == argument, root, before, found)
            else:
                _look(inner, [*key, name], False, root, before, found)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            _look(inner, [*key, place], names_run, root, before, found)
    elif isinstance(value, str) and (meant := _meaning(value, names_run, root, before)):
        found.append((key, meant))


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
    """What `latest` means in a folder of runs or sweeps, for a run that continues if one is given."""
    latest = find_folder(parent / "latest") or find_folder(parent / "latest", "sweep.json")
    if latest is None or before is None:
        return latest
    older = [each for each in folders(parent) if age_key(each) < age_key(before.path) and (each / "run.json").is_file()]
    return max(older, key=age_key, default=latest)
