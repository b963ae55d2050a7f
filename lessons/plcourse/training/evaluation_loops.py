"""The loops that evaluate and predict, exactly, over any number of ranks; see `plcourse.training.loops`."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.prediction_loop import _PredictionLoop
from pytorch_lightning.loops.utilities import _no_grad_context
from pytorch_lightning.overrides.distributed import _IndexBatchSamplerWrapper
from pytorch_lightning.trainer.states import RunningStage, TrainerFn
from torch.nn.parallel import DistributedDataParallel

from plcourse.data.protocols import BatchSampler
from plcourse.processes.collectives import broadcast_buffers, gather_numbers
from plcourse.training.fast_path import FastEvaluationLoop
from plcourse.training.typed_trainer import TypedTrainer
from plcourse.training.uneven_ranks import EvaluationMetrics


class AllRanksLoop:
    """A loop in which every rank takes part, even one without batches.

    Lightning skips the loop on such a rank, while the others wait for it in a collective. Here the loop is skipped only
    if no rank has a batch. The trainer that runs it sets its limits and ``inference_mode``.
    """

    trainer: TypedTrainer
    _batches_of_ranks: Sequence[float] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # A derived loop that replaces `run` would lose the context in which Lightning's `run` needs no gradients.
        if run := cls.__dict__.get("run"):
            cls.run = _no_grad_context(run)  # pyright: ignore[reportAttributeAccessIssue]

    def whole_run(self, model: pl.LightningModule) -> AbstractContextManager[Any]:
        """Returns the context in which the trainer runs, as in `FitLoop`."""
        return nullcontext()

    def setup_data(self) -> None:
        """Sets up the data and counts the batches of each rank."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Total length of .* across ranks is zero, but local rank")
            super().setup_data()  # pyright: ignore[reportAttributeAccessIssue]  (Lightning's loop is the next base)
        batches = self.max_batches  # pyright: ignore[reportAttributeAccessIssue]  (the same)
        self.count_batches(sum(batches))

    def count_batches(self, own: float) -> None:
        """Records the number of batches of each rank; a collective."""
        self._batches_of_ranks = [count for (count,) in gather_numbers([own])]

    @property
    def skip(self) -> bool:
        """Whether no rank has a batch."""
        return sum(self._batches_of_ranks) == 0


class EvaluationLoop(AllRanksLoop, FastEvaluationLoop):
    """Evaluation in which the ranks may hold unequal numbers of batches.

    DistributedDataParallel broadcasts its buffers in every forward pass, which needs equal numbers of batches on all
    ranks. Here they are broadcast once, at the start.
    """

    # What a derived loop finds besides the logged metrics: sections of ``eval/<split>.json``, and lines to print.
    findings: Mapping[str, Any] = MappingProxyType({})
    lines: Sequence[str] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._results = self._logged = self._metrics = EvaluationMetrics(training=False)

    def setup_data(self) -> None:
        """Sets up the data, and refuses to score samples that the model was trained on."""
        super().setup_data()
        self._metrics.batches = self._batches_of_ranks
        if self.trainer.state.fn != TrainerFn.FITTING and self._combined_loader is not None:
            self.trainer.training_samples.check(self._combined_loader.flattened, self.trainer.path_to_restore)

    def on_run_start(self) -> None:
        """Gives all ranks the buffers of rank 0, and lets the ranks run unequal numbers of batches."""
        broadcast_buffers(self.trainer)
        self._sync_every_forward(False)
        super().on_run_start()

    def on_run_end(self) -> list[Any]:
        """Ends the evaluation; DistributedDataParallel synchronizes every forward pass again."""
        self._sync_every_forward(True)
        with warnings.catch_warnings():
            if sum(self.max_batches) == 0:  # this rank has updated no metric and gets its values from the others
                warnings.filterwarnings("ignore", message="The ``compute`` method of metric .* was called before")
            return super().on_run_end()

    def _sync_every_forward(self, sync: bool) -> None:
        model = self.trainer.strategy.model
        if isinstance(model, DistributedDataParallel):
            model.require_forward_param_sync = sync


class ValidationLoop(EvaluationLoop):
    """The loop of `trainer.validate` and of the validation inside `trainer.fit`; base for ``trainer.validate_loop``."""

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer, TrainerFn.VALIDATING, RunningStage.VALIDATING, verbose=False)


class TestLoop(EvaluationLoop):
    """The loop of `trainer.test`; the base of every loop in the slot ``trainer.test_loop``."""

    __test__ = False  # for pytest, which would take the class for a test

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer, TrainerFn.TESTING, RunningStage.TESTING, verbose=False)


class PredictLoop(AllRanksLoop, _PredictionLoop):
    """The loop of `trainer.predict`; the base of every loop in the slot ``trainer.predict_loop``."""

    writes_predictions = False  # whether the loop writes predictions itself, instead of `PredictionWriter`
    quarantined = 0  # number of inputs that could not be read and have no row
    # The command line sets the config's settings that the predictions depend on besides weights and inputs, and what
    # the manifest of the predictions says about their origin.
    settings = ""
    facts: Mapping[str, Any] = MappingProxyType({})

    def _get_batch_indices(self, dataloader: object) -> Any:
        """Returns the indices of the samples by batch, for the callbacks that write predictions; empty if unknown."""
        plan = getattr(dataloader, "plan", None)
        if plan is not None:
            return _PlannedIndices(plan)
        known = isinstance(getattr(dataloader, "batch_sampler", None), _IndexBatchSamplerWrapper)
        return super()._get_batch_indices(dataloader) if known else []


@dataclass(frozen=True)
class _PlannedIndices:
    """The samples of each batch of a `BatchLoader`, without a list of all of them."""

    plan: BatchSampler

    def __getitem__(self, batch_idx: int) -> list[int]:
        return next(self.plan.batches(0, batch_idx)).tolist()
