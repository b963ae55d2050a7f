"""The commands that a fit suggests at its end; each works when it is pasted."""

import shlex
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from plcourse.runs.run import Run
from plcourse.runs.variants import command, environment_flags

_NEW_INPUTS = ("predict_path", "predict_paths", "seeds")


def verbs_after(trainer: pl.Trainer, module: pl.LightningModule) -> list[str]:
    """Returns which of test and predict can follow a fit, because the model has the step and the data have samples."""
    data: Any = getattr(trainer, "datamodule", None)
    if data is None:
        return []
    sizes = getattr(data, "sizes", None) or getattr(getattr(data, "splits", None), "sizes", None)
    has_test = not isinstance(sizes, dict) or sizes.get("n_test") != 0
    # the suite's data modules predict the test part if there are no new inputs
    new_inputs = [getattr(data, name) for name in _NEW_INPUTS if hasattr(data, name)]
    can = {
        "test": has_test and is_overridden("test_step", module) and is_overridden("test_dataloader", data),
        "predict": is_overridden("predict_dataloader", data) and (has_test or not new_inputs or any(new_inputs)),
    }
    return [verb for verb, possible in can.items() if possible]


def what_next(run: Run, done: Sequence[str], trust: Sequence[str]) -> list[str]:
    """Returns the last lines of a fit.

    Args:
        run: the run.
        done: the verbs that have followed in the same command.
        trust: modules that the command has allowed.
    """
    record = run.record
    lines = [f"\nfinished: {run.path}"]
    if (run.path / "checkpoints").is_dir():
        known = record.get("data")
        empty = isinstance(known, dict) and known.get("n_test") == 0
        possible = record.get("verbs", [] if empty else ["test", "predict"])
        verbs = [verb for verb in possible if verb not in done]
        lines += [f"  {command(verb, run.path, run.root, {}, trust)}" for verb in verbs]
    lines.append(f"  {shlex.join(['plcourse', 'report', str(run.path), *environment_flags(run.root, [])])}")
    if (run.path / "tensorboard").is_dir():
        lines.append(f"  {shlex.join(['tensorboard', '--logdir', str(run.path / 'tensorboard')])}")
    return lines
