"""What the settings of lesson 18 cost and save: processor time per training sample and most memory.

Each measurement is a fit of `vision/plain` on one thread in a process of its own, as a user types it, a few steps long
and without validation. What a fit of two steps takes is taken off, so that imports and data do not count. Processor
time, that of workers included, hardly depends on what else the machine does. Rounds interleave the settings; the ratios
are medians over rounds.

    python scripts/benchmark_vision.py
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BATCH = 64  # of vision/plain
# the arguments of each setting, and how many samples of a step it has for one of the config
SETTINGS: dict[str, tuple[list[str], int]] = {
    "as it is": ([], 1),
    "bf16-mixed": (["--trainer.precision=bf16-mixed"], 1),
    "recompute": (["--model.init_args.recompute=true"], 1),
    "4 batches of 16 per step": (["--data.init_args.batch_size=16", "--trainer.accumulate_grad_batches=4"], 1),
    "batches of 256": (["--data.init_args.batch_size=256"], 4),
    "2 workers": (["--data.init_args.num_workers=2"], 1),
    "no augmentation": (["--data.init_args.augment=null"], 1),
}
_FIRST = 2  # steps that are taken off
_ONE_FIT = """
import json, resource, sys
from plcourse.__main__ import main
main(sys.argv[2:])
own, workers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
seconds = sum(each.ru_utime + each.ru_stime for each in (own, workers))
with open(sys.argv[1], "w") as file:
    json.dump([seconds, own.ru_maxrss / 1024], file)
"""


def fit(arguments: list[str], steps: int) -> tuple[float, float]:
    """Processor seconds of a whole fit, and the most resident memory of its main process in MiB."""
    limits = [f"--trainer.max_steps={steps}", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "fit.json"
        command = [sys.executable, "-c", _ONE_FIT, str(result), "fit", "-c", "vision/plain", "--runs_root", folder]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, *limits, *arguments], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(arguments)} ended with status {done.returncode}: {done.stderr.strip()}")
        seconds, peak = json.loads(result.read_text())
        return seconds, peak


def measure(setting: str, steps: int) -> tuple[float, float]:
    """Milliseconds of processor time per training sample, and the most resident memory in MiB."""
    arguments, share = SETTINGS[setting]
    steps = max(1, steps // share)
    start, _ = fit(arguments, _FIRST)
    seconds, peak = fit(arguments, _FIRST + steps)
    return 1000 * (seconds - start) / (steps * share * BATCH), peak


def main() -> None:
    """Measures in turn and prints a row per setting."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=56, help="optimizer steps of 64 samples")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {setting: [] for setting in SETTINGS}
    for turn in range(options.rounds):
        for setting in list(SETTINGS)[:: 1 if turn % 2 else -1]:
            found[setting].append(measure(setting, options.steps))
            print(f"{setting}: {found[setting][-1][0]:.2f} ms, {found[setting][-1][1]:.0f} MiB", file=sys.stderr)
    plain = found["as it is"]
    print("| setting | ms per sample | time, x (range) | peak memory, MiB |\n|---|---|---|---|")
    for setting, each in found.items():
        ratios = [own[0] / base[0] for own, base in zip(each, plain, strict=True)]
        time, peak = statistics.median(row[0] for row in each), statistics.median(row[1] for row in each)
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {setting} | {time:.2f} | {spread} | {peak:.0f} |")
    print(f"{options.rounds} round(s) of {options.steps} steps, one thread")


if __name__ == "__main__":
    main()
