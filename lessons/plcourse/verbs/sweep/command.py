"""Reads a sweep from a YAML file and from flags, and checks it before anything runs.

A sweep file is a mapping with the keys of `KEYS`; the flag of the same name wins over each::

    arms: [ddp/one_process, ddp/two_processes]   # or  NAME: {config: ..., overrides: {...}}
    seeds: 0..4
    grid:
      model.init_args.optimizer.init_args.lr: [0.05, 0.2]
    overrides:
      trainer.max_epochs: 3
    then: [test]
    metric: test/accuracy
    mode: max

Whether the arms have a setting of a grid's key is checked later, since their parser needs torch.
"""

import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plcourse import catalog
from plcourse.cli.request import EVALUATIONS, OWN_FLAGS, permission_flags
from plcourse.console.line_parser import LineParser
from plcourse.errors import UserError, nearest
from plcourse.runs.config_yaml import locate_key, parse_config
from plcourse.runs.configs import ConfigSource, find_config
from plcourse.runs.export_request import words
from plcourse.runs.run import runs_root
from plcourse.runs.variants import mode_of
from plcourse.verbs.sweep.plan import LATEST, Arm, Settings, SweepPlan, file_name, value_label

KEYS = ("arms", "seeds", "grid", "overrides", "then", "metric", "mode")
MAX_CELLS = 10_000
MAX_SEED = 2**32 - 1  # the largest seed of NumPy
_WITHOUT_DOT = ("model", "data", "trainer", "optimizer", "lr_scheduler")


@dataclass(frozen=True)
class SweepCommand:
    """One invocation of `plcourse sweep`."""

    plan: SweepPlan | None  # the sweep that was described; None when only `--resume` was given
    resume: str | None  # the sweep to resume, `latest` where none was named; None for a new sweep
    n_jobs: int  # cells to run at the same time
    root: Path  # the root of all runs
    permissions: tuple[str, ...]  # flags such as `--trust=my_models`
    force: bool  # whether to resume a sweep that may be running on another machine


def sweep_parser() -> LineParser:
    """Returns the parser of `plcourse sweep`."""
    parser = LineParser("sweep", "(-c SWEEP | --arms CONFIG... | --resume [SWEEP]) [flags]")
    add = parser.add_argument
    config = "a sweep: sweeps/NAME, or a YAML file with the settings below as keys"
    add("-c", "--config", action="append", default=[], metavar="NAME_OR_PATH", help=config)
    add("--arms", nargs="+", metavar="CONFIG", help="the configs to compare: packaged names or YAML files")
    add("--seeds", metavar="0..4", help="a range, or a list such as 0,1,2; default 0")
    grid = "run every arm with every combination of these values; KEY is a flag of fit"
    add("--grid", nargs="+", action="extend", default=[], metavar="KEY=VALUE,VALUE", help=grid)
    n_jobs = "how many cells run at once, with equal parts of the cores; default 1"
    add("--n_jobs", default="1", metavar="N", help=n_jobs)
    add("--then", metavar="VERBS", help="what follows each fit: a comma list of test, predict, validate; default test")
    add("--metric", metavar="NAME", help="the score to show and to compare, such as test/accuracy")
    add("--mode", metavar="max|min", help="which direction is better; by default the metric's name decides")
    add("--name", metavar="NAME", help="writes into runs/sweeps/NAME; default the name of the file or of the arms")
    resume = "continue the latest sweep, or one by name or folder"
    add("--resume", nargs="?", const=LATEST, metavar="SWEEP", help=resume)
    force = "with --resume: continue the sweep although it may be in use on another machine"
    add("--force", action="store_true", help=force)
    trust = "allow classes of your modules; a comma list, repeatable"
    add("--trust", action="append", default=[], metavar="MODULES", help=trust)
    writes = "allow the configs to write into this folder; repeatable"
    add("--allow_writes", action="append", default=[], metavar="DIR", help=writes)
    add("--allow_downloads", action="store_true", help="download a data set that is missing")
    parser.add_runs_root()
    return parser


