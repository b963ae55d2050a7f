"""What a sweep was asked for: arms, seeds and a grid, from a YAML file and from flags, checked before anything runs.

A sweep file is a mapping with the keys of `KEYS`; each has a flag of the same name, which wins::

    arms: [ddp/one_process, ddp/two_processes]   # or  NAME: {config: ..., overrides: {...}}
    seeds: 0..4
    grid:
      model.init_args.optimizer.init_args.lr: [0.05, 0.2]
    overrides:
      trainer.max_epochs: 3
    then: [test]
    metric: test/accuracy
    mode: max

Only the parser, and so torch, knows whether a key of the grid is a flag of the arms: `plcourse.verbs.sweep.verb` asks.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from plcourse import catalog
from plcourse.cli.request import EVALUATIONS, OWN_FLAGS
from plcourse.console.flags import as_flags
from plcourse.console.line_parser import LineParser
from plcourse.errors import UserError, nearest
from plcourse.runs.configs import ConfigSource, find_config, locate_key, parse_config
from plcourse.runs.run import runs_root

KEYS = ("arms", "seeds", "grid", "overrides", "then", "metric", "mode")
MAX_CELLS = 10_000
MAX_SEED = 2**32 - 1  # the largest that NumPy takes
LATEST = "latest"

_OWN = ("config", "arms", "seeds", "grid", "then", "metric", "mode", "name", "n_jobs", "resume", "runs_root", "trust")
_WITHOUT_DOT = ("model", "data", "trainer", "optimizer", "lr_scheduler")
_SMALLER_IS_BETTER = re.compile(r"loss|error|nll|perplexity|distance|seconds|time", re.IGNORECASE)


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Args:
        name: what it is called in tables; unique in its sweep.
        config: a packaged config's name or a file.
        overrides: dotted keys and values that make the arm what it is.
    """

    name: str
    config: str
    overrides: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A sweep: every arm with every seed at every point of the grid.

    Args:
        name: its folder below `sweeps/`.
        arms: one or more.
        seeds: what `seed_everything` is, in turn.
        grid: dotted keys and the values that each takes; may be empty.
        overrides: dotted keys and values of all cells.
        then: verbs after each fit.
        metric: `{"name", "mode"}` of the score to show and to compare by, or None.
        trust: modules of the user's own that the configs may name.
    """

    name: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    grid: dict[str, list[Any]]
    overrides: dict[str, Any]
    then: tuple[str, ...]
    metric: dict[str, str] | None
    trust: tuple[str, ...] = ()

    def points(self) -> list[dict[str, Any]]:
        """Every combination of the grid's values; one empty point without a grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]

    def flags(self, arm: Arm, point: dict[str, Any]) -> list[str]:
        """The arguments of a fit of this arm at this point; what stands later wins."""
        merged = {**arm.overrides, **self.overrides, **point}
        trust = [word for module in self.trust for word in ("--trust", module)]
        return ["--config", arm.config, *as_flags(merged), *trust]

    def cells(self) -> list[dict[str, Any]]:
        """The cells in the order in which they run, as `sweep.json` lists them.

        Seed by seed, so that a sweep that is cut short has whole pairs of arms.
        """
        taken: set[str] = set()
        return [
            {
                "arm": arm.name,
                "seed": seed,
                "grid": point,
                "status": "pending",
                "run": _folder(arm.name, seed, point, taken),
                "error": None,
                "seconds": None,
            }
            for seed in self.seeds
            for point in self.points()
            for arm in self.arms
        ]


@dataclass(frozen=True)
class Command:
    """One invocation of `plcourse sweep`.

    Args:
        plan: what is to be done; None when only `--resume` was given.
        resume: the sweep to go on with, `latest` where none was named; None for a new sweep.
        n_jobs: cells at the same time.
        root: the root of all runs.
        trust: modules that `--trust` names.
    """

    plan: Plan | None
    resume: str | None
    n_jobs: int
    root: Path
    trust: tuple[str, ...]


def read_command(arguments: list[str]) -> Command:
    """Reads the arguments of `plcourse sweep`.

    Raises:
        UserError: a flag, key, arm, seed or metric that cannot be; the line says which, where, and what is near.
    """
    parser = LineParser("sweep")
    for flag in ("--seeds", "--then", "--metric", "--mode", "--name", "--runs_root"):
        parser.add_argument(flag)
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--grid", nargs="+", action="extend", default=[], metavar="KEY=VALUE,VALUE")
    parser.add_argument("--trust", action="append", default=[])
    parser.add_argument("--n_jobs", default="1")
    parser.add_argument("--resume", nargs="?", const=LATEST)
    args, rest = parser.parse_known_args(arguments)
    if len(args.config) > 1:
        raise UserError("plcourse sweep takes one -c; further settings are flags, such as --seeds 0..4")

    source = find_sweep(args.config[0]) if args.config else None
    tree = _read(source) if source else {}
    flags: dict[str, Any] = {key: getattr(args, key) for key in ("arms", "seeds", "then", "metric", "mode")}
    given = {key: value for key, value in flags.items() if value is not None}
    if args.grid:
        given["grid"] = {**_mapping(tree.get("grid"), "grid", source), **dict(map(_grid_flag, args.grid))}
    if more := _overrides(rest):
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
        raise UserError(f"--name is for new sweeps; to go on with this one: plcourse sweep --resume {args.name}")
    n_jobs = _n_jobs(args.n_jobs)
    return Command(plan, args.resume, n_jobs, runs_root(args.runs_root), tuple(args.trust))


