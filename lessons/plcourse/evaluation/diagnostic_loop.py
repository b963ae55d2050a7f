"""A test that says more than a score: the loop collects every prediction, then passes them to the diagnostics.

Each diagnostic is a class in its own file in `plcourse.evaluation.diagnostics`. A config can leave some out or add
others. The predictions of all processes are merged first, so two processes find what one finds.

    plcourse fit -c evaluation/classifier --then test

Shapes: B samples of a batch, N samples of the split, K classes.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from plcourse.data.loader import sample_ids
from plcourse.errors import UserError
from plcourse.evaluation.diagnostics import DIAGNOSTICS
from plcourse.evaluation.diagnostics.calibration import fit_temperature
from plcourse.evaluation.scores import Diagnostic, Scores
from plcourse.processes.collectives import gather_objects
from plcourse.training.loops import TestLoop
from plcourse.training.variant import results_folder

_UNCERTAINTIES = ("total", "aleatoric", "epistemic")

Picture = tuple[float, str | int, np.ndarray]  # confidence, id, and image [H, W] or [H, W, 3] in [0, 1]


class DiagnosticTestLoop(TestLoop):
    """A test loop with diagnostics, for the slot ``trainer.test_loop``.

    It works with any model whose ``predict_step`` returns ``probability`` [B, K]. If ``test_step`` already returns it,
    ``predict_step`` is not called.

    Args:
        trainer: the trainer that runs the loop.
        diagnostics: the diagnostics to run; None runs all of them with their defaults.
        calibrate: whether to predict the validation split first and fit the temperature to it.
        n_pictures: images of confident errors to keep, 0 or more.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        diagnostics: list[Diagnostic] | None = None,
        calibrate: bool = True,
        n_pictures: int = 24,
    ) -> None:
        super().__init__(trainer)
        if n_pictures < 0:
            raise ValueError(f"n_pictures={n_pictures}: give 0 or more")
        self.diagnostics = [diagnostic() for diagnostic in DIAGNOSTICS] if diagnostics is None else diagnostics
        self.calibrate, self.n_pictures = calibrate, n_pictures
        self._collector: Collector | None = None
        self._temperature: float | None = None

    def on_run_start(self) -> None:
        """Predicts the validation split before the first test batch."""
        super().on_run_start()
        self._temperature = self._fit_temperature() if self.calibrate else None
        self._collector = Collector(self.n_pictures)
        self.trainer.callbacks.append(self._collector)

    def on_run_end(self) -> list[Any]:
        """Merges the predictions of all ranks and runs the diagnostics on rank 0."""
        assert self._collector is not None
        self.trainer.callbacks.remove(self._collector)
        columns = _joined(gather_objects(_joined(self._collector.batches)))
        pictures = [each for rank in gather_objects(self._collector.pictures) for each in rank]
        if self.trainer.is_global_zero:
            self._diagnose(self._scores(columns, pictures))
        return super().on_run_end()

    def _scores(self, columns: dict[str, np.ndarray], pictures: list[Picture]) -> Scores:
        names = getattr(self.trainer.datamodule, "label_names", None)
        row_of = {name: row for row, name in enumerate(columns["id"].tolist())}
        probability = columns["probability"].astype(np.float64)
        return Scores(
            "test",
            list(names or map(str, range(probability.shape[1]))),
            columns["id"],
            columns["label"],
            probability / probability.sum(axis=1, keepdims=True),  # in single precision it sums to 1 within 1e-7 only
            {name: columns[name].astype(np.float64) for name in _UNCERTAINTIES if name in columns},
            {name.removeprefix("metadata/"): values for name, values in columns.items() if "metadata/" in name},
            self._temperature,
            {row_of[name]: image for _, name, image in pictures},
        )

    def _diagnose(self, scores: Scores) -> None:
        folder = results_folder(self.trainer) / "plots"
        folder.mkdir(parents=True, exist_ok=True)
        self.findings, lines = {}, []
        for diagnostic in self.diagnostics:
            self.findings[diagnostic.name], more = diagnostic(scores, folder)
            lines += more
        self.lines = [*lines, f"plots in {folder}"]

    def _fit_temperature(self) -> float | None:
        """The temperature fitted to the validation split of all ranks; None if there is no such split."""
        trainer, module = self.trainer, self.trainer.lightning_module
        loader = getattr(trainer.datamodule, "val_dataloader", lambda: None)()  # pyright: ignore[reportAttributeAccessIssue]
        if loader is None:
            return None
        limit = trainer.limit_val_batches  # pyright: ignore[reportAttributeAccessIssue]
        own = []
        for index, batch in enumerate(islice(loader, limit if isinstance(limit, int) else int(len(loader) * limit))):
            batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
            own.append((_numpy(_prediction(module, None, batch, index)["probability"]), _numpy(batch["label"])))
        parts = [part for rank in gather_objects(own) for part in rank]
        if not parts:
            return None
        probability_NK, label_N = (np.concatenate(column) for column in zip(*parts, strict=True))
        return fit_temperature(probability_NK.astype(np.float64), label_N)


