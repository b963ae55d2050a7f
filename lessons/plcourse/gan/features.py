"""The network in whose features images are compared: a small classifier, trained once on the source's training part.

Inception's weights would need a download and have never seen a digit. This network trains in seconds, is cached under a
name made from everything its weights depend on, and reports its accuracy on the test part. A distance in its features
is not an FID; it is comparable only with distances in the same features.

Shape suffixes: B samples, C channels, H rows, W columns, K classes, F features.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from plcourse.console import say
from plcourse.data import ImageDataset, ImageSplits, permutation
from plcourse.errors import UserError
from plcourse.files import locked
from plcourse.training.checkpoint import AtomicCheckpointIO, load

EPOCHS, BATCH, RATE = 12, 64, 2e-3
_RECIPE = f"AdamW, one cycle, {EPOCHS} epochs, batch {BATCH}, rate {RATE}"


class FeatureNetwork(nn.Module):
    """A small convolutional classifier whose last hidden layer is the features.

    Args:
        channels: channels of the images, 1 or 3.
        num_classes: classes of the source, 2 or more.
        widths: channels of each stage, multiples of 8; every stage halves the image size.
        features: F, the number of features.
    """

    fitted: Tensor
    accuracy: Tensor
    unit: Tensor

    def __init__(
        self, channels: int = 1, num_classes: int = 10, widths: Sequence[int] = (16, 32, 64), features: int = 64
    ) -> None:
        super().__init__()
        self.arguments = (channels, num_classes, tuple(widths), features)
        stages: list[nn.Module] = []
        for c_in, c_out in pairwise([channels, *widths]):
            stages += [nn.Conv2d(c_in, c_out, 3, 2, padding=1), nn.GroupNorm(8, c_out), nn.ReLU()]
        self.stages = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.hidden = nn.Linear([channels, *widths][-1] * 16, features)
        self.head = nn.Linear(features, num_classes)
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("accuracy", torch.tensor(float("nan")))
        self.register_buffer("unit", torch.tensor(1.0))  # scales the mean square of the features to 1 in training

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Maps images [B, C, H, W] in [-1, 1] to features [B, F] and class scores [B, K]."""
        features_BF = functional.relu(self.hidden(self.stages(image_BCHW)))
        return features_BF / self.unit, self.head(features_BF)


def fit_features(network: FeatureNetwork, images: ImageSplits, cache: Path, device: torch.device | str = "cpu") -> None:
    """Loads the weights of a network from the cache, or trains them and adds them to the cache.

    Of several processes that need the same weights, one trains and the others wait. The run's random states do not
    change. If the images do not fit the network, a UserError says what to set.
    """
    _check(network, images)
    path = cache / f"{fingerprint(network, images)}.ckpt"
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache):
        if path.is_file():
            state = load(path)["state_dict"]
        else:
            state = _trained(network.arguments, images, device)
            AtomicCheckpointIO().save_checkpoint({"state_dict": state}, path)
            say(
                f"feature network trained on {images.sizes['n_train']} images: accuracy {state['accuracy']:.4f} on "
                f"{images.sizes['n_test']} test images; saved as {path}"
            )
    network.load_state_dict(state)


def fingerprint(network: FeatureNetwork, images: ImageSplits) -> str:
    """A hash of the training samples, their labels, the network and the recipe: 16 hexadecimal digits."""
    train, source, fitted = images.parts["train"], images.source, images.normalization
    scale = f"Normalisation(mean={fitted.mean}, std={fitted.std})"  # spelled as in version 0.1.0, to find its networks
    digest = hashlib.sha256(f"{network.arguments} {_RECIPE} {images.shape} {scale}".encode())
    digest.update(source.hashes[train].tobytes())
    digest.update(source.labels[train].tobytes())
    digest.update(images.parts["test"].tobytes())  # the accuracy depends on it
    return digest.hexdigest()[:16]


def part_of(images: ImageSplits, part: str, n: int | None = None) -> ImageDataset:
    """The images of one part without augmentation, at most ``n`` of them, evenly spaced."""
    indices = images.parts[part]
    if n is not None and n < len(indices):
        indices = indices[[len(indices) * i // n for i in range(n)]]
    return ImageDataset(images.source, indices, images.normalization)


def batches(data: ImageDataset, size: int, order: np.ndarray | None = None) -> Iterator[dict[str, Any]]:
    """Batches as the loaders make them, in the given order."""
    order = np.arange(len(data)) if order is None else order
    for start in range(0, len(data), size):
        yield data.fetch(order[start : start + size], 0)


def _check(network: FeatureNetwork, images: ImageSplits) -> None:
    found = {"channels": images.channels, "num_classes": images.num_classes}
    for (what, number), wanted in zip(found.items(), network.arguments, strict=False):
        if wanted != number:
            raise UserError(
                f"the feature network has {what} {wanted}, but the data have {number}; set "
                f"--model.init_args.quality.init_args.features.init_args.{what} {number}"
            )
    if images.num_classes < 2:
        raise UserError("the feature network needs data with two classes or more")


def _trained(
    arguments: tuple[int, int, tuple[int, ...], int], images: ImageSplits, device: torch.device | str
) -> dict[str, Tensor]:
    with torch.random.fork_rng(), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(0)
        network = FeatureNetwork(*arguments).to(device, torch.float32)  # even if the run is in double precision
        train, test = part_of(images, "train"), part_of(images, "test")
        steps = EPOCHS * -(-len(train) // BATCH)
        optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
        for epoch in range(EPOCHS):
            for batch in batches(train, BATCH, permutation(0, epoch, len(train))):
                _, score_BK = network(batch["image"].to(device))
                loss = functional.cross_entropy(score_BK, batch["label"].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                cycle.step()
        with torch.no_grad():
            right = [
                network(batch["image"].to(device))[1].argmax(1).cpu() == batch["label"] for batch in batches(test, 256)
            ]
            squares = [network(batch["image"].to(device))[0].double().square().mean(1) for batch in batches(train, 256)]
        network.unit.copy_(torch.cat(squares).mean().sqrt())
        network.accuracy.fill_(torch.cat(right).double().mean())
        network.fitted.fill_(True)
    return {name: value.cpu() for name, value in network.state_dict().items()}
