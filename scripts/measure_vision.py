"""What vision/plain reaches on digits on photographs: accuracy and IoU on the test part, and the training seconds.

The backgrounds of the test part come from regions of the photographs that training never saw. Each seed is a fit,
followed by a test of its last checkpoint; nothing is chosen by a score.

    python scripts/measure_vision.py --seeds 0 1 2
"""

import argparse
import statistics
import tempfile
from typing import Any

import torch

import plcourse

METRICS = ("accuracy", "f1", "foreground_iou", "mean_iou", "dice", "boundary_f1")


def main() -> None:
    """Prints a row per seed, then the mean."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="vision/plain", help="the config to fit")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as root:
        for seed in options.seeds:
            overrides: dict[str, Any] = {"seed_everything": seed, "trainer.enable_progress_bar": False}
            run = plcourse.run("fit", options.config, overrides, then=["test"], runs_root=root)
            found = run.eval("test")["metrics"]
            scores = {name: found[f"test/{name}"] for name in METRICS if f"test/{name}" in found}
            rows.append({**scores, "seconds": run.record["training_seconds"]})
            print(f"seed {seed}: {shown(rows[-1])}", flush=True)
    means = {name: statistics.mean(row[name] for row in rows) for name in rows[0]}
    print(f"{options.config}, {torch.get_num_threads()} threads, mean of {len(rows)}: {shown(means)}")


def shown(row: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {value:.1f}" if name == "seconds" else f"{name} {value:.4f}" for name, value in row.items()
    )


if __name__ == "__main__":
    main()
