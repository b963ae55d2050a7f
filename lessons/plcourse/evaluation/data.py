"""What is evaluated and predicted: labeled images, a table of features or generated rows, and new inputs of each."""

from collections import Counter
from collections.abc import Sequence

from plcourse.console import say
from plcourse.data import Augmentation, BatchLoader, ImageData, ImageSize, OnError, Process, Resize, eval_loader
from plcourse.data.image_files import find_images, left_out_line
from plcourse.data.image_folder import header_notes
from plcourse.errors import UserError
from plcourse.evaluation.generated import GeneratedSplits
from plcourse.evaluation.inputs import ImageInputs, TableInputs
from plcourse.evaluation.tables import PACKAGED, Schema, TableSplits
from plcourse.files import expand


class EvaluationData(ImageData):
    """Dict batches of ``image`` [B, C, H, W] or ``features`` [B, D], ``label``, ``id``, and ``metadata`` for tables.

    See `ImageData` for the other arguments.

    Args:
        source: an image source (``digits``, ``mnist5k``, ..., ``image_folder``), ``table``, ``breast_cancer``, ``wine``
            (tables of scikit-learn), or ``generated``.
        root: the folder of an image source; the Parquet, CSV or TSV file of a ``table``.
        eval_batch_size: samples per batch of validation, test and prediction; None for `batch_size`.
        feature_columns: numeric columns of a table; None takes every numeric one that has no other role and does not
            just count the rows.
        label_column: its column of classes.
        id_column: its column of names; None numbers the rows.
        text_column: a column of texts, whose words are hashed into 1,024 features; None for none.
        rows: rows of a generated table.
        paths: new inputs to predict: images as files, folders, patterns or a .txt list; or tables. None predicts the
            test part, or all rows of a generated table.
    """

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
        split = (val_size, test_size, split_seed)
        super().__init__(source, root, image_size, resize, batch_size, *split, augment, num_workers, on_error, paths)
        self.eval_batch_size = eval_batch_size or batch_size
        if source == "generated":
            self.splits = GeneratedSplits(rows, val_size, test_size)
        elif source == "table" or source in PACKAGED:
            schema = Schema(feature_columns, label_column, id_column, text_column)
            self.splits = TableSplits(root if source == "table" else source, schema, on_error, *split)

    def predict_dataloader(self) -> BatchLoader:
        """The new inputs, each once; else the test part, or all rows of a generated table."""
        if self.predict_paths:
            return self.files_dataloader(self.predict_paths)
        part = "all" if isinstance(self.splits, GeneratedSplits) else "test"
        return self.splits.eval_loader(self.trainer, part, self.eval_batch_size, self.num_workers)

    def files_dataloader(self, paths: Sequence[str]) -> BatchLoader:
        """New inputs, as `predict` reads them."""
        inputs = self._inputs(paths)
        return eval_loader(inputs, self.eval_batch_size, Process.of(self.trainer), self.num_workers)

    def _inputs(self, paths: Sequence[str]) -> ImageInputs | TableInputs:
        splits = self.splits
        if isinstance(splits, GeneratedSplits):
            raise UserError("data.paths is set, but a model of generated rows takes no new inputs; leave it out")
        if isinstance(splits, TableSplits):
            tables = [found for path in paths for found in expand(path) or [path]]
            return TableInputs(tables, splits.schema, splits.normalization)
        left_out: Counter[str] = Counter()
        files = find_images(paths, "paths", left_out)
        for line in (*left_out_line("paths", left_out), *header_notes("paths", files)):
            say(line)
        return ImageInputs(files, splits.shape, splits.normalization, splits.resize, splits.depth)
