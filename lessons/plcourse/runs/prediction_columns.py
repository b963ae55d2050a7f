"""Makes columns of whatever a ``predict_step`` returns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from plcourse.data.loader import sample_ids
from plcourse.errors import UserError

_NAME = "prediction"  # of a result that is not a mapping


def to_columns(prediction: object) -> dict[str, Any]:
    """Returns the columns of one prediction, B values each.

    A mapping has the columns already; those of a mapping inside it are named ``outer.inner``. A tensor or array [B, K]
    becomes K columns ``prediction_0`` and so on, any other one the column ``prediction``. The elements of a tuple
    become one column each, ``prediction_0`` and so on. A list has one element for each sample; if these are mappings
    with the same keys, as of a detector, there is one column for each key. A single number is repeated in every row.
    """
    if isinstance(prediction, Tensor | np.ndarray) and prediction.ndim == 2:
        prediction = tuple(prediction.T)
    elif isinstance(prediction, list) and prediction and all(isinstance(row, Mapping) for row in prediction):
        prediction = {key: [row.get(key) for row in prediction] for key in prediction[0]}
    columns = dict(_flattened(prediction, ""))
    rows = max((len(value) for value in columns.values() if not _is_single(value)), default=1)
    return {name: _repeated(value, rows) if _is_single(value) else value for name, value in columns.items()}


@dataclass(frozen=True)
class Origin:
    """Where the rows of a prediction come from, as far as this is known."""

    batch: object  # the batch that was predicted
    indices: Sequence[int] = ()  # the positions of its samples in the data set
    loader: int | None = None  # the position of its loader; None if there is only one

    def columns(self, rows: int) -> dict[str, Any]:
        """Returns a column ``loader`` if there are several, and a column ``id``, or ``index`` for samples without ids.

        The last two are left out if the prediction has not one row for each sample.
        """
        ids = sample_ids(self.batch)
        found = {"loader": None if self.loader is None else np.full(rows, self.loader), "id": ids}
        found |= {"index": np.asarray(self.indices, np.int64)} if ids is None and len(self.indices) else {}
        return {name: values for name, values in found.items() if values is not None and len(values) == rows}


def to_array(value: object) -> pa.Array:
    """Returns a column: tensors and arrays [B, ...] become lists of fixed size, everything else what Arrow makes of it.

    Raises:
        UserError: Arrow has no type for the values.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # NumPy has no bfloat16
    if isinstance(value, pa.Array):
        return value
    if isinstance(value, np.ndarray) and value.ndim > 1:
        flat = pa.array(value.reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, value[0].size if len(value) else value.shape[-1])
    try:
        return pa.array(value if isinstance(value, np.ndarray) else _plain(value))
    except (pa.ArrowException, TypeError) as error:
        raise UserError(
            f"predict_step returned {_described(value)}, which is no column of a table: return a tensor, or a dict or "
            "tuple of tensors, with one row for each sample"
        ) from error


def _flattened(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yields the columns inside a value; ``name`` is empty for the whole prediction."""
    if hasattr(value, "_asdict"):  # a named tuple
        value = value._asdict()
    if isinstance(value, tuple):
        value, name = {f"{name or _NAME}_{place}": inner for place, inner in enumerate(value)}, ""
    if not isinstance(value, Mapping):
        yield name or _NAME, value
        return
    for key, inner in value.items():
        yield from _flattened(inner, f"{name}.{key}" if name else str(key))


def _is_single(value: object) -> bool:
    return isinstance(value, bool | int | float | str | None) or getattr(value, "ndim", 1) == 0


def _repeated(value: Any, rows: int) -> list[Any]:
    return [value.item() if hasattr(value, "item") else value] * rows


def _plain(value: Any) -> Any:
    """Returns a value in which tensors and arrays are lists, as Arrow wants them inside other lists."""
    if isinstance(value, Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _described(value: object) -> str:
    inside = f" of {type(value[0]).__name__}" if isinstance(value, list) and value else ""
    return f"a {type(value).__name__}{inside}"
