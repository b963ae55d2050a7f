"""Trains several folds at a time, in processes forked from this one, which inherit model and data as they are."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from plcourse.errors import Interrupted, RunFailed, UserError
from plcourse.kfold.fold_run import FoldRun
from plcourse.kfold.fold_trainer import FoldTrainer
from plcourse.processes.worker_process import send_output_to
from plcourse.processes.workers import PoolSettings, Signals

_inherited: tuple[FoldTrainer, list[FoldRun]] | None = None  # set while workers are forked; a task is only a number


def train_in_parallel(
    fit: FoldTrainer, pending: Sequence[FoldRun], n_jobs: int, fold_ended: Callable[[FoldRun], None]
) -> None:
    """Trains and scores folds in up to ``n_jobs`` processes, and calls ``fold_ended`` for each that finishes.

    If a fold fails, the others are finished first; then it raises RunFailed.
    """
    global _inherited
    failures = []
    with Signals() as signals:
        workers = PoolSettings.prepare(n_jobs, None, signals)
        if not workers.forks:
            raise UserError(f"n_jobs is {n_jobs}; it must be 1, since this process cannot be forked (GPU or system)")
        _inherited = replace(fit, is_first=True, callbacks=()), list(pending)
        try:
            with workers.pool(len(pending)) as pool:
                for at, outcome in pool.run([(_fit_inherited, at) for at in range(len(pending))]):
                    if outcome.status == "finished":
                        fold_ended(pending[at])
                    elif outcome.status == "failed":
                        failures.append(_failure(pending[at], outcome.error or outcome.status))
        finally:
            _inherited = None
    if signals.stop:
        raise Interrupted(signals.stop)
    if failures:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise RunFailed(f"{failures[0]}{more}; the folds that finished are kept")


def _fit_inherited(at: int) -> None:
    assert _inherited is not None
    fit, folds = _inherited
    folds[at].path.mkdir(parents=True, exist_ok=True)
    send_output_to(folds[at].path / "log.txt")
    fit(folds[at])


def _failure(fold: FoldRun, error: str) -> str:
    """The error of a worker with its fold; recorded here if the worker was killed."""
    if (fold.path / "run.json").is_file() and fold.run.status == "running":
        fold.run.finish("failed", error=error)
    return error if error.startswith("fold ") else f"fold {fold.fold.number}: {error}"
