r"""Averages of the weights along the training, as callbacks for any model: SWA and EMA.

Stochastic weight averaging (Izmailov et al. 2018, algorithm 1, arXiv 1803.05407) takes the mean of the weights at the
end of each epoch, an exponential moving average (Polyak and Juditsky 1992; decay as in Tarvainen and Valpola 2017)
forgets the older ones:

.. math:: \bar w_n = \bar w_{n-1} + \frac{w - \bar w_{n-1}}{n + 1}, \qquad \bar w = d\,\bar w + (1 - d)\,w

Both derive from Lightning's `WeightAveraging`, whose `AveragedModel` does the arithmetic, and mend what it leaves open:

- while nothing has been averaged yet the live weights are validated and saved, not the initial ones;
- what is validated is the average with the step before it, never one of an epoch ago;
- batch norms get statistics that belong to the average, from a pass over training data, before it is validated, and at
  the end of the training; `torch.optim.swa_utils.update_bn` does it;
- a checkpoint has the average in ``state_dict``, where evaluation finds it, and the live weights beside it, with which
  a resumed run goes on bit by bit; a checkpoint that is loaded to be evaluated gives the weights that are asked for.
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
    """What SWA and EMA share: when to average, what is validated, saved, loaded and refreshed.

    Args:
        start: when averaging begins, as a share of all optimizer steps, 0 to 1.
        refresh: whether batch norms get statistics of the average before it is validated and at the end.
        refresh_batches: training batches for a pass before a validation; None for all. The last pass takes all.
        weights: which weights an evaluation takes from a checkpoint: ``averaged`` the average with its own statistics,
            ``unrefreshed`` the average with the statistics of the live weights, ``raw`` the live weights.
        average_fn: the `multi_avg_fn` of `AveragedModel`, which takes all weights at once; None for the plain mean.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self, start: float, refresh: bool, refresh_batches: int | None, weights: Weights, average_fn: Any = None
    ) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=average_fn)
        if not 0 <= start <= 1:
            raise ValueError(f"start={start}: it is a share of the training, 0 to 1")
        if refresh_batches is not None and refresh_batches < 1:
            raise ValueError(f"refresh_batches={refresh_batches}: give 1 or more, or leave it out for all")
        self.start, self.refresh, self.refresh_batches = start, refresh, refresh_batches
        self.weights: Weights = weights
        self._swapped = False
        self._fresh = False  # whether the average's statistics are its own
        self._first_step = 0
        self._last_step: float = 0

    @abstractmethod
    def takes(self, trainer: pl.Trainer, step: int) -> bool:
        """Whether the weights after ``step`` optimizer steps go into the average; asked once averaging has begun."""

    @property
    def n_averaged(self) -> int:
        """How many sets of weights the average holds; 0 before it has begun."""
        return 0 if self._average_model is None else int(self._average_model.n_averaged)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copies the model, with its heads built, when a fit begins."""
        self._average_model = None  # after a fit an evaluation must neither swap nor load live weights
        self._swapped = self._fresh = False
        if stage != "fit":
            return
        # Lightning's would warn of sharded layers at every model that builds its layers when the data are known
        pl_module.configure_model()
        take_precision(trainer, pl_module)  # the layers just built too, or the copy would not match
        self._average_model = AveragedModel(pl_module, pl_module.device, use_buffers=False, **self._kwargs)
        self._average_model.requires_grad_(False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Turns the share of the training into a step."""
        self._last_step = trainer.estimated_stepping_batches
        if self.start and self._last_step == float("inf"):
            raise UserError("averaging needs to know the end: set trainer.max_epochs or max_steps, or start to 0")
        self._first_step = round(self.start * self._last_step) if self.start else 0
        assert self._average_model is not None
        self._average_model.to(pl_module.device)  # it was made before the model moved

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Averages after an optimizer step, and so before a validation that follows it."""
        step = trainer.global_step
        if step <= self._latest_update_step:  # gradients are being accumulated
            return
        self._latest_update_step = step
        if step > self._first_step and self.takes(trainer, step):
            assert self._average_model is not None
            self._average_model.update_parameters(pl_module)
            self._fresh = False

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Inside a fit puts the average into the model, with statistics of its own."""
        if not self.n_averaged:
            return
        if not self._fresh and self.refresh:
            ends = trainer.global_step >= self._last_step
            self._refresh(trainer, pl_module, None if ends else self.refresh_batches)
        self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the live weights back."""
        if self._swapped:
            self._swap(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refreshes the average that the last checkpoint will hold, where no validation came before it."""
        last = trainer.should_stop or trainer.global_step >= self._last_step
        if last and self.refresh and self.n_averaged and not self._fresh:
            self._refresh(trainer, pl_module, None)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the average in the model."""
        if self.n_averaged:
            self._swap(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Puts the live weights back where a validation was cut short."""
        if self._swapped:
            self._swap(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Puts the average into ``state_dict`` once there is one, the live weights beside it."""
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
        """Resumes a fit with both sets of weights, or gives an evaluation those that are asked for."""
        live, average = checkpoint.get(_LIVE), checkpoint["state_dict"]
        if self._average_model is None:
            if self.weights != "averaged":
                pl_module.load_state_dict(_chosen(self.weights, live, average, pl_module))
            return
        if live is None:  # of a run without averaging, which goes on with it
            self._average_model.module.load_state_dict(average)
            return
        self._average_model.module.load_state_dict(average)
        self._average_model.n_averaged.copy_(checkpoint[_STATE]["n_averaged"])
        self._fresh = checkpoint[_STATE]["fresh"]
        pl_module.load_state_dict(live)

    def _swap(self, pl_module: pl.LightningModule) -> None:
        self._swap_models(pl_module)
        self._swapped = not self._swapped

    def _refresh(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batches: int | None) -> None:
        """Gives the average's batch norms statistics of training data; the run's random states stay as they are."""
        assert self._average_model is not None
        average = self._average_model.module
        if any(isinstance(layer, _BatchNorm) for layer in average.modules()):
            with _undisturbed(), trainer.precision_plugin.forward_context():
                update_bn(_inputs(trainer, pl_module, batches), average)
            _average_over_ranks(average)
        self._fresh = True


class SWA(Averaging):
    """Stochastic weight averaging: the mean of the weights at the end of each epoch, or every so many steps.

    Keep the learning rate up while it averages (`WarmupHoldDecay` with ``hold`` 1): the average replaces the decay.

    Args:
        start: when averaging begins, as a share of all optimizer steps, 0 to 1.
        every_n_steps: optimizer steps from one set of weights to the next; None for the end of each epoch.
        refresh: as of `Averaging`.
        refresh_batches: as of `Averaging`.
        weights: as of `Averaging`.
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
            raise ValueError(f"every_n_steps={every_n_steps}: give 1 or more, or leave it out for once an epoch")
        self.every_n_steps = every_n_steps

    def takes(self, trainer: pl.Trainer, step: int) -> bool:
        """At the end of an epoch or of the training, or every so many steps since the start."""
        if self.every_n_steps is None:
            return trainer.is_last_batch or step == self._last_step
        return (step - self._first_step) % self.every_n_steps == 0


class EMA(Averaging):
    """An exponential moving average of the weights, after every step.

    Args:
        decay: weight of the past in each step, above 0 and below 1: the average reaches back some 1 / (1 - decay)
            steps.
        start: when averaging begins, as a share of all optimizer steps, 0 to 1.
        every_n_steps: optimizer steps from one update to the next.
        refresh: as of `Averaging`.
        refresh_batches: as of `Averaging`.
        weights: as of `Averaging`.
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
            raise ValueError(f"decay={decay}: give more than 0 and less than 1")
        super().__init__(start, refresh, refresh_batches, weights, get_ema_multi_avg_fn(decay))
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: give 1 or more")
        self.every_n_steps = every_n_steps

    def takes(self, trainer: pl.Trainer, step: int) -> bool:
        """Every so many steps since the start."""
        return (step - self._first_step) % self.every_n_steps == 0


def _chosen(weights: Weights, live: Any, average: Any, module: nn.Module) -> dict[str, Tensor]:
    """The state of the weights that an evaluation asks for."""
    if live is None:
        raise UserError(f"weights={weights!r}: the checkpoint is of a run without averaging and has one set of weights")
    if weights == "raw":
        return live
    parameters = {name for name, _ in module.named_parameters()}
    return {name: average[name] if name in parameters else value for name, value in live.items()}


def _inputs(trainer: pl.Trainer, pl_module: pl.LightningModule, batches: int | None) -> Iterator[Tensor]:
    """The inputs of a pass of its own over the training data, which leaves the run's own position alone."""
    loader: Any = trainer.train_dataloader
    if hasattr(loader, "with_plan"):  # the suite's own: another pass, in the order of this epoch
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
            f"{type(pl_module).__name__} takes {len(inputs)} inputs, and batch norms are refreshed for one: set the "
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
    """The random states afterwards are those before: a pass must not shift the dropout of the steps that follow."""
    before = random_state.capture()
    try:
        yield
    finally:
        random_state.apply(before)
