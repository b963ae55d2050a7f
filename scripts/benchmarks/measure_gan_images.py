"""Measures Frechet distance and KID on mnist5k: the packaged configs against the network of Lightning's GAN example.

The reference rewrites that example with its architecture and settings: fully connected layers of 128, 256, 512 and 1024
with batch norm in the generator, 512 and 256 in the discriminator, latents of 100 dimensions, Adam with rate 2e-4 and
betas (0.5, 0.999), batches of 256, the non-saturating loss, one generator step and one discriminator step in each
iteration, and no averaging. It gets as many iterations as the config, and so more images, because its batches are
larger. All models are scored alike: with the same feature network, the same 1,000 test images, and as many generated
images.

python scripts/benchmarks/measure_gan_images.py [--seeds 3] [--models r3gan nonsaturating wgan_gp] [--max_epochs 20]
"""

import argparse
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import plcourse
from plcourse.data import permutation
from plcourse.gan.data import RealImages
from plcourse.gan.features import FeatureNetwork, batches, fit_features, part_of
from plcourse.gan.measures import frechet_distance, kernel_distance, precision_and_recall

MODELS = ("r3gan", "nonsaturating", "wgan_gp")
SIZES: dict[str, Any] = {"val_size": 500, "test_size": 1000}
NAMES = ("frechet", "kid", "precision", "recall")


def reference_networks() -> tuple[nn.Module, nn.Module]:
    """Builds the generator and discriminator of the reference."""
    widths = (128, 256, 512, 1024)
    layers: list[nn.Module] = [nn.Linear(100, widths[0]), nn.LeakyReLU(0.2)]
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), nn.BatchNorm1d(o, 0.8), nn.LeakyReLU(0.2)]
    generator = nn.Sequential(*layers, nn.Linear(widths[-1], 784), nn.Tanh(), nn.Unflatten(1, (1, 28, 28)))
    discriminator = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.LeakyReLU(0.2), nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1)
    )
    return generator, discriminator


def adam(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))


def train_reference(data: RealImages, iterations: int, seed: int) -> nn.Module:
    """Trains the reference for some iterations and returns its generator."""
    torch.manual_seed(seed)
    generator, discriminator = reference_networks()
    generator_optimizer, discriminator_optimizer = adam(generator), adam(discriminator)
    train, step, epoch = part_of(data.splits, "train"), 0, 0
    while step < iterations:
        for batch in batches(train, 256, permutation(seed, epoch, len(train))):
            real_BCHW = batch["image"]
            if len(real_BCHW) < 256 or step == iterations:
                continue
            latent_BZ = torch.randn(len(real_BCHW), 100)
            loss = functional.softplus(-discriminator(generator(latent_BZ))).mean()
            generator_optimizer.zero_grad()
            loss.backward()
            generator_optimizer.step()
            fake_BCHW = generator(latent_BZ).detach()
            loss = functional.softplus(-discriminator(real_BCHW)).mean()
            loss = (loss + functional.softplus(discriminator(fake_BCHW)).mean()) / 2
            discriminator_optimizer.zero_grad()
            loss.backward()
            discriminator_optimizer.step()
            step += 1
        epoch += 1
    return generator.eval()


@torch.no_grad()
def score_reference(generator: nn.Module, features: FeatureNetwork, data: RealImages, seed: int) -> dict[str, float]:
    """Returns the four scores of as many generated images as the test part has."""

    def rows(image_BCHW: Tensor) -> np.ndarray:
        return features(image_BCHW)[0].double().numpy()

    test = part_of(data.splits, "test")
    real_NF = np.concatenate([rows(batch["image"]) for batch in batches(test, 256)])
    draw = torch.Generator().manual_seed(seed)
    fake_NF = rows(generator(torch.randn(len(test), 100, generator=draw)))
    scores = (
        frechet_distance(real_NF, fake_NF),
        kernel_distance(real_NF, fake_NF),
        *precision_and_recall(real_NF, fake_NF),
    )
    return dict(zip(NAMES, scores, strict=True))


def main() -> None:
    """Runs each seed of each model, prints a row for each, then a table of means."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--max_epochs", type=int, help="overrides the configs; the reference gets as many iterations")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {}
    floor: dict[str, float] = {}
    iterations = 0
    features, data = FeatureNetwork(), RealImages(**SIZES)
    with tempfile.TemporaryDirectory() as root:
        for seed in range(options.seeds):
            for model in options.models:
                start = time.process_time()
                overrides: dict[str, Any] = {"seed_everything": seed, "trainer.enable_progress_bar": False}
                if options.max_epochs:
                    overrides["trainer.max_epochs"] = options.max_epochs
                run = plcourse.run("fit", f"gan/{model}", overrides, then=["test"], runs_root=root)
                floor = {name.removeprefix("test/"): value for name, value in run.eval("test")["metrics"].items()}
                iterations = run.record["steps"]
                add(found, model, seed, {name: floor[name] for name in NAMES}, start)
            start = time.process_time()
            fit_features(features, data.splits, Path(root) / "cache" / "features")
            generator = train_reference(data, iterations, seed)
            add(found, "reference", seed, score_reference(generator, features, data, seed), start)
    print(
        f"\nin the features of a classifier with accuracy {floor['feature_accuracy']:.3f} on the test part; "
        f"{floor['samples']:.0f} real and as many generated images; {iterations} iterations; {options.seeds} seed(s)"
    )
    print("| model | Frechet distance | KID | precision | recall | seconds |\n|---|---|---|---|---|---|")
    for model, scores in found.items():
        means = {name: statistics.mean(row[name] for row in scores) for name in (*NAMES, "seconds")}
        print(
            f"| {model} | {means['frechet']:.2f} | {means['kid']:.3f} | {means['precision']:.2f} | "
            f"{means['recall']:.2f} | {means['seconds']:.0f} |"
        )
    print(f"| real images | {floor['frechet_floor']:.2f} | {floor['kid_floor']:.3f} | | | |")


def add(
    found: dict[str, list[dict[str, float]]], model: str, seed: int, scores: dict[str, float], start: float
) -> None:
    found.setdefault(model, []).append({**scores, "seconds": time.process_time() - start})
    shown = ", ".join(f"{name} {value:.3f}" for name, value in found[model][-1].items())
    print(f"# {model} seed {seed}: {shown}", flush=True)


if __name__ == "__main__":
    main()
