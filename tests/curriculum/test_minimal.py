"""`minimal.py` draws the same samples as the lesson and ends with the same weights."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from plcourse.curriculum.data import CurriculumData
from plcourse.curriculum.loop import CurriculumLoop
from plcourse.curriculum.minimal import admitted_fraction, train
from plcourse.curriculum.model import CurriculumClassifier
from plcourse.curriculum.pacing import PacingFunction
from plcourse.curriculum.scorers import ClassifierMargin
from plcourse.ddp.networks import MLP
from trainers import quiet_trainer


@pytest.mark.usefixtures("one_thread")
def test_the_minimal_curriculum_arrives_at_the_weights_of_the_lesson(tmp_path: Path) -> None:
    pl.seed_everything(0, verbose=False)
    model = CurriculumClassifier(
        MLP(hidden=(32,)),
        optimizer=lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True),
        lr_scheduler=None,
    )
    trainer = quiet_trainer(
        fit_loop=lambda trainer: CurriculumLoop(trainer, scorer=ClassifierMargin(), pacing=PacingFunction()),
        max_epochs=4,
        default_root_dir=str(tmp_path),
    )
    trainer.fit(model, datamodule=CurriculumData("digits"))
    network = train(curriculum=True, epochs=4)
    expected, found = (list(each.state_dict().values()) for each in (model.network, network))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-6)
    plain = list(train(curriculum=False, epochs=4).state_dict().values())
    assert (plain[0] - found[0]).abs().max() > 1e-2, "the curriculum changed nothing"


def test_the_pace_is_that_of_the_lesson() -> None:
    lesson = PacingFunction()
    for progress in (0.0, 0.1, 0.3, 0.5, 0.9):
        assert admitted_fraction(progress) == pytest.approx(lesson.fraction(progress), abs=1e-15)
