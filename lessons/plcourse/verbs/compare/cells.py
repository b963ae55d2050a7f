"""Reads the cells of a comparison from the folders of runs and sweeps."""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plcourse.errors import UserError, nearest
from plcourse.runs.config_yaml import lookup, parse_config
from plcourse.runs.configs import find_config
from plcourse.runs.folders import find_folder
from plcourse.runs.record import read_record, status_of
from plcourse.runs.run import SWEEPS, Run, list_runs, list_sweeps
from plcourse.runs.variants import evaluations
from plcourse.verbs.compare.wording import one_line

_SPLIT_KEYS = ("split_seed", "val_size", "test_size")
_FOLD_KEYS = ("n_splits", "n_repeats", "stratified", "groups", "random_state")
_NOISE_KEYS = ("label_noise", "noise_seed")
_USER_SOURCES = ("image_folder", "mask_folder", "text_file", "text_table")
_FILE_KEYS = ("root", "path", "file", "files", "train", "val", "test")
_SWEEP = "sweep.json"

Settings = dict[str, Any]  # of a config, a grid or a record, by key


@dataclass(frozen=True)
class ScoredCell:
    """A run or one of its folds, with everything that a comparison needs to know."""

    config_name: str  # the run's config, such as `ddp/tuned`
    seed: Hashable  # the run's seed; None if it had none
    fold: int | None  # the number of the fold within the run; None for a run that is not a cross-validation
    grid: Settings  # values of a sweep's grid, by dotted key
    folder: Path  # the run's folder, or the fold's below it
    name: str  # its name in messages
    status: str  # see `Run.status`, or the sweep's status of a cell without a run
    config: Settings = field(default_factory=dict)  # the run's resolved config; empty if there is none
    scores: dict[str, Settings] = field(default_factory=dict)  # values by metric, by source: `eval`, `best`, `last`
    steps: int | None = None  # see `optimizer_steps`
    sizes: dict[str, int] = field(default_factory=dict)  # `n_train`, `n_val`, `n_test` samples, where known
    checkpoints: dict[str, str | None] = field(default_factory=dict)  # the file that each stage's evaluation scored
    arm: str = ""  # the arm that it belongs to
    value: float | None = None  # the score that is compared; None until it is chosen
    left_out: str | None = None  # why it is not compared; None while it is

    @property
    def split(self) -> Settings:
        """The settings that determine which samples are for training and which for testing."""
        of_data = _selected(self.config, "data.init_args", _SPLIT_KEYS)
        return of_data | _selected(self.config, "trainer.fit_loop.init_args", _FOLD_KEYS)

    @property
    def data(self) -> Settings:
        """The settings that determine the samples before the split, and the noise in their labels."""
        source = lookup(self.config, "data.init_args.source")
        noise = _NOISE_KEYS if lookup(self.config, "data.init_args.label_noise") else ()
        keys = ("source", *noise, *(_FILE_KEYS if source in _USER_SOURCES else ()))
        return _selected(self.config, "data.init_args", keys)

    @property
    def place(self) -> tuple[Hashable, int | None]:
        """Seed and fold."""
        return self.seed, self.fold

    @property
    def resample(self) -> tuple[int | None, str]:
        """Fold and split: cells that differ in them were trained or tested on other samples."""
        return self.fold, as_key(self.split)

    def row(self) -> Settings:
        """The cell as the JSON file of a comparison lists it."""
        keys = ("seed", "fold", "split", "grid", "value", "steps", "status", "left_out")
        fields = {key: getattr(self, key) for key in keys}
        run = str(self.folder) if self.folder.is_dir() else None
        return {"arm": self.arm, "config": self.config_name, **fields, "used": self.left_out is None, "run": run}


def _selected(config: Settings, parent: str, keys: Sequence[str]) -> Settings:
    found = {key: lookup(config, f"{parent}.{key}") for key in keys}
    return {key: value for key, value in found.items() if value is not None}


def as_key(value: object) -> str:
    """A value of a config as text, to compare and to group by."""
    return json.dumps(value, sort_keys=True, default=str)


def read_cells(inputs: Sequence[str], root: Path) -> tuple[list[ScoredCell], Settings]:
    """Reads the cells of runs and sweeps, each once, and the `name` and `mode` of the first sweep's metric."""
    cells: dict[Path, ScoredCell] = {}
    hint: Settings = {}
    for name in inputs:
        sweep = find_sweep_folder(name, root)
        if sweep is None:
            found = _run_cells(_load_run(name, root))
        else:
            record = _read_sweep(sweep)
            found = [cell for entry in record["cells"] for cell in _sweep_cells(entry, sweep, root)]
            if not hint.get("name"):
                hint = {key: lookup(record, f"metric.{key}") for key in ("name", "mode")}
        for cell in found:
            cells.setdefault(cell.folder.resolve(), cell)
    return list(cells.values()), hint


def find_sweep_folder(name: str, root: Path) -> Path | None:
    """The folder of a sweep by its path or name; None if it is not a sweep."""
    candidates = (Path(name), root / name, root / SWEEPS / name)
    return next((folder for candidate in candidates if (folder := find_folder(candidate, _SWEEP))), None)


