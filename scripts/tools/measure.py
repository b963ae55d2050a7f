"""Measures what each config gives: its score over seeds, its minutes and its memory, from records of real runs.

    python scripts/tools/measure.py                           # seed 0 of every config that has no record of it
    python scripts/tools/measure.py ddp/mlp --seeds 0 1 2     # runs these; keeps their records in measured/
    python scripts/tools/measure.py --table                   # rewrites the table of lessons/results.md

A page has a table between the two lines `<!-- measured: LESSON -->` (or `all`) and `<!-- end of measured -->`, with a
row for every config. A score is the mean over all seeds. Minutes and memory come from runs *alone*, beside which all
other processes used less than a tenth of the machine; each record says how much (`others`, `load`). If a config has no
such run, the shortest time beside other work is shown as a bound: "at most".

The record of a config that has changed is dropped. `scripts/tools/measured/pending.txt` lists the configs without one.
"""

import argparse
import hashlib
import json
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

import regolden
from other_work import OtherWork, is_alone
from plcourse import catalog
from plcourse.runs.configs import find_config, parse_header
from plcourse.runs.run import Run
from plcourse.runs.variants import headline

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "scripts" / "tools" / "measured"
PENDING = RECORDS / "pending.txt"
_BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n)(.*?)(<!-- end of measured -->)", re.DOTALL)
_ONE_RUN = """
import json, resource, subprocess, sys
status = subprocess.run([sys.executable, "-m", "plcourse", *sys.argv[2:]]).returncode
with open(sys.argv[1], "w") as file:
    json.dump({"status": status, "peak_kib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}, file)
"""


def measurable() -> list[str]:
    """Lists the configs that train and need nothing beyond the installation."""
    headers = {name: parse_header(find_config(name)) for name in catalog.config_names()}
    return [name for name, header in headers.items() if "fit" in header.verbs and not header.needs]


