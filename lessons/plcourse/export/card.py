"""What an exported file says about itself: inputs, outputs, classes, preprocessing, and where it comes from.

The card is stored in the file (ONNX metadata, torch extra files) and in the run's ``export/manifest.json``. It is plain
JSON, and this module imports neither torch nor onnx.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from plcourse.errors import UserError

KEY = "plcourse"  # the key of the card in a file's metadata


@dataclass(frozen=True)
class Port:
    """One input or output of an exported file.

    Args:
        name: the name in the file.
        dtype: the NumPy type, such as ``float32``.
        shape: sizes; a name marks a free dimension.
        classes: the dimension whose largest value is the decision; None if there is no decision.
    """

    name: str
    dtype: str
    shape: list[int | str]
    classes: int | None = None


@dataclass(frozen=True)
class Card:
    """What an exported file says about itself.

    Args:
        format: one of `plcourse.runs.export_request.FORMATS`.
        inputs: the inputs in order.
        outputs: the outputs in order.
        structure: what the model's ``forward`` returns: ``tensor``, ``tuple`` or ``dict``.
        probabilities: whether outputs with classes are probabilities instead of scores.
        preprocess: whether inputs are raw: uint8 pixels or the float64 numbers of a row, which the file normalises. It
            resizes pixels by the rule in ``data``; without a rule they must have the training size.
        data: the data module's state: ``mean``, ``std``, ``shape``, ``resize``, ``label_names``.
        source: ``run``, ``checkpoint`` and its ``sha256``.
        versions: versions of plcourse, torch and the tools that wrote the file.
        opset: the ONNX opset version; None for other formats.
    """

    format: str
    inputs: list[Port]
    outputs: list[Port]
    structure: str = "tensor"
    probabilities: bool = False
    preprocess: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    opset: int | None = None

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

    @classmethod
    def from_json(cls, text: str, label: str = "the file") -> "Card":
        """Reads what `to_json` wrote.

        Raises:
            UserError: the text is not a card of this suite.
        """
        try:
            return cls.of(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(f"{label} carries no card of this suite: export it with `plcourse export`") from error


def flatten(returned: Any) -> list[Any]:
    """Lists the tensors that a ``forward`` returned as a tensor, tuple or dict."""
    if isinstance(returned, dict):
        return list(returned.values())
    return list(returned) if isinstance(returned, tuple | list) else [returned]
