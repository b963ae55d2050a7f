"""Boundaries: the moments of a training run at which nothing is half done.

Between two batches and between two epochs every counter, schedule and metric is settled. Only there the ranks agree
whether to stop, checkpoints are written, and a run that a signal asked to end does end. A checkpoint from a boundary
resumes to the same numbers as if the run had never stopped.
"""

import time

import pytorch_lightning as pl
import torch

from plcourse.errors import Interrupted, RunFailed, gentler_training
from plcourse.processes import launch
from plcourse.processes.collectives import maximum
from plcourse.training.checkpoint import run_checkpoint
from plcourse.training.random_state import RandomState

CLOCK_STEPS = 50  # batches between two looks at the clock in a supervised job


class SafePoint:
    """What one trainer does at its boundaries.

    Attributes:
        stop_signal: the signal that asked this process to end, 0 for none; set by the signal handler.
        failure: why this rank cannot go on, empty while all is well; set by callbacks such as `FiniteLoss`.
        passing: True while a checkpoint is being written at a boundary.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self.stop_signal = 0
        self.failure = ""
        self.passing = False
        self.random_state = RandomState()
        self._trainer = trainer
        self._saved_at = time.monotonic()
        self._passed = 0

    def before_epoch(self) -> None:
        """Restores the random states of the checkpoint that the run resumes from, if it does."""
        self.random_state.restore()

    def between_batches(self) -> None:
        """Agrees with the other ranks on what to do, then does it.

        Raises:
            Interrupted: the run was asked to end; the checkpoint is written.
            RunFailed: this rank cannot go on; no checkpoint is written, so that the last one stays good.
        """
        self._pass(after_epoch=False)

    def after_epoch(self) -> None:
        """The same at the end of an epoch, where the policy of the checkpoint callback decides."""
        self._pass(after_epoch=True)

    def _pass(self, after_epoch: bool) -> None:
        if self.failure:
            raise RunFailed(self.failure)
        trainer, checkpoint = self._trainer, run_checkpoint(self._trainer)
        stop = launch.beat(trainer.global_step) or self.stop_signal
        seconds = time.monotonic() - self._saved_at
        if checkpoint is None:
            save = False
        elif after_epoch:
            save = checkpoint.is_due_after_epoch(trainer, seconds)
        else:
            save = checkpoint.is_due(trainer.global_step)
        self._passed += 1
        if after_epoch or not launch.is_supervised() or self._passed % CLOCK_STEPS == 0:
            # Ranks under a supervisor learn from it when to stop, at no cost. Others, such as torchrun's, have to ask
            # each other, and so has everybody from time to time: no two clocks agree.
            late = checkpoint is not None and checkpoint.is_late(seconds)
            save = save or late
            if trainer.world_size > 1:
                stop, save = maximum((stop, int(save)))
        if checkpoint is not None and (save or stop):
            self._refuse_broken_weights()
            self.passing = True
            try:
                checkpoint.save(trainer)
            finally:
                self.passing = False
            self._saved_at = time.monotonic()
        if stop:
            raise Interrupted(stop)

    def _refuse_broken_weights(self) -> None:
        # A finite loss can still have had an infinite gradient; all ranks hold the same weights and decide alike.
        for name, parameter in self._trainer.lightning_module.named_parameters():
            if not torch.isfinite(parameter).all():
                raise RunFailed(
                    f"the weights '{name}' are not finite after step {self._trainer.global_step}; the checkpoints "
                    f"before it are: {gentler_training(self._trainer.lightning_module)}"
                )
