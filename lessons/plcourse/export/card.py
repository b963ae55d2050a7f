"""What an exported file says about itself: inputs, outputs, classes, preprocessing, and where it comes from.

The card is stored in the file (ONNX metadata, torch extra files) and in the run's ``export/manifest.json``. It is plain
JSON, and this module imports neither torch nor onnx.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict, TypeVar

KEY = "plcourse"  # the key of the card in a file's metadata

T = TypeVar("T")


class Source(TypedDict, total=False):
    """The run and checkpoint that a file was written from, and the hashes of the samples that it was trained on."""

    run: str
    checkpoint: str | None
    sha256: str | None
    trained_on: list[str]


@dataclass(frozen=True)
class Port:
    """One input or output of an exported file."""

    name: str
    dtype: str  # NumPy's name, such as ``float32``
    shape: list[int | str]  # a name marks a free dimension
    classes: int | None = None  # the dimension whose largest value is the decision; None if there is no decision


@dataclass(frozen=True)
class Card:
    """What an exported file says about itself.

    With ``preprocess`` its inputs are raw: uint8 pixels or the float64 numbers of a row, which the file normalizes. It
    resizes pixels by the rule in ``data``; without a rule they must have the training size.
    """

    format: str  # one of `plcourse.runs.export_request.FORMATS`
    inputs: list[Port]
    outputs: list[Port]
    structure: str = "tensor"  # what the model's forward returns: tensor, tuple or dict
    probabilities: bool = False  # whether outputs with classes are probabilities instead of scores
    preprocess: bool = False
    data: dict[str, Any] = field(default_factory=dict)  # the data module's state: mean, std, shape, resize, label_names
    source: Source = field(default_factory=Source)
    versions: dict[str, str] = field(default_factory=dict)  # of plcourse, torch and the tools that wrote the file
    opset: int | None = None  # of an ONNX file

    @property
    def class_names(self) -> list[str]:
        """One name per class; empty if the data module has none."""
        return list(self.data.get("label_names", []))

    def to_json(self) -> str:
        """The card as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "Card":
        """Builds a card from the result of `dataclasses.asdict`."""
        ports = {name: [Port(**port) for port in fields[name]] for name in ("inputs", "outputs")}
        return cls(**{**fields, **ports})


def flatten(returned: T | Sequence[T] | Mapping[str, T]) -> list[T]:
    """Lists the tensors that a ``forward`` returned as a tensor, tuple or dict."""
    if isinstance(returned, Mapping):
        return list(returned.values())
    return list(returned) if isinstance(returned, Sequence) else [returned]
