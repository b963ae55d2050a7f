"""The page of a comparison: the verdicts first, then the intervals, the arms and every score behind them."""

import shlex
from collections.abc import Sequence
from typing import Any

from plcourse.verbs.compare.wording import grid_line, interval_name, plural
from plcourse.verbs.report import page
from plcourse.verbs.report.charts import forest


def comparison_page(report: dict[str, Any], command: Sequence[str]) -> str:
    """The page of a comparison as HTML.

    Args:
        report: of `plcourse.verbs.compare.result.build_report`.
        command: the words of the command that makes this comparison in the terminal.
    """
    metric = report["metric"]
    better = "larger" if report["mode"] == "max" else "smaller"
    comparisons = report["comparisons"]
    runs = sum(cell["used"] for comparison in comparisons for cell in comparison["cells"])
    header = (
        f'<p class="kicker">A comparison by plcourse</p><h1>{page.text(metric)}</h1>'
        f'<p class="meta">{better} is better; {plural(runs, "score")} compared</p>'
    )
    header += "".join(f'<p class="problem">Forced: {page.text(line)}</p>' for line in report["forced"])
    sections = []
    for at, comparison in enumerate(comparisons):
        key = f"-{at + 1}" if len(comparisons) > 1 else ""
        where = f" at {grid_line(comparison['grid'])}" if comparison["grid"] else ""
        sections += [
            page.section(f"verdict{key}", f"Verdict{where}", _verdict(comparison, report)),
            page.section(f"arms{key}", f"Arms{where}", _arms(comparison, report)),
            page.section(f"values{key}", f"Every score{where}", _cells(comparison)),
        ]
    notes = "".join(f"<li>{page.text(note)}</li>" for note in report["notes"])
    sections.append(page.section("notes", "How it was compared", f"<ul>{notes}</ul>" if notes else ""))
    sections.append(page.section("repeat", "How to repeat it", page.code(shlex.join(command))))
    return page.document(f"Comparison of {metric}", header, sections, "<p>Written by <code>plcourse report</code>.</p>")


def _verdict(comparison: dict[str, Any], report: dict[str, Any]) -> str:
    sentences = "".join(f'<p class="verdict">{page.text(test["sentence"])}</p>' for test in comparison["tests"])
    label = f"difference to {comparison['baseline']}, {interval_name(1 - report['alpha'])}"
    return sentences + forest(comparison["tests"], label)


def _arms(comparison: dict[str, Any], report: dict[str, Any]) -> str:
    tests = {test["arm"]: test for test in comparison["tests"]}
    rows = []
    for arm in comparison["arms"]:
        test = tests.get(arm["arm"], {})
        keys = ("difference", "low", "high", "p", "p_holm", "effect_size")
        rows.append([arm["arm"], arm["n"], arm["mean"], arm["sd"], *(test.get(key) for key in keys)])
    head = ["arm", "n", "mean", "sd", "difference", "low", "high", "p", "p (Holm)", "d"]
    caption = f"{comparison['test']} test of each arm against {comparison['baseline']}, "
    return page.table(head, rows, f"{caption}with {interval_name(1 - report['alpha'])}s of the difference")


def _cells(comparison: dict[str, Any]) -> str:
    folds = any(cell["fold"] is not None for cell in comparison["cells"])
    head = ["arm", "seed", *["fold"] * folds, "steps", "value", "left out because", "run"]
    rows = []
    for cell in comparison["cells"]:
        row = [cell["arm"], cell["seed"], *[cell["fold"]] * folds, cell["steps"], cell["value"]]
        rows.append([*row, cell["left_out"] or "", cell["run"] or ""])
    return page.folded(f"all {len(rows)} scores", page.table(head, rows, "Each score, and the run it is from"))
