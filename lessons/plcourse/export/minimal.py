"""Lesson 17 on one page: an exported file is a second implementation of the model, so it is compared with the first.

    python -m plcourse.export.minimal

An export can go wrong silently: it may freeze the batch size of the example, leave out the preprocessing of the input,
or round too coarsely. Three checks find such faults, each closer to what users care about: are the numbers equal, are
the decisions equal, and is the test score as good? The result names every check that fails.

Shape suffixes: N samples, K classes.
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional

from plcourse.export.data import ExportData

Runner = Callable[[np.ndarray], np.ndarray]


def train(image_NCHW: Tensor, label_N: Tensor, steps: int = 200) -> nn.Module:
    """A small convolutional network, trained on the digits."""
    torch.manual_seed(0)
    features = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(), nn.Flatten())
    network = nn.Sequential(*features, nn.Linear(16 * 3 * 3, 10))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(steps):
        batch = torch.randint(len(label_N), (64,))
        loss = functional.cross_entropy(network(image_NCHW[batch]), label_N[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def export(network: nn.Module, example_NCHW: Tensor, file: Path) -> None:
    """Writes an ONNX file that takes any number of samples. Without `dynamic_shapes` it would take only two."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        batch = {0: torch.export.Dim("batch")}
        torch.onnx.export(network, (example_NCHW[:2],), file, dynamo=True, dynamic_shapes=(batch,), verbose=False)


def runner(file: Path) -> Runner:
    """Returns a function that runs the file without torch."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image_NCHW: np.asarray(session.run(None, {name: image_NCHW})[0])


def compare(
    run: Runner, network: nn.Module, image_NCHW: Tensor, label_N: Tensor, batch_size: int
) -> tuple[float, float, float]:
    """Largest deviation (as a fraction of the largest output), fraction of equal decisions, and drop in accuracy."""
    with torch.no_grad():
        right_NK = network(image_NCHW).numpy()
    answer_NK = np.concatenate([run(batch.numpy()) for batch in image_NCHW.split(batch_size)])
    deviation = np.abs(answer_NK.astype(np.float64) - right_NK).max() / np.abs(right_NK).max()
    decision_N, right_N = answer_NK.argmax(axis=1), right_NK.argmax(axis=1)
    drop = (right_N == label_N.numpy()).mean() - (decision_N == label_N.numpy()).mean()
    return float(deviation), float((decision_N == right_N).mean()), float(drop)


def failures(run: Runner, network: nn.Module, image_NCHW: Tensor, label_N: Tensor, batch_size: int) -> list[str]:
    """Describes every check that a file fails."""
    try:
        deviation, agreement, drop = compare(run, network, image_NCHW, label_N, batch_size)
    except Exception as error:  # runtimes raise various types
        return [f"the file cannot take batches of {batch_size}: {str(error).splitlines()[0]}"]
    checks = {
        f"max deviation {deviation:.1e} of the largest output exceeds the tolerance 1e-4": deviation <= 1e-4,
        f"{agreement:.1%} of the decisions agree; 99.9 % are required": agreement >= 0.999,
        f"the accuracy drops by {drop:.4f}, which exceeds the tolerance 0.005": drop <= 0.005,
    }
    return [reason for reason, passed in checks.items() if not passed]


def part(name: str) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 8, 8] and labels [N] of ``train`` or ``test``."""
    whole = next(iter(ExportData("digits").splits.eval_loader(None, name, batch_size=10_000)))
    return whole["image"], whole["label"]


if __name__ == "__main__":
    trained, (test_image, test_label) = train(*part("train")), part("test")
    with tempfile.TemporaryDirectory() as folder:
        export(trained, test_image, Path(folder) / "model.onnx")
        good = runner(Path(folder) / "model.onnx")
        print("the file:", failures(good, trained, test_image, test_label, batch_size=7) or "verified")
        half = failures(lambda image: good(0.5 * image), trained, test_image, test_label, batch_size=7)
        print("the file, with its input scaled wrongly:", half)
