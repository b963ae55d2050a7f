"""Measures each lesson's tips on speed, memory and debugging: the same training with and without one change.

    python scripts/tools/measure_tips.py [LESSON ...] [--rounds 3]    # measures; keeps records in measured/tips/
    python scripts/tools/measure_tips.py --table                      # rewrites the tables of lessons/results.md

Every measurement is a separate command, as a user types it. The changes of a lesson take turns in each round, and only
ratios within a round count, so that a slow phase of the machine affects all of them. Time is that of the training at
equal optimizer steps of equal batches without validation, or that of the whole command where the table says so. Memory
is the largest resident set of a process, including the libraries, whose size printing the config shows. The page
has a table of each lesson between the two lines `<!-- tips: LESSON -->` and `<!-- end of tips -->`; a test compares it
with the record.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from other_work import OtherWork, is_alone
from plcourse.runs.run import Run

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "scripts" / "tools" / "measured" / "tips"
PAGE = ROOT / "lessons" / "results.md"
_BLOCK = re.compile(r"(<!-- tips: (\w+) -->\n)(.*?)(<!-- end of tips -->)", re.DOTALL)
_CHECKS = ("--trainer.fast_dev_run true", "--trainer.limit_train_batches 10 --trainer.max_epochs 1")


@dataclass(frozen=True)
class Bench:
    """The measurements of one lesson.

    Args:
        command: the verb and the config, the base of all changes.
        limits: flags that keep each measurement short; the same for all.
        changes: flags, one tip each.
        whole: whether the time of the whole command counts, not that of the training.
        checks: further flags whose whole command is timed once, without the limits.
    """

    command: str
    limits: str
    changes: tuple[str, ...]
    whole: bool = False
    checks: tuple[str, ...] = _CHECKS


_BF16 = "--trainer.precision bf16-mixed"
_WORKERS = "--data.init_args.num_workers 2"
_ACCUMULATE = "--trainer.accumulate_grad_batches 4 --data.init_args.batch_size 16"
_NO_VAL = "--trainer.limit_val_batches 0 --trainer.num_sanity_val_steps 0"

BENCHES = {
    "ddp": Bench(
        "fit -c ddp/one_process",
        f"--trainer.max_steps 100 {_NO_VAL}",
        (_BF16, _WORKERS, _ACCUMULATE, "--model.init_args.network.init_args.recompute true"),
    ),
    "gan": Bench(
        "fit -c gan/r3gan",
        f"--trainer.max_steps 40 {_NO_VAL}",
        (_BF16, _WORKERS, "--model.init_args.micro_batches 4", "--model.init_args.micro_batches 16"),
    ),
    "kfold": Bench(
        "fit -c kfold/classifier",
        "--trainer.fit_loop.init_args.folds [0,1]",
        (_BF16, _WORKERS, "--trainer.fit_loop.init_args.n_jobs 2", "--trainer.check_val_every_n_epoch 15"),
        checks=("--trainer.fast_dev_run true", "--trainer.fit_loop.init_args.folds [0]"),
    ),
    "curriculum": Bench(
        "fit -c curriculum/easy_first",
        f"--trainer.max_epochs 6 {_NO_VAL}",
        (_BF16, _WORKERS, _ACCUMULATE, "--trainer.fit_loop.init_args.order random"),
    ),
    "evaluation": Bench(
        "predict -c evaluation/million --allow_untrained",
        "--data.init_args.rows 8000000",
        (_BF16, "--data.init_args.eval_batch_size 4096", "--data.init_args.eval_batch_size 1048576"),
        whole=True,
        checks=("--trainer.fast_dev_run true", "--trainer.limit_predict_batches 10"),
    ),
    "export": Bench(
        "fit -c export/classifier",
        f"--trainer.max_steps 60 {_NO_VAL}",
        (_BF16, _WORKERS, _ACCUMULATE),
    ),
    "vision": Bench(
        "fit -c vision/plain",
        f"--trainer.max_steps 30 {_NO_VAL}",
        (_BF16, _WORKERS, _ACCUMULATE, "--model.init_args.recompute true", "--data.init_args.augment null"),
    ),
    "nlp": Bench(
        "fit -c nlp/sentiment_lstm",
        f"--trainer.max_steps 60 {_NO_VAL}",
        (_BF16, _WORKERS, _ACCUMULATE, "--data.init_args.max_length 20"),
    ),
}


def once(flags: str, whole: bool) -> dict[str, float]:
    """Runs one command and returns its seconds and its peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "plcourse", *shlex.split(flags), "--runs_root", folder]
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        if process.returncode:
            raise SystemExit(f"plcourse {flags} ended with status {process.returncode}: {said.strip()[-400:]}")
        if not whole:
            run = next(Path(folder).glob("*/*/*/run.json")).parent
            seconds = Run(run).record["training_seconds"]
        return {"seconds": round(seconds, 3), "mib": round(used.ru_maxrss / 1024, 1)}


