"""Reads the arguments of a running verb: the suite's own flags and the configs; LightningCLI parses the rest.

No torch, so that a misspelled flag or a broken file is reported at once.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from plcourse import catalog
from plcourse.console.flags import as_flags
from plcourse.errors import UserError, nearest
from plcourse.runs import allowlist
from plcourse.runs.config_keys import expand_class_names
from plcourse.runs.config_yaml import parse_config, write_tree
from plcourse.runs.configs import ConfigSource, find_config
from plcourse.runs.export_request import EXPORT_FLAGS, EXPORT_SWITCHES, LATENCY_FLAGS, ExportRequest
from plcourse.runs.run import Run, runs_root
from plcourse.runs.run_names import Named
from plcourse.runs.start import pending_start

EVALUATIONS = ("validate", "test", "predict")
FOLLOWING = (*EVALUATIONS, "export")  # what --then takes
SWITCHES = ("--allow_untrained", "--strict", *EXPORT_SWITCHES)
OWN_FLAGS = ("--run", "--runs_root", "--then", "--trust", *SWITCHES, "--ckpt_path", "--config", "-c", *EXPORT_FLAGS)
# An export is scored like a test under the conditions of the files that it writes: by one process on the CPU, in
# single precision and with the plain loop, however the model was trained.
_EXPORTS = ("export", "latency")
_EXPORT_TRAINER = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true"}


@dataclass
class Request:
    """One invocation of a running verb.

    Attributes:
        verb: fit, validate, test, predict, export or latency.
        arguments: the arguments of LightningCLI: configs as inline text, all other flags as typed.
        sources: the configs in the order they are merged.
        run: the run that ``--run`` or ``--ckpt_path best|last`` refers to; None for a new one.
        checkpoint: the checkpoint to start from or to evaluate, if any.
        continues: whether a fit continues in the folder of its run.
        then: verbs to run after the fit.
        trusted: modules allowed by ``--trust`` and ``PLCOURSE_TRUST``.
        root: the root folder of all runs.
        allow_untrained: whether untrained weights may be evaluated.
        strict: whether a prediction fails if an input cannot be read.
        named: the runs that the config names.
        export: the settings of an export, for the verb and for one after a fit.
    """

    verb: str
    arguments: list[str] = field(default_factory=list)
    sources: list[ConfigSource] = field(default_factory=list)
    run: Run | None = None
    checkpoint: Path | None = None
    continues: bool = False
    then: list[str] = field(default_factory=list)
    trusted: list[str] = field(default_factory=list)
    root: Path = field(default_factory=runs_root)
    allow_untrained: bool = False
    strict: bool = False
    named: Named = field(default_factory=list)
    export: ExportRequest = field(default_factory=ExportRequest)

    @property
    def parsed_as(self) -> str:
        """The Trainer's verb with the flags and config of this request."""
        return "test" if self.verb in _EXPORTS else self.verb

    @property
    def recorded(self) -> str | None:
        """The config of the run that a fit continues, as an argument; None where the request is only that config."""
        if not self.continues or self.run is None or not self.run.config_path.is_file():
            return None
        own = _as_argument(find_config(str(self.run.config_path)), self.trusted)
        return None if self.arguments == [own] else own

    @property
    def name(self) -> str:
        """The folder of its runs below the root, named after the last config."""
        return self.sources[-1].run_name if self.sources else "own/command_line"


def read_request(verb: str, arguments: list[str]) -> Request:
    """Reads the arguments after the verb.

    Raises:
        UserError: a flag without its value, a missing file or run, a class that is not allowed, or an evaluation of
            untrained weights.
    """
    flags, rest = _split(arguments)
    request = Request(verb, root=runs_root(_single(flags, "--runs_root")))
    request.trusted = [*_words(os.environ.get("PLCOURSE_TRUST", "")), *flags.get("--trust", [])]
    request.allow_untrained = "--allow_untrained" in flags
    request.strict = _strict(verb, flags)
    request.then = _then(verb, flags)
    request.export = _export(request, flags)
    if run := _single(flags, "--run"):
        request.run = Run.load(run, request.root)
        _add_config(request, str(request.run.config_path), own=request.run)
    for kind, value in rest:
        if kind == "config":
            _add_config(request, value)
        else:
            request.arguments.append(value)
    request.arguments = _full_class_names(request.arguments)
    if verb in _EXPORTS:
        fixed = {**_EXPORT_TRAINER, "fit_loop": None, "test_loop": None}  # a fit loop may set the others
        request.arguments += as_flags({f"trainer.{key}": value for key, value in fixed.items()})
    looks_only = any(
        flag.startswith(("--print_config", "--help_all", "--help")) or ".help" in flag for flag in request.arguments
    )
    if not looks_only:
        _choose_checkpoint(request, _single(flags, "--ckpt_path"))
    return request


