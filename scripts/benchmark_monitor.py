"""What ThroughputMonitor costs: the same fit with and without it, interleaved.

The main job's network and batches, in two gloo processes or one. Each round is a fit of its own in fresh processes; its
training seconds, as the run records them, are compared in pairs, with the order changing from round to round.

    python scripts/benchmark_monitor.py
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

from plcourse.core.runs import Run

WITH = "--trainer.callbacks+=ThroughputMonitor"


def seconds(config: str, epochs: int, root: str, *flags: str) -> float:
    """Training seconds of one fit without validation."""
    limits = [f"--trainer.max_epochs={epochs}", "--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0"]
    command = [sys.executable, "-m", "plcourse", "fit", "-c", config, "--runs_root", root, *limits, *flags]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return Run.load(config, root).record["training_seconds"]


def main() -> None:
    """Runs the pairs and prints the median ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="ddp/two_processes", help="the config to fit")
    parser.add_argument("--rounds", type=int, default=9, help="pairs")
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
    print(f"{options.config}, {options.epochs} epochs, {options.rounds} pairs, 1 thread a process")
    print(f"with / without: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