def read_command(arguments: list[str]) -> SweepCommand:
    """Reads the arguments of `plcourse sweep`.

    Raises:
        UserError: an invalid flag, key, arm, seed or metric, with the place and the nearest name.
    """
    args, rest = sweep_parser().parse_known_args(arguments)
    writes = [Path(folder).absolute() for folder in args.allow_writes]
    permissions = tuple(permission_flags(words(args.trust), writes, args.allow_downloads))
    if len(args.config) > 1:
        raise UserError("plcourse sweep takes one -c; give further settings as flags, such as --seeds 0..4")
    plan = _plan(args, rest, permissions)
    if plan is None and args.resume is None:
        raise UserError("plcourse sweep needs -c SWEEP, --arms CONFIG..., or --resume")
    if plan is None and args.name is not None:
        raise UserError(f"--name is for new sweeps; to resume this one: plcourse sweep --resume {args.name}")
    if not args.n_jobs.isdecimal() or not 1 <= int(args.n_jobs) <= 256:
        raise UserError(f"--n_jobs is {args.n_jobs!r}; it must be a whole number from 1 to 256")
    if args.force and args.resume is None:
        raise UserError("--force goes with --resume")
    return SweepCommand(plan, args.resume, int(args.n_jobs), runs_root(args.runs_root), permissions, args.force)


def find_sweep(name: str) -> ConfigSource:
    """Reads a sweep file given by path or by packaged name; an existing file wins."""
    packaged = name.removesuffix(".yaml")
    if Path(name).exists() and not Path(name).is_dir():
        return find_config(name)
    if packaged in catalog.sweep_names():
        return find_config(str(catalog.config_path(packaged)))
    if packaged in catalog.config_names():
        raise UserError(f"'{packaged}' is the config of a run, not a sweep: plcourse sweep --arms {packaged}")
    known = catalog.sweep_names()
    hint = nearest(packaged, known) or f"; known are {', '.join(known)}"
    raise UserError(f"no file and no packaged sweep is named {name!r}{hint}")


