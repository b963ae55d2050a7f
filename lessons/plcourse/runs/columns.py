"""Turns the result of ``predict_step`` into an Arrow table, with as few copies as possible.

A prediction maps column names to B values each. Tensors and arrays [B] become plain columns, tensors [B, K] columns of
fixed-size lists, and lists of strings string columns; Arrow arrays are kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from plcourse.errors import UserError, nearest


def to_table(
    prediction: Mapping[str, Any], label_names: Sequence[str] | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Returns the rows of one prediction.

    Args:
        prediction: columns of equal length; ``label`` holds class numbers.
        label_names: names of the classes, which add a column ``label_name``.
        columns: the columns to keep, in this order; None keeps all.

    Raises:
        UserError: the prediction lacks a column.
    """
    found = {name: _column(value) for name, value in prediction.items()}
    if "label" in found and label_names:
        found["label_name"] = _names(found["label"], label_names)
    if columns is not None:
        for name in columns:
            if name not in found:
                raise UserError(f"no column '{name}'; the columns are {', '.join(found)}{nearest(name, found)}")
        found = {name: found[name] for name in columns}
    return pa.table(found)


def _names(label: pa.Array, label_names: Sequence[str]) -> pa.Array:
    # a dictionary of a few names takes less space than a string per row
    return pa.DictionaryArray.from_arrays(label.cast(pa.int32()), pa.array(list(label_names), pa.string()))


def _column(value: Any) -> pa.Array:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # NumPy has no bfloat16
    if not isinstance(value, np.ndarray):
        return value if isinstance(value, pa.Array) else pa.array(value)
    if value.ndim == 1:
        return pa.array(value)
    flat = pa.array(value.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, value[0].size if len(value) else value.shape[-1])