def find_sweep(name: str) -> ConfigSource:
    """Reads a sweep file given by path or by packaged name; an existing file wins.

    Raises:
        UserError: there is none, with the nearest name.
    """
    packaged = name.removesuffix(".yaml")
    if Path(name).exists() and not Path(name).is_dir():
        return find_config(name)
    if packaged in catalog.sweep_names():
        return find_config(str(catalog.config_path(packaged)))
    if packaged in catalog.config_names():
        raise UserError(f"'{packaged}' is the config of a run, not a sweep: plcourse sweep --arms {packaged}")
    known = catalog.sweep_names()
    hint = nearest(packaged, known) or (f"; there are {', '.join(known)}" if known else "")
    raise UserError(f"no file and no packaged sweep is named {name!r}{hint}")


def grid_label(point: dict[str, Any]) -> str:
    """A point of a grid as people say it: `lr=0.1 momentum=0.9`; empty without a grid."""
    return " ".join(f"{name}={_text(value)}" for name, value in zip(_short(point), point.values(), strict=True))


def cell_label(cell: dict[str, Any]) -> str:
    """A cell as people say it: `ddp/tuned seed 2 lr=0.1`."""
    return f"{cell['arm']} seed {cell['seed']} {grid_label(cell['grid'])}".rstrip()


def _read(source: ConfigSource) -> dict[str, Any]:
    tree = parse_config(source)
    for key in tree:
        if key not in KEYS:
            if key in ("trainer", "model", "data"):
                raise UserError(f"{_at(source, key)}'{key}' makes this the config of a run; a sweep names it as an arm")
            hint = nearest(key, KEYS) or f"; there are {', '.join(KEYS)}"
            raise UserError(f"{_at(source, key)}a sweep has no '{key}'{hint}")
    return tree


def _plan(tree: dict[str, Any], sources: dict[str, ConfigSource | None], name: str | None, trust: Any) -> Plan:
    if "arms" not in tree:
        raise UserError(f"{_at(sources['arms'])}a sweep needs arms: one or more configs (see `plcourse ls`)")
    arms = _arms(tree["arms"], sources["arms"])
    grid = _grid(tree.get("grid"), sources["grid"])
    overrides = _mapping(tree.get("overrides"), "overrides", sources["overrides"])
    for key in overrides:
        _check_key(key, f"{_at(sources['overrides'], f'overrides.{key}')}overrides")
    if twice := next((key for key in grid if key in overrides), None):
        raise UserError(f"'{twice}' is in the grid and in the overrides: the override would have no effect")
    then = _then(tree.get("then", ["test"]), sources["then"])
    plan = Plan(
        _name(name, arms),
        arms,
        _seeds(tree.get("seeds", [0]), sources["seeds"]),
        grid,
        overrides,
        then,
        _metric(tree.get("metric"), tree.get("mode"), then, sources),
        trust,
    )
    count = len(arms) * len(plan.seeds) * len(plan.points())
    if count > MAX_CELLS:
        raise UserError(f"{count:,} cells are more than {MAX_CELLS:,}: fewer seeds, or a smaller grid")
    return plan


def _arms(value: Any, source: ConfigSource | None) -> tuple[Arm, ...]:
    where = _at(source, "arms")
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | dict) or not value:
        raise UserError(f"{where}arms is {value!r}; it is a list of configs, or of names with a `config:` each")
    arms = []
    for name in value:
        if isinstance(value, dict):
            arms.append(_named_arm(str(name), value[name], source))
            continue
        if not isinstance(name, str):
            raise UserError(f"{where}arms has {name!r}, which is no config's name")
        config = _config(name, where)
        arm = config.run_name
        if same := next((known for known in arms if known.name == arm), None):
            remedy = "" if same.config == name else "; a sweep file can give each a name: `NAME: {config: ...}`"
            raise UserError(f"{where}two arms are called '{arm}'{remedy}")
        arms.append(Arm(arm, name, {}))
    return tuple(arms)


