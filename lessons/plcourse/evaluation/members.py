"""The members of an ensemble that lie in checkpoints, and what a network knows of a sample before its last layer."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plcourse.core.checkpoint import load
from plcourse.core.errors import UserError
from plcourse.core.paths import expand
from plcourse.core.unseen import check_other_weights


def find_checkpoints(patterns: Sequence[str]) -> list[str]:
    """Checkpoint files, each once.

    Args:
        patterns: ``.ckpt`` files, folders with a ``checkpoints/best.ckpt`` such as runs and folds, or glob patterns.

    Raises:
        UserError: a pattern that leads to no checkpoint.
    """
    found: dict[Path, str] = {}
    for pattern in patterns:
        inside = [path for name in expand(pattern) for path in _checkpoints_at(Path(name))]
        if not inside:
            raise UserError(f"ensemble: '{pattern}' leads to no checkpoint; give .ckpt files, runs, or <run>/folds/*")
        found.update({path.resolve(): str(path) for path in inside})
    return list(found.values())


def _checkpoints_at(path: Path) -> Iterator[Path]:
    if path.is_file() and path.suffix == ".ckpt":
        yield path
    elif (path / "checkpoints" / "best.ckpt").is_file():
        yield path / "checkpoints" / "best.ckpt"


def load_members(network: nn.Module, checkpoints: Sequence[str], trainer: Any = None) -> list[nn.Module]:
    """Copies of a network with the weights of other checkpoints, ready for evaluation.

    A checkpoint with the very weights of `network` is that network, and not counted twice. Each member sees the inputs
    as its own training prepared them, and answers in the order of this model's classes: see `Member`.

    Args:
        network: the network of this model.
        checkpoints: files whose ``state_dict`` has its weights below ``network.``.
        trainer: of the evaluation or prediction that the members take part in; without one, nothing is checked but
            the network.

    Raises:
        UserError: a checkpoint of another network, or of other columns or classes, or one that was trained on a sample
            that is about to be scored.
    """
    own, members = network.state_dict(), []
    data = getattr(trainer, "datamodule", None)
    here = None if data is None else data_state(data.state_dict())
    for path in checkpoints:
        checkpoint = load(Path(path))
        states = checkpoint["state_dict"]
        weights = {
            name.removeprefix("network."): value for name, value in states.items() if name.startswith("network.")
        }
        if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in own.items()}:
            raise UserError(
                f"ensemble: {path} was written by another network than {type(network).__name__} as configured"
            )
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
    """How a model's inputs were prepared and what its outputs mean; columns are empty for images."""

    mean: list[float]
    std: list[float]
    label_names: list[str]
    columns: list[str]
    shape: list[int] | None = None
    resize: str | None = None


def check_images(path: str, here: DataState, there: DataState) -> None:
    """Refuses a member that was trained on images of another shape, or brought to it by another rule.

    All members see the images of one data module. A state that does not say, as of a table, fits.
    """
    for what, own, other in (("shape", here.shape, there.shape), ("resize", here.resize, there.resize)):
        if own is not None and other is not None and own != other:
            raise UserError(f"ensemble: {path} was trained on images with {what} {other}, and this model with {own}")


def data_state(state: Any) -> DataState | None:
    """What the state of a data module says; None for anything else in a checkpoint."""
    if not isinstance(state, dict) or not {"mean", "std", "label_names"} <= state.keys():
        return None
    names = (list(state["label_names"]), list(state.get("features", ())))
    return DataState(state["mean"], state["std"], *names, state.get("shape"), state.get("resize"))


class Member(nn.Module):
    """A network that was trained with other normalisation, or another order of columns or classes, than this model.

    Args:
        network: the network with the member's weights.
        here: how this model's inputs are prepared.
        there: the same for the member.
        path: the member's checkpoint, for messages.

    Raises:
        UserError: the member has other columns or classes.
    """

    column: Tensor
    factor: Tensor
    shift: Tensor
    answer: Tensor

    def __init__(self, network: nn.Module, here: DataState, there: DataState, path: str) -> None:
        super().__init__()
        self.network = network
        columns = _places(there.columns, here.columns, "columns", path)
        classes = _places(here.label_names, there.label_names, "classes", path)
        # hashed words follow the columns, and have one place in both
        columns += range(len(columns), len(here.mean))
        mean, std = (torch.tensor(values, dtype=torch.float64)[columns] for values in (here.mean, here.std))
        its_mean, its_std = (torch.tensor(values, dtype=torch.float64) for values in (there.mean, there.std))
        self.register_buffer("column", torch.tensor(columns))
        self.register_buffer("factor", (std / its_std).float())
        self.register_buffer("shift", ((mean - its_mean) / its_std).float())
        self.register_buffer("answer", torch.tensor(classes))

    def forward(self, x_B: Tensor) -> Tensor:
        """Inputs as this model gets them, [B, C, H, W] or [B, D], in; scores in the order of its classes out."""
        tail = (1,) * (x_B.ndim - 2)
        x_B = x_B[:, self.column] * self.factor.reshape(-1, *tail) + self.shift.reshape(-1, *tail)
        return self.network(x_B)[..., self.answer]


def _places(wanted: Sequence[str], given: Sequence[str], what: str, path: str) -> list[int]:
    """Where each wanted name is among those that are given."""
    if set(wanted) != set(given):
        odd = sorted(set(wanted) ^ set(given))[0]
        raise UserError(f"ensemble: {path} was trained on other {what} than this model: '{odd}' is in one of them only")
    place = {name: number for number, name in enumerate(given)}
    return [place[name] for name in wanted]


def embedding_of(network: nn.Module, x_B: Tensor) -> Tensor:
    """What goes into the last linear layer, [B, E].

    Raises:
        UserError: the network has no linear layer.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise UserError(f"model.embedding: {type(network).__name__} has no linear layer whose input could be taken")
    taken: list[Tensor] = []
    handle = layers[-1].register_forward_pre_hook(lambda layer, inputs: taken.append(inputs[0]))
    try:
        network(x_B)
    finally:
        handle.remove()
    return taken[0].flatten(1)
