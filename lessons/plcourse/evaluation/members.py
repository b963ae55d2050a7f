"""The members of an ensemble that lie in checkpoints, and what a network knows of a sample before its last layer."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from plcourse.core.checkpoint import load
from plcourse.core.errors import UserError
from plcourse.core.paths import expand


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


def load_members(network: nn.Module, checkpoints: Sequence[str]) -> list[nn.Module]:
    """Copies of a network with the weights of other checkpoints, ready for evaluation.

    A checkpoint with the very weights of `network` is that network, and not counted twice.

    Args:
        network: the network of this model.
        checkpoints: files whose ``state_dict`` has its weights below ``network.``.

    Raises:
        UserError: a checkpoint of another network.
    """
    own, members = network.state_dict(), []
    for path in checkpoints:
        states = load(Path(path))["state_dict"]
        weights = {
            name.removeprefix("network."): value for name, value in states.items() if name.startswith("network.")
        }
        if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in own.items()}:
            raise UserError(
                f"ensemble: {path} was written by another network than {type(network).__name__} as configured"
            )
        if all(torch.equal(value, own[name].cpu()) for name, value in weights.items()):
            continue
        member = copy.deepcopy(network)
        member.load_state_dict(weights)
        members.append(member.eval().requires_grad_(False))
    return members


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
