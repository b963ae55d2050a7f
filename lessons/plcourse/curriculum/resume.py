"""Compares the curriculum of a checkpoint with that of the run that resumes from it."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from torch import Tensor

from plcourse.errors import UserError

_TOLERANCE = 1e-5  # relative and absolute; scores computed on another machine may differ by rounding


class CurriculumState(TypedDict):
    """The curriculum of N samples in a checkpoint."""

    data: str  # a digest of the training samples and their labels
    settings: Mapping[str, object]  # order, balance, pacing and weighting
    scores: Tensor | None  # float64 [N]; None without a scorer
    ranking: Tensor  # int64 [N]
    total_batches: float
    pacing: Mapping[str, float]


def check_unchanged(
    saved: CurriculumState,
    data: str,
    settings: Mapping[str, object],
    scores_N: np.ndarray | None,
    ids: Sequence[str],
) -> None:
    """Raises a UserError if the curriculum differs from the one saved in the checkpoint."""
    if saved["data"] != data:
        raise UserError(
            "the checkpoint's curriculum orders other training samples or labels: restore the data and their split, or "
            "start a new run"
        )
    for name, now in settings.items():
        if (before := saved["settings"][name]) != now:
            raise UserError(
                f"the checkpoint was trained with {name} {before}, now it is {now}: restore it, or start a new run"
            )
    before_N = None if saved["scores"] is None else saved["scores"].numpy()
    if before_N is None or scores_N is None:
        if before_N is not scores_N:
            has, lacks = ("this run", "the checkpoint") if before_N is None else ("the checkpoint", "this run")
            raise UserError(f"{has} has scores and {lacks} has none: restore the scorer of the checkpoint")
        return
    (differing,) = np.nonzero(~np.isclose(before_N, scores_N, rtol=_TOLERANCE, atol=_TOLERANCE))
    if len(differing):
        first = int(differing[0])
        raise UserError(
            f"{len(differing)} of {len(ids)} scores differ from those of the checkpoint, first that of {ids[first]!r}: "
            f"{before_N[first]:.6g} then, {scores_N[first]:.6g} now; restore the scores, or start a new run"
        )
