"""The page of a comparison: the verdicts first, then the intervals, the arms and every score behind them."""

import shlex
from collections.abc import Sequence

from plcourse.verbs.compare.result import Comparison, ComparisonResult
from plcourse.verbs.compare.wording import grid_line, interval_name, plural
from plcourse.verbs.report import page
from plcourse.verbs.report.charts import forest


def comparison_page(result: ComparisonResult, command: Sequence[str]) -> str:
    """The page of a comparison as HTML; `command` shows the comparison in the terminal."""
    better = "larger" if result.mode == "max" else "smaller"
    used = sum(cell.left_out is None for comparison in result.comparisons for cell in comparison.cells)
    header = (
        f'<p class="kicker">A comparison by plcourse</p><h1>{page.text(result.metric)}</h1>'
        f'<p class="meta">{better} is better; {plural(used, "score")} compared</p>'
    )
    header += "".join(f'<p class="problem">Forced: {page.text(line)}</p>' for line in result.forced)
    interval = interval_name(1 - result.alpha)
    sections = []
    for at, comparison in enumerate(result.comparisons):
        key = f"-{at + 1}" if len(result.comparisons) > 1 else ""
        where = f" at {grid_line(comparison.grid)}" if comparison.grid else ""
        sections += [
            (f"verdict{key}", f"Verdict{where}", _verdict(comparison, interval)),
            (f"arms{key}", f"Arms{where}", _arms(comparison, interval)),
            (f"values{key}", f"Every score{where}", _cells(comparison)),
        ]
    notes = "".join(f"<li>{page.text(note)}</li>" for note in result.notes)
    sections.append(("notes", "How it was compared", f"<ul>{notes}</ul>" if notes else ""))
    sections.append(("repeat", "How to repeat it", page.code(shlex.join(command))))
    return page.document(f"Comparison of {result.metric}", header, sections)


def _verdict(comparison: Comparison, interval: str) -> str:
    sentences = "".join(f'<p class="verdict">{page.text(test.sentence)}</p>' for test in comparison.tests)
    return sentences + forest(comparison.tests, f"difference to {comparison.baseline}, {interval}")


def _arms(comparison: Comparison, interval: str) -> str:
    tests = {test.arm: test for test in comparison.tests}
    keys = ("difference", "low", "high", "p", "p_holm", "effect_size")
    rows = [
        [arm.arm, arm.n, arm.mean, arm.sd, *(getattr(tests.get(arm.arm), key, None) for key in keys)]
        for arm in comparison.arms
    ]
    head = ["arm", "n", "mean", "sd", "difference", "low", "high", "p", "p (Holm)", "d"]
    caption = f"{comparison.test} test of each arm against {comparison.baseline}, with {interval}s of the difference"
    return page.table(head, rows, caption)


def _cells(comparison: Comparison) -> str:
    folded = any(cell.fold is not None for cell in comparison.cells)
    head = ["arm", "seed", *["fold"] * folded, "steps", "value", "left out because", "run"]
    rows = []
    for cell in comparison.cells:
        row = [cell.arm, cell.seed, *[cell.fold] * folded, cell.steps, cell.value]
        rows.append([*row, cell.left_out or "", cell.row()["run"] or ""])
    return page.details(f"all {len(rows)} scores", page.table(head, rows, "Each score, and the run it is from"))
