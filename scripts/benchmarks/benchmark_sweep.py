"""Measures a sweep's cell in a warm process against the same fit as a separate command, in turns.

Each round runs the same seeds twice: as the cells of one `plcourse sweep`, and as one `plcourse fit --then test` after
the other. Both train and test the same model; their tables of metrics are compared byte for byte.

    python scripts/benchmarks/benchmark_sweep.py
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from plcourse.runs.run import Run
from plcourse.verbs.sweep.sweep import Sweep

CONFIG = "ddp/mlp"


def timed(*arguments: str) -> float:
    """Returns the seconds of a command."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "plcourse", *arguments]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return time.perf_counter() - began


def table(run: Run) -> bytes:
    return (run.path / "metrics.csv").read_bytes()


def measure(root: Path, seeds: list[int], epochs: int) -> tuple[float, list[float], list[float]]:
    """Returns the seconds of one sweep, of its cells except the first, and of the commands."""
    length = ["--trainer.max_epochs", str(epochs), "--runs_root", str(root)]
    whole = timed("sweep", "--arms", CONFIG, "--name", "warm", "--seeds", ",".join(map(str, seeds)), *length)
    sweep = Sweep.load("warm", root)
    cold = []
    for seed, cell in zip(seeds, sweep.cells, strict=True):
        cold.append(timed("fit", "-c", CONFIG, "--then", "test", "--seed_everything", str(seed), *length))
        assert table(sweep.run(cell)) == table(Run.load(CONFIG, root)), f"seed {seed} differs"
    return whole, [cell.seconds or 0.0 for cell in sweep.cells[1:]], cold


def main() -> None:
    """Runs the two in turns and prints medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=7, help="rounds, each one sweep and a command for each of its cells"
    )
    parser.add_argument("--cells", type=int, default=4, help="cells per round, 2 or more")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of each fit")
    options = parser.parse_args()
    wholes, warm, cold, ratios = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds):
            seeds = [turn * options.cells + at for at in range(options.cells)]
            whole, cells, commands = measure(Path(folder), seeds, options.epochs)
            wholes.append(whole / sum(commands))
            ratios.append(statistics.median(cells) / statistics.median(commands))
            warm += cells
            cold += commands
    print(f"{options.rounds} rounds of {options.cells} fits of {CONFIG}, {options.epochs} epoch(s); the same tables")
    for name, values in (("warm cell", warm), ("command", cold)):
        print(f"{name:10} {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")
    for name, values in (("warm cell / command", ratios), (f"sweep of {options.cells} / its commands", wholes)):
        print(f"{name}: {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
