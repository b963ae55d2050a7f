"""Records what ``forward`` returns in an evaluation, averages the recordings of several models, and plays them back.

This serves any model whose steps call ``self(...)``. The out-of-fold predictions are the recorded outputs of each
fold's model on the samples it has never seen. An ensemble is scored by the model's own ``test_step``, in which
``forward`` returns the averaged outputs of the folds' models: all metrics, and the results of ``predict_step``, are
those of the ensemble.

Shapes: B samples of a batch, K classes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.nn import functional

from plcourse.data.loader import sample_ids
from plcourse.errors import RunFailed, UserError
from plcourse.training.metrics import probabilities

Combine = Literal["logits", "values"]


@dataclass
class BatchOutputs:
    """The outputs of a batch of an evaluation on this process."""

    ids: list[str] | None  # None if batches have none; the same for the labels
    labels: Tensor | None
    outputs: list[Tensor] = field(default_factory=list)  # of each call of ``forward``, on the CPU


class _ForwardWatcher(Callback, ABC):
    """Replaces a model's ``forward`` during one evaluation."""

    @abstractmethod
    def forward(self, *args: object, **kwargs: object) -> Tensor:
        """Called in place of the model's own."""

    @abstractmethod
    def on_batch(self, batch: object) -> None:
        """Called before each batch."""

    def _attach(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.own_forward = pl_module.forward
        pl_module.forward = self.forward

    def _detach(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        del pl_module.forward  # uncovers that of the class

    def _batch_starts(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.on_batch(batch)

    on_validation_start = on_test_start = on_predict_start = _attach
    on_validation_end = on_test_end = on_predict_end = _detach
    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = _batch_starts


class Recording(_ForwardWatcher):
    """Records what ``forward`` returns for each batch of this process."""

    def __init__(self) -> None:
        self.batches: list[BatchOutputs] = []

    def on_batch(self, batch: object) -> None:
        """Starts the record of a batch."""
        ids, labels = _known(batch)
        self.batches.append(BatchOutputs(ids, None if labels is None else labels.detach().cpu()))

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        """Returns the model's own output and records it."""
        output = self.own_forward(*args, **kwargs)
        if not isinstance(output, Tensor):
            raise UserError(f"forward returned a {type(output).__name__}; only tensors can be averaged over folds")
        self.batches[-1].outputs.append(output.detach().cpu())
        return output


class AveragedOutputs(_ForwardWatcher):
    """Averages several recordings; its ``forward`` plays the average back.

    With ``logits`` the average is the log of the mean softmax over the second dimension, whose softmax is the mean
    probability; with ``values`` it is the mean. Recordings of different samples, or of a model that does not call
    ``forward``, are a RunFailed.
    """

    def __init__(self, combine: Combine) -> None:
        self._logits = combine == "logits"
        self.members = 0
        self._sums: list[BatchOutputs] = []  # of probabilities as their logarithms
        self._batch = -1
        self._call = 0

    def add(self, recording: Recording) -> None:
        """Adds the recording of another member."""
        summand = _log_probabilities if self._logits else Tensor.double
        own = [BatchOutputs(b.ids, b.labels, [summand(x) for x in b.outputs]) for b in recording.batches]
        if own and not any(batch.outputs for batch in own):
            raise RunFailed("an ensemble averages the outputs of forward, which the step never calls: call self(...)")
        if self.members:
            if [(b.ids, len(b.outputs)) for b in own] != [(b.ids, len(b.outputs)) for b in self._sums]:
                raise RunFailed("two folds were scored on different batches: the loader must keep its order")
            add = torch.logaddexp if self._logits else torch.add
            for total, batch in zip(self._sums, own, strict=True):
                total.outputs = [add(a, b) for a, b in zip(total.outputs, batch.outputs, strict=True)]
        else:
            self._sums = own
        self.members += 1

    def on_batch(self, batch: object) -> None:
        """Moves on to the next batch."""
        self._batch, self._call = self._batch + 1, 0
        ids, _ = _known(batch)
        if ids is not None and ids != self._sums[self._batch].ids:
            raise RunFailed("the ensemble is scored on other batches than its folds: the loader must keep its order")

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        """The average of the members' outputs in the same call."""
        total = self._sums[self._batch].outputs[self._call]
        self._call += 1
        mean = total - np.log(self.members) if self._logits else total / self.members
        like = next((arg for arg in args if isinstance(arg, Tensor)), None)
        # at least single precision, as for all scores, even in a half-precision run
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        return mean.to("cpu" if like is None else like.device, dtype)


def _known(batch: object) -> tuple[list[str] | None, Tensor | None]:
    """The ids and labels of a batch; None for what it lacks."""
    fields = batch if isinstance(batch, dict) else {}
    ids, label = sample_ids(batch), fields.get("label")
    return None if ids is None else list(map(str, ids)), label if isinstance(label, Tensor) else None


def _log_probabilities(logits: Tensor) -> Tensor:
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise UserError(
            f"forward returned shape {list(logits.shape)} instead of the scores of 2 or more classes per sample; set "
            "combine to values to average the outputs themselves"
        )
    return logits.double().log_softmax(dim=1)


def out_of_fold_rows(recording: Recording, combine: Combine, repeat: int, fold: int) -> pa.Table | None:
    """The predictions of a fold's model on its held-out samples, from the recording of their validation.

    Returns:
        Columns ``id``, ``repeat``, ``fold``, ``label``, ``prediction``, ``probability`` (classifiers), and ``loss``,
        the cross-entropy of the sample in nats or its squared error. None if on this process any batch lacks ids or
        labels, or calls ``forward`` more or less than once.
    """
    batches = recording.batches
    if not batches or any(b.ids is None or b.labels is None or len(b.outputs) != 1 for b in batches):
        return None
    ids = [name for batch in batches for name in batch.ids or ()]
    label_B = torch.cat([batch.labels for batch in batches if batch.labels is not None])
    output = torch.cat([batch.outputs[0] for batch in batches])
    columns = {
        "id": pa.array(ids, pa.string()),
        "repeat": pa.array([repeat] * len(ids), pa.int64()),
        "fold": pa.array([fold] * len(ids), pa.int64()),
    }
    if combine == "logits":
        if output.ndim != 2:
            return None
        log_BK = _log_probabilities(output)
        loss_B = functional.nll_loss(log_BK, label_B, reduction="none")
        columns |= {"label": label_B.numpy(), "prediction": probabilities(output).argmax(dim=1).numpy()}
        columns["probability"] = pa.array(log_BK.exp().tolist(), pa.list_(pa.float64()))
    else:
        if output.numel() != label_B.numel():
            return None
        label_B, value_B = label_B.double().reshape(-1), output.double().reshape(-1)
        loss_B = (value_B - label_B).square()
        columns |= {"label": label_B.numpy(), "prediction": value_B.numpy()}
    return pa.table({**columns, "loss": loss_B.numpy()})
