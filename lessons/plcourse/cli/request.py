"""Reads the arguments of a running verb: the suite's own flags and the configs; LightningCLI parses the rest.

No torch, so that a misspelled flag or key or a broken file is reported at once.
"""

import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plcourse import catalog
from plcourse.cli.known_keys import check_config, check_flags
from plcourse.console.flags import as_flags
from plcourse.errors import UserError, nearest
from plcourse.runs import allowlist
from plcourse.runs.config_yaml import expand_class_names, lookup, parse_config, write_tree
from plcourse.runs.configs import ConfigSource, find_config
from plcourse.runs.confinement import Bounds, Outside, check_links, recorded_outside, typed
from plcourse.runs.export_request import EXPORT_FLAGS, EXPORT_SWITCHES, LATENCY_FLAGS, ExportRequest, words
from plcourse.runs.references import Named, pending_start
from plcourse.runs.run import Run, runs_root

EVALUATIONS = ("validate", "test", "predict")
FOLLOWING = (*EVALUATIONS, "export")  # what --then takes
SWITCHES = ("--allow_untrained", "--allow_downloads", "--strict", "--force", *EXPORT_SWITCHES)
_EXAMPLES = {  # the flags that take a value
    "--run": "ddp/two_processes/latest",
    "--runs_root": "runs",
    "--then": "test,predict",
    "--trust": "my_models,my_data",
    "--trust_artifact": "runs/export/classifier/latest/export/torch_export/model.pt2",
    "--allow_writes": "logs",
    "--ckpt_path": "best",
    "--config": "ddp/two_processes",
    "-c": "ddp/two_processes",
    "--format": "onnx,onnx_int8",
    "--batch_sizes": "1,3,64",
    "--max_drop": "0.005",
    "--opset": "20",
    "--rounds": "15",
}
OWN_FLAGS = (*_EXAMPLES, *SWITCHES)
OTHER_FLAGS = ("--print_config", "--help_all")
_CLASS_FLAGS = ("--model", "--data", "--trainer", "--optimizer", "--lr_scheduler")
# An export is scored like a test under the conditions of the files that it writes: by one process on the CPU, in
# single precision and with the plain loop, however the model was trained.
_EXPORTS = ("export", "latency")
_EXPORT_TRAINER = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true"}


@dataclass
class Request:
    """One invocation of a running verb."""

    verb: str  # fit, validate, test, predict, export or latency
    arguments: list[str] = field(default_factory=list)  # LightningCLI's: configs as inline text, and other flags
    moved: list[str] = field(default_factory=list)  # those that are settings of a config, not typed by the user
    sources: list[ConfigSource] = field(default_factory=list)  # the configs in the order they are merged
    classes: dict[str, str] = field(default_factory=dict)  # class paths of `model` and `data` in the configs
    run: Run | None = None  # the run that --run or --ckpt_path best|last refers to; None for a new one
    checkpoint: Path | None = None  # the checkpoint to start from or to evaluate
    continues: bool = False  # whether a fit continues in the folder of its run
    force: bool = False  # whether it continues a run that may be in use on another machine
    read_at: str | None = None  # when the run was started or last resumed, as of the reading of this request
    then: list[str] = field(default_factory=list)  # verbs to run after the fit
    trusted: list[str] = field(default_factory=list)  # modules allowed by --trust and PLCOURSE_TRUST
    trusted_artifacts: list[Path] = field(default_factory=list)  # exported programs to open unsigned, or their folders
    root: Path = field(default_factory=runs_root)  # the root folder of all runs
    allowed_writes: list[Path] = field(default_factory=list)  # folders that a config may make the run write to
    allow_downloads: bool = False  # whether a data set that is missing may be downloaded
    flags_are_typed: bool = True  # whether the user has typed the flags; a sweep's may come from its file
    outside: Outside = field(default_factory=list)  # what the config writes outside the run, as the user allows it
    allow_untrained: bool = False  # whether untrained weights may be evaluated
    strict: bool = False  # whether a prediction fails if an input cannot be read
    named: Named = field(default_factory=list)  # the runs that the config names
    export: ExportRequest = field(default_factory=ExportRequest)  # for the verb, and for an export after a fit

    @property
    def parsed_as(self) -> str:
        """The Trainer's verb with the flags and config of this request."""
        return "test" if self.verb in _EXPORTS else self.verb

    @property
    def recorded(self) -> str | None:
        """The config of the run that a fit continues, as an argument; None if the request changes nothing."""
        if not self.continues or self.run is None or not self.run.config_path.is_file():
            return None
        own = _as_argument(_read(find_config(str(self.run.config_path)), self.trusted))
        return None if self.arguments == [own] else own

    @property
    def continues_finished(self) -> bool:
        """Whether a fit continues a finished run from its last checkpoint."""
        if not self.continues or self.run is None or self.run.status != "finished":
            return False
        return self.checkpoint is None or self.checkpoint.name == "last.ckpt"

    @property
    def bounds(self) -> Bounds:
        """Where the paths of the config may lead that the command writes to."""
        run = self.run and self.run.path
        given = [] if self.run is None else recorded_outside(self.run.record)
        own = [word for word in self.arguments if word not in self.moved]
        flags = typed(own) if self.flags_are_typed else []
        return Bounds(run, self.allowed_writes, [*flags, *given], self.allow_downloads)

    @property
    def permissions(self) -> list[str]:
        """The flags that allow what a config alone may not do."""
        artifacts = [f"--trust_artifact={path}" for path in self.trusted_artifacts]
        return [*artifacts, *permission_flags(self.trusted, self.allowed_writes, self.allow_downloads)]

    @property
    def name(self) -> str:
        """The folder of its runs below the root, named after the last config."""
        return self.sources[-1].run_name if self.sources else "own/command_line"


