"""What SWA and EMA have in common: which weights are averaged, validated, saved and loaded.

`Averaging` derives from Lightning's `WeightAveraging` and changes four things:

- Until the first update, validation and checkpoints use the live weights, not the initial ones.
- Validation uses an average that includes the latest step, not one from the epoch before.
- Before the average is validated, and at the end of training, `torch.optim.swa_utils.update_bn` recomputes the
  statistics of its batch norms in a pass over training data. Those of the live weights do not fit it (Izmailov et al.
  2018, section 3.2, arXiv 1803.05407).
- A checkpoint holds the average in ``state_dict``, where evaluation expects weights, and the live weights beside it,
  so that a resumed run is bit-exact. An evaluation loads whichever weights it asks for.
"""

from collections.abc import Iterator
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, update_bn

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
        every_n_steps: optimizer steps between two updates of the average; None to update at the end of each epoch.
        refresh: whether to recompute the average's batch-norm statistics before validation and at the end.
        refresh_batches: training batches used to refresh before a validation; None for all. The last refresh uses all.
        weights: which weights an evaluation loads from a checkpoint: ``averaged`` for the average with refreshed
            statistics, ``unrefreshed`` for the average with the live weights' statistics, ``raw`` for the live weights.
        average_fn: the `multi_avg_fn` of `AveragedModel`, which updates all weights at once; None for the plain mean.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        start: float,
        every_n_steps: int | None,
        refresh: bool,
        refresh_batches: int | None,
        weights: Weights,
        average_fn: Any = None,
    ) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=average_fn)
        if not 0 <= start <= 1:
            raise ValueError(f"start={start} is not a fraction between 0 and 1")
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps} is below 1")
        if refresh_batches is not None and refresh_batches < 1:
            raise ValueError(f"refresh_batches={refresh_batches} is below 1; leave it out to use all batches")
        self.start, self.every_n_steps = start, every_n_steps
        self.refresh, self.refresh_batches = refresh, refresh_batches
        self.weights: Weights = weights
        self._swapped = False
        self._fresh = False  # whether the statistics belong to the average
        self._first_step = 0
        self._last_step: float = 0

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
        self._average.to(pl_module.device)  # it was made before the model moved

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Averages after an optimizer step, before any validation that follows."""
        step = trainer.global_step
        if step <= self._latest_update_step:  # gradients are being accumulated
            return
        self._latest_update_step = step
        if self.every_n_steps is None:
            takes = trainer.is_last_batch or step == self._last_step
        else:
            takes = (step - self._first_step) % self.every_n_steps == 0
        if takes and step > self._first_step:
            self._average.update_parameters(pl_module)
            self._fresh = False

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """During a fit, loads the average into the model, with refreshed statistics."""
        if self.n_averaged:
            self._refresh(trainer, pl_module, whole=trainer.global_step >= self._last_step)
            self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores the live weights."""
        if self._swapped:
            self._swap(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refreshes the average for the last checkpoint if no validation has done so."""
        if self.n_averaged and (trainer.should_stop or trainer.global_step >= self._last_step):
            self._refresh(trainer, pl_module, whole=True)

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
        checkpoint[_LIVE] = checkpoint["state_dict"]
        checkpoint[_STATE] = {"n_averaged": self._average_model.n_averaged, "fresh": self._fresh}
        if self.n_averaged:
            checkpoint["state_dict"] = self._average_model.module.state_dict()

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

    @property
    def _average(self) -> AveragedModel:
        assert self._average_model is not None
        return self._average_model

    def _swap(self, pl_module: pl.LightningModule) -> None:
        self._swap_models(pl_module)
        self._swapped = not self._swapped

    def _refresh(self, trainer: pl.Trainer, pl_module: pl.LightningModule, whole: bool) -> None:
        if self.refresh and not self._fresh:
            _refresh_batch_norms(self._average.module, trainer, pl_module, None if whole else self.refresh_batches)
            self._fresh = True


def _chosen(weights: Weights, live: Any, average: Any, module: nn.Module) -> dict[str, Tensor]:
    """The state that an evaluation asked for."""
    if live is None:
        raise UserError(f"weights={weights!r} needs a run with averaging; this checkpoint has one set of weights")
    if weights == "raw":
        return live
    parameters = {name for name, _ in module.named_parameters()}
    return {name: average[name] if name in parameters else value for name, value in live.items()}


def _refresh_batch_norms(
    average: nn.Module, trainer: pl.Trainer, pl_module: pl.LightningModule, batches: int | None
) -> None:
    """Recomputes the statistics of the averaged batch norms over `batches` training batches, and over all ranks.

    The random states are restored, so that a refresh does not change the dropout of later steps.
    """
    norms = [layer for layer in average.modules() if isinstance(layer, _BatchNorm)]
    if not norms:
        return
    before = random_state.capture()
    try:
        with trainer.precision_plugin.forward_context():
            update_bn(_inputs(trainer, pl_module, batches), average)
    finally:
        random_state.apply(before)
    if is_distributed():
        for statistic in (each for norm in norms for each in (norm.running_mean, norm.running_var)):
            if statistic is not None:
                torch.distributed.all_reduce(statistic)
                statistic /= torch.distributed.get_world_size()


def _inputs(trainer: pl.Trainer, pl_module: pl.LightningModule, batches: int | None) -> Iterator[Tensor]:
    """Inputs from a separate pass over the training data, which leaves the run's position in them unchanged."""
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
