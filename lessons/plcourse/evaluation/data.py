"""What is evaluated and predicted: labelled images, a table of features, or generated rows; and new inputs of each."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl

from plcourse.console import say
from plcourse.data import (
    Augmentation,
    BatchLoader,
    ImageSize,
    ImageSplits,
    OnError,
    Process,
    Resize,
    delegated,
    eval_loader,
)
from plcourse.data.image_files import find_images, left_out_line
from plcourse.data.image_folder import header_notes
from plcourse.data.names import restore_first
from plcourse.errors import UserError
from plcourse.evaluation.generated import GeneratedSplits
from plcourse.evaluation.inputs import ImageInputs, TableInputs
from plcourse.evaluation.tables import PACKAGED, Schema, TableSplits
from plcourse.files import expand


class EvaluationData(pl.LightningDataModule):
    """Dict batches of ``image`` [B, C, H, W] or ``features`` [B, D], ``label``, ``id``, for tables ``metadata``.

    Args:
        source: an image source (``digits``, ``mnist5k``, ..., ``image_folder``), ``table``, ``breast_cancer``, ``wine``
            (tables of scikit-learn), or ``generated``.
        root: the folder of an image source; the Parquet, CSV or TSV file of a ``table``.
        image_size: height and width in pixels, such as [48, 96], or one number for both; None keeps the source's own.
        resize: how images of another size are brought to it: ``crop`` scales to cover it and cuts the rims off,
            ``stretch`` scales each axis on its own, ``pad`` scales to fit and puts black around.
        batch_size: training samples per batch and process.
        eval_batch_size: samples per batch of validation, test and prediction; None for `batch_size`.
        val_size: samples for validation (int), or their share (float below 1).
        test_size: the same for the test part.
        split_seed: another seed gives another split.
        augment: applied to training images, in this order.
        num_workers: processes per loader that fetch ahead; 0 fetches in the training process.
        on_error: what to do with unreadable training data: ``raise`` stops, ``skip`` leaves it out and lists it.
        feature_columns: numeric columns of a table; None takes every numeric one that is nothing else, and does not
            only count the rows.
        label_column: its column of classes.
        id_column: its column of names; None numbers the rows.
        text_column: a column of texts, whose words are hashed into 1,024 features; None for none.
        rows: rows of a generated table.
        paths: new inputs to predict: images as files, folders, patterns or a .txt list; or tables. None predicts the
            test part, or all rows of a generated table.
    """

    label_names = delegated("parts.label_names")
    raw_inputs = delegated("parts.raw_inputs")
    terms = delegated("parts.terms")

    def __init__(
        self,
        source: str = "mnist5k",
        root: str = "data",
        image_size: ImageSize | None = None,
        resize: Resize = "crop",
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        val_size: int | float = 0.1,
        test_size: int | float = 0.2,
        split_seed: int = 0,
        augment: list[Augmentation] | None = None,
        num_workers: int = 0,
        on_error: OnError = "raise",
        feature_columns: list[str] | None = None,
        label_column: str = "label",
        id_column: str | None = None,
        text_column: str | None = None,
        rows: int = 1_000_000,
        paths: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        sizes = (val_size, test_size)
        self.parts: ImageSplits | TableSplits | GeneratedSplits
        if source == "generated":
            self.parts = GeneratedSplits(rows, *sizes)
        elif source == "table" or source in PACKAGED:
            name = root if source == "table" else source
            schema = Schema(feature_columns, label_column, id_column, text_column)
            self.parts = TableSplits(name, schema, on_error, *sizes, split_seed)
        else:
            self.parts = ImageSplits(source, root, image_size, on_error, *sizes, split_seed, resize=resize)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.augment, self.num_workers, self.paths = augment, num_workers, paths

    def prepare_data(self) -> None:
        """Downloads what is missing, unless new inputs alone are to be predicted."""
        if not (self.paths and self.trainer and self.trainer.predicting):
            self.parts.prepare()

    def setup(self, stage: str) -> None:
        """Opens and splits the source; the prediction of new inputs needs only the checkpoint."""
        restore_first(self)
        if not (self.paths and stage == "predict"):
            self.parts.open()

    def train_dataloader(self) -> BatchLoader:
        """Shuffled and augmented; each batch has a ``rank_weight``."""
        return self.parts.train_loader(self.trainer, self.batch_size, self.augment, self.num_workers)

    def val_dataloader(self) -> BatchLoader:
        """Each validation sample once."""
        return self.parts.eval_loader(self.trainer, "val", self.eval_batch_size, self.num_workers)

    def test_dataloader(self) -> BatchLoader:
        """Each test sample once."""
        return self.parts.eval_loader(self.trainer, "test", self.eval_batch_size, self.num_workers)

    def predict_dataloader(self) -> BatchLoader:
        """The new inputs, each once; else the test part, or all rows of a generated table."""
        if not self.paths:
            part = "all" if isinstance(self.parts, GeneratedSplits) else "test"
            return self.parts.eval_loader(self.trainer, part, self.eval_batch_size, self.num_workers)
        return self.files_dataloader(self.paths)

    def files_dataloader(self, paths: Sequence[str]) -> BatchLoader:
        """New inputs, as `predict` reads them."""
        inputs = self._inputs(paths)
        return eval_loader(inputs, self.eval_batch_size, Process.of(self.trainer), self.num_workers)

    def _inputs(self, paths: Sequence[str]) -> ImageInputs | TableInputs:
        if isinstance(self.parts, GeneratedSplits):
            raise UserError("paths: a model of generated rows takes none; leave data.paths out")
        if isinstance(self.parts, TableSplits):
            tables = [found for path in paths for found in expand(path) or [path]]
            return TableInputs(tables, self.parts.schema, self.parts.normalisation)
        left_out: Counter[str] = Counter()
        files = find_images(paths, "paths", left_out)
        for line in (*left_out_line("paths", left_out), *header_notes("paths", files)):
            say(line)
        return ImageInputs(files, self.parts.shape, self.parts.normalisation, self.parts.resize, self.parts.depth)

    def state_dict(self) -> dict[str, Any]:
        """Normalisation, columns and label names, which new inputs need."""
        return self.parts.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what the checkpoint was trained with; other classes or shapes are a UserError."""
        self.parts.load_state_dict(state_dict)
