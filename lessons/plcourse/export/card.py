"""What an exported file says about itself: inputs, outputs, classes, preprocessing, and where it comes from.

The card travels inside the file (ONNX's metadata, torch's extra files) and stands in the run's
``export/manifest.json``. It is plain JSON, and this module imports neither torch nor onnx.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from plcourse.core.errors import UserError

KEY = "plcourse"  # the name of the card among a file's metadata


@dataclass(frozen=True)
class Port:
    """One input or output of an exported file.

    Args:
        name: its name.
        dtype: its NumPy type, such as ``float32``.
        shape: sizes; a name stands for a free dimension.
        classes: the dimension whose largest value is the decision, for an output that decides.
    """

    name: str
    dtype: str
    shape: list[int | str]
    classes: int | None = None


@dataclass(frozen=True)
class Card:
    """What an exported file says about itself.

    Args:
        format: one of `plcourse.core.export_request.FORMATS`.
        inputs: in the order in which they are passed.
        outputs: in the order in which they come.
        structure: what the model's ``forward`` returned: ``tensor``, ``tuple`` or ``dict``.
        probabilities: whether the outputs that decide are a softmax of the scores.
        preprocess: whether the input is raw: uint8 pixels, which are normalised inside, and resized by the rule that
            ``data`` names; without one they have the training size. Or the float64 numbers of a row.
        data: what the data module knew of its training data: ``mean``, ``std``, ``shape``, ``resize``, ``label_names``.
        source: ``run``, ``checkpoint`` and its ``sha256``.
        versions: of plcourse, torch and what wrote the file.
        opset: the version of ONNX's operators, None for other formats.
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
        """One name per class, empty where the data module knew none."""
        return list(self.data.get("label_names", []))

    def to_json(self) -> str:
        """The card as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "Card":
        """The card of the fields that `dataclasses.asdict` gives."""
        ports = {name: [Port(**port) for port in fields[name]] for name in ("inputs", "outputs")}
        return cls(**{**fields, **ports})

    @classmethod
    def from_json(cls, text: str, label: str = "the file") -> "Card":
        """Reads what `to_json` wrote.

        Raises:
            UserError: it is not a card of this suite.
        """
        try:
            return cls.of(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(f"{label} carries no card of this suite: export it with `plcourse export`") from error


def flatten(returned: Any) -> list[Any]:
    """The tensors of what a ``forward`` returned: itself, or the values of its tuple or dict in order."""
    if isinstance(returned, dict):
        return list(returned.values())
    return list(returned) if isinstance(returned, tuple | list) else [returned]
