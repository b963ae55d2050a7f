"""Assigns each cell to an arm and to a comparison."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from plcourse.errors import UserError, nearest
from plcourse.verbs.compare.cells import ScoredCell, as_key, lookup
from plcourse.verbs.compare.wording import first_names, one_line


def comparison_groups(
    cells: list[ScoredCell], grid_by: str | None, baseline: str | None
) -> list[tuple[dict[str, Any], list[ScoredCell]]]:
    """Groups the cells by comparison, named by arm, with the grid values that each comparison is for.

    With `grid_by`, a config key, there is one comparison per value or, if there is only one config, the values are the
    arms.

    Raises:
        UserError: fewer than two arms, an unknown key or baseline, or two cells of an arm with the same seed and split.
    """
    keys = list(dict.fromkeys(key for cell in cells for key in cell.grid))
    if grid_by is not None:
        _check_grid_key(grid_by, cells, keys)
    varying = [key for key in keys if len({as_key(_grid_value(cell, key)) for cell in cells}) > 1 and key != grid_by]
    values_are_arms = grid_by is not None and len({cell.config_name for cell in cells}) == 1
    groups: dict[str, tuple[dict[str, Any], list[ScoredCell]]] = {}
    for cell in cells:
        if grid_by is not None and values_are_arms:
            arm, of_group = _grid_label(cell, [grid_by]), varying
        else:
            arm = f"{cell.config_name} {_grid_label(cell, varying)}".strip()
            of_group = [] if grid_by is None else [grid_by]
        grid = {key: _grid_value(cell, key) for key in of_group}
        groups.setdefault(as_key(grid), (grid, []))[1].append(replace(cell, arm=arm))
    _check_arms(list(dict.fromkeys(cell.arm for _, group in groups.values() for cell in group)), cells, baseline)
    for _, group in groups.values():
        _check_duplicates(group)
    return list(groups.values())


def _grid_value(cell: ScoredCell, key: str) -> Any:
    return cell.grid[key] if key in cell.grid else lookup(cell.config, key)


def _grid_label(cell: ScoredCell, keys: Iterable[str]) -> str:
    """The part of an arm's name that is from the grid: `lr=0.1`."""
    return " ".join(f"{key.rpartition('.')[2]}={one_line(_grid_value(cell, key))}" for key in keys)


def _check_grid_key(key: str, cells: list[ScoredCell], grid_keys: list[str]) -> None:
    if all(_grid_value(cell, key) is None for cell in cells):
        known = [*grid_keys, *(name for cell in cells[:1] for name in _flat(cell.config))]
        # A flag may shorten model.init_args.optimizer.init_args.lr to `optimizer.lr`.
        same_end = [name for name in known if f".{name}".replace(".init_args.", ".").endswith(f".{key}")]
        hint = f"; did you mean '{same_end[0]}'?" if same_end else nearest(key, known)
        raise UserError(f"--grid_by: unknown key {key!r} in the grids and configs of these runs{hint}")


def _check_arms(arms: list[str], cells: list[ScoredCell], baseline: str | None) -> None:
    if len(arms) < 2:
        which = _differing_keys(cells)
        hint = f"; its runs differ in {first_names(which)}: --grid_by compares by one of these" if which else ""
        raise UserError(f"only one arm, {arms[0]}: add runs of another config{hint}")
    if baseline is not None and baseline not in arms:
        known = f"{first_names(arms, 8)}{nearest(baseline, arms)}"
        raise UserError(f"--baseline: unknown arm {baseline!r}; the arms are {known}")


def _check_duplicates(cells: list[ScoredCell]) -> None:
    seen: dict[Any, ScoredCell] = {}
    for cell in (cell for cell in cells if not cell.left_out):
        twin = seen.setdefault((cell.arm, cell.place, cell.resample), cell)
        if twin is cell:
            continue
        which = _differing_keys([twin, cell])
        hint = f"they differ in {first_names(which)}: --grid_by compares by one of these" if which else "leave one out"
        fold = "" if cell.fold is None else f", fold {cell.fold}"
        raise UserError(f"arm {cell.arm} has seed {cell.seed}{fold} twice, in {twin.name} and {cell.name}; {hint}")


def _differing_keys(cells: Sequence[ScoredCell]) -> list[str]:
    flat = [_flat(cell.config) for cell in cells]
    keys = dict.fromkeys(key for config in flat for key in config)
    return [key for key in keys if len({as_key(config.get(key)) for config in flat}) > 1 and key != "seed_everything"]


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens a config to dotted keys and values."""
    if not isinstance(config, dict) or not config:
        return {prefix: config} if prefix else {}
    return {k: v for key, value in config.items() for k, v in _flat(value, f"{prefix}.{key}".strip(".")).items()}
