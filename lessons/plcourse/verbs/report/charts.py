"""Curves and intervals as SVG inside the page, with the values as logged, never smoothed.

A drawing is 400 units wide, about the width of a phone, so its text stays readable there. Lines differ in color and in
their dashes.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from plcourse.verbs.compare.result import ArmTest
from plcourse.verbs.report.page import text

_WIDTH, _HEIGHT = 400, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 10, 36
_MOST_POINTS = 600  # of one line; more cannot be told apart at this width
_COLORS = 7


class Line(NamedTuple):
    """One line of a chart."""

    name: str  # its name in the legend; lines of the same name share a color
    steps: Sequence[float]  # [N] optimizer steps
    values: Sequence[float]  # [N]; a value that is not finite leaves a gap


def curve(title: str, lines: Sequence[Line], mark: float | None = None) -> str:
    """A chart of one metric over the steps, with the best checkpoint's step marked; empty without a finite value."""
    finite = [(s, v) for line in lines for s, v in zip(line.steps, line.values, strict=True) if math.isfinite(v)]
    if not finite:
        return ""
    steps, values = zip(*finite, strict=True)
    log = min(values) > 0 and max(values) / min(values) > 200
    across = _Axis(min(0, *steps), max(steps), _LEFT, _WIDTH - _RIGHT)
    up = _Axis(min(values), max(values), _HEIGHT - _BOTTOM, _TOP, log)
    names = list(dict.fromkeys(line.name for line in lines))
    parts = _frame(across, up)
    if mark is not None and 0 <= mark <= max(steps):
        x = across.place(mark)
        parts.append(f'<line class="mark" x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    thinned = False
    for line in lines:
        kind = names.index(line.name)
        many = sum(other.name == line.name for other in lines) > 1
        for segment in _segments(line):
            kept = _downsampled(segment)
            thinned |= len(kept) < len(segment)
            parts.append(_polyline([(across.place(s), up.place(v)) for s, v in kept], kind, many))
    notes = ["upwards: logarithmic scale"] * log + ["lowest and highest value of each stretch"] * thinned
    label = "step" + (f" ({'; '.join(notes)})" if notes else "")
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">{label}</text>')
    words = f"{title} over {len(set(steps))} steps: " + "; ".join(_in_words(line) for line in lines[:6])
    drawn = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(words)}">{"".join(parts)}</svg>'
    return f'<figure class="chart"><h3>{text(title)}</h3>{_legend(names, lines, mark)}{drawn}</figure>'


def forest(tests: Sequence[ArmTest], label: str) -> str:
    """A chart of the differences of a comparison with their intervals; `label` names the axis."""
    drawn = [(test, test.difference) for test in tests if test.difference is not None]
    if not drawn:
        return ""
    ends = [end for test, difference in drawn for end in (test.low, test.high, difference) if end is not None]
    left, top, row = 12, 8, 44
    axis = _Axis(min(0.0, *ends), max(0.0, *ends), left + 8, _WIDTH - 20)
    height = top + row * len(drawn) + 40
    zero = axis.place(0)
    parts = []
    for tick, shown in axis.ticks(5):
        x = axis.place(tick)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{height - 36}"/>')
        parts.append(f'<text x="{x}" y="{height - 22}" text-anchor="middle">{shown}</text>')
    parts.append(f'<line class="zero" x1="{zero}" x2="{zero}" y1="{top}" y2="{height - 36}"/>')
    for at, (test, difference) in enumerate(drawn):
        y = top + row * at + 30
        kind = (at + 1) % _COLORS
        parts.append(f'<text class="strong" x="{left}" y="{y - 14}">{text(test.arm)}: {text(test.verdict)}</text>')
        if test.low is not None and test.high is not None:
            low, high = axis.place(test.low), axis.place(test.high)
            parts.append(f'<line class="s{kind}" stroke-width="3" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="s{kind}" cx="{axis.place(difference)}" cy="{y}" r="4.5"/>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{height - 4}" text-anchor="middle">{text(label)}</text>')
    words = "; ".join(test.sentence for test in tests)
    svg = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{text(words)}">{"".join(parts)}</svg>'
    return f'<figure class="chart forest">{svg}</figure>'


