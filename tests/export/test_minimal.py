"""`minimal.py` measures what the lesson's certificate measures, and fails what the certificate fails."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from plcourse.export import minimal
from plcourse.export.card import Port
from plcourse.export.samples import Samples
from plcourse.export.verify import compare


@pytest.mark.medium
def test_the_minimal_comparison_is_that_of_the_lesson(tmp_path: Path) -> None:
    image, label = (each[:200] for each in minimal.part("test"))
    network = minimal.train(*minimal.part("train"), steps=60)
    minimal.export(network, image, tmp_path / "model.onnx")
    good = minimal.runner(tmp_path / "model.onnx")
    assert minimal.failures(good, network, image, label, batch_size=7) == []

    with torch.no_grad():
        samples = Samples([str(i) for i in range(200)], [image.numpy()], [network(image).numpy()])
    ports = [Port("scores", "float32", ["batch", 10], classes=1)]
    runners: list[minimal.Runner] = [good, lambda x: good(0.5 * x), lambda x: good(x) + np.float32(0.1)]
    for run in runners:

        def as_lesson(inputs: Sequence[np.ndarray], run: minimal.Runner = run) -> list[np.ndarray]:
            return [run(inputs[0])]

        found = compare(as_lesson, [samples], 8, ports)
        deviation, agreement, _ = minimal.compare(run, network, image, label, batch_size=8)
        assert deviation == pytest.approx(found["max_deviation"] / found["scale"], rel=1e-6, abs=1e-12)
        assert agreement == found["agreement"]
    assert len(minimal.failures(runners[1], network, image, label, batch_size=8)) >= 1
    assert "max deviation" in minimal.failures(runners[2], network, image, label, batch_size=8)[0]


@pytest.mark.medium
def test_a_frozen_batch_size_is_found(tmp_path: Path) -> None:
    image, label = minimal.part("test")
    network = minimal.train(*minimal.part("train"), steps=1)
    torch.onnx.export(network, (image[:2],), tmp_path / "frozen.onnx", dynamo=True, verbose=False)
    frozen = minimal.runner(tmp_path / "frozen.onnx")
    (reason,) = minimal.failures(frozen, network, image, label, batch_size=7)
    assert reason.startswith("the file cannot take batches of 7: ")
