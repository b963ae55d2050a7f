"""The most confident errors: mislabeled samples, or something the model has not understood."""

from pathlib import Path

import numpy as np
import pandas as pd

from plcourse.console.figures import caption, new_figure, save
from plcourse.evaluation.scores import Diagnostic, Finding, Scores
from plcourse.files import atomic_write

_PRINTED = 5
_COLUMNS = 6  # images per row of the sheet


class ConfidentErrors(Diagnostic):
    """Writes all errors to ``<stage>-errors.csv``, most confident first, and draws the first ones.

    Args:
        n_images: images on ``<stage>-errors.png``; 0 draws none. The loop's ``n_pictures`` limits it.
    """

    name = "errors"

    def __init__(self, n_images: int = 24) -> None:
        if n_images < 0:
            raise ValueError(f"n_images={n_images}: give 0 or more")
        self.n_images = n_images

    def __call__(self, scores: Scores, folder: Path) -> Finding:
        """Computes the section ``errors`` and writes the table and the sheet."""
        rows = np.flatnonzero(~scores.correct)
        rows = rows[np.argsort(-scores.confidence[rows], kind="stable")]
        names = np.array(scores.label_names)
        frame = pd.DataFrame(
            {
                "id": scores.ids[rows],
                "true": names[scores.labels[rows]],
                "predicted": names[scores.predicted[rows]],
                "confidence": scores.confidence[rows].round(6),
                "probability_of_true": scores.probability[rows, scores.labels[rows]].round(6),
                **{name: values[rows].round(6) for name, values in scores.uncertainty.items()},
            }
        )
        path = folder / f"{scores.stage}-errors.csv"
        with atomic_write(path) as temporary:
            frame.to_csv(temporary, index=False)
        pictured = [row for row in rows.tolist() if row in scores.pictures][: self.n_images]
        if pictured:
            _draw(scores, pictured, folder / f"{scores.stage}-errors.png")
        first = frame.head(_PRINTED).to_dict("records")
        lines = [f"  {e['id']}: predicted {e['predicted']} with {e['confidence']:.3f}, true {e['true']}" for e in first]
        title = [f"{len(rows)} errors, all in {path.name}; the most confident ones:"] if lines else []
        return {"n": len(rows), "table": path.name, "surest": first}, [*title, *lines]


def _draw(scores: Scores, rows: list[int], path: Path) -> None:
    n_rows = -(-len(rows) // _COLUMNS)
    figure = new_figure(1.3 * _COLUMNS, 1.75 * n_rows)
    grid = figure.subplots(n_rows, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, row in zip(grid.flat, rows, strict=False):
        axes.imshow(scores.pictures[row], cmap="gray", vmin=0, vmax=1)
        truth, guess = (caption(scores.label_names[k], 13) for k in (scores.labels[row], scores.predicted[row]))
        axes.set_title(f"true {truth}\npredicted {guess}\nconfidence {scores.confidence[row]:.3f}", fontsize=7)
    save(figure, path)
