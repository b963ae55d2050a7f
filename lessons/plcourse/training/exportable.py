"""How a LightningModule declares what ``plcourse export`` needs: its inputs, their free dimensions, its outputs.

A module that maps the ``image`` or the ``features`` of a batch to class scores [B, K] need not declare anything. Any
other module implements the two methods of `Exportable`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
from torch import Tensor

from plcourse.data.loader import sample_ids
from plcourse.errors import UserError


@dataclass(frozen=True)
class Dimension:
    """A dimension whose size is not fixed in the exported file.

    Args:
        name: its name, such as ``batch`` or ``length``.
        min: the smallest size, 1 or more.
        max: the largest size, such as the context of a transformer; None for no limit.
    """

    name: str
    min: int = 1
    max: int | None = None


BATCH = Dimension("batch")


@dataclass(frozen=True)
class Input:
    """A tensor that ``forward`` takes: its name in the exported file, and its free dimensions by position."""

    name: str
    free: Mapping[int, Dimension] = field(default_factory=lambda: {0: BATCH})


@dataclass(frozen=True)
class Output:
    """A tensor that ``forward`` returns; position 0 is the batch.

    Args:
        name: its name in the exported file.
        classes: position of the dimension whose largest value is the predicted class; None if it predicts no class.
        per_pixel: whether positions 2 and 3 are the rows and columns of the image; with ``--preprocess`` such an output
            has the size of the raw image.
    """

    name: str
    classes: int | None = None
    per_pixel: bool = False


@dataclass(frozen=True)
class Signature:
    """What ``forward`` takes and returns.

    Args:
        inputs: its arguments, in order.
        outputs: the tensor, or the tensors of the tuple or dict, that it returns, in order.
        metric: the test metric that export must not worsen, such as ``test/accuracy``, or several for several tasks;
            None if there is none.
        mode: whether a larger (``max``) or a smaller (``min``) value is better.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    metric: str | tuple[str, ...] | None = None
    mode: str = "max"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics as a tuple."""
        if self.metric is None:
            return ()
        return (self.metric,) if isinstance(self.metric, str) else self.metric


@runtime_checkable
class Exportable(Protocol):
    """A LightningModule that can be exported."""

    def export_signature(self) -> Signature:
        """Returns inputs, outputs and the test metric."""
        ...

    def export_inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """Returns the arguments of ``forward`` for a batch; the same batch must give the same arguments."""
        ...


@dataclass(frozen=True)
class ExportedByDefault:
    """The `Exportable` of a module that maps one field of a batch, image or features, to class scores [B, K]."""

    field: str

    def export_signature(self) -> Signature:
        """Returns the field as input and logits as output."""
        return Signature((Input(self.field),), (Output("logits", classes=1),), "test/accuracy")

    def export_inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Returns the images [B, C, H, W], or the features [B, D]."""
        return (batch[self.field],)


@runtime_checkable
class RawInputs(Protocol):
    """A data module that can return the raw data of its samples, with which ``--preprocess`` is verified."""

    def raw_inputs(self, ids: Sequence[str]) -> list[Tensor]:
        """Returns the raw data of samples: pixels uint8 [C, H, W] of any size, or the numbers [D] of a row."""
        ...


@runtime_checkable
class RawImages(RawInputs, Protocol):
    """`RawInputs` of images; the data module's ``state_dict`` says how they are resized."""

    def files_dataloader(self, paths: Sequence[str]) -> Iterable[Any]:
        """Returns batches of new image files, as ``predict`` reads them."""
        ...


@runtime_checkable
class RawMasks(RawImages, Protocol):
    """`RawImages` with masks."""

    def raw_masks(self, ids: Sequence[str]) -> list[Tensor]:
        """Returns the masks of samples, uint8 [H, W] in the size of their raw images."""
        ...


@runtime_checkable
class RawTexts(Protocol):
    """A data module of texts: its batches contain them as ``written``, and its ``state_dict`` can encode new ones."""

    def encoded(self, state: Mapping[str, Any], written: Sequence[str]) -> dict[str, Tensor]:
        """Returns the batch fields with the tokens of texts, made from ``state`` alone, as an exported file does."""
        ...


def as_exportable(module: pl.LightningModule, batch: object) -> Exportable:
    """Returns the module if it implements `Exportable`, otherwise the default for classifiers of images or features.

    Raises:
        UserError: it does not, and the batches have neither ``image`` nor ``features``.
    """
    if isinstance(module, Exportable):
        return module
    for name in ("image", "features"):
        if isinstance(batch, Mapping) and name in batch:
            return ExportedByDefault(name)
    raise UserError(
        f"{type(module).__name__} does not declare its inputs: add export_signature and export_inputs "
        "(see plcourse.training.exportable), or use batches with an 'image' or 'features'"
    )


@contextmanager
def standing_in(module: pl.LightningModule, forward: Callable[..., Any]) -> Iterator[None]:
    """Replaces a module's ``forward`` in the block, so that the module's test step scores the replacement.

    Raises:
        UserError: nothing called it, so the scores would be those of the module.
    """
    calls = 0

    def counted(*inputs: object) -> Any:
        nonlocal calls
        calls += 1
        return forward(*inputs)

    module.forward = counted
    try:
        yield
    finally:
        del module.forward
    if not calls:
        raise UserError(
            f"the test_step of {type(module).__name__} does not call its forward, so no replacement can be scored"
        )


def is_replaced(module: pl.LightningModule) -> bool:
    """Whether ``forward`` is replaced, so that the parts of the module must not be used alone."""
    return "forward" in vars(module)


def ids_of(batch: object, first: int, size: int) -> list[str]:
    """Returns the ids of a batch's samples; if it has none, numbers that begin with ``first``."""
    ids = sample_ids(batch)
    return [str(each) for each in ids] if ids is not None else [str(first + i) for i in range(size)]
