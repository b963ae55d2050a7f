"""Which value of a mask file is which class of a pixel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plcourse.data.mask_files import IGNORE
from plcourse.errors import UserError


def mask_classes(
    values: dict[int, Path], mask_names: Sequence[str] | None, mask_values: Sequence[int] | None
) -> tuple[np.ndarray, int]:
    """Which value of a mask is which class.

    Args:
        values: a mask file for each value that the masks have.
        mask_names: names of the classes, if the user gives them.
        mask_values: the value of each class, if the user lists them; None for 0, 1, 2, ...

    Returns:
        uint8 [256], the class of each value that a mask may have; and how many classes there are.

    Raises:
        UserError: values that are not listed or named, or too few of those that are counted.
    """
    found = sorted(values.keys() - {IGNORE})
    if mask_values is not None:
        return _listed(values, mask_names, mask_values), len(mask_values)
    lookup = np.arange(256, dtype=np.uint8)
    if values.keys() == {0, IGNORE}:  # how many programs write a mask of two classes
        lookup[IGNORE], found = 1, [0, 1]
    count = max(2, max(found, default=0) + 1)
    if mask_names is not None:
        if len(mask_names) < count:
            raise UserError(
                f"mask_folder: the masks have {count} classes, 0 to {count - 1}, and mask_names {len(mask_names)}"
            )
        return lookup, len(mask_names)
    if found and 2 * len(found) < count:  # a rare class may be in no mask, but most of them?
        shown = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        raise UserError(
            f"mask_folder: the masks have the values {shown}, and counted from 0 that makes {count} "
            f"('{values[found[-1]]}' has {found[-1]}); say which value is which class with "
            f"--data.init_args.mask_values='[{shown}]', or name all {count} with mask_names"
        )
    return lookup, count


def _listed(values: dict[int, Path], mask_names: Sequence[str] | None, mask_values: Sequence[int]) -> np.ndarray:
    """The class of each value where the user lists them; what is not listed may only be `IGNORE`."""
    listed = list(mask_values)
    if len(listed) < 2 or len(set(listed)) < len(listed) or not all(0 <= value <= 255 for value in listed):
        raise UserError(f"mask_folder: mask_values is {listed}; give two or more different values from 0 to 255")
    if mask_names is not None and len(mask_names) != len(listed):
        raise UserError(f"mask_folder: mask_values has {len(listed)} classes and mask_names {len(mask_names)}")
    if unknown := sorted(values.keys() - {IGNORE, *listed}):
        raise UserError(
            f"mask_folder: the mask '{values[unknown[0]]}' has the value {unknown[0]}, which mask_values {listed} does "
            "not list; 255 alone may be left out, as a pixel of no class"
        )
    lookup = np.full(256, IGNORE, np.uint8)
    lookup[listed] = np.arange(len(listed))
    return lookup
