"""What each config gives: its score over seeds, its minutes and its memory, from the records of real runs.

    python scripts/measure.py [NAME ...] [--seeds 0 1 2]    # runs them, and keeps their records in scripts/measured/
    python scripts/measure.py --table                       # writes the tables of README.md and the guides anew

A table stands wherever a page has the two lines `<!-- measured: LESSON -->` (or `all`) and `<!-- end of measured -->`.
Run it on a quiet machine: minutes of a busy one are no minutes. A test holds the tables to the records, and every
config that needs nothing to have a record or to be listed in `scripts/measured/pending.txt`.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from plcourse import catalog
from plcourse.core.configs import find_config, parse_header
from plcourse.core.runs import Run

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "scripts" / "measured"
PENDING = RECORDS / "pending.txt"
_BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n)(.*?)(<!-- end of measured -->)", re.DOTALL)
_ONE_RUN = """
import json, resource, subprocess, sys
status = subprocess.run([sys.executable, "-m", "plcourse", *sys.argv[2:]]).returncode
with open(sys.argv[1], "w") as file:
    json.dump({"status": status, "peak_kib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}, file)
"""


def measurable() -> list[str]:
    """The configs that train and need nothing that is not here."""
    headers = {name: parse_header(find_config(name)) for name in catalog.config_names()}
    return [name for name, header in headers.items() if "fit" in header.verbs and not header.needs]


def config_hash(name: str) -> str:
    """A short hash of a config with every default written out: a record of another one is of no use."""
    return hashlib.sha256(catalog.resolved_path(name).read_bytes()).hexdigest()[:16]


def measure(name: str, seed: int) -> dict[str, Any]:
    """Runs one config with one seed, as a user does; gives its record."""
    then = ["--then", "test"] if "test" in parse_header(find_config(name)).verbs else []
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = ["fit", "-c", name, "--seed_everything", str(seed), *then, "--runs_root", f"{folder}/runs"]
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        subprocess.run([sys.executable, "-c", _ONE_RUN, str(result), *command], check=True, env=environment)
        found = json.loads(result.read_text())
        if found["status"]:
            raise SystemExit(f"{name} with seed {seed} ended with status {found['status']}")
        run = Run.load(name, f"{folder}/runs")
        record = run.record
        metric, value = _score(record, run.eval("test")["metrics"] if then else {})
    kept = {key: record[key] for key in ("seed", "seconds", "training_seconds", "versions", "hardware", "command")}
    return {**kept, "metric": metric, "value": value, "peak_mib": round(found["peak_kib"] / 1024)}


def _score(record: dict[str, Any], tested: dict[str, float]) -> tuple[str, float]:
    """The score that stands for a run: its test accuracy, else what it was chosen by, on the test part if any."""
    best = record.get("best") or {}
    wanted = ["test/accuracy", f"test/{str(best.get('metric')).partition('/')[2]}", *tested]
    metric = next((name for name in wanted if name in tested), None)
    return (metric, tested[metric]) if metric else (best["metric"], best["value"])


def records(folder: Path = RECORDS) -> dict[str, dict[str, Any]]:
    """What was measured, by config, in the lessons' order."""
    files = {name: folder / f"{name}.json" for name in catalog.config_names()}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def table(lesson: str, found: dict[str, dict[str, Any]]) -> str:
    """The rows of one lesson's configs, or of all.

    Args:
        lesson: its key, or `all`.
        found: the records by config.
    """
    lines = ["| config | score, mean (sd) over seeds | minutes | peak memory, MiB |", "|---|---|---|---|"]
    for name, record in found.items():
        if lesson not in ("all", name.partition("/")[0]):
            continue
        runs = record["runs"]
        values = [run["value"] for run in runs]
        spread = f" ({stdev(values):.2g}), {len(values)} seeds" if len(values) > 1 else ", 1 seed"
        minutes = fmean(run["seconds"] for run in runs) / 60
        peak = max(run["peak_mib"] for run in runs)
        lines.append(f"| `{name}` | {runs[0]['metric']} {fmean(values):.4g}{spread} | {minutes:.1f} | {peak:,} |")
    return "\n".join(lines) + "\n"


def pages() -> list[Path]:
    """The pages that may show a table."""
    return [ROOT / "README.md", *sorted((ROOT / "lessons").rglob("README.md"))]


def written(text: str, found: dict[str, dict[str, Any]]) -> str:
    """A page with its tables as the records have them."""
    return _BLOCK.sub(lambda block: f"{block[1]}{table(block[2], found)}{block[4]}", text)


def main() -> None:
    """Measures, or writes the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="configs; all that need nothing when none is named")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        for name in options.names or measurable():
            runs = [measure(name, seed) for seed in options.seeds]
            file = RECORDS / f"{name}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"config_hash": config_hash(name), "runs": runs}, indent=1) + "\n")
            print(table("all", {name: {"runs": runs}}).splitlines()[-1], flush=True)
        waiting = [name for name in PENDING.read_text().split() if not (RECORDS / f"{name}.json").is_file()]
        PENDING.write_text("".join(f"{name}\n" for name in waiting))
    for page in pages():
        page.write_text(written(page.read_text(encoding="utf-8"), records()), encoding="utf-8")


if __name__ == "__main__":
    main()