def measure(lesson: str, rounds: int) -> dict[str, Any]:
    """Measures all changes of a lesson in turns and returns the record."""
    bench = BENCHES[lesson]
    found: dict[str, list[dict[str, float]]] = {flags: [] for flags in ("", *bench.changes, *bench.checks)}
    others = OtherWork()
    for at in range(rounds):
        for flags, results in found.items():
            check = flags in bench.checks
            if check and at:
                continue  # measured once, since it is compared with nothing
            limits = "" if check else bench.limits
            results.append(once(f"{bench.command} {limits} {flags}", whole=check or bench.whole))
            print(f"# {lesson}, round {at + 1}: {flags or 'as it is'}: {results[-1]}", flush=True)
    return {
        "command": bench.command,
        "limits": bench.limits,
        "cores": os.cpu_count(),
        "others": others.cores(),
        "libraries_mib": libraries(bench),
        "found": found,
    }


def libraries(bench: Bench) -> float:
    """Returns the resident set in MiB of a command that imports everything and trains nothing."""
    return once(f"{bench.command} --print_config", whole=True)["mib"]


def table(lesson: str) -> str:
    """Builds the table of one lesson; a single line if it was not measured, or measured with other flags."""
    file, bench = RECORDS / f"{lesson}.json", BENCHES[lesson]
    record = json.loads(file.read_text()) if file.is_file() else {}
    wanted = [bench.command, bench.limits, ["", *bench.changes, *bench.checks]]
    if [record.get("command"), record.get("limits"), list(record.get("found", ()))] != wanted:
        return f"Not measured yet: `python scripts/tools/measure_tips.py {lesson}`.\n"
    found = record["found"]
    base = found[""]
    seconds = median(each["seconds"] for each in base)
    lines = [f"| `plcourse {bench.command}` and | time | memory |", "|---|---|---|"]
    lines.append(f"| nothing else | {seconds:.1f} s | {median(each['mib'] for each in base):,.0f} MiB |")
    lines += [
        f"| `{flags}` | {_ratio(found, flags, 'seconds')} | {_ratio(found, flags, 'mib')} |" for flags in bench.changes
    ]
    lines += [f"| `{flags}` | the whole command: {found[flags][0]['seconds']:.1f} s | |" for flags in bench.checks]
    said = "whole commands" if bench.whole else "training"
    lines += [
        "",
        f"Time of {said} with `{bench.limits}`;\nmemory of the largest process, {record['libraries_mib']:,.0f} MiB "
        f"of it libraries; median of {len(base)} rounds (lowest to highest).",
    ]
    if not is_alone(record["others"], record["cores"]):
        lines += [
            f"Other work kept {record['others']:.1f} of the {record['cores']} cores busy meanwhile: times are rough."
        ]
    return "\n".join(lines) + "\n"


def _ratio(found: dict[str, list[dict[str, float]]], flags: str, key: str) -> str:
    ratios = [changed[key] / base[key] for base, changed in zip(found[""], found[flags], strict=True)]
    return f"{median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"


def written(text: str) -> str:
    """Replaces the tables of a page by those of the records."""
    return _BLOCK.sub(lambda block: f"{block[1]}{table(block[2])}{block[4]}", text)


def main() -> None:
    """Measures and writes the tables, or only writes them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help=f"of {', '.join(BENCHES)}; all when none is named")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.lessons) - set(BENCHES):
        parser.error(f"no tips of {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    if not options.table:
        for lesson in options.lessons or BENCHES:
            record = measure(lesson, options.rounds)
            RECORDS.mkdir(parents=True, exist_ok=True)
            (RECORDS / f"{lesson}.json").write_text(json.dumps(record, indent=1) + "\n")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
