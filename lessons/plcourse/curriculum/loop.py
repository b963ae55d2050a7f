"""Lesson 15: a fit loop that decides during training which part of the data the model sees.

The idea: order the samples by difficulty, start with a fraction of them, and admit more as training goes on (Bengio et
al. 2009). Whether that helps is an empirical question, so the loop makes a fair comparison easy: every epoch has as
many steps as one without a curriculum, and the order can be reversed or made random under the same pacing (Wu, Dyer
and Neyshabur 2021, arXiv 2012.03107). In a second mode the model's own losses weigh the samples of each batch
(self-paced learning, Kumar et al. 2010).

    plcourse fit -c curriculum/easy_first --then test
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from plcourse.curriculum.pacing import Pacing
from plcourse.curriculum.resume import CurriculumState, check_unchanged
from plcourse.curriculum.sampler import CurriculumSampler, Order, rank_samples
from plcourse.curriculum.scorers import Scorer, TrainingSamples, write_scores
from plcourse.curriculum.self_paced import SelfPacing
from plcourse.data import Batch, BatchLoader, TrainSampler
from plcourse.data.samplers import planned_batches
from plcourse.errors import UserError
from plcourse.processes.collectives import gather_objects
from plcourse.training.loops import EpochLoop, FitLoop


class CurriculumLoop(FitLoop):
    """Admits the training samples in an order and at a pace.

    Scores, order, pace and the state of an adaptive pace are in the checkpoint. A resumed run computes the scores
    again, compares them, and continues with those of the checkpoint.

    Args:
        trainer: the trainer that runs the loop.
        order: ``easy_first`` (a curriculum), ``hard_first`` (its reverse) or ``random``; it has no effect without
            `pacing`.
        scorer: says how hard each sample is. ``random`` works without one, but reports by difficulty need it.
        pacing: which fraction is admitted when; None admits everything from the start.
        weighting: self-paced weights within each batch; None weighs all samples equally.
        balanced: admit each class's own first fraction instead of that of all samples together.

    Raises:
        ValueError: an order by difficulty without a scorer.
    """

    epoch_loop: "CurriculumEpochs"

    def __init__(
        self,
        trainer: pl.Trainer,
        order: Order = "easy_first",
        scorer: Scorer | None = None,
        pacing: Pacing | None = None,
        weighting: SelfPacing | None = None,
        balanced: bool = True,
    ) -> None:
        super().__init__(trainer)
        if pacing is not None and scorer is None and order != "random":
            raise ValueError(
                f"order is {order}, which needs to know how hard samples are: give trainer.fit_loop a scorer such as "
                "ClassifierMargin, or order random"
            )
        self.order: Order = order
        self.scorer, self.pacing, self.weighting, self.balanced = scorer, pacing, weighting, balanced
        self.epoch_loop = CurriculumEpochs(trainer)
        self.epoch_loop.weighting = weighting
        self.scores_N: np.ndarray | None = None
        self._data = ""  # the digest of the training samples; empty until training starts
        self._total_batches = 0.0
        self._resumed: CurriculumState | None = None
        self._unwatched: UserError | None = None

    @property
    def sampler(self) -> CurriculumSampler:
        """The sampler that plans the epochs; available once training has started."""
        return self.epoch_loop.sampler

    def setup_data(self) -> None:
        """Requests the training data and replaces the sampler of their loader by that of the curriculum."""
        super().setup_data()
        loader = self.trainer.train_dataloader
        if loader is None or self.trainer.limit_train_batches == 0:
            return
        plan = getattr(loader, "plan", None)
        if isinstance(plan, CurriculumSampler):
            return
        if not isinstance(loader, BatchLoader) or not isinstance(plan, TrainSampler):
            raise UserError(
                "a curriculum chooses the samples of a BatchLoader with a TrainSampler; this data module trains on a "
                f"{type(loader).__name__}: see plcourse.data"
            )
        self.epoch_loop.sampler = CurriculumSampler(plan)
        loader.replan(self.epoch_loop.sampler)
        if self._data:  # the data were requested again during training
            self._begin()

    def on_run_start(self) -> None:
        """Scores and orders the samples before training."""
        self._begin()
        super().on_run_start()

    def _begin(self) -> None:
        """Hands the sampler the order of the samples and the pace, those of the checkpoint if there is one."""
        trainer = self.trainer
        samples = TrainingSamples.of(trainer)
        self._data = samples.digest
        # every rank scores, so that none waits in a collective while another computes; rank 0's scores count
        self.scores_N = None if self.scorer is None else gather_objects(self.scorer(samples))[0]
        if self.scores_N is not None and trainer.is_global_zero and not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]  (set late)
            write_scores(Path(trainer.default_root_dir) / "difficulty.csv", samples.ids, self.scores_N)
        ranking_N = rank_samples(self.order, self.scores_N, samples.labels, self.balanced, self.sampler.seed)
        self._total_batches = self._planned_batches()
        if (saved := self._resumed) is not None:
            check_unchanged(saved, self._data, self._settings(), self.scores_N, samples.ids)
            self._resumed = None
            ranking_N = saved["ranking"].numpy()
            self.scores_N = None if saved["scores"] is None else saved["scores"].numpy()
            self._total_batches = saved["total_batches"]  # a run that is made longer keeps its pace
            if self.pacing is not None:
                self.pacing.load_state_dict(saved["pacing"])
        self.sampler.begin(ranking_N, self._fraction)
        self.sampler.plan(trainer.current_epoch)  # raises its errors now, before training

    def _fraction(self, epoch: int, batch_index: int) -> float:
        if self.pacing is None:
            return 1.0
        return self.pacing.fraction((epoch * self.trainer.num_training_batches + batch_index) / self._total_batches)

    def _planned_batches(self) -> float:
        """The number of training batches of the run, by its limits in epochs and in steps."""
        total = planned_batches(self.trainer, self.max_epochs, self.max_steps)
        if math.isinf(total) and self.pacing is not None and self.pacing.needs_end:
            raise UserError("this pacing needs the length of the training: set trainer.max_epochs or trainer.max_steps")
        return total

    def on_advance_start(self) -> None:
        """Starts an epoch, unless the pace waits for a metric that is not logged."""
        if self._unwatched is not None:
            raise self._unwatched
        super().on_advance_start()

    def on_advance_end(self) -> None:
        """Passes the metrics of a validation to the pace, whose decision takes effect in the next epoch."""
        every = self.trainer.check_val_every_n_epoch
        if self.pacing is not None and (every is None or (self.trainer.current_epoch + 1) % every == 0):
            try:
                self.pacing.observe(self.trainer.callback_metrics)
            except UserError as error:
                self._unwatched = error  # raised when the next epoch starts, after this one has been saved
        super().on_advance_end()

    def on_save_checkpoint(self) -> dict[str, Any]:
        """The state of every fit loop, and that of the curriculum."""
        curriculum: CurriculumState = {
            "data": self._data,
            "settings": self._settings(),
            "scores": None if self.scores_N is None else torch.from_numpy(self.scores_N.copy()),
            "ranking": torch.from_numpy(self.sampler.ranking_N.copy()),
            "total_batches": self._total_batches,
            "pacing": {} if self.pacing is None else self.pacing.state_dict(),
        }
        return {**super().on_save_checkpoint(), "curriculum": curriculum}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Keeps the curriculum's state until the data are available; a UserError if the checkpoint has none."""
        if "curriculum" not in state_dict:
            raise UserError("the checkpoint is of a run without a curriculum; continue it with its own fit_loop")
        self._resumed = state_dict["curriculum"]
        super().on_load_checkpoint(state_dict)

    def _settings(self) -> dict[str, object]:
        """The settings that a resumed run must not change."""
        settings: dict[str, object] = {"order": self.order, "balanced": self.balanced}
        for name, part in (("pacing", self.pacing), ("weighting", self.weighting)):
            settings[name] = None if part is None else {"class": type(part).__name__, **part.settings()}
        return settings


class CurriculumEpochs(EpochLoop):
    """The batch loop, which tells the model what a batch was drawn from and how to weigh its samples."""

    sampler: CurriculumSampler
    weighting: SelfPacing | None = None

    def prepare(self, batch: Batch, batch_idx: int) -> Batch:
        """Adds ``share``, the admitted fraction of the training part, and, with self-paced weights, a `Weigher`."""
        epoch = self.trainer.current_epoch
        batch["share"] = self.sampler.fraction(epoch, batch_idx)
        if self.weighting is not None:
            batch["weigher"] = self.weighting.weigher(epoch)
        return batch
