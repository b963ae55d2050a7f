"""What the guides promise, read from their text."""

import re

from plcourse import catalog
from plcourse.core.runs import Run


def text_of(lesson: str) -> str:
    """The guide of a lesson."""
    return (catalog.PACKAGE / lesson / "README.md").read_text(encoding="utf-8")


def commands(text: str) -> list[str]:
    """The `plcourse` commands of a page, from its code blocks and its lines; loops of the shell are unrolled."""
    text = re.sub(r" *\\\n\s*", " ", text)
    text = re.sub(r"`(plcourse [^`]+)`", lambda code: f"\n    {' '.join(code[1].split())}\n", text)
    found: list[str] = []
    variable, values = "", [""]
    for line in text.splitlines():
        if loop := re.search(r"\bfor (\w+) in ([^;]*); do", line):
            variable, values = loop[1], loop[2].split()
        command = re.match(r"(?:    |.*\bdo )\s*(plcourse .*)", line)
        if command is None:
            continue
        words = re.split(r"  #| +[|>&](?: |$)|; done", command[1])[0].strip()
        each = re.compile(rf"\$\{{?{variable}\b\}}?") if variable else re.compile("$^")
        found += [each.sub(value, words) for value in values] if each.search(words) else [words]
    return found


def defined(text: str) -> list[re.Pattern[str]]:
    """The metrics that the section "What is logged" defines; ``<word>`` in a name stands for anything."""
    found = re.search(r"^## What is logged\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    names = re.findall(r"`([\w/<>]+)`", found[1])
    return [re.compile(re.sub(r"<\w+>", r"[^/]+", name)) for name in names]


def undefined(lesson: str, metrics: set[str]) -> set[str]:
    """Metrics, such as ``val/loss``, that the guide of a lesson defines neither whole nor without their stage."""
    patterns = defined(text_of(lesson))
    return {
        metric
        for metric in metrics
        if not any(pattern.fullmatch(name) for pattern in patterns for name in (metric, metric.partition("/")[2]))
    }


def logged(run: Run) -> set[str]:
    """Every metric that a run has written: its table, those of its folds, its evaluations."""
    runs = [run, *(Run(path.parent) for path in run.path.glob("folds/*/run.json"))]
    found = {row["metric"] for each in runs for row in each.metrics}
    for path in run.path.glob("eval/*.json"):
        found |= set(run.eval(path.stem)["metrics"])
    return found