def read_request(verb: str, arguments: list[str]) -> Request:
    """Reads the arguments after the verb.

    Raises:
        UserError: a flag without its value, an unknown flag or key, a missing file or run, a class that is not allowed,
            or an evaluation of untrained weights.
    """
    if arguments and not arguments[0].startswith("-"):
        raise unexpected(arguments[0], verb)
    flags, rest = _split(arguments)
    request = Request(verb, root=runs_root(_single(flags, "--runs_root")))
    request.trusted = words([os.environ.get("PLCOURSE_TRUST", ""), *flags.get("--trust", [])])
    request.trusted_artifacts = [Path(path) for path in flags.get("--trust_artifact", [])]
    request.allowed_writes = [Path(path) for path in flags.get("--allow_writes", [])]
    request.allow_downloads = "--allow_downloads" in flags
    request.allow_untrained = "--allow_untrained" in flags
    request.then = _then(verb, flags)
    request.strict, request.force = "--strict" in flags, "--force" in flags
    if request.strict and "predict" not in (verb, *request.then):
        raise UserError("--strict goes with predict, which then fails if an input cannot be read")
    if request.force and verb != "fit":
        raise UserError("--force goes with fit, which then continues a run that may be in use on another machine")
    request.export = _export(request, flags)
    if name := _single(flags, "--run"):
        run = request.run = Run.load(name, request.root)
        if not run.config_path.is_file():
            raise UserError(f"run {run.name} has no config.yaml: it ended before its start (status: {run.status})")
        rest.insert(0, ("config", str(run.config_path)))
    for kind, value in rest:
        if kind == "config":
            source = find_config(value)
            tree = _read(source, request.trusted)
            request.sources.append(source)
            request.arguments.append(_as_argument(tree))
            chosen = {group: lookup(tree, f"{group}.class_path") for group in ("model", "data")}
            request.classes |= {group: path for group, path in chosen.items() if isinstance(path, str)}
        else:
            request.arguments.append(value)
    check_flags([word for kind, word in rest if kind == "flag"], request.classes, [*OWN_FLAGS, *OTHER_FLAGS])
    request.arguments = _for_lightning(request.arguments)
    if verb in _EXPORTS:
        fixed = {**_EXPORT_TRAINER, "fit_loop": None, "test_loop": None}  # a fit loop may set the others
        request.arguments += as_flags({f"trainer.{key}": value for key, value in fixed.items()})
    looks_only = any(flag.startswith(("--print_config", "--help")) or ".help" in flag for flag in request.arguments)
    if not looks_only:
        choose = _choose_start if verb == "fit" else _choose_weights
        choose(request, _single(flags, "--ckpt_path"))
        if request.run is not None:
            check_links(request.run.path, request.allowed_writes)
    return request


def permission_flags(trusted: Iterable[str], writes: Iterable[Path] = (), downloads: bool = False) -> list[str]:
    """Returns the flags that trust modules, allow folders to be written, and allow downloads."""
    flags = [*(f"--trust={module}" for module in trusted), *(f"--allow_writes={path}" for path in writes)]
    return [*flags, *(["--allow_downloads"] if downloads else [])]


def unexpected(word: str, verb: str) -> UserError:
    """Returns the error for a word that belongs to no flag, such as a config without its ``-c``."""
    given = shlex.quote(word)
    if Path(word).is_file() or word.removesuffix(".yaml") in catalog.config_names():
        hint = f"a config is given with -c: plcourse {verb} -c {given}"
    elif (Path(word) / "run.json").is_file() or (runs_root() / word / "run.json").is_file():
        hint = f"a run is given with --run: plcourse {verb} --run {given}"
    else:
        hint = "put quotes around a value with spaces"
    return UserError(f"unexpected argument '{word}'; {hint}")


