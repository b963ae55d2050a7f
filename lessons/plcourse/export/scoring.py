"""Scores an exported file on raw inputs, with the test loop of the module that it was made from."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from plcourse.data import BatchLoader
from plcourse.errors import UserError
from plcourse.export.graph import Bridge, Program
from plcourse.export.runners import Runner
from plcourse.export.samples import place_of
from plcourse.training.exportable import RawMasks

MAX_VALUES = 1 << 25  # in the raw inputs of one call; a graph that resizes holds them in float64


class RawAnswers(Callback):
    """Replaces ``forward``: answers from the raw inputs of the batch that is being tested.

    Without a runner the trained model answers, in the size of the raw inputs.
    """

    def __init__(self, program: Program, bridge: Bridge | None = None, runner: Runner | None = None) -> None:
        self.program, self.bridge, self.runner = program, bridge, runner
        self.batch: Any = None

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Remembers the batch."""
        self.batch = batch

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
        """Returns what ``forward`` returns for the inputs of the current batch.

        Raises:
            UserError: the inputs are not those of the batch, so their raw inputs are unknown.
        """
        program = self.program
        expected = program.exportable.export_inputs(self.batch)
        if len(expected) != len(inputs) or not all(torch.equal(x, y) for x, y in zip(inputs, expected, strict=True)):
            raise UserError(
                f"the test_step of {type(program.module).__name__} changes a batch before its forward, "
                "so the file cannot be scored on raw inputs"
            )
        raws = None if program.raw is None else program.raw.raw_inputs(self.batch["id"])
        if self.runner is None or self.bridge is None:
            assert raws is not None
            outputs = program.in_size_of_raw(program.answers(self.batch), place_of(self.batch, 0, raws[0]))
            return outputs[0] if len(outputs) == 1 else tuple(outputs)
        if raws is None:  # texts, which the file's own tokenizer encodes
            return self.bridge.outputs(self.runner([each.numpy() for each in program.inputs(self.batch)]))
        assert program.preprocessing is not None
        return self.bridge.outputs(run_raw(self.runner, raws, program.preprocessing.raw_dtype))


def run_raw(runner: Runner, raws: Sequence[Tensor], dtype: torch.dtype) -> list[np.ndarray]:
    """Runs raw inputs of any shapes, equal shapes together, and returns the outputs in the order of the inputs."""
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, raw in enumerate(raws):
        by_shape[tuple(raw.shape)].append(i)
    rows: dict[int, list[np.ndarray]] = {}
    for members in by_shape.values():
        step = max(1, MAX_VALUES // raws[members[0]].numel())
        for start in range(0, len(members), step):
            chosen = members[start : start + step]
            outputs = runner([torch.stack([raws[i] for i in chosen]).to(dtype).numpy()])
            rows.update({i: [each[at : at + 1] for each in outputs] for at, i in enumerate(chosen)})
    return [np.concatenate(each) for each in zip(*(rows[i] for i in range(len(raws))), strict=True)]


@contextmanager
def masks_in_raw_size(datamodule: pl.LightningDataModule) -> Iterator[None]:
    """Makes the test loader of a `RawMasks` yield one sample at a time, with its mask in the size of its raw image."""
    loader = datamodule.test_dataloader
    assert isinstance(datamodule, RawMasks)
    datamodule.test_dataloader = lambda: _OneByOne(loader(), datamodule)
    try:
        yield
    finally:
        del datamodule.test_dataloader


class _OneByOne:
    """Yields the samples of a loader one at a time, each with its mask in the size of its raw image."""

    def __init__(self, loader: BatchLoader, datamodule: RawMasks) -> None:
        self.loader, self.datamodule = loader, datamodule
        self.plan = loader.plan  # what `Coverage` counts by

    def __len__(self) -> int:
        return self.plan.n

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.loader:
            for i, mask_HW in enumerate(self.datamodule.raw_masks(batch["id"])):
                yield {**{key: value[i : i + 1] for key, value in batch.items()}, "mask": mask_HW[None].long()}
