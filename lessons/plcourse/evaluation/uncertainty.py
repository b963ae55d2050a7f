"""Whether the uncertainty of a prediction comes from the data or from the model.

M members each give class probabilities p_m. They are the networks of an ensemble (Lakshminarayanan et al. 2017, arXiv
1612.01474) or passes with dropout switched on (Gal and Ghahramani 2016, arXiv 1506.02142). With H the entropy in nats,

    H(mean p_m)          total uncertainty, that of the averaged prediction
    mean H(p_m)          aleatoric: noise in the data that no member resolves, such as overlapping classes
    their difference     epistemic: the mutual information of label and member; 0 if all members agree

(Depeweg et al. 2018, arXiv 1710.07283, equation 7; called BALD by Houlsby et al. 2011, arXiv 1112.5745).

Shapes: M members, B samples, K classes.
"""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd


def decompose(probability_MBK: Tensor) -> dict[str, Tensor]:
    """Splits the uncertainty of each sample into its two sources.

    Args:
        probability_MBK: class probabilities of each member, float; rows sum to 1.

    Returns:
        ``total``, ``aleatoric`` and ``epistemic``, each [B] in nats, 0 to log K; the first is the sum of the others.
        With one member ``epistemic`` is 0, which says nothing.
    """
    total_B = torch.special.entr(probability_MBK.mean(dim=0)).sum(dim=-1)  # entr(p) is -p log p, and 0 for 0
    aleatoric_B = torch.special.entr(probability_MBK).sum(dim=-1).mean(dim=0)
    # by Jensen's inequality the difference is never negative; rounding may make it so
    return {"total": total_B, "aleatoric": aleatoric_B, "epistemic": (total_B - aleatoric_B).clamp_min(0)}


class Ensemble(nn.Module):
    """Copies of a network with different initial weights, trained side by side on the same batches.

    Args:
        network: the network to copy; its layers must have ``reset_parameters``, as those of torch have.
        members: how many copies, 2 or more.

    Raises:
        ValueError: there are fewer than 2 members, or the weights of a layer cannot be reset.
    """

    def __init__(self, network: nn.Module, members: int = 5) -> None:
        super().__init__()
        if members < 2:
            raise ValueError(f"members={members}: give 2 or more")
        self.networks = nn.ModuleList([network, *(_reinitialized(network) for _ in range(members - 1))])

    def forward(self, x_B: Tensor) -> Tensor:
        """Inputs [B, ...] in, class scores of every member [M, B, K] out."""
        return torch.stack([network(x_B) for network in self.networks])


@contextlib.contextmanager
def dropout_on(network: nn.Module, seed: int) -> Iterator[None]:
    """Switches on dropout and nothing else, with masks that depend only on the seed and the batch shape.

    A sample gets the same masks whenever it is in the same batch under the same seed.

    Raises:
        ValueError: the network has no dropout.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _DropoutNd) and layer.p > 0]
    if not layers:
        raise ValueError("mc_samples: the network has no dropout; give it some, such as network.init_args.dropout=0.2")
    device = next(network.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for layer in layers:
            layer.train()
        try:
            yield
        finally:
            for layer in layers:
                layer.eval()


def _reinitialized(network: nn.Module) -> nn.Module:
    other = copy.deepcopy(network)
    for name, layer in other.named_modules():
        if callable(reset := getattr(layer, "reset_parameters", None)):
            reset()
        elif next(layer.parameters(recurse=False), None) is not None:
            raise ValueError(f"Ensemble: layer '{name}' ({type(layer).__name__}) has no reset_parameters")
    return other
