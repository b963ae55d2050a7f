"""`minimal.py` writes the same rows as the lesson, however often it is killed."""

import os
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from plcourse.data import eval_loader
from plcourse.data.images import Process
from plcourse.evaluation import minimal
from plcourse.evaluation.generated import CLASSES, FEATURES, GeneratedRows
from plcourse.evaluation.streaming_loop import StreamingPredictLoop
from trainers import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
ROWS, BATCH = 1050, 100


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(FEATURES, CLASSES)


def table(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(file) for file in sorted(folder.glob("part-*.parquet"))], ignore_index=True)


@pytest.mark.usefixtures("one_thread")
def test_the_minimal_prediction_has_the_rows_of_the_lesson(tmp_path: Path) -> None:
    rows = GeneratedRows(ROWS, labeled=False)
    folder = str(tmp_path / "lesson")
    trainer = quiet_trainer(predict_loop=lambda trainer: StreamingPredictLoop(trainer, output_dir=folder))
    loader: Any = eval_loader(rows, BATCH, Process())
    trainer.predict(minimal.Predictor(network()), loader, return_predictions=False)
    assert minimal.predict(network(), rows, tmp_path / "page", BATCH) == 11
    lesson, page = table(tmp_path / "lesson"), table(tmp_path / "page")
    assert page.id.tolist() == list(range(ROWS))
    assert page.label.tolist() == lesson.label.tolist()
    assert page.probability.map(list).tolist() == lesson.probability.map(list).tolist()


def status_after_kill(rows: GeneratedRows, folder: Path, kill_at: int) -> int:
    """Predicts in a child process, which dies between a shard's file and its line in the manifest."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    replaced, before = [], Path.replace

    def replace(path: Path, target: Any) -> Path:
        replaced.append(before(path, target))
        if len(replaced) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return replaced[-1]

    setattr(Path, "replace", replace)  # noqa: B010
    minimal.predict(network(), rows, folder, BATCH)
    os._exit(0)


@pytest.mark.medium
@pytest.mark.usefixtures("one_thread")
def test_a_killed_prediction_goes_on_to_the_same_rows(tmp_path: Path) -> None:
    rows = GeneratedRows(ROWS, labeled=False)
    for kill_at in (3, 6):
        assert status_after_kill(rows, tmp_path / "killed", kill_at) == -signal.SIGKILL
    assert minimal.committed(tmp_path / "killed") == set(range(7))
    with (tmp_path / "killed" / minimal.MANIFEST).open("a") as manifest:
        manifest.write('{"number": 7, "fi')  # torn
    assert minimal.predict(network(), rows, tmp_path / "killed", BATCH) == 4
    assert minimal.predict(network(), rows, tmp_path / "whole", BATCH) == 11
    killed, whole = table(tmp_path / "killed"), table(tmp_path / "whole")
    pd.testing.assert_frame_equal(killed, whole)
    assert minimal.predict(network(), rows, tmp_path / "killed", BATCH) == 0
