"""Compares the hashes of runs that must be equal, for `faults.py --hashes`."""

import hashlib
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class EqualRun(NamedTuple):
    """The hashes of a run's results, and whether they must equal those of another run.

    Attributes:
        name: what is special about the run.
        weights: hash of the last checkpoint: names, types, shapes and bytes.
        table: hash of ``metrics.csv``.
        scores: hash of the metrics of the test.
        rows: hash of the predictions, sorted by id.
        same_as: the run that it must equal; empty if equality is not promised.
        reason: why equality is not promised.
    """

    name: str
    weights: str
    table: str
    scores: str
    rows: str
    same_as: str = ""
    reason: str = ""

    @property
    def hashes(self) -> tuple[str, ...]:
        """All four hashes."""
        return self.weights, self.table, self.scores, self.rows


_SHORT = (
    *("--trainer.max_epochs=2", "--data.init_args.source=digits", "--model.init_args.network.init_args.widths=[8,16]"),
    *("--data.init_args.val_size=181", "--data.init_args.test_size=360"),
)
_REDUCED = (
    "gradients are summed per rank and then over the ranks, which rounds differently; "
    "tests/ddp/test_equality.py holds losses, gradients and weights to 1e-10 in double precision"
)
_THREADS = "several threads sum a product in other pieces, which rounds differently"


def equal_runs(folder: Path) -> list[EqualRun]:
    """Fits, tests and predicts in ways that may change the result and in ways that must not.

    Each command runs in a process forked from this one, which must have imported everything and computed nothing: if
    the parent has computed a product on several threads, its forks wait for those threads forever. So nothing is hashed
    before all commands have ended.

    Args:
        folder: an empty folder for the runs.
    """
    one, two = ("-c", "ddp/one_process"), ("-c", "ddp/two_processes")
    workers = "--data.init_args.num_workers=2"
    kill = "--trainer.callbacks+={class_path: faulty.FailAt, init_args: {step: 31, how: kill, once: killed.txt}}"

    def ended(name: str, *arguments: str, threads: int = 1, status: int = 0, resume: bool = False) -> Path:
        root = folder / name.replace(" ", "_")
        common = ("--runs_root", str(root), "--trust", "faulty")
        found = _forked(folder, ("fit", *arguments, *_SHORT, *common), threads)
        if found != status:
            raise RuntimeError(f"{name}: status {found}, not {status}: {(folder / 'command.log').read_text()}")
        run = next(root.glob("ddp/*/latest")).resolve()
        if resume and _forked(folder, ("fit", "--run", str(run), "--ckpt_path", "last", *common), threads):
            raise RuntimeError(f"{name}: {(folder / 'command.log').read_text()}")
        for verb in ("test", "predict"):
            if _forked(folder, (verb, "--run", str(run), "--ckpt_path", "last", *common), threads):
                raise RuntimeError(f"{name}, {verb}: {(folder / 'command.log').read_text()}")
        return run

    first = "one process"
    killed = ended("killed", *one, kill, status=-signal.SIGKILL, resume=True)
    found = [
        (first, ended(first, *one), "", ""),
        ("the same again", ended("again", *one), first, ""),
        ("two loader workers", ended("workers", *one, workers), first, ""),
        ("killed in mid-epoch, resumed", killed, first, ""),
        ("two processes", ended("two", *two), "", _REDUCED),
        ("two processes again", ended("two again", *two), "two processes", ""),
        ("two threads", ended("threads", *one, threads=2), "", _THREADS),
    ]
    return [EqualRun(name, *_hashes(run), same_as, reason) for name, run, same_as, reason in found]


def _forked(folder: Path, arguments: Sequence[str], threads: int) -> int:
    """Runs a command in a forked process and returns its exit status; the output goes to ``command.log``."""
    import torch

    from plcourse.__main__ import main as plcourse_main

    import_module("plcourse.cli.course_cli")  # what the commands will need, imported once

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.chdir(folder)
            log = os.open("command.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.path.insert(0, str(ROOT / "tests" / "helpers"))  # the callback that kills
            os.environ["OMP_NUM_THREADS"] = str(threads)
            torch.set_num_threads(threads)
            sys.argv = ["plcourse", *arguments]
            plcourse_main(list(arguments))
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _hashes(run: Path) -> tuple[str, str, str, str]:
    import pandas as pd
    import torch

    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    weights = hashlib.sha256()
    for name, value in sorted(state.items()):
        weights.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes())
    rows = pd.concat(pd.read_parquet(file) for file in sorted((run / "predictions").glob("*.parquet")))
    rows = rows.sort_values("id", ignore_index=True)
    scores = json.loads((run / "eval" / "test-last.json").read_bytes())["metrics"]
    texts = (
        (run / "metrics.csv").read_text(),
        json.dumps(scores, sort_keys=True),
        str(rows.to_json(double_precision=15)),
    )
    table, scored, predicted = (hashlib.sha256(text.encode()).hexdigest() for text in texts)
    return weights.hexdigest(), table, scored, predicted


def broken_promises(runs: Sequence[EqualRun]) -> list[str]:
    """Lists the runs whose hashes differ from those of the run that they must equal."""
    by_name = {run.name: run for run in runs}
    return [run.name for run in runs if run.same_as and run.hashes != by_name[run.same_as].hashes]


def print_hashes() -> int:
    """Prints the table of hashes; returns 1 if a promise is broken, else 0."""
    with tempfile.TemporaryDirectory() as folder:
        runs = equal_runs(Path(folder))
    print(f"{'run':30}{'weights':10}{'table':10}{'scores':10}{'rows':10}")
    for run in runs:
        said = f"must equal '{run.same_as}'" if run.same_as else run.reason
        print(f"{run.name:30}{''.join(f'{each[:8]:10}' for each in run.hashes)}{said}")
    broken = broken_promises(runs)
    print("\n".join(f"NOT EQUAL: {name}" for name in broken) or "every promise holds")
    return int(bool(broken))
