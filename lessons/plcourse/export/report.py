"""The table that `plcourse export` prints; ``export/verification.json`` has the same numbers in full."""

from collections.abc import Sequence
from typing import Any

from plcourse.core.export_request import FORMATS


def table(rows: Sequence[dict[str, Any]], sizes: Sequence[int]) -> list[str]:
    """One line per row: the trained model, then each format; what failed stands below it."""
    width = max(map(len, FORMATS))
    heads = "".join(f"{f'p50/p99 ms at {size}':>20}" for size in sizes)
    names = f"{'size':>9}{'load':>10}{'deviation':>11}{'agree':>9}{'metric':>9}{'drop':>9}"
    lines = [f"  {'format':<{width}}{names}{heads}"]
    for row in rows:
        if "batches" not in row:
            lines.append(f"  {row['format']:<{width}}  {row['status']}: {row['failed'][0]}")
            continue
        batches = row["batches"].values()
        deviation = max((each["max_deviation"] for each in batches if "max_deviation" in each), default=None)
        agreement = min((each["agreement"] for each in batches if each.get("agreement") is not None), default=None)
        metric = row.get("metric", {})
        cells = [
            f"{_size(row.get('bytes')):>9}",
            f"{_ms(row.get('load_ms')):>10}",
            f"{deviation:>11.1e}" if deviation is not None else f"{'-':>11}",
            f"{agreement:>9.4f}" if agreement is not None else f"{'-':>9}",
            f"{metric['exported']:>9.4f}" if metric else f"{row.get('score', '-'):>9}",
            f"{metric['drop'] + 0.0:>9.4f}" if metric else f"{'-':>9}",
            *(f"{_latency(row['batches'].get(str(size))):>20}" for size in sizes),
        ]
        lines.append(f"  {row['format']:<{width}}{''.join(cells)}  {row['status']}")
        lines += [
            f"    {each['name']} {each['exported']:.4f}, drop {each['drop'] + 0.0:.4f}"
            for each in row.get("other_metrics", [])
        ]
        lines += [f"    {reason}" for reason in row.get("failed", [])]
    return lines


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e3:,.0f} kB"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def _latency(batch: dict[str, Any] | None) -> str:
    return "-" if batch is None else f"{batch['p50_ms']:.2f}/{batch['p99_ms']:.2f}"
