"""Keeps what a config makes a run write inside the run's folder. No torch.

A config may come from a stranger, and several classes that it can name write files where an argument says. `WRITTEN`
lists these arguments. A relative path is placed in the run's folder, and any other path must lead into it. A path that
the user has typed as a flag is theirs, and ``--allow_writes DIR`` adds a folder. What a run writes outside with the
user's permission is recorded in its ``run.json`` with the user's signature, so that the run can be resumed and
evaluated without these flags.
"""

import contextlib
import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import Namespace

from plcourse.errors import UserError
from plcourse.runs import signatures
from plcourse.runs.config_yaml import read_tree
from plcourse.runs.references import Key, Named, settle

Kind = Literal["path", "name", "download"]
Outside = list[list[str]]  # arguments with the paths outside the run that they write to
Refusal = Callable[[str, str, str], UserError]  # makes the error from a key, its value, and what is wrong

# What the classes that a config may name write to, by class and argument: a `path`, a `name` in another folder, or
# where a data set is downloaded to. Subclasses have the entries of their bases.
WRITTEN: Mapping[str, Mapping[str, Kind]] = {
    "RunCheckpoint": {"dirpath": "path"},
    "StreamingPredictLoop": {"output_dir": "path"},
    "ModelCheckpoint": {"dirpath": "path", "filename": "name"},
    "OnExceptionCheckpoint": {"dirpath": "path", "filename": "name"},
    "SpikeDetection": {"exclude_batches_path": "path"},
    "Profiler": {"dirpath": "path", "filename": "name"},
    "ExperimentWriter": {"log_dir": "path"},
    "CSVLogger": {"save_dir": "path", "name": "name", "version": "name"},
    "TensorBoardLogger": {"save_dir": "path", "name": "name", "version": "name", "sub_dir": "name"},
    "WandbLogger": {"save_dir": "path", "dir": "path", "name": "name", "version": "name", "id": "name"},
    "MLFlowLogger": {"save_dir": "path", "tracking_uri": "path", "artifact_location": "path"},
    "LitLogger": {"root_dir": "path", "name": "name"},
    "ImageData": {"root": "download"},
    "CurriculumData": {"root": "download"},
    "EvaluationData": {"root": "download"},
    "ExportData": {"root": "download"},
    "RealImages": {"root": "download"},
    "VisionData": {"root": "download"},
    "CometLogger": {},  # only further keyword arguments
    "NeptuneLogger": {},
}


@dataclass(frozen=True)
class Bounds:
    """Where a command may write."""

    run: Path | None  # the run that the command continues or evaluates; None for a new one
    allowed: Sequence[Path]  # the folders of --allow_writes
    typed: Sequence[tuple[str, str]]  # arguments and values that the user has given as flags
    downloads: bool = False  # whether data sets may be downloaded

    def admit(self, path: Path) -> bool:
        """Returns whether a config may make the command write to an absolute path; links are followed."""
        folders = (*self.allowed, *([self.run] if self.run else []))
        return any(path.resolve().is_relative_to(each.resolve()) for each in folders)


def confine(config: Namespace, bounds: Bounds, refusal: Refusal) -> tuple[Named, Outside]:
    """Checks every path that a parsed config makes the command write to; those typed as flags become absolute.

    Returns:
        The keys of relative paths that belong into the run's folder, and what is written outside with permission.

    Raises:
        UserError: a path leads outside, and the user has not typed it.
    """
    placed: Named = []
    outside: Outside = []
    for key, value, kind in list(_written(config, [], _downloaded() if bounds.downloads else ())):
        name, text, dotted = str(key[-1]), str(value), ".".join(map(str, key))
        expanded = os.path.expanduser(os.path.expandvars(text))  # noqa: PTH111  (as TensorBoardLogger does)
        is_url = kind == "path" and "://" in text
        leaves = is_url or leaves_its_folder(expanded)
        if (name, text) not in bounds.typed:
            if not leaves:
                placed += [(key, os.path.normpath(expanded))] if kind == "path" else []
                continue
            if kind == "name":
                remedy = "give a name without '..' and a leading '/', or type it as a flag"
                raise refusal(dotted, text, f"{text!r} leads out of the run; {remedy}")
            if is_url or "::" in text or "\0" in text or not bounds.admit(Path(expanded)):
                other = f"name a folder inside it, type it as a flag, or add --allow_writes {shlex.quote(expanded)}"
                remedy = "type it as a flag" if is_url else other
                raise refusal(dotted, text, f"the run would write to {text!r}, which is outside its folder; {remedy}")
        if kind == "path" and not is_url:
            expanded = str(Path(expanded).absolute())
            settle(config, [(key, expanded)])
            leaves = bounds.run is None or not Path(expanded).is_relative_to(bounds.run.absolute())
        outside += [[name, expanded]] if leaves else []
    return placed, outside


