"""An exported file as a model of the suite: `plcourse test` and `predict` run it through the same loops.

    plcourse test -c export/test_exported --model.init_args.format onnx_int8

Shapes: B samples, K classes.
"""

from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from plcourse.core.data.provenance import trainings_beside
from plcourse.core.errors import UserError
from plcourse.core.metrics import ClassificationScores, probabilities
from plcourse.core.runs import Run
from plcourse.core.unseen import learn
from plcourse.export.graph import Bridge
from plcourse.export.runners import open_exported


class ExportedModel(pl.LightningModule):
    """Answers with an exported file in place of weights; it has nothing to train and needs no checkpoint.

    The data module takes over the normalisation, image shape and classes that the model was trained with, as from a
    checkpoint: they travel in the file.

    Args:
        run: the run that exported it, a folder or a name such as ``export/classifier``, which means its latest.
        format: one of its formats, such as ``onnx``.
        module: a module whose validation, test and predict steps are to be used, for models other than classifiers of
            images; its own weights play no part.
        threads: threads that compute one batch, 1 or more.

    Raises:
        UserError: no such run or format, or a file that is not the one exported.
    """

    def __init__(
        self,
        run: str = "export/classifier",
        format: str = "onnx",  # noqa: A002  (the name that the verb has for it)
        module: pl.LightningModule | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__()
        self._run = Run.load(run)
        self._runner, self.card = open_exported(self._run, format, threads)
        self._bridge = Bridge(self.card)
        self.module = module
        if module is not None:
            # its steps call its forward and log by its own name; both are ours
            module.forward = self.forward
            module.log, module.log_dict = self.log, self.log_dict
            return
        classes = len(self.card.class_names)
        if classes == 0 or self.card.outputs[0].classes is None:
            raise UserError(f"{run}: the exported model is no classifier; name the module whose test steps it has")
        self.val_scores, self.test_scores = ClassificationScores(classes, "val"), ClassificationScores(classes, "test")

    @property
    def data_state(self) -> dict[str, Any]:
        """What the file knows of the training data, for a data module that asks before it opens its own."""
        return self.card.data

    def setup(self, stage: str) -> None:
        """Gives the data module what the file knows of the training data, and the trainer which samples these were."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None and self.card.data:
            datamodule.load_state_dict(self.card.data)
        if stage != "predict":
            learn(self, trainings_beside(self._run.path / "checkpoints", self.card.source.get("trained_on", [""])))

    def forward(self, *inputs: Tensor) -> Any:
        """What the exported model's own ``forward`` returned, up to a constant per sample for probabilities."""
        return self._bridge.outputs(self._runner(self._bridge.inputs(inputs)))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """Adds one batch to the validation scores."""
        if self.module is not None:
            return self.module.validation_step(batch, batch_idx)
        return self.val_scores.update(self(batch["image"]), batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Logs the validation scores."""
        if self.module is not None:
            self.module.on_validation_epoch_end()
        else:
            self.val_scores.log_and_reset(self)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """Adds one batch to the test scores."""
        if self.module is not None:
            return self.module.test_step(batch, batch_idx)
        return self.test_scores.update(self(batch["image"]), batch["label"])

    def on_test_epoch_end(self) -> None:
        """Logs the test scores."""
        if self.module is not None:
            self.module.on_test_epoch_end()
        else:
            self.test_scores.log_and_reset(self)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """Probabilities of shape [B, K], the class predicted, of shape [B], and the ids of the samples."""
        if self.module is not None:
            return self.module.predict_step(batch, batch_idx)
        probability_BK = probabilities(self(batch["image"]))
        return {"id": batch["id"], "label": probability_BK.argmax(dim=1), "probability": probability_BK}
