"""Compares the folds and settings of a run with those it began with."""

from pathlib import Path
from typing import Any

from plcourse.data.randoms import run_seed
from plcourse.errors import UserError
from plcourse.kfold.fold_data import fold_config
from plcourse.kfold.fold_run import read_config
from plcourse.kfold.folds import Plan
from plcourse.runs.changes import check_folds
from plcourse.runs.record import read_record
from plcourse.training.checkpoint import LAST
from plcourse.training.trainer import Trainer

PLAN = "plan.json"


def plan_terms(plan: Plan, trainer: Trainer) -> dict[str, object]:
    """What a resumed run must have in common with its beginning; the content of ``folds/plan.json``."""
    limits = {"max_epochs": trainer.max_epochs, "max_steps": trainer.max_steps}
    return {**plan.terms, "seed": run_seed(), **limits, "classes": plan.classes}


def check_unchanged(folder: Path, plan: Plan, trainer: Trainer, asked: dict[str, Any] | None) -> None:
    """Raises a UserError if a run is continued with other folds or settings than it began with.

    ``asked`` is the present config; None if it is that of the run's folder.
    """
    folds = folder / "folds"
    before = read_record(folds / PLAN)
    for name, value in plan_terms(plan, trainer).items():
        if before.get(name) == value:
            continue
        if name in ("samples", "fingerprint", "classes"):
            raise UserError(f"the data differ from those that the folds in {folds} were cut from; start a new run")
        raise UserError(
            f"the folds in {folds} have {name} {before.get(name)}, and {value} is asked for: restore "
            f"{before.get(name)}, or start a new run"
        )
    config = read_config(folder / "config.yaml") if asked is None else asked
    for checkpoint in sorted(folds.glob(f"*/checkpoints/{LAST}")) if config else []:
        fold = checkpoint.parent.parent
        if (trained := read_config(fold / "config.yaml")) and fold.name.isdecimal():
            check_folds(trained, fold_config(config, int(fold.name), plan.cut), f"fold {fold.name} of this run")
            return  # the other folds were compared with it when they were trained
