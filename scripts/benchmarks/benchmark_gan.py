"""Measures an iteration of R3GAN in the suite against the same update in a plain torch loop, in turns.

Both use the networks, images and batches of gan/r3gan on one thread, start from the same weights and see the same
batches and latents; their losses are compared. The suite has the table, TensorBoard, checkpoint and progress bar of a
run; the loop has nothing but the update.

    python scripts/benchmarks/benchmark_gan.py
"""

import argparse
import copy
import statistics
import tempfile
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn import functional

import plcourse
from plcourse.cli import quieten
from plcourse.gan.data import RealImages
from plcourse.gan.features import FeatureNetwork
from plcourse.gan.latents import training_latents
from plcourse.gan.networks import ConvDiscriminator, ConvGenerator
from plcourse.gan.quality import ImageQuality
from plcourse.gan.r3gan import R3GAN
from plcourse.runs.recorder import RunRecorder, TidyLogger
from plcourse.runs.run import Run
from plcourse.training.progress import RunProgress
from plcourse.training.run_checkpoint import RunCheckpoint

SEED, BATCH, GAMMA, DECAY, LATENTS = 0, 64, 1.0, 0.995, 64


def adam(params: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=5e-4, betas=(0.0, 0.99))


def networks() -> tuple[ConvGenerator, ConvDiscriminator]:
    """Builds the same generator and discriminator every time."""
    torch.manual_seed(SEED)
    return ConvGenerator(LATENTS), ConvDiscriminator()


class Clock(pl.Callback):
    """Times the iterations without set-up and keeps the losses."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.losses: list[Tensor] = []

    def on_train_start(self, trainer, pl_module):
        self.seconds = time.perf_counter()

    def on_train_end(self, trainer, pl_module):
        self.seconds = time.perf_counter() - self.seconds

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        assert isinstance(outputs, dict)
        self.losses.append(outputs["loss"])


def suite(data: RealImages, epochs: int, folder: str) -> tuple[float, list[Tensor]]:
    """Trains with the suite's Trainer and everything that a run has."""
    clock, run = Clock(), Run.create("own/benchmark", folder, {})
    table = TidyLogger(run.path / "metrics.csv")
    trainer = plcourse.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        default_root_dir=str(run.path),
        logger=[table, TensorBoardLogger(run.path, name="tensorboard", version="")],
        limit_val_batches=0,
        callbacks=[clock, RunCheckpoint(), RunRecorder(run, table), RunProgress()],
        enable_model_summary=False,
    )
    quality = ImageQuality(FeatureNetwork())
    module = R3GAN(*networks(), quality, GAMMA, generator_optimizer=adam, discriminator_optimizer=adam, ema_decay=DECAY)
    trainer.fit(module, data)
    return clock.seconds, clock.losses


def plain(data: RealImages, epochs: int) -> tuple[float, list[Tensor]]:
    """Trains in a loop that has nothing but the update."""
    generator, discriminator = networks()
    average = copy.deepcopy(generator).requires_grad_(False)
    averaged, weights = list(average.parameters()), list(generator.parameters())
    generator_optimizer, discriminator_optimizer = adam(generator.parameters()), adam(discriminator.parameters())
    loader, losses, step = data.train_dataloader(), [], 0
    start = time.perf_counter()
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            real, ids = batch["image"].requires_grad_(), batch["id"]
            with torch.no_grad():
                fake = generator(training_latents("discriminator", step, 0, ids, LATENTS))
            fake.requires_grad_()
            real_B, fake_B = discriminator(real), discriminator(fake)
            (real_grad,) = torch.autograd.grad(real_B.sum(), real, create_graph=True)
            (fake_grad,) = torch.autograd.grad(fake_B.sum(), fake, create_graph=True)
            penalty = real_grad.square().flatten(1).sum(1).mean() + fake_grad.square().flatten(1).sum(1).mean()
            first = functional.softplus(fake_B - real_B).mean() + GAMMA / 2 * penalty
            discriminator_optimizer.zero_grad()
            first.backward()
            discriminator_optimizer.step()

            discriminator.requires_grad_(False)
            fake_B = discriminator(generator(training_latents("generator", step, 0, ids, LATENTS)))
            with torch.no_grad():
                real_B = discriminator(real)
            second = functional.softplus(real_B - fake_B).mean()
            generator_optimizer.zero_grad()
            second.backward()
            generator_optimizer.step()
            discriminator.requires_grad_(True)

            with torch.no_grad():
                share = 1 - min(DECAY, (1 + step) / (10 + step))
                for own, current in zip(averaged, weights, strict=True):
                    own.lerp_(current, share)
            losses.append((first + second).detach())
            step += 1
    return time.perf_counter() - start, losses


def main() -> None:
    """Runs the two in turns and prints medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds, after one to warm up")
    parser.add_argument("--epochs", type=int, default=2, help="epochs per round, of 55 iterations")
    options = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    data = RealImages("mnist5k", batch_size=BATCH, val_size=500, test_size=1000)
    data.setup("fit")
    seconds: dict[str, list[float]] = {"plain": [], "suite": []}
    steps = 0
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds + 1):
            results = {"plain": plain(data, options.epochs), "suite": suite(data, options.epochs, folder)}
            losses = {name: torch.stack(found) for name, (_, found) in results.items()}
            steps = len(losses["plain"])
            torch.testing.assert_close(losses["suite"], losses["plain"], rtol=1e-3, atol=1e-4)
            if turn:
                for name, (elapsed, _) in results.items():
                    seconds[name].append(elapsed / steps * 1e3)
    print(f"{steps} iterations a round, {options.rounds} rounds, batch {BATCH}, 1 thread; the same losses in both")
    for name, values in seconds.items():
        print(f"{name:6} {statistics.median(values):7.1f} ms an iteration ({min(values):.1f} to {max(values):.1f})")
    ratios = [a / b for a, b in zip(seconds["suite"], seconds["plain"], strict=True)]
    print(f"suite / plain: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
