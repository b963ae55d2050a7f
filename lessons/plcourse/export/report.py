"""The table that `plcourse export` prints; ``export/verification.json`` has the same numbers in full."""

from collections.abc import Sequence
from typing import Any

from plcourse.core.layout import aligned, broken, fitted, width


def table(rows: Sequence[dict[str, Any]], sizes: Sequence[int]) -> list[str]:
    """One line per row: the trained model, then each format; what failed stands below it."""
    limit = width()
    head = ["  format", "size", "load", "deviation", "agree", "metric", "drop"]
    head += [*(f"p50/p99 ms at {size}" for size in sizes), "status"]
    cells, below = [], []
    for row in rows:
        if "batches" not in row:
            cells.append([f"  {row['format']}", *["-"] * (len(head) - 2), row["status"]])
            below.append([f"    {row['failed'][0]}"])
            continue
        batches = row["batches"].values()
        deviation = max((each["max_deviation"] for each in batches if "max_deviation" in each), default=None)
        agreement = min((each["agreement"] for each in batches if each.get("agreement") is not None), default=None)
        metric = row.get("metric", {})
        cells.append(
            [
                f"  {row['format']}",
                _size(row.get("bytes")),
                _ms(row.get("load_ms")),
                f"{deviation:.1e}" if deviation is not None else "-",
                f"{agreement:.4f}" if agreement is not None else "-",
                f"{metric['exported']:.4f}" if metric else str(row.get("score", "-")),
                f"{metric['drop'] + 0.0:.4f}" if metric else "-",
                *(_latency(row["batches"].get(str(size))) for size in sizes),
                row["status"],
            ]
        )
        others = row.get("other_metrics", [])
        below.append(
            [f"    {each['name']} {each['exported']:.4f}, drop {each['drop'] + 0.0:.4f}" for each in others]
            + [f"    {reason}" for reason in row.get("failed", [])]
        )
    right = range(1, len(head) - 1)
    lines = aligned([head, *cells], right)
    if limit is None or max(map(len, lines)) <= limit:
        first, *whole = lines
        pairs = [[line] for line in whole]
    else:
        first = ""
        pairs = [fitted(head, [row], right, limit) for row in cells]
    found = [first, *(line for pair, more in zip(pairs, below, strict=True) for line in [*pair, *more])]
    return [part for line in found if line for part in broken(line, limit, "      ")]


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e3:,.0f} kB"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def _latency(batch: dict[str, Any] | None) -> str:
    return "-" if batch is None else f"{batch['p50_ms']:.2f}/{batch['p99_ms']:.2f}"
