"""The fault campaign: injects every fault of tests/faults/README.md and says what held.

    python scripts/tools/faults.py                      # all rows, the slow tests too
    python scripts/tools/faults.py --rows 3 17          # these rows
    python scripts/tools/faults.py --mutations 100000   # mutated files through every reader
    python scripts/tools/faults.py --hashes             # which runs end with equal hashes, and why others do not

A row counts a fault as injected for each test case that ran and as held for each that passed. A mutated file must be
read, or refused by the reader's own error; anything else escaped, and is printed with the seed that makes it again.
"""

import argparse
import hashlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests" / "faults" / "README.md"


class Row(NamedTuple):
    """One row of the table: its number, the fault, what must hold, and the tests that inject it."""

    number: int
    fault: str
    holds: str
    tests: tuple[str, ...]


def table_rows() -> list[Row]:
    """The rows of the table in tests/faults/README.md."""
    rows = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].isdecimal():
            rows.append(Row(int(cells[0]), cells[1], cells[2], tuple(re.findall(r"`([^`]+)`", cells[3]))))
    return rows


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A damaged copy: bits flipped, cut short, a piece repeated, removed, overwritten, or turned hostile."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1)
        until = min(len(data), at + rng.choice((1, 2, 8, 64)))
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and rng.random() < 0.3:
            del data[at:]
        elif kind == 2:
            data[at:at] = data[at:until] * rng.choice((1, 2, 50))
        elif kind == 3:
            del data[at:until]
        elif kind == 4:
            data[at:until] = rng.randbytes(until - at)
        else:
            data[at:until] = rng.choice(_HOSTILE)
    return bytes(data)


_HOSTILE = (
    *(b"\x00", b"\xff\xfe", b"\xff" * 8, b"-1", b"1e999", b"NaN", b"null", b"[]", b"{}", b'"', b"'", b"\n", b","),
    *(
        b"9" * 5000,
        b"[" * 3000,
        b'{"a":' * 3000,
        b"../../x",
        b"\x1b]0;x\x07",
        b"&a [*a, *a]",
        b"!!python/name:os.system",
    ),
)


@dataclass(frozen=True)
class Target:
    """A kind of file: an intact one, what reads it, and the errors by which a reader names a bad file."""

    name: str
    content: bytes
    read: Callable[[Path], object]
    named: tuple[type[Exception], ...]


