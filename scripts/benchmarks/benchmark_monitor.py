"""Measures the cost of ThroughputMonitor: the same fit with and without it, in turns.

It uses the network and batches of the main job, in two gloo processes or one. Each round fits in new processes and
compares the recorded training seconds in pairs, in alternating order. If the noise of the machine exceeds the cost, the
second figure says more: the fraction of the training time that rank 0 spends inside the monitor, including its
waiting for the other rank in reductions.

    python scripts/benchmarks/benchmark_monitor.py
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from plcourse.ddp.monitor import ThroughputMonitor
from plcourse.runs.run import Run

WITH = "--trainer.callbacks+=ThroughputMonitor"
INSIDE = "monitor_seconds.txt"


class TimedMonitor(ThroughputMonitor):
    """A monitor that adds up the time spent in its hooks."""

    def __init__(self) -> None:
        super().__init__()
        self._inside = 0.0
        for name in [name for name in vars(ThroughputMonitor) if name.startswith("on_")]:
            setattr(self, name, self._timed(getattr(self, name)))

    def _timed(self, hook: Callable[..., None]) -> Callable[..., None]:
        def timed(*arguments: Any, **keywords: Any) -> None:
            start = time.perf_counter()
            hook(*arguments, **keywords)
            self._inside += time.perf_counter() - start

        return timed

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the time to a file beside the record of the run."""
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / INSIDE).write_text(str(self._inside))


def fraction_inside(config: str, epochs: int, root: str) -> float:
    """Returns the fraction of the training time that rank 0 spends inside the monitor."""
    total = seconds(
        config, epochs, root, "--trainer.callbacks+=benchmark_monitor.TimedMonitor", "--trust=benchmark_monitor"
    )
    return float((Run.load(config, root).path / INSIDE).read_text()) / total


def seconds(config: str, epochs: int, root: str, *flags: str) -> float:
    """Returns the training seconds of one fit without validation."""
    limits = [f"--trainer.max_epochs={epochs}", "--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0"]
    command = [sys.executable, "-m", "plcourse", "fit", "-c", config, "--runs_root", root, *limits, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return Run.load(config, root).record["training_seconds"]


def main() -> None:
    """Runs the pairs and prints the median ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="ddp/two_processes", help="the config to fit")
    parser.add_argument("--rounds", type=int, default=9, help="number of pairs, 1 or more")
    parser.add_argument("--epochs", type=int, default=4, help="epochs per fit")
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as root:
        for turn in range(options.rounds):
            found = {}
            for flags in ((), (WITH,)) if turn % 2 else ((WITH,), ()):
                found[flags] = seconds(options.config, options.epochs, root, *flags)
            ratios.append(found[(WITH,)] / found[()])
            print(f"without {found[()]:.2f} s, with {found[(WITH,)]:.2f} s: {ratios[-1]:.3f}", flush=True)
        inside = [fraction_inside(options.config, options.epochs, root) for _ in range(3)]
    print(f"{options.config}, {options.epochs} epochs, {options.rounds} pairs, 1 thread a process")
    print(f"with / without: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    print(f"inside the monitor: {statistics.median(inside):.2%} of the time ({min(inside):.2%} to {max(inside):.2%})")


if __name__ == "__main__":
    main()