_CLASS_FLAGS = ("--model", "--data", "--trainer", "--optimizer", "--lr_scheduler")


def _full_class_names(arguments: list[str]) -> list[str]:
    """Replaces catalog names by import paths, as in configs; torchvision also has an MLP and a ResNet."""
    full = []
    for position, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if equals and flag.startswith(_CLASS_FLAGS):
            word = f"{flag}={_full(value)}"
        elif position and arguments[position - 1].startswith(_CLASS_FLAGS) and "=" not in arguments[position - 1]:
            word = _full(word)
        full.append(word)
    return full


def _full(text: str) -> str:
    """Replaces the catalog names in a flag's value, which is a class name or YAML on one line."""
    inside = re.sub(
        r"""(\bclass_path["']?:\s*["']?)([\w.]+)""", lambda found: found[1] + catalog.class_path(found[2]), text
    )
    return catalog.class_path(inside)


def _split(arguments: list[str]) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
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


_EXAMPLES = {
    "--run": "ddp/two_processes/latest",
    "--runs_root": "runs",
    "--then": "test,predict",
    "--trust": "my_models",
    "--ckpt_path": "best",
    "--config": "ddp/two_processes",
    "-c": "ddp/two_processes",
    "--format": "onnx,onnx_int8",
    "--batch_sizes": "1,3,64",
    "--max_drop": "0.005",
    "--opset": "20",
    "--rounds": "15",
}


def _single(flags: dict[str, list[str]], name: str) -> str | None:
    values = flags.get(name, [])
    if len(values) > 1:
        raise UserError(f"{name} is given {len(values)} times; give it once")
    return values[0] if values else None


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _then(verb: str, flags: dict[str, list[str]]) -> list[str]:
    verbs = _words(",".join(flags.get("--then", [])))
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


def _strict(verb: str, flags: dict[str, list[str]]) -> bool:
    if "--strict" in flags and verb != "predict" and "predict" not in _words(",".join(flags.get("--then", []))):
        raise UserError("--strict goes with predict, which then fails if an input cannot be read")
    return "--strict" in flags


def _add_config(request: Request, name: str, own: Run | None = None) -> None:
    if own is not None and not own.config_path.is_file():
        raise UserError(f"run {own.name} has no config.yaml: it ended before its start (status: {own.status})")
    source = find_config(name)
    request.sources.append(source)
    request.arguments.append(_as_argument(source, request.trusted))


def _as_argument(source: ConfigSource, trusted: list[str]) -> str:
    tree = expand_class_names(parse_config(source), source)
    allowlist.check(tree, trusted, source.label)
    return "--config=" + write_tree(tree)


def _choose_checkpoint(request: Request, wanted: str | None) -> None:
    if request.verb == "fit":
        _choose_start(request, wanted)
        return
    if wanted is None and _model_class(request) in catalog.TRAINED:
        return
    if request.run is not None:
        request.checkpoint = request.run.checkpoint(wanted or "best")
    elif wanted in ("best", "last"):
        request.run = Run.load(request.name, request.root)
        request.checkpoint = request.run.checkpoint(wanted)
    elif wanted is not None:
        request.checkpoint = _existing(wanted)
        request.run = _run_around(request.checkpoint, request.root)
    elif not request.allow_untrained:
        raise UserError(
            f"{request.verb} needs trained weights: add --run RUN (see `plcourse ls runs`), --ckpt_path best, or "
            "--allow_untrained to use untrained ones"
        )


def _model_class(request: Request) -> str | None:
    """The catalog name or class path of the model in the last config that has one."""
    for source in reversed(request.sources):
        model = parse_config(source).get("model")
        if isinstance(model, dict) and "class_path" in model:
            return model["class_path"]
    return None


def _choose_start(request: Request, wanted: str | None) -> None:
    if request.run is None and wanted in ("best", "last"):
        request.run = Run.load(request.name, request.root)
    if request.run is None:
        request.checkpoint = _existing(wanted) if wanted else None
        return
    request.continues = True
    if wanted in (None, "last") and (start := pending_start(request.run)):
        request.checkpoint = start
        return
    try:
        request.checkpoint = request.run.checkpoint(wanted or "last")
    except UserError:
        # A run that was killed before its first checkpoint starts again in its folder.
        if wanted not in (None, "last") or any((request.run.path / "checkpoints").glob("*.ckpt")):
            raise


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(f"no checkpoint {path}; --ckpt_path takes best, last or the path of a .ckpt file")
    return Path(path)


def _run_around(checkpoint: Path, root: Path) -> Run | None:
    folder = checkpoint.resolve().parent.parent
    return Run(folder, root) if (folder / "run.json").is_file() else None
