"""Compares plain training, SWA and EMA at equal steps by raw, unrefreshed and averaged weights on both tasks.

It reads the runs of `plcourse sweep -c sweeps/swa_or_not`. Until averaging starts, the arms of a seed share one
trajectory, which the script checks by the logged losses. For each averaged run it scores three sets of weights on the
test part: the last live weights (raw), the average with the batch-norm statistics of the live weights (unrefreshed),
and the average with refreshed statistics (averaged). The differences have paired intervals.

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
    """Returns the first step at which the logged losses of two runs differ in any bit."""
    tables = [{row["step"]: row["value"] for row in run.metrics if row["metric"] == "train/loss"} for run in (a, b)]
    parted = (step for step in tables[0] if tables[0][step] != tables[1].get(step))
    return next(parted, a.record["steps"])


def score(run: Run, weights: str) -> dict[str, float]:
    """Returns the test scores of one set of weights at the end of a run's training."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        view = run.view(Path(folder) / "view")
        found = view.test({"trainer.callbacks.init_args.weights": weights})
    return {name: found[name] for name in METRICS}


def collect(sweep: Sweep) -> tuple[Scores, dict[str, set[int]]]:
    """Returns, for the seeds that all arms finished, the scores and the step at which an arm left the plain one."""
    finished = [cell for cell in sweep.cells if cell.status == "finished"]
    runs = {(cell.arm, cell.seed): Run.of(sweep.run(cell)) for cell in finished}
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
    """Prints one table per metric."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sweep", nargs="?", default="swa_or_not", help="name or folder of the sweep")
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
    """Prints means, differences from plain training and their 95 % intervals over the seeds."""
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
