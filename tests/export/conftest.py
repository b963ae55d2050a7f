"""One small run with every format, made once by a real command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plcourse import Run

DIGITS = [
    *("--data.init_args.source", "digits", "--data.init_args.test_size", "300"),
    *("--model.init_args.network.init_args.widths", "[8,16]", "--trainer.max_epochs", "10"),
]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`plcourse fit -c export/classifier --then test,export --format all --preprocess --probabilities`, on the digits.

    300 test samples are few: two of them are more than the 0.005 that a metric may usually lose.
    """
    root = tmp_path_factory.mktemp("exported") / "runs"
    command = [sys.executable, "-m", "plcourse", "fit", "-c", "export/classifier", *DIGITS, "--runs_root", str(root)]
    command += ["--then", "test,export", "--format", "all", "--preprocess", "--probabilities", "--max_drop", "0.02"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run.load("export/classifier", root)
    (Path(run.path) / "printed.txt").write_text(done.stdout)
    return run