def targets(folder: Path) -> list[Target]:
    """Every kind of file that the suite reads from others, with its own reader.

    Args:
        folder: where the intact files are made.
    """
    import io

    import numpy as np
    import onnx
    import pandas as pd
    import torch
    from PIL import Image

    from plcourse.data.frames import read_frame
    from plcourse.data.image_folder import UnreadableImage, read_image
    from plcourse.data.texts import open_texts
    from plcourse.errors import UserError
    from plcourse.evaluation.shards import Shard, ShardFolder, _line
    from plcourse.export.artefacts import checked_onnx
    from plcourse.runs.configs import ConfigSource, parse_config
    from plcourse.runs.record import read_record
    from plcourse.runs.run import Run
    from plcourse.training import checkpoint

    def image(kind: str) -> bytes:
        stream = io.BytesIO()
        pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
        Image.fromarray(pixels).save(stream, kind)
        return stream.getvalue()

    frame = pd.DataFrame({"id": ["a", "b", "c"] * 5, "x": np.arange(15.0), "label": [0, 1, 2] * 5})
    reviews = pd.DataFrame({"text": [f"number {i}" for i in range(12)], "label": ["good", "bad"] * 6})
    weights = io.BytesIO()
    torch.save({"state_dict": {"w": torch.ones(3)}, "epoch": 1}, weights)
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    port = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 3]) for name in "xy"]
    graph = onnx.helper.make_model(onnx.helper.make_graph([node], "g", port[:1], port[1:]))
    config = (ROOT / "configs" / "ddp" / "two_processes.yaml").read_text(encoding="utf-8")

    def open_table(path: Path) -> object:
        return open_texts("text_table", str(path))

    def parse(path: Path) -> object:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:  # which find_config turns into one line
            raise UserError("not UTF-8") from error
        return parse_config(ConfigSource("x.yaml", "x.yaml", text, packaged=False))

    def beside(name: str) -> Callable[[Path], Path]:
        def place(path: Path) -> Path:
            (file := folder / "run" / name).parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(path.read_bytes())
            return file

        return place

    metrics, evaluation = beside("metrics.csv"), beside("eval/test.json")
    manifest, journal = (
        beside("predictions/_partial/_manifest.json"),
        beside("predictions/_partial/journal-00000.jsonl"),
    )

    def open_shards(place: Callable[[Path], Path]) -> Callable[[Path], object]:
        def read(path: Path) -> object:
            place(path)
            shards = ShardFolder(folder / "run" / "predictions", "key", "parquet")
            try:
                return shards.open()
            finally:
                shards.close()

        return read

    line = _line(Shard("part-0.parquet", first=1, batches=1, rows=1, bytes=1))
    user = (UserError,)
    return [
        *(
            Target(kind, image(kind), lambda path: read_image(path, (3, 12, 12)), (UnreadableImage,))
            for kind in ("png", "jpeg", "bmp", "gif", "tiff", "webp")
        ),
        Target("csv", frame.to_csv(index=False).encode(), read_frame, user),
        Target("tsv", frame.to_csv(index=False, sep="\t").encode(), read_frame, user),
        Target("jsonl", str(reviews.to_json(lines=True, orient="records")).encode(), open_table, user),
        Target("parquet", frame.to_parquet(), read_frame, user),
        Target("yaml", config.encode(), parse, user),
        Target("json", b'{"schema": 1, "status": "running", "best": {"value": 0.5}}', read_record, user),
        Target(
            "metrics",
            b"step,epoch,metric,value\n" + b"1,0,train/loss,0.5\n" * 9,
            lambda path: Run(metrics(path).parent).metrics,
            user,
        ),
        Target("eval", b'{"metrics": {"a": 1}}', lambda path: Run(evaluation(path).parents[1]).eval("test"), user),
        Target("manifest", b'{"schema": 1, "key": "key", "complete": false}', open_shards(manifest), user),
        Target("journal", line.encode() * 3, open_shards(journal), user),
        Target("checkpoint", weights.getvalue(), checkpoint.load, user),
        Target("onnx", graph.SerializeToString(), checked_onnx, user),
    ]


OUTCOMES = ("read", "warned", "named", "escaped")
_SUFFIX = {"metrics": "csv", "eval": "json", "manifest": "json", "journal": "jsonl", "checkpoint": "ckpt"}


class Mutations(NamedTuple):
    """What became of mutated files.

    Attributes:
        outcomes: how many files of each kind were ``read``, read with a warning of a library (``warned``), ``named``,
            or ``escaped``.
        escaped: a line for each that escaped.
        largest: the file that took the most memory beyond all before it, and that memory in MiB.
    """

    outcomes: Counter[tuple[str, str]]
    escaped: list[str]
    largest: tuple[str, float]


def peak_mib() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def mutate_all(count: int, seed: int, folder: Path) -> Mutations:
    """Reads mutated files, ``count`` in all, of every kind in turn.

    Args:
        count: files.
        seed: of the mutations; file i of a seed is always the same.
        folder: an empty folder to work in.
    """
    kinds = targets(folder)
    outcomes: Counter[tuple[str, str]] = Counter()
    escaped, largest, peak = [], ("", 0.0), peak_mib()
    for number in range(count):
        target = kinds[number % len(kinds)]
        path = folder / f"mutated.{_SUFFIX.get(target.name, target.name)}"
        path.write_bytes(mutated(target.content, random.Random(f"{seed}/{number}")))
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                target.read(path)
            outcome = "read" if not warned else "warned"
        except target.named as error:
            outcome = "named" if str(error).strip() and "\n" not in str(error).strip() else "escaped"
            if outcome == "escaped":
                escaped.append(f"{target.name} {seed}/{number}: not one line: {str(error)!r:.200}")
        except Exception as error:
            outcome = "escaped"
            escaped.append(f"{target.name} {seed}/{number}: {type(error).__name__}: {error!s:.200}")
        outcomes[target.name, outcome] += 1
        before, peak = peak, peak_mib()
        largest = max(largest, (f"{target.name} {seed}/{number}", peak - before), key=lambda each: each[1])
    return Mutations(outcomes, escaped, largest)