def typed(words: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the arguments and values that flags give, such as ``("save_dir", "logs")``; configs do not count."""
    found: list[tuple[str, str]] = []
    for word, following in zip(words, [*words[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and flag != "--config":
            found += _leaves(flag.rstrip("+").rpartition(".")[2], value if equals else following)
    return found


def outside_record(outside: Outside) -> dict[str, Any] | None:
    """Returns the field ``outside`` of ``run.json``; None if there is nothing to record or no key to sign it with."""
    try:
        return {"paths": outside, "signature": signatures.sign({"outside": outside})} if outside else None
    except UserError:  # the user must then repeat the flags
        return None


def recorded_outside(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns what this user has allowed a recorded run to write outside, as arguments and values."""
    found = record.get("outside")
    if not isinstance(found, dict) or not signatures.is_signed({"outside": found.get("paths")}, found.get("signature")):
        return []
    return [(name, path) for name, path in found["paths"]]


def check_links(folder: Path, allowed: Sequence[Path] = ()) -> None:
    """Raises a UserError if a link inside a folder leads out of it, except into an allowed folder.

    A run that somebody else made could otherwise have files elsewhere replaced, removed or shown in a report.
    """
    inside = [each.resolve() for each in (folder, *allowed)]
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink() and not any(_target(path).is_relative_to(each) for each in inside):
                target = shlex.quote(str(_target(path)))
                raise UserError(
                    f"'{path}' is a link to {target}, outside the run; remove the link, or add --allow_writes {target}"
                )


def leaves_its_folder(text: str) -> bool:
    """Returns whether a path below a folder can lead out of it.

    It also can once fsspec has split it at ``::``, or `ModelCheckpoint` has filled a field such as ``{epoch:/>3}``.
    """
    if ".." in re.split(r"[/\\]", text) or text.startswith("~") or Path(text).is_absolute():
        return True
    return "::" in text or "\0" in text or re.search(r"\{[^}]*[:!][^}]*[/\\]", text) is not None


def _target(link: Path) -> Path:
    return Path(os.path.realpath(link))  # of a link to itself too, for which `resolve` fails


def _downloaded() -> Sequence[str]:
    from plcourse.data.downloads import DOWNLOADED  # here, because the package imports torch

    return DOWNLOADED


def _written(value: object, key: Key, downloaded: Sequence[str]) -> Iterator[tuple[Key, object, Kind]]:
    """Yields the key, the value and the kind of each argument that is written to and set.

    The folder of a data set counts if the data set is one of those that may be ``downloaded``.
    """
    if isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _written(inner, [*key, place], downloaded)
    if not isinstance(value, Namespace | dict):
        return
    pairs = _pairs(value)
    if kinds := _kinds(cls := _class_at(pairs.get("class_path"))):
        parameters = inspect.signature(cls).parameters
        downloads = _pairs(pairs.get("init_args")).get("source") in downloaded
        for part in ("init_args", "dict_kwargs"):
            for name, argument in _pairs(pairs.get(part)).items():
                kind: Kind | None = kinds.get(name)
                if kind is None and isinstance(argument, str) and name not in parameters:
                    kind = "name"  # one of the class's **kwargs
                if kind is None or argument is None or (kind == "download" and not downloads):
                    continue
                default = parameters[name].default if name in parameters else None
                # a default that leaves the run comes from a variable of the user's environment
                if argument != default or not leaves_its_folder(str(argument)):
                    yield [*key, part, name], argument, kind
    for name, inner in pairs.items():
        yield from _written(inner, [*key, name], downloaded)


def _pairs(value: object) -> dict[str, Any]:
    return vars(value) if isinstance(value, Namespace) else value if isinstance(value, dict) else {}


def _class_at(path: object) -> Any:
    """Returns the class of an import path, which the parser has imported; None for anything else."""
    parts = path.split(".") if isinstance(path, str) else []
    for length in range(len(parts) - 1, 0, -1):
        if found := sys.modules.get(".".join(parts[:length])):
            for name in parts[length:]:
                found = getattr(found, name, None)
            return found if isinstance(found, type) else None
    return None


def _kinds(cls: type | None) -> dict[str, Kind] | None:
    """Returns the entries of a class and its bases in `WRITTEN`; None if it has none."""
    names = [base.__name__ for base in cls.__mro__ if base.__name__ in WRITTEN] if cls is not None else []
    return {argument: kind for name in names for argument, kind in WRITTEN[name].items()} if names else None


def _leaves(name: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, str) and value.strip().startswith(("{", "[")):
        with contextlib.suppress(yaml.YAMLError):  # a plain text
            value = read_tree(f"value: {value}")["value"]
    if isinstance(value, dict):
        return [leaf for inner, item in value.items() for leaf in _leaves(str(inner), item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(name, item)]
    return [(name, str(value))]
