"""Assigns each cell to an arm and to a comparison."""

from collections.abc import Sequence
from dataclasses import replace

from plcourse.errors import UserError, nearest
from plcourse.runs.config_yaml import lookup
from plcourse.verbs.compare.cells import ScoredCell, Settings, as_key
from plcourse.verbs.compare.wording import first_names, one_line


def comparison_groups(
    cells: list[ScoredCell], grid_by: str | None, baseline: str | None
) -> list[tuple[Settings, list[ScoredCell]]]:
    """Assigns the cells to arms, and groups them by comparison with the grid values that its cells share.

    With `grid_by`, a config key, there is one comparison per value or, if there is only one config, the values are the
    arms.

    Raises:
        UserError: fewer than two arms, an unknown key or baseline, or two cells of an arm with the same seed and split.
    """
    keys = list(dict.fromkeys(key for cell in cells for key in cell.grid))
    if grid_by is not None:
        _check_grid_key(grid_by, cells, keys)
    varying = [key for key in keys if len({as_key(_grid_value(cell, key)) for cell in cells}) > 1 and key != grid_by]
    of_arm, of_group = varying, [] if grid_by is None else [grid_by]
    only_config = len({cell.config_name for cell in cells}) == 1
    if grid_by is not None and only_config:
        of_arm, of_group = of_group, of_arm
    groups: dict[str, tuple[Settings, list[ScoredCell]]] = {}
    for cell in cells:
        values = " ".join(f"{key.rpartition('.')[2]}={one_line(_grid_value(cell, key))}" for key in of_arm)
        arm = values if grid_by is not None and only_config else f"{cell.config_name} {values}".strip()
        grid = {key: _grid_value(cell, key) for key in of_group}
        groups.setdefault(as_key(grid), (grid, []))[1].append(replace(cell, arm=arm))
    _check_arms(list(dict.fromkeys(cell.arm for _, group in groups.values() for cell in group)), cells, baseline)
    for _, group in groups.values():
        _check_duplicates(group)
    return list(groups.values())


def _grid_value(cell: ScoredCell, key: str) -> object:
    return cell.grid[key] if key in cell.grid else lookup(cell.config, key)


def _check_grid_key(key: str, cells: list[ScoredCell], grid_keys: list[str]) -> None:
    if all(_grid_value(cell, key) is None for cell in cells):
        known = [*grid_keys, *(name for cell in cells[:1] for name in _flat(cell.config))]
        # A flag may shorten model.init_args.optimizer.init_args.lr to `optimizer.lr`.
        same_end = [name for name in known if f".{name}".replace(".init_args.", ".").endswith(f".{key}")]
        hint = f"; did you mean '{same_end[0]}'?" if same_end else nearest(key, known)
        raise UserError(f"--grid_by: unknown key {key!r} in the grids and configs of these runs{hint}")


def _check_arms(arms: list[str], cells: list[ScoredCell], baseline: str | None) -> None:
    if len(arms) < 2:
        hint = _hint(cells, "; its runs differ")
        raise UserError(f"only one arm, {arms[0]}: add runs of another config{hint}")
    if baseline is not None and baseline not in arms:
        known = f"{first_names(arms, 8)}{nearest(baseline, arms)}"
        raise UserError(f"--baseline: unknown arm {baseline!r}; the arms are {known}")


def _check_duplicates(cells: list[ScoredCell]) -> None:
    seen: dict[object, ScoredCell] = {}
    for cell in (cell for cell in cells if not cell.left_out):
        twin = seen.setdefault((cell.arm, cell.place, cell.resample), cell)
        if twin is not cell:
            hint = _hint([twin, cell], "they differ") or "leave one out"
            fold = "" if cell.fold is None else f", fold {cell.fold}"
            raise UserError(f"arm {cell.arm} has seed {cell.seed}{fold} twice, in {twin.name} and {cell.name}; {hint}")


def _hint(cells: Sequence[ScoredCell], they_differ: str) -> str:
    """The keys by which `--grid_by` could compare these cells; empty if their configs are equal."""
    flat = [_flat(cell.config) for cell in cells]
    keys = dict.fromkeys(key for config in flat for key in config if key != "seed_everything")
    differing = [key for key in keys if len({as_key(config.get(key)) for config in flat}) > 1]
    return f"{they_differ} in {first_names(differing)}: --grid_by compares by one of these" if differing else ""


def _flat(config: object, prefix: str = "") -> Settings:
    """Flattens a config to dotted keys and values."""
    if not isinstance(config, dict) or not config:
        return {prefix: config} if prefix else {}
    return {k: v for key, value in config.items() for k, v in _flat(value, f"{prefix}.{key}".strip(".")).items()}
