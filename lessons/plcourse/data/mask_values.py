"""Which value of a mask file is which class of a pixel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plcourse.data.mask_files import IGNORE
from plcourse.errors import UserError


def mask_classes(
    values: dict[int, Path], mask_names: Sequence[str] | None, mask_values: Sequence[int] | None
) -> tuple[np.ndarray, int]:
    """The class of each value that a mask may have, uint8 [256], and the number of classes.

    Args:
        values: a mask file for each value that the masks have.
        mask_names: names of the classes, if the user gives them.
        mask_values: the value of each class, if the user lists them; None for 0, 1, 2, ...

    Raises:
        UserError: values that are not listed or named, or counted classes most of which do not occur.
    """
    found = sorted(values.keys() - {IGNORE})
    if mask_values is not None:
        return _listed(values, mask_names, mask_values), len(mask_values)
    lookup = np.arange(256, dtype=np.uint8)
    if values.keys() == {0, IGNORE}:  # many programs write a mask of two classes like this
        lookup[IGNORE], found = 1, [0, 1]
    count = max(2, max(found, default=0) + 1)
    if mask_names is not None:
        if len(mask_names) < count:
            raise UserError(
                f"mask_folder: the masks have {count} classes, 0 to {count - 1}, and mask_names {len(mask_names)}"
            )
        return lookup, len(mask_names)
    if found and 2 * len(found) < count:  # a rare class may be missing, but not most classes
        shown = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        raise UserError(
            f"mask_folder: the masks have the values {shown}, which would be {count} classes counted from 0 "
            f"('{values[found[-1]]}' has {found[-1]}); say which value is which class with "
            f"--data.init_args.mask_values='[{shown}]', or name all {count} with mask_names"
        )
    return lookup, count


def _listed(values: dict[int, Path], mask_names: Sequence[str] | None, mask_values: Sequence[int]) -> np.ndarray:
    """The class of each value that the user lists; the only other value may be `IGNORE`."""
    listed = list(mask_values)
    if len(listed) < 2 or len(set(listed)) < len(listed) or not all(0 <= value <= 255 for value in listed):
        raise UserError(f"mask_folder: mask_values is {listed}; give two or more different values from 0 to 255")
    if mask_names is not None and len(mask_names) != len(listed):
        raise UserError(f"mask_folder: mask_values has {len(listed)} classes and mask_names {len(mask_names)}")
    if unknown := sorted(values.keys() - {IGNORE, *listed}):
        raise UserError(
            f"mask_folder: the mask '{values[unknown[0]]}' has the value {unknown[0]}, which mask_values {listed} does "
            "not list; only 255, the value of pixels without a class, need not be listed"
        )
    lookup = np.full(256, IGNORE, np.uint8)
    lookup[listed] = np.arange(len(listed))
    return lookup