def config_hash(name: str) -> str:
    """Returns a short hash of a config and of the beginning of its training.

    The first losses (the golden curve, to three digits) represent every default that the config leaves out: a default
    that changes the training changes them, while a new argument without effect keeps the records valid.
    """
    config = yaml.safe_load(find_config(name).text)
    losses = next((record["losses"] for record in regolden.records(name)), [])
    content = json.dumps([config, [f"{loss:.3g}" for loss in losses]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def measure(name: str, seed: int) -> dict[str, Any]:
    """Runs one config with one seed, as a user does, and returns its record.

    Returns:
        seed, metric and value, all `scores`, `seconds` of the command and of its training, `peak_mib` of its largest
        process, `others` (mean number of cores that other processes kept busy), `load` (of the minute before), `alone`,
        versions, hardware and command.
    """
    command = ["fit", "-c", name, "--seed_everything", str(seed)]
    command += ["--then", "test"] if "test" in parse_header(find_config(name)).verbs else []
    load = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        others = OtherWork()
        call = [sys.executable, "-c", _ONE_RUN, str(result), *command, "--runs_root", f"{folder}/runs"]
        subprocess.run(call, check=True, env=environment)
        seconds, busy = others.seconds(), others.cores()
        found = json.loads(result.read_text())
        if found["status"]:
            raise SystemExit(f"{name} with seed {seed} ended with status {found['status']}")
        run = Run.load(name, f"{folder}/runs")
        record = run.record
        scores = run.eval("test")["metrics"] if "--then" in command else {}
    metric, value = _score(record, scores)
    return {
        **{key: record[key] for key in ("seed", "training_seconds", "versions")},
        "hardware": {key: value for key, value in record["hardware"].items() if key != "hostname"},
        "command": shlex.join(["plcourse", *command]),
        "metric": metric,
        "value": value,
        "scores": scores,
        "seconds": round(seconds, 1),
        "peak_mib": round(found["peak_kib"] / 1024),
        "load": load,
        "others": busy,
        "alone": is_alone(busy),
    }


def _score(record: Mapping[str, Any], tested: dict[str, float]) -> tuple[str, float]:
    """Chooses the score that represents a run: that of the test part, if there is one."""
    best = record.get("best") or {}
    metric = headline(tested, best.get("metric"))
    return (metric, tested[metric]) if metric else (best["metric"], best["value"])


def records(folder: Path = RECORDS) -> dict[str, dict[str, Any]]:
    """Reads the records by config, in the order of the lessons."""
    files = {name: folder / f"{name}.json" for name in catalog.config_names()}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def keep(name: str, run: dict[str, Any], folder: Path = RECORDS) -> None:
    """Adds a run to the record of its config, replacing an earlier run with the same seed."""
    file = folder / f"{name}.json"
    record = json.loads(file.read_text()) if file.is_file() else {}
    if record.get("config_hash") != config_hash(name):
        record = {"config_hash": config_hash(name), "runs": []}
    runs = [each for each in record["runs"] if each["seed"] != run["seed"]]
    record["runs"] = sorted([*runs, run], key=lambda each: each["seed"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n")


def drop_stale(folder: Path = RECORDS) -> list[str]:
    """Removes the records of configs that are gone or have changed; lists the configs without a record."""
    names = measurable()
    for lesson in catalog.LESSONS:
        for file in (folder / lesson.key).glob("*.json"):
            name = f"{lesson.key}/{file.stem}"
            if name not in names or json.loads(file.read_text())["config_hash"] != config_hash(name):
                file.unlink()
    return [name for name in names if not (folder / f"{name}.json").is_file()]


def table(lesson: str, found: dict[str, dict[str, Any]]) -> str:
    """Builds the table of one lesson's configs or of all, with a row also for those without a record.

    Args:
        lesson: its key, or `all`.
        found: the records by config.
    """
    lines = ["| config | score, mean (sd) over seeds | minutes | peak memory, MiB |", "|---|---|---|---|"]
    for name in catalog.config_names(None if lesson == "all" else lesson):
        if name in found:
            lines.append(_row(name, found[name]["runs"]))
        else:
            needs = " and ".join(parse_header(find_config(name)).needs)
            lines.append(f"| `{name}` | {f'needs {needs}' if needs else 'not measured yet'} | | |")
    return "\n".join(lines) + "\n"


def _row(name: str, runs: list[dict[str, Any]]) -> str:
    values = [run["value"] for run in runs]
    spread = f" ({stdev(values):.2g}), {len(values)} seeds" if len(values) > 1 else ", 1 seed"
    alone = [run for run in runs if run["alone"]]
    if alone:
        minutes = f"{fmean(run['seconds'] for run in alone) / 60:.1f}"
    else:
        minutes = f"at most {math.ceil(min(run['seconds'] for run in runs) / 6) / 10:.1f}"
    peak = max(run["peak_mib"] for run in alone or runs)
    return f"| `{name}` | {runs[0]['metric']} {fmean(values):.4g}{spread} | {minutes} | {peak:,} |"


def pages() -> list[Path]:
    """Lists the pages that may contain a table."""
    return [ROOT / "README.md", *sorted((ROOT / "lessons").rglob("*.md"))]


def written(text: str, found: dict[str, dict[str, Any]]) -> str:
    """Replaces the tables of a page by those of the records."""
    return _BLOCK.sub(lambda block: f"{block[1]}{table(block[2], found)}{block[4]}", text)


def missing(names: list[str], seeds: list[int], found: dict[str, dict[str, Any]]) -> list[tuple[str, int]]:
    """Lists configs and seeds without a record, short trainings first where another seed tells their time."""
    seconds = {name: fmean(run["seconds"] for run in record["runs"]) for name, record in found.items()}
    have = {(name, run["seed"]) for name, record in found.items() for run in record["runs"]}
    wanted = [(name, seed) for seed in seeds for name in names if (name, seed) not in have]
    return sorted(wanted, key=lambda each: seconds.get(each[0], float("inf")))


def main() -> None:
    """Measures and writes the tables, or only writes them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="configs; default: all that need nothing and have no record")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    waiting = drop_stale()
    if not options.table:
        pairs = [(name, seed) for name in options.names for seed in options.seeds]
        for name, seed in pairs or missing(measurable(), options.seeds, records()):
            run = measure(name, seed)
            keep(name, run)
            scores = ", ".join(f"{metric} {value:.4g}" for metric, value in run["scores"].items())
            print(
                f"{_row(name, [run])} seed {seed}, training {run['training_seconds']:.0f} s, others' work "
                f"{run['others']:.2f} cores\n  {scores}",
                flush=True,
            )
        waiting = drop_stale()
    PENDING.write_text("".join(f"{name}\n" for name in waiting))
    for page in pages():
        page.write_text(written(page.read_text(encoding="utf-8"), records()), encoding="utf-8")


if __name__ == "__main__":
    main()
