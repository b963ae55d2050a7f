"""What the guides promise, read from their text."""

import re
import textwrap
from dataclasses import dataclass

from plcourse import catalog
from plcourse.runs.run import Run


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


def first_config(lesson: str) -> str:
    """The config of a guide's first command, the lesson's main one."""
    return commands(text_of(lesson))[0].split(" -c ")[1].split()[0]


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


@dataclass(frozen=True)
class Change:
    """One of the five changes of a guide.

    Args:
        lesson: its key.
        text: of the change, its title first.
    """

    lesson: str
    text: str

    @property
    def blocks(self) -> list[str]:
        """The commands, one text for each code block."""
        text = re.sub(r"```.*?```", "", self.text, flags=re.DOTALL)
        found = re.findall(r"(?:^    .*\n)+", text + "\n", re.MULTILINE)
        return [textwrap.dedent(block) for block in found]

    @property
    def files(self) -> dict[str, str]:
        """The Python file that the change has written, by its name."""
        found = re.search(r"Write `([\w.]+)`.*?```python\n(.*?)```", self.text, re.DOTALL)
        return {found[1]: found[2]} if found else {}

    def says(self, words: str) -> str:
        """Words that must stand in the text, as they stand."""
        assert words in " ".join(self.text.split()), f"the guide no longer says {words!r}"
        return words

    def figures(self, pattern: str) -> list[float]:
        """The numbers that a pattern finds in the text, one for each group."""
        found = re.search(pattern, " ".join(self.text.split()))
        assert found is not None, f"the guide no longer says {pattern!r}"
        return [float(group.replace(",", "")) for group in found.groups()]


def changes(lesson: str) -> list[Change]:
    """The five changes of a lesson's guide."""
    section = re.search(r"^## Five things to change\n(.*?)^## ", text_of(lesson), re.MULTILINE | re.DOTALL)
    assert section is not None
    return [Change(lesson, text) for text in re.split(r"^(?=\*\*\d\. )", section[1], flags=re.MULTILINE)[1:]]
