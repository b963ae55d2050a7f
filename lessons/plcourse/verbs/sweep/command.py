"""Reads what a sweep was asked for, from a YAML file and from flags, and checks it before anything runs.

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

Whether a key of the grid is a setting of the arms is known to their parser, which needs torch; the verb asks it later.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plcourse import catalog
from plcourse.cli.request import EVALUATIONS, OWN_FLAGS
from plcourse.console.line_parser import LineParser
from plcourse.errors import UserError, nearest
from plcourse.runs.config_keys import locate_key
from plcourse.runs.config_yaml import parse_config
from plcourse.runs.configs import ConfigSource, find_config
from plcourse.runs.run import runs_root
from plcourse.verbs.sweep.plan import LATEST, Arm, SweepPlan, file_name, value_label

KEYS = ("arms", "seeds", "grid", "overrides", "then", "metric", "mode")
MAX_CELLS = 10_000
MAX_SEED = 2**32 - 1  # the largest seed of NumPy

_FLAGS = ("config", "arms", "seeds", "grid", "then", "metric", "mode", "name", "n_jobs", "resume", "runs_root", "trust")
_WITHOUT_DOT = ("model", "data", "trainer", "optimizer", "lr_scheduler")
_SMALLER_IS_BETTER = re.compile(r"loss|error|nll|perplexity|distance|seconds|time", re.IGNORECASE)

Sources = dict[str, ConfigSource | None]  # the file that gives each key, None for a flag or a default


@dataclass(frozen=True)
class SweepCommand:
    """One invocation of `plcourse sweep`."""

    plan: SweepPlan | None  # the sweep that was described; None when only `--resume` was given
    resume: str | None  # the sweep to resume, `latest` where none was named; None for a new sweep
    n_jobs: int  # cells to run at the same time
    root: Path  # the root of all runs
    trust: tuple[str, ...]  # modules that `--trust` names


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
    add(
        "--n_jobs",
        default="1",
        metavar="N",
        help="how many cells run at once, with equal parts of the cores; default 1",
    )
    add("--then", metavar="VERBS", help="what follows each fit: a comma list of test, predict, validate; default test")
    add("--metric", metavar="NAME", help="the score to show and to compare, such as test/accuracy")
    add("--mode", metavar="max|min", help="which direction is better; by default the metric's name decides")
    add("--name", metavar="NAME", help="writes into runs/sweeps/NAME; default the name of the file or of the arms")
    add(
        "--resume", nargs="?", const=LATEST, metavar="SWEEP", help="continue the latest sweep, or one by name or folder"
    )
    add("--trust", action="append", default=[], metavar="MODULE", help="allow classes of your module; repeatable")
    parser.add_runs_root()
    return parser


def read_command(arguments: list[str]) -> SweepCommand:
    """Reads the arguments of `plcourse sweep`.

    Raises:
        UserError: an invalid flag, key, arm, seed or metric, with the place and the nearest name.
    """
    args, rest = sweep_parser().parse_known_args(arguments)
    if len(args.config) > 1:
        raise UserError("plcourse sweep takes one -c; give further settings as flags, such as --seeds 0..4")

    source = find_sweep(args.config[0]) if args.config else None
    tree = _read_file(source) if source else {}
    given = {key: value for key in KEYS if (value := getattr(args, key, None)) not in (None, [])}
    if args.grid:
        given["grid"] = {**_mapping(tree.get("grid"), "grid", source), **dict(map(_grid_flag, args.grid))}
    if more := _override_flags(rest):
        given["overrides"] = {**_mapping(tree.get("overrides"), "overrides", source), **more}
    sources = {key: None if key in given else source for key in KEYS}
    tree |= given

    plan = None
    if tree:
        name = args.name or (Path(source.label).stem if source else None)
        plan = _plan(tree, sources, name, tuple(args.trust))
    elif args.resume is None:
        raise UserError("plcourse sweep needs -c SWEEP, --arms CONFIG..., or --resume")
    elif args.name is not None:
        raise UserError(f"--name is for new sweeps; to resume this one: plcourse sweep --resume {args.name}")
    if not args.n_jobs.isdecimal() or not 1 <= int(args.n_jobs) <= 256:
        raise UserError(f"--n_jobs is {args.n_jobs!r}; it must be a whole number from 1 to 256")
    return SweepCommand(plan, args.resume, int(args.n_jobs), runs_root(args.runs_root), tuple(args.trust))


def find_sweep(name: str) -> ConfigSource:
    """Reads a sweep file given by path or by packaged name; an existing file wins.

    Raises:
        UserError: no such sweep, with the nearest name.
    """
    packaged = name.removesuffix(".yaml")
    if Path(name).exists() and not Path(name).is_dir():
        return find_config(name)
    if packaged in catalog.sweep_names():
        return find_config(str(catalog.config_path(packaged)))
    if packaged in catalog.config_names():
        raise UserError(f"'{packaged}' is the config of a run, not a sweep: plcourse sweep --arms {packaged}")
    known = catalog.sweep_names()
    hint = nearest(packaged, known) or (f"; known are {', '.join(known)}" if known else "")
    raise UserError(f"no file and no packaged sweep is named {name!r}{hint}")


def _read_file(source: ConfigSource) -> dict[str, Any]:
    tree = parse_config(source)
    for key in tree:
        if key in ("trainer", "model", "data"):
            raise UserError(f"{_at(source, key)}'{key}' belongs to the config of a run; a sweep names configs as arms")
        if key not in KEYS:
            hint = nearest(key, KEYS) or f"; known are {', '.join(KEYS)}"
            raise UserError(f"{_at(source, key)}unknown key '{key}' in a sweep{hint}")
    return tree


def _plan(tree: dict[str, Any], sources: Sources, name: str | None, trust: tuple[str, ...]) -> SweepPlan:
    if "arms" not in tree:
        raise UserError(f"{_at(sources['arms'])}a sweep needs arms: one or more configs (see `plcourse ls`)")
    arms = _arms(tree["arms"], sources["arms"])
    grid = _grid(tree.get("grid"), sources["grid"])
    overrides = _mapping(tree.get("overrides"), "overrides", sources["overrides"])
    for key in overrides:
        _check_key(key, f"{_at(sources['overrides'], f'overrides.{key}')}overrides")
    if twice := next((key for key in grid if key in overrides), None):
        raise UserError(f"'{twice}' is in the grid and in the overrides: the override would have no effect")
    seeds = _seeds(tree.get("seeds", [0]), sources["seeds"])
    then = _then(tree.get("then", ["test"]), sources["then"])
    metric = _metric(tree.get("metric"), tree.get("mode"), then, sources)
    plan = SweepPlan(_sweep_name(name, arms), arms, seeds, grid, overrides, then, metric, trust)
    count = len(seeds) * len(plan.arms_and_points())
    if count > MAX_CELLS:
        raise UserError(f"{count:,} cells exceed the limit of {MAX_CELLS:,}: use fewer seeds or a smaller grid")
    return plan


def _arms(value: Any, source: ConfigSource | None) -> tuple[Arm, ...]:
    where = _at(source, "arms")
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | dict) or not value:
        raise UserError(f"{where}arms is {value!r}; it must be a list of configs, or of names with a `config:` each")
    if isinstance(value, dict):
        return tuple(_named_arm(str(name), entry, source) for name, entry in value.items())
    arms: list[Arm] = []
    for name in value:
        if not isinstance(name, str):
            raise UserError(f"{where}arms contains {name!r}, which is not the name of a config")
        arm = _find_config(name, where).run_name
        if same := next((known for known in arms if known.name == arm), None):
            remedy = "" if same.config == name else "; a sweep file can give each a name: `NAME: {config: ...}`"
            raise UserError(f"{where}two arms are called '{arm}'{remedy}")
        arms.append(Arm(arm, name, {}))
    return tuple(arms)


def _named_arm(name: str, value: Any, source: ConfigSource | None) -> Arm:
    where = _at(source, f"arms.{name}")
    keys = ("config", "overrides")
    if not isinstance(value, dict) or not isinstance(value.get("config"), str):
        raise UserError(f"{where}arm '{name}' is {value!r}; it must be a mapping with `config:` and maybe `overrides:`")
    if unknown := next((key for key in value if key not in keys), None):
        raise UserError(f"{where}unknown key '{unknown}' in arm '{name}'{nearest(str(unknown), keys)}")
    _find_config(value["config"], where)
    overrides = _mapping(value.get("overrides"), f"arms.{name}.overrides", source)
    for key in overrides:
        _check_key(key, f"{where}arm '{name}'")
    return Arm(name, value["config"], overrides)


def _find_config(name: str, where: str) -> ConfigSource:
    try:
        return find_config(name)
    except UserError as error:
        raise UserError(f"{where}arm '{name}': {error}") from error


def _seeds(value: Any, source: ConfigSource | None) -> tuple[int, ...]:
    where = _at(source, "seeds")
    seeds: list[int] = []
    for word in value if isinstance(value, list) else str(value).split(","):
        text = str(word).strip()
        first, dots, last = text.partition("..")
        if isinstance(word, bool) or not first.isdecimal() or not (last.isdecimal() if dots else first):
            raise UserError(
                f"{where}seeds contains {text!r}; seeds are whole numbers such as 0,1,2 or a range such as 0..4"
            )
        low, high = int(first), int(last) if dots else int(first)
        if high < low:
            raise UserError(f"{where}the seeds {text} run backwards; did you mean '{high}..{low}'?")
        if high > MAX_SEED or high - low >= MAX_CELLS:
            raise UserError(f"{where}the seeds {text} are too many or too large; the largest is {MAX_SEED}")
        seeds += range(low, high + 1)
    if not seeds:
        raise UserError(f"{where}seeds is empty; give at least one, as in `seeds: [0]`")
    if twice := [seed for at, seed in enumerate(seeds) if seed in seeds[:at]]:
        raise UserError(f"{where}duplicate seed {twice[0]}")
    return tuple(seeds)


def _grid(value: Any, source: ConfigSource | None) -> dict[str, list[Any]]:
    grid = _mapping(value, "grid", source)
    for key, values in grid.items():
        where = f"{_at(source, f'grid.{key}')}grid"
        _check_key(key, where)
        if not isinstance(values, list) or not values:
            raise UserError(f"{where}: '{key}' is {values!r}; it must be a list of one value or more")
        if any(item in values[:at] for at, item in enumerate(values)):
            raise UserError(f"{where}: '{key}' has a duplicate value: {value_label(values)}")
    return grid


def _grid_flag(word: str) -> tuple[str, Any]:
    """Parses `KEY=V,V` from the command line; commas inside brackets belong to a value."""
    key, equals, text = word.removeprefix("--").partition("=")
    if not equals:
        raise UserError(f"--grid takes KEY=VALUE,VALUE, not {word!r}; as in --grid trainer.max_epochs=1,2")
    return key, _parse_value(f"[{text}]", f"--grid {word}")


def _mapping(value: Any, name: str, source: ConfigSource | None) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{_at(source, name)}{name} is {value!r}; it must map dotted keys such as trainer.max_epochs")
    return {str(key): item for key, item in value.items()}


def _check_key(key: str, where: str) -> None:
    first = key.partition(".")[0]
    if first == "seed_everything":
        raise UserError(f"{where}: 'seed_everything' is set by `seeds`, cell by cell")
    if f"--{first}" in OWN_FLAGS or first in ("help", "help_all", "print_config"):
        raise UserError(f"{where}: '{key}' is not a setting of a run")
    if not re.fullmatch(r"[A-Za-z_][\w.-]*\+?", key):
        raise UserError(f"{where}: '{key}' is not a valid key; keys are dotted, such as trainer.max_epochs")


def _then(value: Any, source: ConfigSource | None) -> tuple[str, ...]:
    where, known = _at(source, "then"), ", ".join(EVALUATIONS)
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list):
        raise UserError(f"{where}then is {value!r}; it must be a list of {known}")
    verbs = [str(word).strip() for word in words if str(word).strip()]
    if wrong := next((verb for verb in verbs if verb not in EVALUATIONS), None):
        raise UserError(f"{where}then takes {known}, not '{wrong}'{nearest(wrong, EVALUATIONS)}")
    return tuple(verbs)


def _metric(name: Any, mode: Any, then: Sequence[str], sources: Sources) -> dict[str, str] | None:
    where = _at(sources["metric"], "metric")
    if mode not in (None, "min", "max"):
        raise UserError(f"{_at(sources['mode'], 'mode')}mode is {mode!r}; it must be max or min")
    if name is None:
        if mode is not None:
            raise UserError("mode without metric has no effect; name the metric, as in --metric test/accuracy")
        return None
    if not isinstance(name, str) or not re.fullmatch(r"\w+/[\w./@-]+", name):
        raise UserError(f"{where}metric is {name!r}; metrics have names such as test/accuracy")
    if name.startswith("test/") and "test" not in then:
        raise UserError(f"{where}the metric {name} needs a test of each run: --then test")
    return {"name": name, "mode": mode or ("min" if _SMALLER_IS_BETTER.search(name) else "max")}


def _sweep_name(name: str | None, arms: Sequence[Arm]) -> str:
    if name is None:
        joined = "-vs-".join(arm.name.rpartition("/")[2] for arm in arms)
        return file_name(joined)[:60].strip(".-_") or "sweep"
    if not re.fullmatch(r"\w[\w.-]{0,100}", name, re.ASCII) or name == LATEST:
        raise UserError(
            f"{name!r} is not a valid name for a sweep: use letters, digits, '_', '-' and '.', as in --name NAME"
        )
    return name


def _override_flags(words: list[str]) -> dict[str, Any]:
    """Reads the flags of a fit that were given to the sweep, such as `--trainer.max_epochs 1`, as keys and values."""
    overrides: dict[str, Any] = {}
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
        _check_key(key, "plcourse sweep")
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
    hint = nearest(flag, [f"--{name}" for name in (*_FLAGS, *_WITHOUT_DOT)])
    return UserError(f"plcourse sweep: unknown flag {flag!r}{hint}; see `plcourse sweep -h`")


def _parse_value(text: str, label: str) -> Any:
    return parse_config(ConfigSource(label, label, f"value: {text}", packaged=False))["value"]


def _at(source: ConfigSource | None, key: str | None = None) -> str:
    """The place that a message points to: `file:line: ` for a key of a file, nothing for a flag."""
    if source is None:
        return ""
    return f"{(key and locate_key([source], key, parents=True)) or source.label}: "
