"""Which class is taken for which."""

from pathlib import Path
from typing import Any

import numpy as np

from plcourse.core.captions import caption
from plcourse.evaluation.diagnostics.drawing import figure, save
from plcourse.evaluation.scores import Diagnostic, Scores

_LISTED = 5
_NUMBERED = 20  # classes up to which counts are written into the cells


class Confusion(Diagnostic):
    """The confusion matrix as counts, rows the truth and columns the prediction, and as ``<stage>-confusion.png``."""

    name = "confusion"

    def __call__(self, scores: Scores, folder: Path) -> tuple[dict[str, Any], list[str]]:
        """See `Diagnostic`."""
        matrix_KK, names = confusion_matrix(scores), scores.label_names
        _draw(matrix_KK, names, folder / f"{scores.stage}-confusion.png")
        mistaken = matrix_KK - np.diag(np.diag(matrix_KK))
        order = np.argsort(-mistaken, axis=None, kind="stable")[:_LISTED]
        pairs = [divmod(int(cell), len(names)) for cell in order if mistaken.flat[cell]]
        listed = [f"{names[truth]} as {names[guess]} {mistaken[truth, guess]}" for truth, guess in pairs]
        lines = [f"  most often mistaken: {', '.join(listed)}"] if listed else []
        return {"label_names": list(names), "matrix": matrix_KK.tolist()}, lines


def confusion_matrix(scores: Scores) -> np.ndarray:
    """int64 [K, K], samples by true and predicted class."""
    k = len(scores.label_names)
    return np.bincount(scores.labels * k + scores.predicted, minlength=k * k).reshape(k, k)


def _draw(matrix_KK: np.ndarray, names: list[str], path: Path) -> None:
    size = min(10.0, 2.6 + 0.36 * len(names))
    drawn, axes = figure(size, size)
    shares = matrix_KK / np.maximum(matrix_KK.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= _NUMBERED:
        names = [caption(name) for name in names]
        axes.set_xticks(range(len(names)), names, rotation=45 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(len(names)), names)
        for (truth, guess), count in np.ndenumerate(matrix_KK):
            if count:
                colour = "white" if shares[truth, guess] > 0.6 else "black"
                axes.text(guess, truth, count, ha="center", va="center", fontsize=7, color=colour)
    axes.set(xlabel="predicted", ylabel="true", title="samples; shade: share of the true class")
    axes.title.set_fontsize(9)
    save(drawn, path)