def _named_arm(name: str, value: Any, source: ConfigSource | None) -> Arm:
    where = _at(source, f"arms.{name}")
    if not isinstance(value, dict) or not isinstance(value.get("config"), str):
        raise UserError(f"{where}arm '{name}' is {value!r}; it is a mapping with `config:` and maybe `overrides:`")
    if unknown := next((key for key in value if key not in ("config", "overrides")), None):
        raise UserError(f"{where}arm '{name}' has no '{unknown}'{nearest(str(unknown), ('config', 'overrides'))}")
    _config(value["config"], where)
    overrides = _mapping(value.get("overrides"), f"arms.{name}.overrides", source)
    for key in overrides:
        _check_key(key, f"{where}arm '{name}'")
    return Arm(name, value["config"], overrides)


def _config(name: str, where: str) -> ConfigSource:
    try:
        return find_config(name)
    except UserError as error:
        raise UserError(f"{where}arm '{name}': {error}") from error


def _seeds(value: Any, source: ConfigSource | None) -> tuple[int, ...]:
    where = _at(source, "seeds")
    words = value if isinstance(value, list) else str(value).split(",")
    seeds: list[int] = []
    for word in words:
        text = str(word).strip()
        first, dots, last = text.partition("..")
        if isinstance(word, bool) or not first.isdecimal() or not (last.isdecimal() if dots else first):
            raise UserError(f"{where}seeds has {text!r}; they are whole numbers such as 0,1,2 or a range such as 0..4")
        low, high = int(first), int(last) if dots else int(first)
        if high < low:
            raise UserError(f"{where}the seeds {text} run backwards; did you mean '{high}..{low}'?")
        if high > MAX_SEED or high - low >= MAX_CELLS:
            raise UserError(f"{where}the seeds {text} are too many or too large; the largest is {MAX_SEED}")
        seeds += range(low, high + 1)
    if not seeds:
        raise UserError(f"{where}seeds is empty; name at least one, as in `seeds: [0]`")
    if twice := [seed for at, seed in enumerate(seeds) if seed in seeds[:at]]:
        raise UserError(f"{where}the seed {twice[0]} stands twice")
    return tuple(seeds)


def _grid(value: Any, source: ConfigSource | None) -> dict[str, list[Any]]:
    grid = _mapping(value, "grid", source)
    for key, values in grid.items():
        where = f"{_at(source, f'grid.{key}')}grid"
        _check_key(key, where)
        if not isinstance(values, list) or not values:
            raise UserError(f"{where}: '{key}' is {values!r}; it takes a list with one value or more")
        if any(item in values[:at] for at, item in enumerate(values)):
            raise UserError(f"{where}: '{key}' has a value twice: {_text(values)}")
    return grid


def _grid_flag(word: str) -> tuple[str, Any]:
    """`KEY=V,V` from the command line; commas inside brackets belong to a value."""
    key, equals, text = word.removeprefix("--").partition("=")
    if not equals:
        raise UserError(f"--grid takes KEY=VALUE,VALUE, not {word!r}; as in --grid trainer.max_epochs=1,2")
    return key, parse_config(_inline(f"[{text}]", f"--grid {word}"))["value"]


def _mapping(value: Any, name: str, source: ConfigSource | None) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{_at(source, name)}{name} is {value!r}; it maps dotted keys such as trainer.max_epochs")
    return {str(key): item for key, item in value.items()}


def _check_key(key: str, where: str) -> None:
    first = key.partition(".")[0]
    if first == "seed_everything":
        raise UserError(f"{where}: 'seed_everything' is what `seeds` sets, cell by cell")
    if f"--{first}" in OWN_FLAGS or first in ("help", "help_all", "print_config"):
        raise UserError(f"{where}: '{key}' is no setting of a run")
    if not re.fullmatch(r"[A-Za-z_][\w.-]*\+?", key):
        raise UserError(f"{where}: '{key}' is no key; keys are dotted, such as trainer.max_epochs")


def _then(value: Any, source: ConfigSource | None) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list):
        raise UserError(f"{_at(source, 'then')}then is {value!r}; it is a list of {', '.join(EVALUATIONS)}")
    verbs = [str(word).strip() for word in words if str(word).strip()]
    for verb in verbs:
        if verb not in EVALUATIONS:
            hint = nearest(verb, EVALUATIONS)
            raise UserError(f"{_at(source, 'then')}then takes {', '.join(EVALUATIONS)}, not '{verb}'{hint}")
    return tuple(verbs)


