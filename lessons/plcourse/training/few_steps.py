"""Detects configs with too few optimizer steps to train a network, and suggests flags that change this."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

FEW = 120  # with fewer optimizer steps a network hardly begins to learn; the shortest packaged fits take more
ENOUGH = 400
_BATCHES = 16  # batches per epoch that the suggested batch size aims at
_SMALLEST = 8  # batch size


class Advice(NamedTuple):
    """Why a training is too short (`what`), and the `flags` to add to its command."""

    what: str
    flags: str


def few_steps(config: Mapping[str, Any], n_train: int, processes: int) -> Advice | None:
    """Checks the number of steps that a config plans.

    Args:
        config: a resolved config with ``trainer`` and ``data``.
        n_train: number of training samples, in cross-validation those of one fold.
        processes: number of processes, each of which trains on a batch per step.

    Returns:
        None if there are enough, if the config limits the run on purpose, or if it does not determine the steps.
    """
    trainer, data = config.get("trainer") or {}, (config.get("data") or {}).get("init_args") or {}
    data = (data.get("data") or {}).get("init_args") or {} if "fold" in data else data
    batch_size, accumulate = data.get("batch_size"), trainer.get("accumulate_grad_batches") or 1
    limited = trainer.get("limit_train_batches") not in (None, 1.0) or trainer.get("overfit_batches")
    timed = trainer.get("max_time") is not None
    if limited or timed or trainer.get("fast_dev_run") or not isinstance(batch_size, int) or n_train < 1:
        return None
    max_epochs, max_steps = trainer.get("max_epochs"), trainer.get("max_steps") or -1
    # without either limit Lightning trains for 1,000 epochs
    epochs = math.inf if max_epochs == -1 or (max_epochs is None and max_steps > 0) else max_epochs or 1000
    steps_an_epoch = math.ceil(math.ceil(n_train / (batch_size * processes)) / accumulate)
    steps = min(epochs * steps_an_epoch, max_steps if max_steps > 0 else math.inf)
    if steps >= FEW:
        return None
    smaller = 2 ** int(math.log2(max(1.0, n_train / (_BATCHES * processes))))
    batch = min(batch_size, max(_SMALLEST, smaller))
    needed = math.ceil(ENOUGH / math.ceil(n_train / (batch * processes)))
    flags = [f"--data.init_args.batch_size {batch}"] if batch < batch_size else []
    if accumulate > 1:
        flags.append("--trainer.accumulate_grad_batches 1")
    if epochs < needed:
        flags.append(f"--trainer.max_epochs {needed}")
    if max_steps > 0:
        flags.append(f"--trainer.max_steps {ENOUGH}")
    what = (
        f"{steps:,} optimizer steps are few: {n_train:,} training samples in batches of {batch_size * processes} make "
        f"{steps_an_epoch} steps an epoch, and a network needs some hundreds"
    )
    return Advice(what, " ".join(flags))
