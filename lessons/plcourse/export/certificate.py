"""The rows of ``export/verification.json``, and the table of them that `plcourse export` prints."""

from collections.abc import Sequence
from typing import Required, TypedDict, cast

from plcourse.console.layout import aligned, broken, fitted, width
from plcourse.export.card import Source


class OutputRow(TypedDict):
    """One output compared: the largest value of the trained model, deviations from it, and the worst sample's id.

    ``agreement`` is the fraction of equal decisions; None if the output decides nothing.
    """

    scale: float
    max_deviation: float
    mean_deviation: float
    agreement: float | None
    worst: str


class Comparison(OutputRow):
    """All outputs compared: those of the output that deviates most for its scale, with the least agreement of all."""

    samples: int
    outputs: dict[str, OutputRow]


class Timing(TypedDict):
    """Percentiles of the time of a call, and the number of calls."""

    p50_ms: float
    p99_ms: float
    calls: int


class BatchRow(Comparison, Timing):
    """What is known of one batch size."""


class MetricRow(TypedDict):
    """A test metric of the trained and the exported model; ``drop`` is positive if the exported one is worse."""

    name: str
    trained: float
    exported: float
    drop: float


class Row(TypedDict, total=False):
    """The certificate of one format; the trained model's row has no comparisons."""

    format: Required[str]
    status: Required[str]  # verified; exported, not verified; not exported; the trained model
    failed: list[str]  # each failed check in words
    bytes: int
    load_ms: float
    tolerance: dict[str, float]
    batches: dict[str, BatchRow] | dict[str, Timing]
    raw_shapes: dict[str, int]
    other_size: dict[str, float]
    onnx_reference: dict[str, float]
    metric: MetricRow
    other_metrics: list[MetricRow]
    coverage: dict[str, int] | None
    threads: int
    source: Source
    metrics: dict[str, float]
    score: str


def table(rows: Sequence[Row], sizes: Sequence[int]) -> list[str]:
    """Formats one line per row, with further metrics and failed checks below it."""
    limit = width()
    head = ["  format", "size", "load", "deviation", "agree", "metric", "drop"]
    head += [*(f"p50/p99 ms at {size}" for size in sizes), "status"]
    cells = [_cells(row, sizes) for row in rows]
    right = range(1, len(head) - 1)
    first, *lines = aligned([head, *cells], right)
    if limit is None or max(map(len, [first, *lines])) <= limit:
        found, blocks = [first], [[line] for line in lines]
    else:
        found, blocks = [], [fitted(head, [row], right, limit) for row in cells]
    for row, block in zip(rows, blocks, strict=True):
        found += block
        for each in row.get("other_metrics", []):
            found.append(f"    {each['name']} {each['exported']:.4f}, drop {each['drop'] + 0.0:.4f}")
        found += [f"    {reason}" for reason in row.get("failed", [])]
    return [part for line in found for part in broken(line, limit, "      ")]


def _cells(row: Row, sizes: Sequence[int]) -> list[str]:
    batches = row.get("batches", {})
    compared = [cast(BatchRow, batch) for batch in batches.values() if "max_deviation" in batch]
    agreements = [batch["agreement"] for batch in compared if batch["agreement"] is not None]
    metric = row.get("metric")
    latencies = [batches.get(str(size)) for size in sizes]
    return [
        f"  {row['format']}",
        f"{row['bytes'] / 1e3:,.0f} kB" if "bytes" in row else "-",
        f"{row['load_ms']:.0f} ms" if "load_ms" in row else "-",
        f"{max(batch['max_deviation'] for batch in compared):.1e}" if compared else "-",
        f"{min(agreements):.4f}" if agreements else "-",
        f"{metric['exported']:.4f}" if metric else row.get("score", "-"),
        f"{metric['drop'] + 0.0:.4f}" if metric else "-",  # adding 0.0 turns -0.0 into 0.0
        *(f"{each['p50_ms']:.2f}/{each['p99_ms']:.2f}" if each else "-" for each in latencies),
        row["status"],
    ]