def _load_run(name: str, root: Path) -> Run:
    try:
        return Run.load(name, root)
    except UserError as error:
        sweeps = list(dict.fromkeys(folder.parent.name for folder in list_sweeps(root)))
        names = [*sweeps, *(f"{SWEEPS}/{sweep}" for sweep in sweeps)]
        runs = [run.name for run in list_runs(root)]
        hint = nearest(name, names) or (f"; known sweeps are {', '.join(sweeps)}" if sweeps and not runs else "")
        if hint and not nearest(name, [*runs, *(run.rpartition("/")[0] for run in runs)]):
            raise UserError(f"no run and no sweep {name!r} in '{root}'{hint}") from error
        raise


def _read_sweep(folder: Path) -> Settings:
    """Reads a sweep's record with its cells in the order of the arms."""
    file = folder / _SWEEP
    record = read_record(file)
    cells = record.get("cells")
    if not isinstance(cells, list) or not all(isinstance(cell, dict) and "arm" in cell for cell in cells):
        raise UserError(f"'{file}' is not the record of a sweep: it has no list of cells with their arms")
    order = record.get("arms") or []
    cells.sort(key=lambda cell: order.index(cell["arm"]) if cell["arm"] in order else len(order))
    return record


def _sweep_cells(entry: Settings, sweep: Path, root: Path) -> list[ScoredCell]:
    """Reads one cell of a sweep from its run or, if it has none, from the sweep's list."""
    place = entry.get("run")
    folders = [base / place for base in (sweep, root, Path())] if place else []
    folder = next((folder for folder in folders if (folder / "run.json").is_file()), None)
    arm, seed, grid = str(entry["arm"]), entry.get("seed"), entry.get("grid") or {}
    if folder is not None:
        return _run_cells(Run(folder, root), arm, seed, grid)
    status = entry.get("status") or "not run"
    point = [f"{key.rpartition('.')[2]}={one_line(value)}" for key, value in grid.items()]
    name = " ".join([arm, *point, f"seed {seed}"])
    return [ScoredCell(arm, seed, None, grid, sweep / name, name, "missing" if status == "finished" else str(status))]


def _run_cells(
    run: Run, arm: str | None = None, seed: int | None = None, grid: Settings | None = None
) -> list[ScoredCell]:
    """Reads a run as one cell, or as one per fold if its folds have scores."""
    record = run.record
    seed = record.get("seed") if seed is None else seed
    cell = ScoredCell(
        config_name=arm or str(lookup(record, "sweep.arm") or record.get("config") or run.path.parent.name),
        seed=None if isinstance(seed, bool) else seed,
        fold=None,
        grid=grid or lookup(record, "sweep.grid") or {},
        folder=run.path,
        name=run.name,
        status=status_of(record, run.path),
        config=parse_config(find_config(str(run.config_path))) if run.config_path.is_file() else {},
    )
    if cell.status != "finished":
        return [cell]
    folds = sorted((int(path.name), path) for path in run.path.glob("folds/*") if path.name.isdecimal())
    scored = [(k, path) for k, path in folds if (path / "eval").is_dir() or (path / "metrics.csv").is_file()]
    of_folds = [replace(cell, fold=k, folder=path, name=f"{run.name} fold {k}") for k, path in scored]
    return [_with_results(each) for each in of_folds or [cell]]


def _with_results(cell: ScoredCell) -> ScoredCell:
    """Adds the scores, steps and sizes that the cell's folder records."""
    run = Run(cell.folder)
    record = _record(run)
    # Evaluations with other settings than the run's are not what is compared.
    found = {each.stage: each.content for each in evaluations(run) if not each.is_variant}
    monitored = lookup(record, "best.metric")
    scores = {
        "eval": {name: value for each in found.values() for name, value in (each.get("metrics") or {}).items()},
        "best": {monitored: lookup(record, "best.value")} if monitored else {},
        "last": {row["metric"]: row["value"] for row in run.metrics},
    }
    recorded = record.get("data")
    known = [*recorded.items()] if isinstance(recorded, dict) else []
    known += [(f"n_{stage}", lookup(each, "coverage.seen")) for stage, each in found.items()]
    sizes = {key: size for key, size in known if key.startswith("n_") and isinstance(size, int)}
    files = {stage: each.get("checkpoint") for stage, each in found.items()}
    checkpoints = {stage: Path(file).name if file else None for stage, file in files.items()}
    return replace(cell, scores=scores, steps=optimizer_steps(run), sizes=sizes, checkpoints=checkpoints)


def _record(run: Run) -> Mapping[str, object]:
    """A run's record; empty for a fold without one."""
    return run.record if (run.path / "run.json").is_file() else {}


def optimizer_steps(run: Run) -> int | None:
    """The number of batches that ended in an optimizer step during training; None if it is unknown.

    It is `steps` of `run.json` if recorded. Otherwise it is one more than the largest step of `metrics.csv` and of the
    best score, which number these batches from 0. That is exact after a validation at the end of the run, and too small
    by less than `log_every_n_steps` without one. Gradient accumulation is counted correctly; manual optimization with
    several optimizers counts a batch once.
    """
    record = _record(run)
    if isinstance(counted := record.get("steps"), int):
        return counted
    steps = [*(row["step"] for row in run.metrics), lookup(record, "best.step")]
    return max((step + 1 for step in steps if isinstance(step, int)), default=None)
