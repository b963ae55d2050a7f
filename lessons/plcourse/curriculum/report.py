"""Reports on a curriculum: accuracy by difficulty during training, and pictures at the end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from plcourse.curriculum.loop import CurriculumLoop
from plcourse.curriculum.plots import draw_difficulty, draw_examples, draw_pacing, draw_terciles
from plcourse.curriculum.scorers import TrainingSamples, as_trained_on, evaluating
from plcourse.data import Batch
from plcourse.errors import RunFailed, UserError
from plcourse.training.metrics import probabilities

TERCILES = ("easy", "medium", "hard")


class CurriculumReport(Callback):
    """Logs the accuracy on easy, medium and hard training samples, and draws the course of the training.

    After each epoch it logs ``train/accuracy_easy``, ``_medium`` and ``_hard``: the accuracy on a fixed selection from
    each third of the training part by score, evenly spaced in difficulty, not augmented, in evaluation mode, with the
    labels that are trained on, even wrong ones. At the end of the fit it writes ``pacing.png`` into ``plots/`` of the
    run and, if the loop has a scorer, ``difficulty.png``, ``examples.png`` and ``terciles.png``.

    Args:
        samples_per_tercile: number of samples selected from each third, 1 or more; smaller thirds are used whole.
        examples: number of easiest and of hardest samples to show, 1 or more.
        plots: whether to draw at the end.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, samples_per_tercile: int = 128, examples: int = 16, plots: bool = True) -> None:
        for name, value in (("samples_per_tercile", samples_per_tercile), ("examples", examples)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        self.samples_per_tercile, self.examples, self.plots = samples_per_tercile, examples, plots
        self.passes: list[tuple[int, float]] = []  # (batch, fraction admitted from it on)
        self.accuracy: dict[str, list[tuple[int, float]]] = {name: [] for name in TERCILES}
        self._batches: list[Batch] = []  # one per third

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Selects the samples; a UserError if the fit loop is no CurriculumLoop."""
        loop = _loop(trainer)
        self._batches = []
        if loop.scores_N is None:
            return
        data = TrainingSamples.of(trainer).batches().data
        for third in np.array_split(np.argsort(loop.scores_N, kind="stable"), len(TERCILES)):
            count = min(self.samples_per_tercile, len(third))
            chosen = third[np.linspace(0, len(third) - 1, count).round().astype(np.int64)]
            self._batches.append(as_trained_on(Batch(data.fetch(chosen, 0)), pl_module))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records what the epoch admits."""
        sampler, epoch, batches = _loop(trainer).sampler, trainer.current_epoch, int(trainer.num_training_batches)
        for draw, admitted in sampler.plan(epoch).passes:
            if (batch := draw // sampler.global_batch_size) < batches:  # an epoch may be limited to fewer
                self.passes.append((epoch * batches + batch, admitted / sampler.n))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the accuracies; every rank has the same weights and gets the same result."""
        for name, batch in zip(TERCILES, self._batches, strict=False):
            with evaluating(pl_module):
                right_B = probabilities(pl_module(batch["image"])).argmax(dim=1) == batch["label"]
            value = right_B.double().mean().item()
            pl_module.log(f"train/accuracy_{name}", value, sync_dist=True)
            self.accuracy[name].append((trainer.global_step, value))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the pictures on the first rank."""
        if self.plots and trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            self._draw(trainer, Path(trainer.default_root_dir) / "plots")

    def state_dict(self) -> dict[str, Any]:
        """The history, so that a resumed run draws the whole training."""
        return {"passes": self.passes, "accuracy": self.accuracy}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the history."""
        self.passes, self.accuracy = list(state_dict["passes"]), dict(state_dict["accuracy"])

    def _draw(self, trainer: pl.Trainer, folder: Path) -> None:
        loop = _loop(trainer)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            draw_pacing(folder / "pacing.png", self.passes, trainer.fit_loop.total_batch_idx + 1)
            if loop.scores_N is None:
                return
            draw_difficulty(folder / "difficulty.png", loop.scores_N, type(loop.scorer).__name__)
            draw_terciles(folder / "terciles.png", self.accuracy)
            by_difficulty = np.argsort(loop.scores_N, kind="stable")
            count = min(self.examples, len(by_difficulty) // 2)
            chosen = np.concatenate([by_difficulty[:count], by_difficulty[::-1][:count]])
            batch = TrainingSamples.of(trainer).batches().data.fetch(chosen, 0)
            names = getattr(getattr(trainer, "datamodule", None), "label_names", None)
            labels = [names[label] if names else str(label) for label in batch["label"].tolist()]
            draw_examples(folder / "examples.png", batch["image"].numpy(), labels, loop.scores_N[chosen])
        except OSError as error:
            raise RunFailed(f"cannot draw into {folder}: {error.strerror}; the training itself is saved") from error


def _loop(trainer: pl.Trainer) -> CurriculumLoop:
    loop = trainer.fit_loop
    if not isinstance(loop, CurriculumLoop):
        raise UserError(
            f"CurriculumReport needs a CurriculumLoop, but trainer.fit_loop is a {type(loop).__name__}: remove the "
            "callback"
        )
    return loop
