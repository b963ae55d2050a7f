"""The cells of a comparison, read from the folders of runs and sweeps: each is one score's place in it."""

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plcourse.errors import UserError, nearest
from plcourse.runs.configs import find_config, parse_config
from plcourse.runs.folders import find_folder
from plcourse.runs.record import read_record, status_of
from plcourse.runs.run import SWEEPS, Run, list_runs, list_sweeps
from plcourse.runs.variants import evaluations
from plcourse.verbs.compare.wording import shown

_SPLIT_KEYS = ("split_seed", "val_size", "test_size")
_FOLD_KEYS = ("n_splits", "n_repeats", "stratified", "groups", "random_state")
_NOISE_KEYS = ("label_noise", "noise_seed")
_USER_SOURCES = ("image_folder", "mask_folder", "text_file", "text_table")
_FILE_KEYS = ("root", "path", "file", "files", "train", "val", "test")
_SWEEP = "sweep.json"


@dataclass(frozen=True)
class Cell:
    """One score's place in a comparison, and all that its run says which matters there.

    Attributes:
        config_name: the run's config, such as `ddp/tuned`.
        seed: the run's seed; None if it had none of its own.
        fold: the fold's number within the run, None for a run that is not a cross-validation.
        grid: values of a sweep's grid, by dotted key.
        folder: the run's folder, or the fold's below it.
        name: how messages call it.
        status: as of `Run.status`, or what the sweep says of a cell without a run.
        config: the run's resolved config, empty if there is none.
        scores: each metric's value by where it stands, `eval`, `best` or `last`; empty unless finished.
        steps: of `optimizer_steps`.
        sizes: samples of the parts, `n_train`, `n_val` and `n_test`, as far as they are known.
        checkpoints: the file that each stage's evaluation scored.
        arm: the name it is compared under.
        value: the score, None until it is chosen.
        left_out: why it takes no part, None while it does.
    """

    config_name: str
    seed: Hashable
    fold: int | None
    grid: dict[str, Any]
    folder: Path
    name: str
    status: str
    config: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: int | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    checkpoints: dict[str, str | None] = field(default_factory=dict)
    arm: str = ""
    value: float | None = None
    left_out: str | None = None

    @property
    def split(self) -> dict[str, Any]:
        """What decides which samples are for training and which for testing, as the config has it."""
        of_data = _given(self.config, "data.init_args", _SPLIT_KEYS)
        return of_data | _given(self.config, "trainer.fit_loop.init_args", _FOLD_KEYS)

    @property
    def data(self) -> dict[str, Any]:
        """Which samples there are, before they are split, and what was done to their labels."""
        source = lookup(self.config, "data.init_args.source")
        noise = _NOISE_KEYS if lookup(self.config, "data.init_args.label_noise") else ()
        keys = ("source", *noise, *(_FILE_KEYS if source in _USER_SOURCES else ()))
        return _given(self.config, "data.init_args", keys)

    @property
    def place(self) -> tuple[Hashable, int | None]:
        """Seed and fold."""
        return self.seed, self.fold

    @property
    def resample(self) -> tuple[int | None, str]:
        """Fold and split: cells that differ in it were trained, or tested, on other samples."""
        return self.fold, as_key(self.split)


def lookup(config: Any, key: str) -> Any:
    """The value of a dotted key such as `model.init_args.lr`, None if there is none."""
    for part in key.split("."):
        if not isinstance(config, dict) or part not in config:
            return None
        config = config[part]
    return config


def _given(config: dict[str, Any], parent: str, keys: Sequence[str]) -> dict[str, Any]:
    found = {key: lookup(config, f"{parent}.{key}") for key in keys}
    return {key: value for key, value in found.items() if value is not None}


def as_key(value: Any) -> str:
    """A value of a config as something to compare and to group by."""
    return json.dumps(value, sort_keys=True, default=str)


def read_cells(inputs: Sequence[str], root: Path) -> tuple[list[Cell], dict[str, Any]]:
    """The cells of runs and sweeps, each once, and `name` and `mode` of the metric that the first sweep names.

    Raises:
        UserError: no such run or sweep, or a broken file.
    """
    cells: dict[Path, Cell] = {}
    hint: dict[str, Any] = {}
    for name in inputs:
        sweep = _find_sweep(name, root)
        if sweep is None:
            found = _run_cells(_load_run(name, root))
        else:
            record = _read_sweep(sweep)
            found = [cell for entry in record["cells"] for cell in _sweep_cells(entry, sweep, root)]
            metric = record.get("metric")
            hint = hint or (metric if isinstance(metric, dict) else {})
        for cell in found:
            cells.setdefault(cell.folder.resolve(), cell)
    return list(cells.values()), hint


def _find_sweep(name: str, root: Path) -> Path | None:
    """The folder of a sweep, by its path or its name; None if there is none."""
    candidates = (Path(name), root / name, root / SWEEPS / name)
    return next((folder for candidate in candidates if (folder := find_folder(candidate, _SWEEP))), None)


