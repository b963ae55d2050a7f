r"""Averages of the weights during training, as callbacks for any model: SWA and EMA.

Stochastic weight averaging (Izmailov et al. 2018, algorithm 1, arXiv 1803.05407) takes the mean of the weights at the
end of each epoch. An exponential moving average (Polyak and Juditsky 1992; decay as in Tarvainen and Valpola 2017)
gives older weights less influence:

.. math:: \bar w_n = \bar w_{n-1} + \frac{w - \bar w_{n-1}}{n + 1}, \qquad \bar w = d\,\bar w + (1 - d)\,w

Both derive from Lightning's `WeightAveraging`, whose `AveragedModel` does the arithmetic, and change four things:

- Until the first update, validation and checkpoints use the live weights, not the initial ones.
- Validation uses an average that includes the latest step, not one from the epoch before.
- Before the average is validated, and at the end of training, `torch.optim.swa_utils.update_bn` recomputes the
  statistics of its batch norms in a pass over training data.
- A checkpoint holds the average in ``state_dict``, where evaluation expects weights, and the live weights beside it,
  so that a resumed run is bit-exact. An evaluation loads whichever weights it asks for.
"""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from plcourse.errors import UserError
from plcourse.processes.collectives import is_distributed
from plcourse.training import random_state
from plcourse.training.exportable import as_exportable
from plcourse.training.trainer import take_precision

Weights = Literal["averaged", "unrefreshed", "raw"]
_LIVE, _STATE = "current_model_state", "averaging_state"  # Lightning's names


class Averaging(WeightAveraging):
    """The base of SWA and EMA: when to average, and what is validated, saved, loaded and refreshed.

    Args:
        start: when averaging begins, as a fraction of all optimizer steps, 0 to 1.
        refresh: whether to recompute the average's batch-norm statistics before validation and at the end.
        refresh_batches: training batches used to refresh before a validation; None for all. The last refresh uses all.
        weights: which weights an evaluation loads from a checkpoint: ``averaged`` for the average with refreshed
            statistics, ``unrefreshed`` for the average with the live weights' statistics, ``raw`` for the live weights.
        average_fn: the `multi_avg_fn` of `AveragedModel`, which updates all weights at once; None for the plain mean.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self, start: float, refresh: bool, refresh_batches: int | None, weights: Weights, average_fn: Any = None
    ) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=average_fn)
        if not 0 <= start <= 1:
            raise ValueError(f"start={start} is not a fraction between 0 and 1")
        if refresh_batches is not None and refresh_batches < 1:
            raise ValueError(f"refresh_batches={refresh_batches} is below 1; leave it out to use all batches")
        self.start, self.refresh, self.refresh_batches = start, refresh, refresh_batches
        self.weights: Weights = weights
        self._swapped = False
        self._fresh = False  # whether the statistics belong to the average
        self._first_step = 0
        self._last_step: float = 0

    @abstractmethod
    def takes(self, trainer: pl.Trainer, step: int) -> bool:
        """Whether to average the weights after ``step`` optimizer steps; called once averaging has begun."""

    @property
    def n_averaged(self) -> int:
        """The number of updates in the average; 0 before averaging begins."""
        return 0 if self._average_model is None else int(self._average_model.n_averaged)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copies the model when a fit begins, after its layers have been built."""
        self._average_model = None  # an evaluation after a fit must neither swap nor load live weights
        self._swapped = self._fresh = False
        if stage != "fit":
            return
        # Lightning's own setup warns about sharded layers for any model that builds layers in configure_model
        pl_module.configure_model()
        take_precision(trainer, pl_module)  # of the new layers too, or the copy would not match
        self._average_model = AveragedModel(pl_module, pl_module.device, use_buffers=False, **self._kwargs)
        self._average_model.requires_grad_(False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Converts the fraction ``start`` into a step."""
        self._last_step = trainer.estimated_stepping_batches
        if self.start and self._last_step == float("inf"):
            raise UserError(
                "start is a fraction of an endless training; set trainer.max_epochs or max_steps, or start=0"
            )
        self._first_step = round(self.start * self._last_step) if self.start else 0
        assert self._average_model is not None
        self._average_model.to(pl_module.device)  # it was made before the model moved

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Averages after an optimizer step, before any validation that follows."""
        step = trainer.global_step
        if step <= self._latest_update_step:  # gradients are being accumulated
            return
        self._latest_update_step = step
        if step > self._first_step and self.takes(trainer, step):
            assert self._average_model is not None
            self._average_model.update_parameters(pl_module)
            self._fresh = False

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """During a fit, loads the average into the model, with refreshed statistics."""
        if not self.n_averaged:
            return
        if not self._fresh and self.refresh:
            ends = trainer.global_step >= self._last_step
            self._refresh(trainer, pl_module, None if ends else self.refresh_batches)
        self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores the live weights."""
        if self._swapped:
            self._swap(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refreshes the average for the last checkpoint if no validation has done so."""
        last = trainer.should_stop or trainer.global_step >= self._last_step
        if last and self.refresh and self.n_averaged and not self._fresh:
            self._refresh(trainer, pl_module, None)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the average in the model."""
        if self.n_averaged:
            self._swap(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restores the live weights if a validation was cut short."""
        if self._swapped:
            self._swap(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stores the average, once there is one, in ``state_dict`` and the live weights beside it."""
        if self._average_model is None:
            return
        average = self._average_model.state_dict()
        own = {name.removeprefix("module."): value for name, value in average.items() if name.startswith("module.")}
        checkpoint[_LIVE] = checkpoint["state_dict"]
        checkpoint[_STATE] = {"n_averaged": average["n_averaged"], "fresh": self._fresh}
        if self.n_averaged:
            checkpoint["state_dict"] = own

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restores both sets of weights for a fit, or the requested ones for an evaluation."""
        live, average = checkpoint.get(_LIVE), checkpoint["state_dict"]
        if self._average_model is None:
            if self.weights != "averaged":
                pl_module.load_state_dict(_chosen(self.weights, live, average, pl_module))
            return
        self._average_model.module.load_state_dict(average)
        if live is None:  # the run was trained without averaging so far
            return
        self._average_model.n_averaged.copy_(checkpoint[_STATE]["n_averaged"])
        self._fresh = checkpoint[_STATE]["fresh"]
        pl_module.load_state_dict(live)

    def _swap(self, pl_module: pl.LightningModule) -> None:
        self._swap_models(pl_module)
        self._swapped = not self._swapped

    def _refresh(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batches: int | None) -> None:
        """Recomputes the average's batch-norm statistics without disturbing the run's random states."""
        assert self._average_model is not None
        average = self._average_model.module
        if any(isinstance(layer, _BatchNorm) for layer in average.modules()):
            with _undisturbed(), trainer.precision_plugin.forward_context():
                update_bn(_inputs(trainer, pl_module, batches), average)
            _average_over_ranks(average)
        self._fresh = True


class SWA(Averaging):
    """Stochastic weight averaging: the mean of the weights at the end of each epoch, or every few steps.

    Keep the learning rate high while averaging (`WarmupHoldDecay` with ``hold`` 1): the average replaces the decay.

    Args:
        start: when averaging begins, as a fraction of all optimizer steps, 0 to 1.
        every_n_steps: optimizer steps between two updates of the average; None to update at the end of each epoch.
        refresh: see `Averaging`.
        refresh_batches: see `Averaging`.
        weights: see `Averaging`.
    """

    def __init__(
        self,
        start: float = 0.6,
        every_n_steps: int | None = None,
        refresh: bool = True,
        refresh_batches: int | None = 16,
        weights: Weights = "averaged",
    ) -> None:
        super().__init__(start, refresh, refresh_batches, weights)
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps} is below 1; leave it out to average once an epoch")
        self.every_n_steps = every_n_steps

    def takes(self, trainer: pl.Trainer, step: int) -> bool:
        """At the end of each epoch and of the training, or every ``every_n_steps`` steps."""
        if self.every_n_steps is None:
            return trainer.is_last_batch or step == self._last_step
        return (step - self._first_step) % self.every_n_steps == 0


class EMA(Averaging):
    """An exponential moving average of the weights.

    Args:
        decay: the weight of the old average in an update, above 0 and below 1; the average spans about
            1 / (1 - decay) updates.
        start: when averaging begins, as a fraction of all optimizer steps, 0 to 1.
        every_n_steps: optimizer steps between two updates of the average.
        refresh: see `Averaging`.
        refresh_batches: see `Averaging`.
        weights: see `Averaging`.
    """

    def __init__(
        self,
        decay: float = 0.99,
        start: float = 0.6,
        every_n_steps: int = 1,
        refresh: bool = True,
        refresh_batches: int | None = 16,
        weights: Weights = "averaged",
    ) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay={decay} is not above 0 and below 1")
        super().__init__(start, refresh, refresh_batches, weights, get_ema_multi_avg_fn(decay))
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps} is below 1")
        self.every_n_steps = every_n_steps

    def takes(self, trainer: pl.Trainer, step: int) -> bool:
        """Every ``every_n_steps`` steps."""
        return (step - self._first_step) % self.every_n_steps == 0


