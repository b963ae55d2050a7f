"""The other members of an ensemble, loaded from checkpoints, and the embedding of a sample."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from plcourse.errors import UserError
from plcourse.files import expand
from plcourse.training.checkpoint import load
from plcourse.training.leak_check import check_other_weights


def find_checkpoints(patterns: Sequence[str]) -> list[str]:
    """Finds ``.ckpt`` files, and ``checkpoints/best.ckpt`` in folders (runs and folds), by glob patterns; each once.

    Raises:
        UserError: a pattern matches no checkpoint.
    """
    found: dict[Path, str] = {}
    for pattern in patterns:
        paths = [path for name in expand(pattern) for path in (Path(name), Path(name, "checkpoints", "best.ckpt"))]
        inside = [path for path in paths if path.suffix == ".ckpt" and path.is_file()]
        if not inside:
            raise UserError(f"ensemble: '{pattern}' matches no checkpoint; give .ckpt files, runs, or <run>/folds/*")
        found.update({path.resolve(): str(path) for path in inside})
    return list(found.values())


def load_members(network: nn.Module, checkpoints: Sequence[str], trainer: pl.Trainer | None = None) -> list[nn.Module]:
    """Loads copies of a network with the weights of other checkpoints, in evaluation mode.

    A checkpoint has the weights under ``network.``; one with the same weights as this model's ``network`` is skipped,
    so that no member counts twice. If a member was trained with other normalization or another order of columns or
    classes, a `Member` translates between the two. Without a trainer, only the network is checked.

    Raises:
        UserError: a checkpoint is of another network, has other columns or classes, or was trained on a sample that
            is about to be scored.
    """
    own, members = network.state_dict(), []
    data = getattr(trainer, "datamodule", None)
    here = None if data is None else data_state(data.state_dict())
    for path in checkpoints:
        checkpoint, prefix = load(Path(path)), "network."
        weights = {k.removeprefix(prefix): w for k, w in checkpoint["state_dict"].items() if k.startswith(prefix)}
        if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in own.items()}:
            raise UserError(f"ensemble: {path} does not fit the configured network, {type(network).__name__}")
        if all(torch.equal(value, own[name].cpu()) for name, value in weights.items()):
            continue
        if trainer is not None:
            check_other_weights(trainer, checkpoint, path)
        member = copy.deepcopy(network)
        member.load_state_dict(weights)
        there = next((state for each in checkpoint.values() if (state := data_state(each))), None)
        if here is not None and there is not None and here != there:
            check_images(path, here, there)
            member = Member(member, here, there, path)
        members.append(member.eval().requires_grad_(False))
    return members


@dataclass
class DataState:
    """How a model's inputs were prepared and what its outputs mean; ``columns`` is empty for images."""

    mean: list[float]
    std: list[float]
    label_names: list[str]
    columns: list[str]
    shape: list[int] | None = None
    resize: str | None = None


def check_images(path: str, here: DataState, there: DataState) -> None:
    """Raises a `UserError` if a member was trained on images of another shape or resized by another rule.

    All members get the images of one data module. A state without these fields, such as that of a table, fits.
    """
    for what, own, other in (("shape", here.shape, there.shape), ("resize", here.resize, there.resize)):
        if own is not None and other is not None and own != other:
            raise UserError(f"ensemble: {path} was trained on images with {what} {other}, this model with {own}")


def data_state(state: object) -> DataState | None:
    """Parses the state of a data module; None for any other part of a checkpoint."""
    if not isinstance(state, dict) or not {"mean", "std", "label_names"} <= state.keys():
        return None
    names = (list(state["label_names"]), list(state.get("features", ())))
    return DataState(state["mean"], state["std"], *names, state.get("shape"), state.get("resize"))


class Member(nn.Module):
    """A network that was trained (``there``) with other normalization, columns or classes than this model (``here``).

    Raises:
        UserError: the columns or classes differ in more than their order.
    """

    column: Tensor
    factor: Tensor
    shift: Tensor
    answer: Tensor

    def __init__(self, network: nn.Module, here: DataState, there: DataState, path: str) -> None:
        super().__init__()
        self.network = network
        columns = _positions(there.columns, here.columns, "columns", path)
        classes = _positions(here.label_names, there.label_names, "classes", path)
        columns += range(len(columns), len(here.mean))  # hashed words follow the columns, at the same positions in both
        mean, std = (torch.tensor(values, dtype=torch.float64)[columns] for values in (here.mean, here.std))
        its_mean, its_std = (torch.tensor(values, dtype=torch.float64) for values in (there.mean, there.std))
        self.register_buffer("column", torch.tensor(columns))
        self.register_buffer("factor", (std / its_std).float())
        self.register_buffer("shift", ((mean - its_mean) / its_std).float())
        self.register_buffer("answer", torch.tensor(classes))

    def forward(self, x_B: Tensor) -> Tensor:
        """Maps this model's inputs [B, C, H, W] or [B, D] to scores in the order of its classes."""
        tail = (1,) * (x_B.ndim - 2)
        x_B = x_B[:, self.column] * self.factor.reshape(-1, *tail) + self.shift.reshape(-1, *tail)
        return self.network(x_B)[..., self.answer]


def _positions(wanted: Sequence[str], given: Sequence[str], what: str, path: str) -> list[int]:
    if set(wanted) != set(given):
        odd = sorted(set(wanted) ^ set(given))[0]
        raise UserError(f"ensemble: {path} was trained on other {what} than this model: only one of them has '{odd}'")
    position = {name: number for number, name in enumerate(given)}
    return [position[name] for name in wanted]


def embedding_of(network: nn.Module, x_B: Tensor) -> Tensor:
    """Returns the input [B, E] of the network's last linear layer.

    Raises:
        UserError: the network has no linear layer.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise UserError(f"model.embedding: {type(network).__name__} has no linear layer whose input could be returned")
    taken: list[Tensor] = []
    handle = layers[-1].register_forward_pre_hook(lambda layer, inputs: taken.append(inputs[0]))
    try:
        network(x_B)
    finally:
        handle.remove()
    return taken[0].flatten(1)
