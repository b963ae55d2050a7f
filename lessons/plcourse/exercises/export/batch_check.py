"""Checks `batch`."""

import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

from plcourse.export.formats import known_warnings_aside


def check_any_batch(answer: ModuleType) -> None:
    """For batches of 1, 2, 7 and 64 samples, the file returns what the model returns."""
    import onnxruntime

    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    with tempfile.TemporaryDirectory() as folder, known_warnings_aside():
        path = Path(folder) / "model.onnx"
        answer.export(model, torch.randn(4, 6), path)
        assert path.is_file(), "no file was written"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for size in (4, 1, 2, 7, 64):
            sample = torch.randn(size, 6)
            with torch.no_grad():
                wanted = model.eval()(sample).numpy()
            try:
                found = np.asarray(session.run(["output"], {"input": sample.numpy()})[0])
            except Exception as error:
                raise AssertionError(f"{size} samples: the runtime raises {type(error).__name__}") from error
            assert found.shape == wanted.shape, f"{size} samples: shape {found.shape}, not {wanted.shape}"
            assert np.abs(found - wanted).max() < 1e-4, f"{size} samples: off by {np.abs(found - wanted).max():.2g}"
