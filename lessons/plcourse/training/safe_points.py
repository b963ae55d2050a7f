"""Safe points: the moments of a training run, between batches and between epochs, at which nothing is half done.

The ranks agree whether to stop, write checkpoints and obey signals only there. So a run that is resumed gives the same
numbers as one that never stopped.
"""

import time

import pytorch_lightning as pl
import torch

from plcourse.errors import Interrupted, RunFailed, gentler_training
from plcourse.processes.collectives import maximum
from plcourse.processes.rank_process import beat, is_supervised
from plcourse.training.random_state import RandomState
from plcourse.training.run_checkpoint import run_checkpoint

CLOCK_STEPS = 50  # batches between two checks of the clock in a supervised job


class SafePoint:
    """What one trainer does at its safe points."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self.stop_signal = 0  # the signal that asked this process to end, 0 for none; set by the signal handler
        self.failure = ""  # why this rank cannot go on, empty if it can; set by callbacks such as `FiniteLoss`
        self.saving = False  # whether a checkpoint is being written at a safe point
        self.random_state = RandomState()
        self._trainer = trainer
        self._saved_at = time.monotonic()
        self._passed = 0

    def between_batches(self) -> None:
        """Saves a checkpoint or stops, if the ranks agree that it is time.

        Raises:
            Interrupted: the run was asked to end; the checkpoint is written.
            RunFailed: this rank cannot go on; no checkpoint is written, so that the last one stays good.
        """
        self._pass(after_epoch=False)

    def after_epoch(self) -> None:
        """Does the same at the end of an epoch, by the rules of `RunCheckpoint.is_due_after_epoch`."""
        self._pass(after_epoch=True)

    def _pass(self, after_epoch: bool) -> None:
        if self.failure:
            raise RunFailed(self.failure)
        trainer, checkpoint = self._trainer, run_checkpoint(self._trainer)
        stop = beat(trainer.global_step) or self.stop_signal
        seconds = time.monotonic() - self._saved_at
        if checkpoint is None:
            save = False
        elif after_epoch:
            save = checkpoint.is_due_after_epoch(trainer, seconds)
        else:
            save = checkpoint.is_due(trainer.global_step)
        self._passed += 1
        if after_epoch or not is_supervised() or self._passed % CLOCK_STEPS == 0:
            # The supervisor tells its ranks when to stop, at no cost. Other ranks, such as torchrun's, must ask each
            # other at every safe point, and supervised ones from time to time, because no two clocks agree.
            save = save or (checkpoint is not None and checkpoint.is_late(seconds))
            if trainer.world_size > 1:
                stop, save = maximum((stop, int(save)))
        if checkpoint is not None and (save or stop):
            self._refuse_broken_weights()
            self.saving = True
            try:
                checkpoint.save(trainer)
            finally:
                self.saving = False
            self._saved_at = time.monotonic()
        if stop:
            raise Interrupted(stop)

    def _refuse_broken_weights(self) -> None:
        # A finite loss can still have an infinite gradient. All ranks hold the same weights, so all decide alike.
        for name, parameter in self._trainer.lightning_module.named_parameters():
            if not torch.isfinite(parameter).all():
                raise RunFailed(
                    f"the weights '{name}' are not finite after step {self._trainer.global_step}, but those in the "
                    f"checkpoints are; {gentler_training(self._trainer.lightning_module)}"
                )