def _split(arguments: list[str]) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Returns the values of the suite's flags, and configs and all other words in their order."""
    flags: dict[str, list[str]] = {}
    rest: list[tuple[str, str]] = []
    pending = list(arguments)
    while pending:
        word = pending.pop(0)
        name, equals, value = word.partition("=")
        if name not in OWN_FLAGS:
            rest.append(("flag", word))
            continue
        if name in SWITCHES:
            flags[name] = []
            continue
        if not equals:
            if not pending or (pending[0].startswith("-") and len(pending[0]) > 1):
                raise UserError(f"{name} takes a value, for example {name} {_EXAMPLES[name]}")
            value = pending.pop(0)
        if name in ("-c", "--config"):
            rest.append(("config", value))
        else:
            flags.setdefault(name, []).append(value)
    return flags, rest


def _single(flags: dict[str, list[str]], name: str) -> str | None:
    values = flags.get(name, [])
    if len(values) > 1:
        raise UserError(f"{name} is given {len(values)} times; give it once")
    return values[0] if values else None


def _then(verb: str, flags: dict[str, list[str]]) -> list[str]:
    verbs = words(flags.get("--then", []))
    if verbs and verb != "fit":
        raise UserError(f"--then is for fit: plcourse fit ... --then {','.join(verbs)}")
    for name in verbs:
        if name not in FOLLOWING:
            raise UserError(f"--then takes {', '.join(FOLLOWING)}, not '{name}'{nearest(name, FOLLOWING)}")
    return verbs


def _export(request: Request, flags: dict[str, list[str]]) -> ExportRequest:
    given = [name for name in EXPORT_FLAGS if name in flags]
    if given and request.verb not in _EXPORTS and "export" not in request.then:
        raise UserError(f"{given[0]} goes with export: plcourse export --run RUN, or plcourse fit ... --then export")
    if request.verb == "latency":
        if foreign := [name for name in given if name not in LATENCY_FLAGS]:
            raise UserError(f"{foreign[0]} goes with export; benchmark latency has {', '.join(LATENCY_FLAGS)}")
        flags = {"--format": ["all"], **flags}
    return ExportRequest.read(flags)


def _read(source: ConfigSource, trusted: list[str]) -> dict[str, Any]:
    """Returns a config whose keys are known and whose classes are allowed, with their import paths."""
    tree = expand_class_names(parse_config(source), source)
    allowlist.check(tree, trusted, source.label)
    check_config(tree, source)
    return tree


def _as_argument(tree: dict[str, Any]) -> str:
    return "--config=" + write_tree(tree)


def _for_lightning(arguments: list[str]) -> list[str]:
    """Replaces catalog names by import paths, as in configs, because torchvision also has an MLP and a ResNet."""
    full = []
    before = ""
    for word in arguments:
        flag, equals, value = word.partition("=")
        if equals and flag.startswith(_CLASS_FLAGS):
            word = f"{flag}={_full(value)}"
        elif before.startswith(_CLASS_FLAGS) and "=" not in before:
            word = _full(word)
        before = word
        full.append(word)
    return full


def _full(text: str) -> str:
    """Replaces the catalog names in a flag's value, which is a class name or YAML on one line."""
    inside = re.sub(
        r"""(\bclass_path["']?:\s*["']?)([\w.]+)""", lambda found: found[1] + catalog.class_path(found[2]), text
    )
    return catalog.class_path(inside)


def _choose_weights(request: Request, wanted: str | None) -> None:
    """Sets the checkpoint to evaluate and the run that it belongs to."""
    if wanted is None and catalog.short_class_name(request.classes.get("model", "")) in catalog.TRAINED:
        return
    if request.run is None and wanted in ("best", "last"):
        request.run = Run.load(request.name, request.root)
    if request.run is not None:
        request.checkpoint = request.run.checkpoint(wanted or "best")
    elif wanted is not None:
        request.checkpoint = existing_checkpoint(wanted)
        folder = request.checkpoint.resolve().parent.parent
        request.run = Run(folder, request.root) if (folder / "run.json").is_file() else None
    elif not request.allow_untrained:
        raise UserError(
            f"{request.verb} needs trained weights: add --run RUN (see `plcourse ls runs`), --ckpt_path best, or "
            "--allow_untrained to use untrained ones"
        )


def _choose_start(request: Request, wanted: str | None) -> None:
    """Sets the checkpoint that a fit starts from, and whether it continues a run."""
    if request.run is None and wanted in ("best", "last"):
        request.run = Run.load(request.name, request.root)
    if request.run is None:
        request.checkpoint = existing_checkpoint(wanted) if wanted else None
        return
    request.continues, request.read_at = True, request.run.record.get("started")
    start = pending_start(request.run) if wanted in (None, "last") else None
    try:
        request.checkpoint = start or request.run.checkpoint(wanted or "last")
    except UserError:
        # A run that was killed before its first checkpoint starts again in its folder.
        if wanted not in (None, "last") or any((request.run.path / "checkpoints").glob("*.ckpt")):
            raise


def existing_checkpoint(path: str) -> Path:
    """Returns the path of a checkpoint; raises a UserError unless it is a file, which loads without running code."""
    if not Path(path).is_file():
        raise UserError(f"no checkpoint {path}; --ckpt_path takes best, last or the path of a .ckpt file")
    return Path(path)
