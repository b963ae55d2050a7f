"""Counts how many of 25 Gaussians each objective finds, over seeds, with the packaged configs as a user runs them.

A mode counts as found if it has at least a tenth of the good points that it should have, of 2,500 points in all.

python scripts/benchmarks/measure_gan_gaussians.py [--seeds 10] [--models r3gan nonsaturating wgan_gp]
"""

import argparse
import statistics
import tempfile
import time

import torch

import plcourse

MODELS = ("r3gan", "nonsaturating", "wgan_gp")


def main() -> None:
    """Runs each seed of each model, prints a row for each, then a row for each model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {model: [] for model in options.models}
    with tempfile.TemporaryDirectory() as root:
        for seed in range(options.seeds):
            for model in options.models:
                start = time.process_time()
                overrides = {"seed_everything": seed, "trainer.enable_progress_bar": False}
                run = plcourse.run("fit", f"gan/{model}_gaussians", overrides, then=["test"], runs_root=root)
                scores = {name.removeprefix("test/"): value for name, value in run.eval("test")["metrics"].items()}
                scores["seconds"] = time.process_time() - start
                found[model].append(scores)
                print(
                    f"# {model} seed {seed}: {scores['modes']:.0f} modes, {scores['good']:.3f} good, "
                    f"mode_tv {scores['mode_tv']:.3f}, {scores['seconds']:.0f} s of processor time",
                    flush=True,
                )
    print("\n| objective | all 25 found | modes | good points | mode_tv | seconds |\n|---|---|---|---|---|---|")
    for model, rows in found.items():
        whole = sum(row["modes"] == 25 for row in rows)
        modes = [row["modes"] for row in rows]
        means = {name: statistics.mean(row[name] for row in rows) for name in ("good", "mode_tv", "seconds")}
        print(
            f"| {model} | {whole} of {len(rows)} | {min(modes):.0f} to {max(modes):.0f} | {means['good']:.3f} | "
            f"{means['mode_tv']:.3f} | {means['seconds']:.0f} |"
        )
    real = next(iter(found.values()))[0]
    print(f"| real points | | 25 | {real['good_floor']:.3f} | {real['mode_tv_floor']:.3f} | |")


if __name__ == "__main__":
    main()
