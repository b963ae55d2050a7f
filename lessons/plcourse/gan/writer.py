"""Writes pictures of generated samples: after epochs, of each prediction, and of interpolations."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger

from plcourse.gan.adversarial import GeneratedColumns
from plcourse.gan.latents import between, latents_of
from plcourse.gan.quality import to_pixels
from plcourse.processes.collectives import is_distributed
from plcourse.training.variant import results_folder


class SamplePictures(Callback):
    """Draws samples of the same latents after epochs, and writes the samples that `predict` generates.

    In fit it writes ``plots/samples-<epoch>.png`` and the same picture to TensorBoard. In predict it writes
    ``samples/<id>.png`` for each image and ``plots/interpolation.png``, whose rows lead from one seed to the next. The
    images stay out of the folder of the prediction table, which Parquet readers take whole.

    Args:
        samples: number of samples in the picture of an epoch, from the seeds 0, 1, 2, ...
        columns: samples per row, 1 or more.
        every_n_epochs: epochs between pictures, 1 or more.
        strips: rows of interpolations in predict; 0 for none.
    """

    def __init__(self, samples: int = 64, columns: int = 8, every_n_epochs: int = 1, strips: int = 4) -> None:
        for name, value in (("samples", samples), ("columns", columns), ("every_n_epochs", every_n_epochs)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        self.samples, self.columns = samples, columns
        self.every_n_epochs, self.strips = every_n_epochs, strips
        self._seeds: list[int] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the picture of the epoch on the first rank."""
        epoch = trainer.current_epoch + 1
        if not trainer.is_global_zero or trainer.fast_dev_run or epoch % self.every_n_epochs:  # pyright: ignore[reportAttributeAccessIssue]  (set late)
            return
        model: Any = pl_module
        made = model.sample(np.arange(self.samples, dtype=np.uint64))
        picture_HWC = model.quality.picture(made, self.columns)
        _save(picture_HWC, results_folder(trainer) / f"plots/samples-{epoch:04d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("samples", picture_HWC, trainer.global_step, dataformats="HWC")

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Removes the images of an earlier prediction before any rank writes."""
        self._seeds = []
        if trainer.is_global_zero:
            shutil.rmtree(_images(trainer), ignore_errors=True)
        if is_distributed():
            trainer.strategy.barrier()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the images of a batch; points only have rows in the table."""
        if not isinstance(outputs, GeneratedColumns):
            return
        self._seeds += outputs["seed"].tolist()[: max(0, self.strips + 1 - len(self._seeds))]
        if outputs.samples.ndim == 4:
            for name, pixels_CHW in zip(outputs["id"], to_pixels(outputs.samples), strict=True):
                pixels = pixels_CHW[0] if len(pixels_CHW) == 1 else pixels_CHW.transpose(1, 2, 0)
                _save(np.ascontiguousarray(pixels), _images(trainer) / f"{name}.png")

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the interpolations between the first seeds on the first rank."""
        if not trainer.is_global_zero or not self.strips or len(self._seeds) < 2:
            return
        model: Any = pl_module
        latents = latents_of(np.array(self._seeds, np.uint64), model.generator.latent_dim)
        path = torch.cat([between(a, b, self.columns) for a, b in itertools.pairwise(latents)])
        made = model(path.to(model.device, model.dtype))  # evaluation hooks run without gradients
        _save(model.quality.picture(made, self.columns), results_folder(trainer) / "plots/interpolation.png")


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _images(trainer: pl.Trainer) -> Path:
    return results_folder(trainer) / "samples"
