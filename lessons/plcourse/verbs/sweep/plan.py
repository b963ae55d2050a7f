"""A sweep as data: its arms, seeds and grid, and the cells that they make. No torch."""

import re
from dataclasses import dataclass
from itertools import count, product

from plcourse.console.flags import as_flags

LATEST = "latest"

Settings = dict[str, object]  # dotted keys of a config and their values


@dataclass(frozen=True)
class Arm:
    """One side of a comparison."""

    name: str  # its name in tables, unique in its sweep
    config: str  # a packaged config's name or a file
    overrides: Settings  # dotted keys and values that distinguish the arm


@dataclass
class SweepCell:
    """One fit of a sweep, as `sweep.json` lists it."""

    arm: str
    seed: int  # the value of `seed_everything`
    grid: Settings  # dotted keys of the grid and the cell's values
    status: str  # `pending`, `running`, `finished`, `failed` or `interrupted`
    run: str  # the folder of its run, relative to the sweep's
    error: str | None = None  # why it failed, in one line
    seconds: float | None = None  # how long it has run, over all attempts
    processes: int = 1  # how many processes train it

    @property
    def label(self) -> str:
        """The cell in words: `ddp/tuned seed 2 lr=0.1`."""
        return f"{self.arm} seed {self.seed} {grid_label(self.grid)}".rstrip()


@dataclass(frozen=True)
class SweepPlan:
    """A sweep: every arm with every seed at every point of the grid."""

    name: str  # its folder below `sweeps/`
    arms: tuple[Arm, ...]  # one or more
    seeds: tuple[int, ...]  # values of `seed_everything`
    grid: dict[str, list[object]]  # dotted keys and the values that each takes; may be empty
    overrides: Settings  # dotted keys and values for all cells
    then: tuple[str, ...]  # verbs after each fit
    metric: dict[str, str] | None  # `name` and `mode` of the score to show and to compare by, or None
    permissions: tuple[str, ...] = ()  # flags such as `--trust=my_models`

    def points(self) -> list[Settings]:
        """Every combination of the grid's values; one empty point without a grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]

    def arms_and_points(self) -> list[tuple[Arm, Settings]]:
        """Every arm with every point of the grid, which are the cells of one seed."""
        return [(arm, point) for arm in self.arms for point in self.points()]

    def flags(self, arm: Arm, point: Settings) -> list[str]:
        """The arguments of `plcourse fit`; the point wins over the sweep's overrides, and these over the arm's."""
        overrides = {**arm.overrides, **self.overrides, **point}
        return ["--config", arm.config, *as_flags(overrides), *self.permissions]

    def cells(self) -> list[SweepCell]:
        """The cells in the order in which they run: seed by seed, so that a sweep cut short has complete pairs."""
        taken: set[str] = set()
        return [
            SweepCell(arm.name, seed, point, "pending", _new_folder(arm.name, seed, point, taken))
            for seed in self.seeds
            for point in self.points()
            for arm in self.arms
        ]


def grid_label(point: Settings) -> str:
    """A point of the grid in words: `lr=0.1 momentum=0.9`; empty without a grid."""
    return " ".join(f"{name}={value}" for name, value in _short_names(point))


def value_label(value: object) -> str:
    """A value on one line: a class by its last name, a list in brackets."""
    if isinstance(value, dict) and isinstance(value.get("class_path"), str):
        return value["class_path"].rpartition(".")[2]
    if isinstance(value, list):
        return f"[{','.join(map(value_label, value))}]"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def file_name(text: str) -> str:
    """The text with every character replaced that does not belong in a file name."""
    return re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII)


def _short_names(point: Settings) -> list[tuple[str, str]]:
    """The shortest end of each key that no other key has, with the value in words."""

    def shortest(key: str) -> str:
        parts = key.split(".")
        tails = (".".join(parts[at:]) for at in range(len(parts) - 1, 0, -1))
        return next((t for t in tails if not any(f".{o}".endswith(f".{t}") for o in point if o != key)), key)

    return [(shortest(key), value_label(value)) for key, value in point.items()]


def _new_folder(arm: str, seed: int, point: Settings, taken: set[str]) -> str:
    """A folder for a cell, relative to the sweep's, that is not in `taken`, to which it is added."""
    grid = "".join(f"-{name}_{value}" for name, value in _short_names(point))
    arm_folder = file_name(arm).strip("._")[:80] or "arm"
    folder = f"cells/{arm_folder}/{file_name(f'seed{seed}{grid}')[:100]}"
    names = (folder if number == 1 else f"{folder}-{number}" for number in count(1))
    unique = next(name for name in names if name not in taken)
    taken.add(unique)
    return unique
