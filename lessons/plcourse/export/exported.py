"""An exported file as a model of the suite, for `plcourse test` and `predict`.

plcourse test -c export/test_exported --model.init_args.format onnx_int8
"""

from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from plcourse.data import delegated
from plcourse.data.provenance import trainings_beside
from plcourse.errors import UserError
from plcourse.export.card import Card
from plcourse.export.graph import Bridge
from plcourse.export.runners import open_exported
from plcourse.runs.run import Run
from plcourse.training.classifier import ImageClassifierModule
from plcourse.training.leak_check import learn


class ExportedModel(pl.LightningModule):
    """A model that answers with an exported file; it has nothing to train and needs no checkpoint.

    The data module takes the normalization, image shape and classes of the training data from the file, as it would
    from a checkpoint.

    Args:
        run: the run that was exported: a folder, or a name such as ``export/classifier`` for its latest run.
        format: one of the run's exported formats, such as ``onnx``.
        module: a module whose validation, test and predict steps to use, for models other than image classifiers; its
            weights are not used.
        threads: threads per batch, 1 or more.

    Raises:
        UserError: there is no such run or format, or the file is not the one that was exported.
    """

    validation_step = delegated("module.validation_step")
    on_validation_epoch_end = delegated("module.on_validation_epoch_end")
    test_step = delegated("module.test_step")
    on_test_epoch_end = delegated("module.on_test_epoch_end")
    predict_step = delegated("module.predict_step")

    def __init__(
        self,
        run: str = "export/classifier",
        format: str = "onnx",  # noqa: A002  (the name of the verb's flag)
        module: pl.LightningModule | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__()
        self._run = Run.load(run)
        self._runner, self.card = open_exported(self._run, format, threads)
        self._bridge = Bridge(self.card)
        self.module = module or _image_classifier(self.card, run)
        # the module's steps call its forward and log under its name; both are redirected here
        self.module.forward = self.forward
        self.module.log, self.module.log_dict = self.log, self.log_dict

    @property
    def data_state(self) -> dict[str, Any]:
        """The state of the training data module, for a data module that needs it before it opens its data."""
        return self.card.data

    def setup(self, stage: str) -> None:
        """Passes the state of the training data to the data module, and the training samples to the trainer."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None and self.card.data:
            datamodule.load_state_dict(self.card.data)
        if stage != "predict":
            learn(self, trainings_beside(self._run.path / "checkpoints", self.card.source.get("trained_on", [""])))

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
        """Runs the file; class scores may differ from the trained model's by a constant per sample."""
        return self._bridge.outputs(self._runner(self._bridge.inputs(inputs)))


def _image_classifier(card: Card, run: str) -> pl.LightningModule:
    classes = len(card.class_names)
    if classes == 0 or card.outputs[0].classes is None:
        raise UserError(f"{run}: the exported model is not a classifier; set `module` to the module it was")
    return ImageClassifierModule(nn.Identity(), classes)
