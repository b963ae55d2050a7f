"""Lesson 12 on one page: several processes take exactly the steps that one process would take.

    python -m plcourse.ddp.minimal

Every rank holds the same weights, takes its slice of the same batch, and averages its gradients with those of the other
ranks before each step (Li et al. 2020, arXiv 2006.15704). A mean over ranks equals the mean over samples only if all
slices have the same length. The last batch of an epoch often cannot be divided equally, so each rank weights its loss
by its number of samples.
"""

import logging
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional

from plcourse.data import permutation
from plcourse.ddp.data import ImageData


def train(rank: int, world_size: int, weighted: bool = True, epochs: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Trains on the digits and returns the final weights.

    Args:
        rank: this process, from 0.
        world_size: the number of processes, which have joined a process group.
        weighted: whether to weight the loss; False shows the error that this prevents.
        epochs: passes over the training part.
        seed: fixes the initial weights and the order of the samples.
    """
    torch.manual_seed(seed)  # the same on every rank, so that all of them start from the same weights
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).double()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    whole = next(iter(ImageData("digits", val_size=181).splits.eval_loader(None, "train", batch_size=10_000)))
    image_NCHW, label_N = whole["image"].double(), whole["label"]
    for epoch in range(epochs):
        order_N = torch.from_numpy(permutation(seed, epoch, len(label_N)))  # also the same on every rank
        for batch_B in order_N.split(108):  # the last one has 69, which two ranks cannot divide equally
            own = batch_B.tensor_split(world_size)[rank]
            loss = functional.cross_entropy(network(image_NCHW[own]), label_N[own])  # the mean over this rank's slice
            if weighted:
                loss = loss * len(own) * world_size / len(batch_B)
            optimizer.zero_grad()
            loss.backward()
            for parameter in network.parameters():
                assert parameter.grad is not None
                dist.all_reduce(parameter.grad)  # the sum over all ranks
                parameter.grad /= world_size
            optimizer.step()
    return network.state_dict()


def rank_process(rank: int, world_size: int, weighted: bool, folder: str) -> None:
    """The work of each process: joins the others and trains; rank 0 saves the weights."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    weights = train(rank, world_size, weighted)
    if rank == 0:
        torch.save(weights, Path(folder) / "weights.pt")
    dist.destroy_process_group()


def train_on(world_size: int, weighted: bool = True) -> dict[str, Tensor]:
    """Returns the final weights of a training on `world_size` processes."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(rank_process, (world_size, weighted, folder), nprocs=world_size)
        return torch.load(Path(folder) / "weights.pt", weights_only=True)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Returns the largest difference between two networks' weights."""
    return max((one[name] - other[name]).abs().max().item() for name in one)


if __name__ == "__main__":
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    one_process = train_on(1)
    print(f"two ranks, weighted:   {distance(one_process, train_on(2)):.1e} away from one process")
    print(f"two ranks, unweighted: {distance(one_process, train_on(2, weighted=False)):.1e}")
