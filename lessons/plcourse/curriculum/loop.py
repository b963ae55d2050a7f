"""Lesson 15: a fit loop that decides, while it trains, which part of the data the model gets to see.

The idea: order the samples by difficulty, begin with a share of them, and admit more as training goes on (Bengio et
al. 2009). Whether that helps is an empirical question, so the loop makes the fair comparison easy: every epoch has as
many steps as one without a curriculum, and the order can be turned round or made random under the same pacing (Wu,
Dyer and Neyshabur 2021, arXiv 2012.03107). As a second mode the model's own losses decide inside each batch
(self-paced learning, Kumar et al. 2010).

    plcourse fit -c curriculum/easy_first --then test
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from plcourse.curriculum.pacing import Pacing
from plcourse.curriculum.sampler import CurriculumSampler, Order, rank_samples
from plcourse.curriculum.scorers import Scorer, TrainingSamples, write_scores
from plcourse.curriculum.self_paced import SelfPacing
from plcourse.data import BatchLoader, TrainSampler
from plcourse.data.accumulation import planned_batches
from plcourse.errors import UserError
from plcourse.processes.collectives import gather_objects
from plcourse.training.loops import EpochLoop, FitLoop

_ROUNDING = 1e-5  # how far another machine's scores may be off, relative and absolute


class CurriculumEpochs(EpochLoop):
    """The batch loop: tells each batch what it was drawn from and how to weigh its samples.

    A batch gets ``share``, the admitted share of the training part, and, with self-paced weights, ``weigher``, which
    maps the losses of its samples to their weights (`plcourse.curriculum.self_paced.Weigher`).
    """

    sampler: CurriculumSampler
    weighting: SelfPacing | None = None

    def prepare(self, batch: Any, batch_idx: int) -> Any:
        """Adds ``share`` and ``weigher``."""
        epoch = self.trainer.current_epoch
        batch["share"] = self.sampler.share(epoch, batch_idx)
        if self.weighting is not None:
            batch["weigher"] = self.weighting.weigher(epoch)
        return batch


class CurriculumLoop(FitLoop):
    """Admits the training samples in an order and at a pace.

    Scores, order, pace and what an adaptive pace has learnt are in the checkpoint. A resumed run computes the scores
    again, compares, and goes on with those of the checkpoint.

    Args:
        trainer: the trainer that runs it.
        order: ``easy_first`` (a curriculum), ``hard_first`` (its opposite) or ``random``; without `pacing` it has
            no effect.
        scorer: how hard each sample is. ``random`` can do without; with it, reports by difficulty work there too.
        pacing: which share is admitted when; None admits everything from the start.
        weighting: self-paced weights inside each batch; None leaves all at 1.
        balanced: admit each class's own first share, not that of all together.

    Raises:
        ValueError: an order by difficulty without a scorer.
    """

    epoch_loop: CurriculumEpochs

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
        self._data = ""
        self._total_batches = 0.0
        self._resumed: dict[str, Any] | None = None
        self._unwatched: UserError | None = None

    @property
    def sampler(self) -> CurriculumSampler:
        """What plans the epochs; there once training has started."""
        return self.epoch_loop.sampler

    def setup_data(self) -> None:
        """Requests the training data and puts the curriculum's sampler in the place of its loader's.

        Raises:
            UserError: the training data come from something else than a `BatchLoader` with a `TrainSampler`.
        """
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
        if self._data:  # data that were requested anew in the middle of the training
            self._begin()

    def on_run_start(self) -> None:
        """Scores and orders the samples, or takes both from the checkpoint, before anything is trained."""
        self._begin()
        super().on_run_start()

    def on_advance_start(self) -> None:
        """Starts an epoch, unless the pace waits for a metric that nobody logs."""
        if self._unwatched is not None:
            raise self._unwatched
        super().on_advance_start()

    def on_advance_end(self) -> None:
        """Lets the pace look at the metrics of a validation; what it decides holds from the next epoch on."""
        every = self.trainer.check_val_every_n_epoch
        if self.pacing is not None and (every is None or (self.trainer.current_epoch + 1) % every == 0):
            try:
                self.pacing.observe(self.trainer.callback_metrics)
            except UserError as error:
                self._unwatched = error  # raised when another epoch starts: this one is kept
        super().on_advance_end()

    def on_save_checkpoint(self) -> dict[str, Any]:
        """The state of every fit loop, and the curriculum's."""
        scores: Tensor | None = None if self.scores_N is None else torch.from_numpy(self.scores_N.copy())
        curriculum = {
            "data": self._data,
            "settings": self._settings(),
            "scores": scores,
            "ranking": torch.from_numpy(self.sampler.ranking_N.copy()),
            "total_batches": self._total_batches,
            "pacing": {} if self.pacing is None else self.pacing.state_dict(),
        }
        return {**super().on_save_checkpoint(), "curriculum": curriculum}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Keeps the curriculum's state until the data are there.

        Raises:
            UserError: the checkpoint has none.
        """
        if "curriculum" not in state_dict:
            raise UserError("the checkpoint is of a run without a curriculum: continue it with its own fit_loop")
        self._resumed = state_dict["curriculum"]
        super().on_load_checkpoint(state_dict)

    def _begin(self) -> None:
        trainer = self.trainer
        samples = TrainingSamples.of(trainer)
        self._data = samples.digest
        # every rank scores, so that none waits in a collective while another computes; the first one's scores count
        self.scores_N = None if self.scorer is None else gather_objects(self.scorer(samples))[0]
        if self.scores_N is not None and trainer.is_global_zero and not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]  (set late)
            write_scores(Path(trainer.default_root_dir) / "difficulty.csv", samples.ids, self.scores_N)
        ranking_N = rank_samples(self.order, self.scores_N, samples.labels, self.balanced, self.sampler.seed)
        self._total_batches = self._planned_batches()
        if self._resumed is not None:
            self._compare(self._resumed, samples.ids)
            ranking_N, self._resumed = self._take_over(self._resumed), None
        self.sampler.begin(ranking_N, self._share)
        self.sampler.plan(trainer.current_epoch)  # its errors come now, before anything is trained

    def _share(self, epoch: int, batch_index: int) -> float:
        if self.pacing is None:
            return 1.0
        return self.pacing.share((epoch * self.trainer.num_training_batches + batch_index) / self._total_batches)

    def _planned_batches(self) -> float:
        """All training batches of the run, by its limits in epochs and in steps."""
        total = planned_batches(self.trainer, self.max_epochs, self.max_steps)
        if math.isinf(total) and self.pacing is not None and self.pacing.needs_end:
            raise UserError("a pace that is fixed beforehand needs an end: set trainer.max_epochs or trainer.max_steps")
        return total

    def _settings(self) -> dict[str, Any]:
        """What a resumed run must not change."""
        settings: dict[str, Any] = {"order": self.order, "balanced": self.balanced}
        for name, part in (("pacing", self.pacing), ("weighting", self.weighting)):
            settings[name] = None if part is None else {"class": type(part).__name__, **part.settings()}
        return settings

    def _compare(self, known: dict[str, Any], ids: list[str]) -> None:
        """Refuses to resume with another curriculum than that of the checkpoint.

        Raises:
            UserError: other samples, labels, settings or scores.
        """
        if known["data"] != self._data:
            raise UserError(
                "the checkpoint's curriculum orders other training samples or labels: restore the data and their "
                "split, or start a new run"
            )
        for name, now in self._settings().items():
            if known["settings"][name] != now:
                raise UserError(
                    f"the checkpoint was trained with {name} {known['settings'][name]}, now it is {now}: restore it, "
                    "or start a new run"
                )
        before = None if known["scores"] is None else known["scores"].numpy()
        if before is None or self.scores_N is None:
            if before is not self.scores_N:
                raise UserError("the checkpoint has scores and this run none, or the reverse: restore its scorer")
            return
        differs = ~np.isclose(before, self.scores_N, rtol=_ROUNDING, atol=_ROUNDING)
        if differs.any():
            first = int(np.flatnonzero(differs)[0])
            raise UserError(
                f"{differs.sum()} of {len(ids)} scores are not those of the checkpoint, the first is that of "
                f"{ids[first]!r}: {before[first]:.6g} then, {self.scores_N[first]:.6g} now; restore the scores, or "
                "start a new run"
            )

    def _take_over(self, known: dict[str, Any]) -> np.ndarray:
        """Goes on with scores, pace and order of the checkpoint, to the last bit; returns the order."""
        self.scores_N = None if known["scores"] is None else known["scores"].numpy()
        self._total_batches = known["total_batches"]  # a run that is made longer keeps the pace it had
        if self.pacing is not None:
            self.pacing.load_state_dict(known["pacing"])
        return known["ranking"].numpy()
