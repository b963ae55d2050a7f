"""Measures the cost of averaging: the same fit without it, with SWA and with EMA, in turns.

No validation runs, so the averages need only one pass for the batch norms over the training data, at the end. That pass
is timed separately and added to the plain fit, so that the median ratios show the averaging alone. A pass before a
validation, which takes 16 batches by default, is a fraction of it and is printed too.

    python scripts/benchmarks/benchmark_averaging.py
    python scripts/benchmarks/benchmark_averaging.py --clock cpu   # processor seconds of one thread, beside other work
"""

import argparse
import statistics
import time
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback
from torch.optim.swa_utils import update_bn

from plcourse import Trainer
from plcourse.cli import quieten
from plcourse.vision.averaging import EMA, SWA
from plcourse.vision.data import VisionData
from plcourse.vision.model import ClassifierSegmenter

ARMS = ("plain", "swa", "ema")
REFRESH_BATCHES = 16  # before a validation; the default of the callbacks
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds(arm: str, epochs: int, batches: int, clock: Callable[[], float]) -> tuple[float, float, int]:
    """Returns the seconds of a fit and of one batch-norm pass over the training data, and the batches of the pass."""
    pl.seed_everything(0, verbose=False)
    data = VisionData(batch_size=64, val_size=250, test_size=1000)
    module = ClassifierSegmenter(optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), lr_scheduler=None)
    averaging: dict[str, list[pl.Callback]] = {"plain": [], "swa": [SWA(start=0.0)], "ema": [EMA(start=0.0)]}
    stamps: list[float] = []  # of the first step, and of the end, after the last pass of an average
    watch = LambdaCallback(
        on_train_start=lambda *_: stamps.append(clock()), on_train_end=lambda *_: stamps.append(clock())
    )
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        limit_train_batches=batches,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch, *averaging[arm]],
    )
    trainer.fit(module, data)
    loader = data.train_dataloader()
    started = clock()
    update_bn((batch["image"] for batch in loader), module)  # all batches, like the pass of the averages
    return stamps[1] - stamps[0], clock() - started, len(loader)


def main() -> None:
    """Runs the rounds and prints the median ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batches", type=int, default=20, help="training batches per epoch")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu counts the processor seconds of this process on one thread"
    )
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    if options.clock == "cpu":
        torch.set_num_threads(1)  # the waiting of one thread for another would count
    quieten()
    ratios: dict[str, list[float]] = {arm: [] for arm in ARMS[1:]}
    refreshes: list[float] = []
    seconds("ema", 1, 2, clock)  # warms up
    for turn in range(options.rounds):
        order = ARMS if turn % 2 else ARMS[::-1]
        found = {arm: seconds(arm, options.epochs, options.batches, clock) for arm in order}
        passes = statistics.median(each[1] for each in found.values())
        in_pass = found["plain"][2]
        step = found["plain"][0] / (options.epochs * options.batches)
        refreshes.append(REFRESH_BATCHES * passes / in_pass / (step * in_pass))  # by an epoch of all batches
        for arm, seen in ratios.items():
            seen.append(found[arm][0] / (found["plain"][0] + passes))
        print(
            f"plain {found['plain'][0]:.2f} s, a pass {passes:.2f} s, {ratios['swa'][-1]:.3f}, {ratios['ema'][-1]:.3f}"
        )
    for arm, seen in ratios.items():
        print(f"{arm} / (plain + one pass): {statistics.median(seen):.3f} ({min(seen):.3f} to {max(seen):.3f})")
    print(f"a pass before a validation: {statistics.median(refreshes):.3f} of an epoch's training")
    print(
        f"{options.rounds} rounds, {options.clock} seconds, {torch.get_num_threads()} thread(s), the lesson's default "
        "network, SGD"
    )


if __name__ == "__main__":
    main()