class _Axis:
    """Maps values to coordinates of the drawing."""

    def __init__(self, low: float, high: float, begin: float, end: float, log: bool = False) -> None:
        if log:
            low, high = math.log10(low), math.log10(high)
        margin = (0 if log else abs(low) * 0.05) or 0.5
        self.low, self.high = (low - margin, high + margin) if low == high else (low, high)
        self.begin, self.end, self.log = begin, end, log

    def place(self, value: float) -> float:
        """The coordinate of a value."""
        at = math.log10(value) if self.log else value
        return round(self.begin + (at - self.low) / (self.high - self.low) * (self.end - self.begin), 1)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Round values within the axis, with their labels."""
        if self.log:
            tens = [10.0**power for power in range(math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9) + 1)]
            return [(tick, f"{tick:g}") for tick in tens[:: max(1, math.ceil(len(tens) / most))]]
        for finer in (1, 2):  # a single tick would show no scale
            step = _round_step((self.high - self.low) / (most * finer))
            first = math.ceil(self.low / step - 1e-9)
            count = math.floor((self.high - first * step) / step + 1e-9) + 1
            if count > 1:
                break
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        large = max(abs(self.low), abs(self.high)) >= 1e5 or (digits > 5)
        ticks = [(first + at) * step for at in range(count)]
        return [(tick, f"{tick:g}" if large else f"{tick + 0.0:.{digits}f}") for tick in ticks]


def _round_step(rough: float) -> float:
    ten = 10.0 ** math.floor(math.log10(rough))
    return next(step * ten for step in (1, 2, 5, 10) if step * ten >= rough * (1 - 1e-9))


def _frame(across: _Axis, up: _Axis) -> list[str]:
    parts = []
    for tick, shown in up.ticks(4):
        y = up.place(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{shown}</text>')
    for tick, shown in across.ticks(5):
        parts.append(f'<text x="{across.place(tick)}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{shown}</text>')
    return parts


def _segments(line: Line) -> list[list[tuple[float, float]]]:
    """Splits a line at values that are not finite."""
    points = zip(line.steps, line.values, strict=True)
    groups = groupby(points, key=lambda point: math.isfinite(point[1]))
    return [list(segment) for is_finite, segment in groups if is_finite]


def _downsampled(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Keeps the lowest and highest point of each stretch of a long line, so that no spike is lost."""
    if len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(len(points) / (_MOST_POINTS // 2))
    kept = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return kept


def _polyline(points: list[tuple[float, float]], kind: int, thin: bool) -> str:
    color = f"s{kind % _COLORS}"
    if len(points) == 1:
        return f'<circle class="{color}" cx="{points[0][0]}" cy="{points[0][1]}" r="3"/>'
    style = "thin" if thin else f"d{kind % 4}"
    joined = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline class="{color} {style}" points="{joined}"/>'


def _legend(names: Sequence[str], lines: Sequence[Line], mark: float | None) -> str:
    items = []
    for kind, name in enumerate(names):
        many = sum(line.name == name for line in lines)
        dashes = "" if many > 1 else f" d{kind % 4}"
        swatch = f'<svg viewBox="0 0 26 8" aria-hidden="true"><line class="s{kind % _COLORS}{dashes}" '
        swatch += 'stroke-width="2.5" x1="0" x2="26" y1="4" y2="4"/></svg>'
        items.append(f"<li>{swatch}{text(name)}{f', {many} lines' if many > 1 else ''}</li>")
    if mark is not None:
        swatch = '<svg viewBox="0 0 26 8" aria-hidden="true"><line class="mark" x1="13" x2="13" y1="0" y2="8"/></svg>'
        items.append(f"<li>{swatch}best</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _in_words(line: Line) -> str:
    finite = [value for value in line.values if math.isfinite(value)]
    return f"{line.name} from {finite[0]:.4g} to {finite[-1]:.4g}" if finite else f"{line.name} never finite"