class Collector(pl.Callback):
    """Keeps the predictions of one process, and images of its ``n_pictures`` most confident errors in order."""

    def __init__(self, n_pictures: int) -> None:
        self.n_pictures = n_pictures
        self.pictures: list[Picture] = []
        self.batches: list[dict[str, np.ndarray]] = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Mapping[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the predictions of one batch."""
        prediction = _prediction(pl_module, outputs, batch, batch_idx)
        names = ("probability", *(name for name in _UNCERTAINTIES if name in prediction))
        columns = {name: _numpy(prediction[name]) for name in names}
        columns |= {"id": np.asarray(sample_ids(batch)), "label": _numpy(batch["label"])}
        columns |= {f"metadata/{name}": np.asarray(values) for name, values in batch.get("metadata", {}).items()}
        self.batches.append(columns)
        if self.n_pictures and "image" in batch:
            self._keep_pictures(columns, batch["image"])

    def _keep_pictures(self, columns: dict[str, np.ndarray], image_BCHW: torch.Tensor) -> None:
        probability_BK = columns["probability"]
        confidence_B = probability_BK.max(axis=1)
        wrong = np.flatnonzero(probability_BK.argmax(axis=1) != columns["label"])
        first = wrong[np.argsort(-confidence_B[wrong], kind="stable")[: self.n_pictures]]
        new = [(float(confidence_B[row]), columns["id"][row].item(), _picture(image_BCHW[row])) for row in first]
        self.pictures = sorted([*self.pictures, *new], key=lambda kept: -kept[0])[: self.n_pictures]


def _prediction(
    module: pl.LightningModule, outputs: object, batch: Mapping[str, Any], batch_idx: int
) -> dict[str, torch.Tensor]:
    """The output of the test step if it is a prediction, else that of the predict step."""
    if not (isinstance(outputs, dict) and "probability" in outputs):
        outputs = module.predict_step(batch, batch_idx)
    if not (isinstance(outputs, dict) and "probability" in outputs):
        name = type(module).__name__
        raise UserError(f"DiagnosticTestLoop: {name}.predict_step returns no 'probability' of shape [B, K]")
    return outputs


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    filled = [part for part in parts if part]
    return {name: np.concatenate([part[name] for part in filled]) for name in (filled[0] if filled else {})}


def _numpy(values: torch.Tensor) -> np.ndarray:
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # NumPy has no bfloat16


def _picture(image_CHW: torch.Tensor) -> np.ndarray:
    """Stretches the values of an image to [0, 1]."""
    pixels_HWC = image_CHW.detach().float().cpu().permute(1, 2, 0).numpy()
    low, high = pixels_HWC.min(), pixels_HWC.max()
    pixels_HWC = (pixels_HWC - low) / max(high - low, 1e-6)
    return pixels_HWC[:, :, 0] if pixels_HWC.shape[2] == 1 else pixels_HWC
