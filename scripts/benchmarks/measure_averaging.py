"""Plain, SWA and EMA at equal steps: raw, averaged and refreshed weights scored on both tasks, with paired intervals.

Reads the runs of `plcourse sweep -c sweeps/swa_or_not`. Up to the start of the averages a seed has one trajectory;
the script checks that by the losses that were logged. Of each averaged run it scores the last live weights (raw), the
average with the live weights' batch-norm statistics (unrefreshed) and with its own (averaged), each on the test part.

    plcourse sweep -c sweeps/swa_or_not
    python scripts/benchmarks/measure_averaging.py swa_or_not
"""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path
from statistics import fmean

from plcourse import Run
from plcourse.errors import UserError
from plcourse.runs.run import runs_root
from plcourse.stats.significance import holm, paired_t_test
from plcourse.verbs.sweep.sweep import Sweep

METRICS = ("test/accuracy", "test/foreground_iou")
WEIGHTS = ("raw", "unrefreshed", "averaged")
PLAIN, ARMS = "vision/plain", ("vision/swa", "vision/ema")
Scores = dict[str, dict[int, dict[str, float]]]


def shared_steps(a: Run, b: Run) -> int:
    """The step at which two runs part: the first whose logged loss is not the same to the last bit."""
    tables = [{row["step"]: row["value"] for row in run.metrics if row["metric"] == "train/loss"} for run in (a, b)]
    parted = (step for step in tables[0] if tables[0][step] != tables[1].get(step))
    return next(parted, a.record["steps"])


def score(run: Run, weights: str) -> dict[str, float]:
    """The test scores of one set of a run's weights, at the end of its training."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        view = run.view(Path(folder) / "view")
        found = view.test({"trainer.callbacks.init_args.weights": weights})
    return {name: found[name] for name in METRICS}


def collect(sweep: Sweep) -> tuple[Scores, dict[str, set[int]]]:
    """The scores by arm and seed, and where each arm parted from the plain one; of the seeds that all arms finished."""
    runs = {(cell.arm, cell.seed): sweep.run(cell) for cell in sweep.cells if cell.status == "finished"}
    scores: Scores = {}
    parted: dict[str, set[int]] = {}
    for (arm, seed), run in runs.items():
        if not all((other, seed) in runs for other in (PLAIN, *ARMS)):
            continue
        if arm == PLAIN:
            metrics = run.eval("test")["metrics"]
            scores.setdefault("plain", {})[seed] = {name: metrics[name] for name in METRICS}
            continue
        parted.setdefault(arm, set()).add(shared_steps(runs[PLAIN, seed], run))
        for weights in WEIGHTS:
            scores.setdefault(f"{arm.removeprefix('vision/')} {weights}", {})[seed] = score(run, weights)
    return scores, parted


def main() -> None:
    """Prints a table per metric."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sweep", nargs="?", default="swa_or_not", help="a sweep's name or folder")
    parser.add_argument("--runs_root")
    options = parser.parse_args()
    sweep = Sweep.load(options.sweep, runs_root(options.runs_root))
    if not {PLAIN, *ARMS} <= set(sweep.record["arms"]):
        raise UserError(f"'{sweep.path}' does not compare {PLAIN} with {' and '.join(ARMS)}")
    scores, parted = collect(sweep)
    if not scores:
        raise UserError(f"'{sweep.path}' has no seed that all arms finished; go on with plcourse sweep --resume")
    for arm, steps in parted.items():
        print(f"{arm} and {PLAIN} log the same losses before step {min(steps)}, seed by seed")
    for metric in METRICS:
        print_table(metric, scores)


def print_table(metric: str, scores: Scores) -> None:
    """Means, differences to plain training and their 95 % intervals over the seeds."""
    seeds = sorted(scores["plain"])
    values = {name: [found[seed][metric] for seed in seeds] for name, found in scores.items()}
    tests = {name: paired_t_test(found, values["plain"]) for name, found in values.items() if name != "plain"}
    adjusted = dict(zip(tests, holm([test.p if test.p is not None else 1.0 for test in tests.values()]), strict=True))
    print(f"\n{metric}, {len(seeds)} seeds\n| weights | mean | difference | 95 % interval | p (Holm) |")
    print(f"|---|---|---|---|---|\n| plain | {fmean(values['plain']):.4f} | | | |")
    for name, test in tests.items():
        interval = "" if test.low is None else f"{test.low:+.4f} to {test.high:+.4f}"
        outcome = f"{adjusted[name]:.3f}" if test.state == "tested" else test.state
        print(f"| {name} | {fmean(values[name]):.4f} | {test.difference:+.4f} | {interval} | {outcome} |")


if __name__ == "__main__":
    main()