class EqualRun(NamedTuple):
    """What a run left behind as hashes, and whether they must be those of the first run.

    Attributes:
        name: what is different about it.
        weights: of the last checkpoint: names, types, shapes and bytes.
        table: of ``metrics.csv``.
        scores: of the metrics of the test.
        rows: of the predictions, in the order of their ids.
        same_as: the run that it must equal; empty where equality is not promised.
        reason: why it is not.
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
        """The four of them."""
        return self.weights, self.table, self.scores, self.rows


_SHORT = (
    *("--trainer.max_epochs=2", "--data.init_args.source=digits", "--model.init_args.network.init_args.widths=[8,16]"),
    *("--data.init_args.val_size=181", "--data.init_args.test_size=360"),
)
_REDUCED = (
    "gradients are summed per rank and then over the ranks, so sums round differently; "
    "tests/ddp/test_equality.py holds losses, gradients and weights to 1e-10 in double precision"
)
_THREADS = "a product on several threads is summed in other pieces, which round differently"


def equal_runs(folder: Path) -> list[EqualRun]:
    """Fits, tests and predicts in ways that may or may not make a difference.

    Each command runs in a process forked from this one, which must have imported everything and computed nothing: a
    fork waits for ever for the threads of a product that its parent computed. So nothing is hashed before all ended.

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
    """The exit status of a command in a forked process; its output goes to ``command.log``."""
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
    """The names of the runs whose hashes are not those of the run that they must equal."""
    by_name = {run.name: run for run in runs}
    return [run.name for run in runs if run.same_as and run.hashes != by_name[run.same_as].hashes]


def print_hashes() -> int:
    """Prints the table of hashes; the status is 1 where a promise is broken."""
    with tempfile.TemporaryDirectory() as folder:
        runs = equal_runs(Path(folder))
    print(f"{'run':30}{'weights':10}{'table':10}{'scores':10}{'rows':10}")
    for run in runs:
        said = f"must equal '{run.same_as}'" if run.same_as else run.reason
        print(f"{run.name:30}{''.join(f'{each[:8]:10}' for each in run.hashes)}{said}")
    broken = broken_promises(runs)
    print("\n".join(f"NOT EQUAL: {name}" for name in broken) or "every promise holds")
    return int(bool(broken))


def run_row(row: Row) -> tuple[int, int, float]:
    """Runs the tests of a row, slow ones too: cases that ran, cases that passed, seconds."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "", f"--junit-xml={report}", *row.tests]
        subprocess.run(command, cwd=ROOT, capture_output=True)
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    ran = [case for case in cases if case.find("skipped") is None]
    held = [case for case in ran if case.find("failure") is None and case.find("error") is None]
    return len(ran), len(held), time.monotonic() - begun


def main() -> int:
    """Runs the campaign; the status is 1 where a fault was not injected or did not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", help="numbers of rows; all without it")
    parser.add_argument("--mutations", type=int, help="read this many mutated files instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hashes", action="store_true", help="compare runs that should end alike instead")
    args = parser.parse_args()
    if args.hashes:
        return print_hashes()
    if args.mutations is not None:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            outcomes, escaped, (largest, grown) = mutate_all(args.mutations, args.seed, Path(folder))
        print("kind         read warned  named escaped")
        for kind in dict.fromkeys(name for name, _ in outcomes):
            print(f"{kind:10}" + "".join(f"{outcomes[kind, what]:7}" for what in OUTCOMES))
        print(f"{args.mutations} files in {time.monotonic() - begun:.0f} s")
        print(f"{peak_mib():.0f} MiB at most, of which {largest} took {grown:.0f} MiB beyond all before it")
        print("\n".join(escaped[:20]))
        return int(bool(escaped))
    failed = False
    print("row  injected  held  seconds  fault")
    for row in table_rows():
        if args.rows is None or row.number in args.rows:
            injected, held, seconds = run_row(row)
            failed |= held < max(1, injected)
            print(f"{row.number:3}  {injected:8}  {held:4}  {seconds:7.1f}  {row.fault}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
