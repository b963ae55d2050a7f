"""Writes the golden curves: the first losses of every config in full precision, which the tests compare with.

Run it after a change that is meant to change the numbers, and say in the commit why they changed. A curve has one
record per kind of processor, because the last bits depend on it, and so does the order of a curriculum whose scores
differ in the last bits. `--add` keeps the records of other kinds of processors.

    python scripts/tools/regolden.py [--add] [NAME ...]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from plcourse import catalog
from plcourse.runs.configs import find_config, parse_header
from plcourse.runs.run import Run

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
STEPS = 8


def machine() -> dict[str, str]:
    """Describes what the last bits of a floating-point result depend on."""
    capability = torch.backends.cpu.get_cpu_capability()  # libraries also choose their kernels by model
    cpu = " ".join([capability, *_cpu_model()])
    return {"torch": torch.__version__.partition("+")[0], "cpu": cpu, "architecture": platform.machine()}


def _cpu_model() -> list[str]:
    """Returns vendor, family and model of the processor on Linux, an empty list elsewhere."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return []
    fields: dict[str, str] = {}
    for line in info.read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    return [fields[name] for name in ("vendor_id", "cpu family", "model") if name in fields]


def run_command(arguments: list[str]) -> None:
    """Runs `plcourse ARGUMENTS` as a user does, with one thread per process."""
    command, environment = [sys.executable, "-m", "plcourse", *arguments], {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, text=True, env=environment)


def first_losses(name: str, run_command: Callable[[list[str]], object] = run_command) -> list[float]:
    """Returns the losses of the first training steps of a packaged config.

    A step with several losses, such as those of a GAN's two networks, gives all that are logged, in that order.

    Args:
        name: the config.
        run_command: runs `plcourse` with these arguments, with one thread per process.
    """
    with tempfile.TemporaryDirectory() as root:
        limits = [
            f"--trainer.max_steps={STEPS}",
            f"--trainer.limit_train_batches={STEPS}",
            "--trainer.limit_val_batches=0",
        ]
        limits += ["--trainer.log_every_n_steps=1", "--trainer.num_sanity_val_steps=0"]
        run_command(["fit", "-c", name, "--runs_root", root, *limits])
        run = Run.load(name, root)
        first_fold = Run(run.path / "folds" / "0")  # a cross-validated run has the losses in its folds
        rows = (first_fold if first_fold.path.is_dir() else run).metrics
    return [row["value"] for row in rows if row["metric"].startswith("train/") and "loss" in row["metric"]]


def records(name: str) -> list[dict[str, Any]]:
    """Reads the records of a config's curve, each with ``machine`` and ``losses``; empty if it has no curve."""
    path = GOLDEN / f"{name}.json"
    return json.loads(path.read_text())["records"] if path.is_file() else []


def configs_with_curves() -> list[str]:
    """Lists the packaged configs that train and need nothing beyond the installation."""
    headers = {name: parse_header(find_config(name)) for name in catalog.config_names()}
    return [name for name, header in headers.items() if "fit" in header.verbs and not header.needs]


def main() -> None:
    """Rewrites the named curves, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="configs; default all")
    parser.add_argument("--add", action="store_true", help="keep the records of other kinds of processors")
    arguments = parser.parse_args()
    for name in arguments.names or configs_with_curves():
        path = GOLDEN / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        losses = first_losses(name)
        kept = [record for record in records(name) if record["machine"] != machine()] if arguments.add else []
        path.write_text(json.dumps({"records": [*kept, {"machine": machine(), "losses": losses}]}, indent=1) + "\n")
        print(f"{name}: {losses[0]:.6f} ... {losses[-1]:.6f}")


if __name__ == "__main__":
    main()
