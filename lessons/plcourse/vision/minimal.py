"""Lesson 18 on one page: one network with two heads, and an average of its weights over the last epochs.

    python -m plcourse.vision.minimal

An encoder feeds a classifier and a segmenter, and the two losses are added. Stochastic weight averaging (Izmailov et
al. 2018, algorithm 1, arXiv 1803.05407) then takes the mean of the weights at the end of each late epoch. No training
batch has passed through these averaged weights, so the running statistics of batch normalization do not fit them. One
more pass over the training data, without optimizer steps, recomputes the statistics.

Shape suffixes: N samples, B samples of a batch, K classes, M pixel classes, H height, W width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, update_bn

from plcourse.data import permutation
from plcourse.vision.data import VisionData

BATCH_SIZE = 64


def layer(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU())


class TwoHeads(nn.Module):
    """Images [B, 3, H, W] in, class scores [B, K] and pixel scores [B, M, H, W] out."""

    def __init__(self, num_classes: int = 10, mask_classes: int = 2) -> None:
        super().__init__()
        self.fine, self.coarse = layer(3, 16), nn.Sequential(layer(16, 32, stride=2), layer(32, 48, stride=2))
        self.classifier = nn.Linear(48, num_classes)
        self.up = nn.Conv2d(48, 16, 1)
        self.segmenter = nn.Conv2d(16, mask_classes, 3, padding=1)

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Images in, both scores out; the class gives the shapes."""
        fine = self.fine(image_B3HW)
        coarse = self.coarse(fine)
        up = functional.interpolate(self.up(coarse), size=fine.shape[-2:])
        return self.classifier(coarse.mean(dim=(2, 3))), self.segmenter(functional.relu(up + fine))


def loss(model: nn.Module, image: Tensor, label_B: Tensor, mask_BHW: Tensor) -> Tensor:
    """The sum of the two tasks' cross-entropies."""
    class_scores, pixel_scores = model(image)
    return functional.cross_entropy(class_scores, label_B) + functional.cross_entropy(pixel_scores, mask_BHW)


def train(model: TwoHeads, data: dict[str, Tensor], epochs: int, start: float, seed: int = 0) -> AveragedModel:
    """Trains the model; returns the average of its weights at the ends of the epochs after the fraction `start`."""
    average = AveragedModel(model, use_buffers=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)  # constant: averaging replaces the decay
    order_N = torch.arange(len(data["label"]))
    for epoch in range(epochs):
        order_N = torch.from_numpy(permutation(seed, epoch, len(order_N)))
        for batch in order_N.split(BATCH_SIZE):
            optimizer.zero_grad()
            loss(model, data["image"][batch], data["label"][batch], data["mask"][batch]).backward()
            optimizer.step()
        if epoch + 1 > start * epochs:
            average.update_parameters(model)
    update_bn((data["image"][batch] for batch in order_N.split(BATCH_SIZE)), average)
    return average


@torch.no_grad()
def scores(model: nn.Module, data: dict[str, Tensor]) -> tuple[float, float]:
    """Accuracy of the classes, and intersection over union of the foreground."""
    model.eval()
    class_scores, pixel_scores = model(data["image"])
    found, there = pixel_scores.argmax(dim=1) == 1, data["mask"] == 1
    accuracy = (class_scores.argmax(dim=1) == data["label"]).float().mean()
    return float(accuracy), float((found & there).sum() / (found | there).sum())


def part(name: str, source: VisionData) -> dict[str, Tensor]:
    """``image``, ``label`` and ``mask`` of a whole part."""
    whole = next(iter(source.splits.eval_loader(None, name, batch_size=10_000)))
    return {key: whole[key] for key in ("image", "label", "mask")}


if __name__ == "__main__":
    digits = VisionData("digits_on_photos", val_size=250, test_size=1000)
    digits.setup("fit")
    torch.manual_seed(0)
    raw = TwoHeads()
    averaged = train(raw, part("train", digits), epochs=10, start=0.4)
    for name, network in (("last weights", raw), ("averaged weights", averaged)):
        print("{}: accuracy {:.3f}, foreground IoU {:.3f}".format(name, *scores(network, part("test", digits))))