def _metric(name: Any, mode: Any, then: Sequence[str], sources: dict[str, ConfigSource | None]) -> Any:
    where = _at(sources["metric"], "metric")
    if mode not in (None, "min", "max"):
        raise UserError(f"{_at(sources['mode'], 'mode')}mode is {mode!r}; it is max or min")
    if name is None:
        if mode is not None:
            raise UserError("mode without metric has no effect; name the metric, as in --metric test/accuracy")
        return None
    if not isinstance(name, str) or not re.fullmatch(r"\w+/[\w./@-]+", name):
        raise UserError(f"{where}metric is {name!r}; metrics have names such as test/accuracy")
    if name.startswith("test/") and "test" not in then:
        raise UserError(f"{where}the metric {name} needs a test of each run: --then test")
    return {"name": name, "mode": mode or ("min" if _SMALLER_IS_BETTER.search(name) else "max")}


def _name(name: str | None, arms: Sequence[Arm]) -> str:
    if name is None:
        joined = "-vs-".join(arm.name.rpartition("/")[2] for arm in arms)
        return _plain(joined)[:60].strip(".-_") or "sweep"
    if not re.fullmatch(r"\w[\w.-]{0,100}", name, re.ASCII) or name == LATEST:
        raise UserError(f"a sweep cannot be called {name!r}: letters, digits, '_', '-' and '.' (--name NAME)")
    return name


def _n_jobs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise UserError(f"--n_jobs is {text!r}; it is a whole number from 1 to 256")
    return int(text)


def _overrides(words: list[str]) -> dict[str, Any]:
    """The flags of a fit that were given to the sweep: `--trainer.max_epochs 1` is `{"trainer.max_epochs": 1}`."""
    overrides: dict[str, Any] = {}
    pending = list(words)
    while pending:
        word = pending.pop(0)
        if not word.startswith("--"):
            kind = "flag" if word.startswith("-") else "argument"
            raise UserError(f"plcourse sweep: unknown {kind} {word!r}; a value with spaces needs quotes")
        flag, equals, value = word.partition("=")
        # `--trainer.callbacks+=X` splits behind the plus; `--key=value` in front of the value.
        key = flag.removeprefix("--")
        if "." not in key and key.removesuffix("+") not in _WITHOUT_DOT:
            _refuse(flag)
        if not equals:
            if not pending or pending[0].startswith("--"):
                raise UserError(f"{flag} takes a value")
            value = pending.pop(0)
        _check_key(key, "plcourse sweep")
        overrides[key] = _value(value)
    return overrides


def _refuse(flag: str) -> None:
    if flag == "--seed_everything":
        raise UserError("a sweep sets the seed of each cell: --seeds 0..4 in place of --seed_everything")
    if flag in ("--print_config", "--help_all", "--run", "--ckpt_path", "--allow_untrained"):
        raise UserError(f"{flag} is for single runs; plcourse fit -c ARM {flag}")
    hint = nearest(flag, [f"--{name}" for name in (*_OWN, *_WITHOUT_DOT)])
    raise UserError(f"plcourse sweep: unknown flag {flag!r}{hint}; see `plcourse sweep -h`")


def _value(text: str) -> Any:
    """A flag's text as the value that a config would hold; what is no YAML is taken as it stands."""
    if not text.strip():
        return text
    try:
        return parse_config(_inline(text, "a flag"))["value"]
    except UserError:
        return text


def _inline(text: str, label: str) -> ConfigSource:
    return ConfigSource(label, label, f"value: {text}", packaged=False)


def _at(source: ConfigSource | None, key: str | None = None) -> str:
    """Where a message points: `file:line: ` for a key of a file, nothing for a flag."""
    if source is None:
        return ""
    return f"{(key and locate_key([source], key, parents=True)) or source.label}: "


def _short(keys: Iterable[str]) -> list[str]:
    """The last part of each key, more of it where two would be the same."""
    keys = list(keys)
    return [_shortest(key, [other for other in keys if other != key]) for key in keys]


def _shortest(key: str, others: list[str]) -> str:
    parts = key.split(".")
    tails = (".".join(parts[at:]) for at in range(len(parts) - 1, 0, -1))
    return next((tail for tail in tails if not any(f".{other}".endswith(f".{tail}") for other in others)), key)


def _text(value: Any) -> str:
    """A value on one line: a class by its last name, a list in brackets."""
    if isinstance(value, dict) and isinstance(value.get("class_path"), str):
        return value["class_path"].rpartition(".")[2]
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII)


def _folder(arm: str, seed: int, point: dict[str, Any], taken: set[str]) -> str:
    """A cell's folder below its sweep, new at every call."""
    grid = "".join(f"-{name}_{_text(value)}" for name, value in zip(_short(point), point.values(), strict=True))
    arm_folder = _plain(arm).strip("._")[:80] or "arm"
    folder = unique = f"cells/{arm_folder}/{_plain(f'seed{seed}{grid}')[:100]}"
    number = 1
    while unique in taken:
        number += 1
        unique = f"{folder}-{number}"
    taken.add(unique)
    return unique
