"""Measures the main job over five seeds as a user runs it: test accuracy and seconds of training.

python scripts/benchmarks/measure_main_job.py [--seeds 0 1 2 3 4] [--config ddp/two_processes]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile

from plcourse.runs.run import Run


def main() -> None:
    """Runs each seed and prints a row for it, then the mean."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--config", default="ddp/two_processes")
    parser.add_argument("overrides", nargs="*", help="more flags, after --")
    options = parser.parse_args()
    accuracies, times = [], []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as root:
            command = [
                sys.executable,
                "-m",
                "plcourse",
                "fit",
                "-c",
                options.config,
                "--then",
                "test",
                "--runs_root",
                root,
            ]
            command += ["--seed_everything", str(seed), *options.overrides]
            subprocess.run(command, check=True, capture_output=True)
            run = Run.load(options.config, root)
            record, report = run.record, run.eval("test")
        accuracies.append(report["metrics"]["test/accuracy"])
        times.append(record["training_seconds"])
        seen = report["coverage"]
        print(
            f"seed {seed}: test/accuracy {accuracies[-1]:.4f}, {times[-1]:.1f} s of training, "
            f"{seen['seen']} of {seen['expected']} seen, {seen['twice']} twice",
            flush=True,
        )
    print(f"mean accuracy {statistics.mean(accuracies):.4f}, longest training {max(times):.1f} s")


if __name__ == "__main__":
    main()