class _Mistake(UserError):
    """A wrong value in a sweep; the message gets the line of `key` if the value is from a file."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _plan(args: Namespace, rest: list[str], permissions: tuple[str, ...]) -> SweepPlan | None:
    """The sweep that a file and flags describe; None without both."""
    source = find_sweep(args.config[0]) if args.config else None
    tree = parse_config(source) if source else {}
    flags = ("arms", "seeds", "then", "metric", "mode")
    given: dict[str, object] = {key: value for key in flags if (value := getattr(args, key)) is not None}
    added = {"grid": dict(map(_grid_flag, args.grid)), "overrides": _override_flags(rest)}
    try:
        for key, settings in added.items():
            if settings:
                given[key] = _mapping(tree.get(key), key) | settings
        tree |= given
        name = args.name or (Path(source.label).stem if source else None)
        return _plan_of(tree, name, permissions) if tree else None
    except _Mistake as mistake:
        if source is None or mistake.key.partition(".")[0] in given:
            raise
        place = (mistake.key and locate_key([source], mistake.key, parents=True)) or source.label
        raise UserError(f"{place}: {mistake}") from mistake


def _plan_of(tree: dict[str, Any], name: str | None, permissions: tuple[str, ...]) -> SweepPlan:
    for key in tree:
        if key in ("trainer", "model", "data"):
            raise _Mistake(key, f"'{key}' belongs to the config of a run; a sweep names configs as arms")
        if key not in KEYS:
            hint = nearest(key, KEYS) or f"; known are {', '.join(KEYS)}"
            raise _Mistake(key, f"unknown key '{key}' in a sweep{hint}")
    if "arms" not in tree:
        raise _Mistake("", "a sweep needs arms: one or more configs (see `plcourse ls`)")
    arms = _arms(tree["arms"])
    grid = _grid(tree.get("grid"))
    overrides = _settings(tree.get("overrides"), "overrides")
    if twice := next((key for key in grid if key in overrides), None):
        raise UserError(f"'{twice}' is in the grid and in the overrides: the override would have no effect")
    seeds, then = _seeds(tree.get("seeds", [0])), _then(tree.get("then", ["test"]))
    metric = _metric(tree.get("metric"), tree.get("mode"), then)
    plan = SweepPlan(_sweep_name(name, arms), arms, seeds, grid, overrides, then, metric, permissions)
    count = len(seeds) * len(plan.arms_and_points())
    if count > MAX_CELLS:
        raise UserError(f"{count:,} cells exceed the limit of {MAX_CELLS:,}: use fewer seeds or a smaller grid")
    return plan


def _arms(value: object) -> tuple[Arm, ...]:
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list | dict) or not entries:
        right = "it must be a list of configs, or of names with a `config:` each"
        raise _Mistake("arms", f"arms is {value!r}; {right}")
    if isinstance(entries, dict):
        return tuple(_named_arm(str(name), entry) for name, entry in entries.items())
    arms: list[Arm] = []
    for config in entries:
        if not isinstance(config, str):
            raise _Mistake("arms", f"arms contains {config!r}, which is not the name of a config")
        name = _find_config(config, "arms").run_name
        if same := next((known for known in arms if known.name == name), None):
            remedy = "" if same.config == config else "; a sweep file can give each a name: `NAME: {config: ...}`"
            raise _Mistake("arms", f"two arms are called '{name}'{remedy}")
        arms.append(Arm(name, config, {}))
    return tuple(arms)


def _named_arm(name: str, value: object) -> Arm:
    place, keys = f"arms.{name}", ("config", "overrides")
    if not isinstance(value, dict) or not isinstance(value.get("config"), str):
        right = "it must be a mapping with `config:` and maybe `overrides:`"
        raise _Mistake(place, f"arm '{name}' is {value!r}; {right}")
    if unknown := next((key for key in value if key not in keys), None):
        raise _Mistake(place, f"unknown key '{unknown}' in arm '{name}'{nearest(str(unknown), keys)}")
    _find_config(value["config"], place)
    return Arm(name, value["config"], _settings(value.get("overrides"), f"{place}.overrides", f"arm '{name}'"))


def _find_config(name: str, place: str) -> ConfigSource:
    try:
        return find_config(name)
    except UserError as error:
        raise _Mistake(place, f"arm '{name}': {error}") from error


def _seeds(value: object) -> tuple[int, ...]:
    seeds: list[int] = []
    for word in value if isinstance(value, list) else str(value).split(","):
        text = str(word).strip()
        first, dots, last = text.partition("..")
        if isinstance(word, bool) or not first.isdecimal() or (dots and not last.isdecimal()):
            right = "seeds are whole numbers such as 0,1,2 or a range such as 0..4"
            raise _Mistake("seeds", f"seeds contains {text!r}; {right}")
        low, high = int(first), int(last) if dots else int(first)
        if high < low:
            raise _Mistake("seeds", f"the seeds {text} run backwards; did you mean '{high}..{low}'?")
        if high > MAX_SEED or high - low >= MAX_CELLS:
            raise _Mistake("seeds", f"the seeds {text} are too many or too large; the largest is {MAX_SEED}")
        seeds += range(low, high + 1)
    if not seeds:
        raise _Mistake("seeds", "seeds is empty; give at least one, as in `seeds: [0]`")
    if twice := [seed for at, seed in enumerate(seeds) if seed in seeds[:at]]:
        raise _Mistake("seeds", f"duplicate seed {twice[0]}")
    return tuple(seeds)


def _grid(value: object) -> dict[str, list[object]]:
    grid = {}
    for key, values in _settings(value, "grid").items():
        if not isinstance(values, list) or not values:
            raise _Mistake(f"grid.{key}", f"grid: '{key}' is {values!r}; it must be a list of one value or more")
        if any(item in values[:at] for at, item in enumerate(values)):
            raise _Mistake(f"grid.{key}", f"grid: '{key}' has a duplicate value: {value_label(values)}")
        grid[key] = values
    return grid


def _grid_flag(word: str) -> tuple[str, object]:
    """Parses `KEY=V,V` from the command line; commas inside brackets belong to a value."""
    key, equals, text = word.removeprefix("--").partition("=")
    if not equals:
        raise UserError(f"--grid takes KEY=VALUE,VALUE, not {word!r}; as in --grid trainer.max_epochs=1,2")
    return key, _parse_value(f"[{text}]", f"--grid {word}")


def _settings(value: object, place: str, label: str = "") -> Settings:
    """A mapping whose keys are settings of a run."""
    found = _mapping(value, place)
    for key in found:
        _check_key(key, f"{place}.{key}", label or place)
    return found


def _mapping(value: object, place: str) -> Settings:
    if value is not None and not isinstance(value, dict):
        raise _Mistake(place, f"{place} is {value!r}; it must map dotted keys such as trainer.max_epochs")
    return {str(key): item for key, item in (value or {}).items()}


def _check_key(key: str, place: str, label: str) -> None:
    first = key.partition(".")[0]
    if first == "seed_everything":
        raise _Mistake(place, f"{label}: 'seed_everything' is set by `seeds`, cell by cell")
    if f"--{first}" in OWN_FLAGS or first in ("help", "help_all", "print_config"):
        raise _Mistake(place, f"{label}: '{key}' is not a setting of a run")
    if not re.fullmatch(r"[A-Za-z_][\w.-]*\+?", key):
        raise _Mistake(place, f"{label}: '{key}' is not a valid key; keys are dotted, such as trainer.max_epochs")


def _then(value: object) -> tuple[str, ...]:
    known = ", ".join(EVALUATIONS)
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list):
        raise _Mistake("then", f"then is {value!r}; it must be a list of {known}")
    verbs = [str(word).strip() for word in words if str(word).strip()]
    if wrong := next((verb for verb in verbs if verb not in EVALUATIONS), None):
        raise _Mistake("then", f"then takes {known}, not '{wrong}'{nearest(wrong, EVALUATIONS)}")
    return tuple(verbs)


def _metric(name: object, mode: str | None, then: Sequence[str]) -> dict[str, str] | None:
    if mode not in (None, "min", "max"):
        raise _Mistake("mode", f"mode is {mode!r}; it must be max or min")
    if name is None:
        if mode is not None:
            raise _Mistake("mode", "mode without metric has no effect; name the metric, as in --metric test/accuracy")
        return None
    if not isinstance(name, str) or not re.fullmatch(r"\w+/[\w./@-]+", name):
        raise _Mistake("metric", f"metric is {name!r}; metrics have names such as test/accuracy")
    if name.startswith("test/") and "test" not in then:
        raise _Mistake("metric", f"the metric {name} needs a test of each run: --then test")
    return {"name": name, "mode": mode or mode_of(name) or "max"}


def _sweep_name(name: str | None, arms: Sequence[Arm]) -> str:
    if name is None:
        joined = "-vs-".join(arm.name.rpartition("/")[2] for arm in arms)
        return file_name(joined)[:60].strip(".-_") or "sweep"
    if not re.fullmatch(r"\w[\w.-]{0,100}", name, re.ASCII) or name == LATEST:
        right = "use letters, digits, '_', '-' and '.', as in --name NAME"
        raise UserError(f"{name!r} is not a valid name for a sweep: {right}")
    return name


def _override_flags(words: list[str]) -> Settings:
    """Reads flags of fit, such as `--trainer.max_epochs 1`, as keys and values."""
    overrides: Settings = {}
    pending = list(words)
    while pending:
        word = pending.pop(0)
        if not word.startswith("--"):
            kind = "flag" if word.startswith("-") else "argument"
            raise UserError(f"plcourse sweep: unknown {kind} {word!r}; a value with spaces needs quotes")
        flag, equals, value = word.partition("=")
        # `--trainer.callbacks+=X` splits after the plus, so the key keeps it.
        key = flag.removeprefix("--")
        if "." not in key and key.removesuffix("+") not in _WITHOUT_DOT:
            raise _unknown_flag(flag)
        if not equals:
            if not pending or pending[0].startswith("--"):
                raise UserError(f"{flag} takes a value")
            value = pending.pop(0)
        _check_key(key, "overrides", "plcourse sweep")
        try:
            overrides[key] = _parse_value(value, "a flag") if value.strip() else value
        except UserError:  # not YAML: a plain string
            overrides[key] = value
    return overrides


def _unknown_flag(flag: str) -> UserError:
    if flag == "--seed_everything":
        return UserError("a sweep sets the seed of each cell: use --seeds 0..4 instead of --seed_everything")
    if flag in ("--print_config", "--help_all", "--run", "--ckpt_path", "--allow_untrained"):
        return UserError(f"{flag} is for single runs: plcourse fit -c ARM {flag}")
    hint = nearest(flag, [*sweep_parser()._option_string_actions, *(f"--{name}" for name in _WITHOUT_DOT)])
    return UserError(f"plcourse sweep: unknown flag {flag!r}{hint}; see `plcourse sweep -h`")


def _parse_value(text: str, label: str) -> object:
    return parse_config(ConfigSource(label, label, f"value: {text}", packaged=False))["value"]
