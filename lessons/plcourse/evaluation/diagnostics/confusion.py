"""Which classes are mistaken for which."""

from pathlib import Path

import numpy as np

from plcourse.console.figures import caption, new_figure, save
from plcourse.evaluation.scores import Diagnostic, Finding, Scores

_LISTED = 5
_NUMBERED = 20  # with more classes, the cells are too small for counts


class Confusion(Diagnostic):
    """The confusion matrix as counts and as ``<stage>-confusion.png``; rows are true classes, columns predictions."""

    name = "confusion"

    def __call__(self, scores: Scores, folder: Path) -> Finding:
        """Computes the section ``confusion`` and lists the most frequent mistakes."""
        matrix_KK, names = confusion_matrix(scores), scores.label_names
        _draw(matrix_KK, names, folder / f"{scores.stage}-confusion.png")
        mistakes = matrix_KK - np.diag(np.diag(matrix_KK))
        order = np.argsort(-mistakes, axis=None, kind="stable")[:_LISTED]
        pairs = [divmod(int(cell), len(names)) for cell in order if mistakes.flat[cell]]
        listed = [f"{names[truth]} as {names[guess]} ({mistakes[truth, guess]})" for truth, guess in pairs]
        lines = [f"  most frequent mistakes: {', '.join(listed)}"] if listed else []
        return {"label_names": list(names), "matrix": matrix_KK.tolist()}, lines


def confusion_matrix(scores: Scores) -> np.ndarray:
    """int64 [K, K], sample counts by true and predicted class."""
    k = len(scores.label_names)
    return np.bincount(scores.labels * k + scores.predicted, minlength=k * k).reshape(k, k)


def _draw(matrix_KK: np.ndarray, names: list[str], path: Path) -> None:
    size = min(10.0, 2.6 + 0.36 * len(names))
    figure = new_figure(size, size)
    axes = figure.subplots()
    fractions = matrix_KK / np.maximum(matrix_KK.sum(axis=1, keepdims=True), 1)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= _NUMBERED:
        names = [caption(name) for name in names]
        axes.set_xticks(range(len(names)), names, rotation=45 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(len(names)), names)
        for (truth, guess), count in np.ndenumerate(matrix_KK):
            if count:
                color = "white" if fractions[truth, guess] > 0.6 else "black"
                axes.text(guess, truth, count, ha="center", va="center", fontsize=7, color=color)
    axes.set(xlabel="predicted", ylabel="true", title="sample counts; shade: fraction of the true class")
    axes.title.set_fontsize(9)
    save(figure, path)
