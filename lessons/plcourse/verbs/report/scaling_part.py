"""The part of a run's page with the result of `plcourse benchmark scaling` for its config."""

import json
from pathlib import Path
from typing import Any

from plcourse.runs.run import BENCHMARKS
from plcourse.verbs.report import page

_HEAD = ["job", "samples/s", "times one rank", "low", "high", "efficiency", "MiB a rank"]


def scaling_part(run: Path, config: str) -> str:
    """Shows the newest finished benchmark of a config in the run's root of runs; empty without one."""
    above = run.resolve().parents
    files = above[2].glob(f"{BENCHMARKS}/scaling/*/scaling.json") if len(above) > 2 else ()
    for file in sorted(files, reverse=True):
        report = _finished(file)
        if report.get("config") != config:
            continue
        rows = [
            [
                row["job"],
                row["samples_per_second"]["median"],
                *(row["speedup"][key] for key in ("median", "low", "high")),
                row["efficiency"]["median"],
                row["memory_bytes_per_rank"] / 2**20,
            ]
            for row in report["rows"]
        ]
        said = (
            f"{report['global_batch']} samples a step over all ranks, {report['pairs']} interleaved rounds; medians of "
            "the ratios within a round, with 95 % intervals"
        )
        parts = [*(f"<p>{page.text(sentence)}</p>" for sentence in report["sentences"]), page.table(_HEAD, rows, said)]
        plot = file.with_suffix(".png")
        if plot.is_file() and page.is_png(plot):
            parts.append(page.picture(plot, "Scaling: samples per second of each job, and where a step's time goes"))
        return "".join(parts)
    return ""


def _finished(file: Path) -> dict[str, Any]:
    """Reads a benchmark's file; empty if it did not finish or cannot be read."""
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) and report.get("status") == "finished" and report.get("rows") else {}