def _load_run(name: str, root: Path) -> Run:
    try:
        return Run.load(name, root)
    except UserError as error:
        sweeps = list(dict.fromkeys(folder.parent.name for folder in list_sweeps(root)))
        names = [*sweeps, *(f"{SWEEPS}/{sweep}" for sweep in sweeps)]
        runs = [run.name for run in list_runs(root)]
        hint = nearest(name, names) or (f"; there are the sweeps {', '.join(sweeps)}" if sweeps and not runs else "")
        if hint and not nearest(name, [*runs, *(run.rpartition("/")[0] for run in runs)]):
            raise UserError(f"no run and no sweep {name!r} in '{root}'{hint}") from error
        raise


def _read_sweep(folder: Path) -> dict[str, Any]:
    """A sweep's record, its cells in the order of the arms."""
    file = folder / _SWEEP
    record = read_record(file)
    cells = record.get("cells")
    if not isinstance(cells, list) or not all(isinstance(cell, dict) and "arm" in cell for cell in cells):
        raise UserError(f"'{file}' is not a sweep's record: it has no list of cells with their arms")
    order = record.get("arms") or []
    cells.sort(key=lambda cell: order.index(cell["arm"]) if cell["arm"] in order else len(order))
    return record


def _sweep_cells(entry: dict[str, Any], sweep: Path, root: Path) -> list[Cell]:
    """What a sweep lists as one cell, from its run or, where there is none, from the list."""
    place = entry.get("run")
    folders = [base / place for base in (sweep, root, Path())] if place else []
    folder = next((folder for folder in folders if (folder / "run.json").is_file()), None)
    arm, seed, grid = str(entry["arm"]), entry.get("seed"), entry.get("grid") or {}
    if folder is not None:
        return _run_cells(Run(folder, root), arm, seed, grid)
    status = entry.get("status") or "not run"
    point = [f"{key.rpartition('.')[2]}={shown(value)}" for key, value in grid.items()]
    name = " ".join([arm, *point, f"seed {seed}"])
    return [Cell(arm, seed, None, grid, sweep / name, name, "missing" if status == "finished" else str(status))]


def _run_cells(run: Run, arm: str | None = None, seed: Any = None, grid: dict[str, Any] | None = None) -> list[Cell]:
    """A run as one cell, or as one per fold where its folds have scores of their own."""
    record = run.record
    sweep = record.get("sweep")
    sweep = sweep if isinstance(sweep, dict) else {}
    seed = record.get("seed") if seed is None else seed
    cell = Cell(
        config_name=arm or str(sweep.get("arm") or record.get("config") or run.path.parent.name),
        seed=None if isinstance(seed, bool) else seed,
        fold=None,
        grid=grid or sweep.get("grid") or {},
        folder=run.path,
        name=run.name,
        status=status_of(record),
        config=parse_config(find_config(str(run.config_path))) if run.config_path.is_file() else {},
    )
    if cell.status != "finished":
        return [cell]
    folds = sorted((int(path.name), path) for path in run.path.glob("folds/*") if path.name.isdecimal())
    scored = [(k, path) for k, path in folds if (path / "eval").is_dir() or (path / "metrics.csv").is_file()]
    of_folds = [replace(cell, fold=k, folder=path, name=f"{run.name} fold {k}") for k, path in scored]
    return [_with_results(each) for each in of_folds or [cell]]


def _with_results(cell: Cell) -> Cell:
    """The cell with what its folder says."""
    run = Run(cell.folder)
    record = _record(run)
    # those of the run as it was trained: others say how their flags differ, and are not what is compared
    found = {each.stage: each.content for each in evaluations(run) if not each.is_variant}
    best = record.get("best")
    scores = {
        "eval": {name: value for each in found.values() for name, value in (each.get("metrics") or {}).items()},
        "best": {best["metric"]: best.get("value")} if isinstance(best, dict) and best.get("metric") else {},
        "last": {row["metric"]: row["value"] for row in run.metrics},
    }
    recorded = record.get("data")
    recorded = recorded if isinstance(recorded, dict) else {}
    sizes = {key: size for key, size in recorded.items() if key.startswith("n_") and isinstance(size, int)}
    checkpoints = {}
    for stage, content in found.items():
        checkpoints[stage] = Path(content["checkpoint"]).name if content.get("checkpoint") else None
        coverage = content.get("coverage")
        if isinstance(coverage, dict) and isinstance(coverage.get("seen"), int):
            sizes[f"n_{stage}"] = coverage["seen"]
    return replace(cell, scores=scores, steps=optimizer_steps(run), sizes=sizes, checkpoints=checkpoints)


def _record(run: Run) -> dict[str, Any]:
    """A run's record; that of a fold may be its run's alone."""
    return run.record if (run.path / "run.json").is_file() else {}


def optimizer_steps(run: Run) -> int | None:
    """How many batches ended in an optimizer step while a run trained; None if the run does not tell.

    `steps` of `run.json` where it is recorded. Otherwise one more than the largest step of `metrics.csv` and of the
    best score, which count these batches from 0: with a validation at its end, as every run has unless it was told
    otherwise, that is exact, and without one it is short by less than `log_every_n_steps`. Gradient accumulation is
    counted right; manual optimization with several optimizers counts a batch once.
    """
    record = _record(run)
    if isinstance(record.get("steps"), int):
        return record["steps"]
    best = record.get("best")
    steps = [row["step"] for row in run.metrics]
    if isinstance(best, dict) and isinstance(best.get("step"), int):
        steps.append(best["step"])
    return max(steps) + 1 if steps else None