def _chosen(weights: Weights, live: Any, average: Any, module: nn.Module) -> dict[str, Tensor]:
    """The state that an evaluation asked for."""
    if live is None:
        raise UserError(f"weights={weights!r} needs a run with averaging; this checkpoint has one set of weights")
    if weights == "raw":
        return live
    parameters = {name for name, _ in module.named_parameters()}
    return {name: average[name] if name in parameters else value for name, value in live.items()}


def _inputs(trainer: pl.Trainer, pl_module: pl.LightningModule, batches: int | None) -> Iterator[Tensor]:
    """Inputs from a separate pass over the training data; the run's position in them stays."""
    loader: Any = trainer.train_dataloader
    if hasattr(loader, "with_plan"):  # the suite's BatchLoader: another pass, in this epoch's order
        loader = loader.with_plan(loader.plan)
        loader.num_workers = 0
        loader.set_epoch(trainer.current_epoch)
    for number, batch in enumerate(loader):
        if number == batches:
            return
        inputs = batch[0] if isinstance(batch, list | tuple) else _only_input(pl_module, batch)
        yield trainer.precision_plugin.convert_input(inputs).to(pl_module.device)


def _only_input(pl_module: pl.LightningModule, batch: Any) -> Tensor:
    inputs = as_exportable(pl_module, batch).export_inputs(batch)
    if len(inputs) != 1:
        raise UserError(
            f"{type(pl_module).__name__} takes {len(inputs)} inputs; refreshing batch norms supports one: set the "
            "callback's refresh to false"
        )
    return inputs[0]


def _average_over_ranks(module: nn.Module) -> None:
    if not is_distributed():
        return
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            for statistic in (layer.running_mean, layer.running_var):
                if statistic is not None:
                    torch.distributed.all_reduce(statistic)
                    statistic /= torch.distributed.get_world_size()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Restores the random states, so that a refresh does not change the dropout of later steps."""
    before = random_state.capture()
    try:
        yield
    finally:
        random_state.apply(before)
