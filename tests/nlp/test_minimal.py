"""The page that shows the idea computes the scores of the lesson's GPT and takes its steps."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from plcourse.nlp import gpt, minimal
from plcourse.nlp.data import LanguageData
from plcourse.nlp.language_model import LanguageModel
from trainers import QUIET

STEPS = 12


class Losses(pl.Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        self.values.append(outputs["loss"].item())


@pytest.fixture
def data(tmp_path: Path) -> LanguageData:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog, and over the cat.\n" * 80)
    data = LanguageData("text_file", path=str(tmp_path / "text.txt"), vocab_size=64, block_size=32, batch_size=8)
    data.setup("fit")
    return data


@pytest.mark.usefixtures("one_thread")
def test_the_minimal_gpt_takes_the_steps_of_the_lesson(data: LanguageData, tmp_path: Path) -> None:
    pl.seed_everything(0, verbose=False)
    size = data.tokenizer.size
    lesson = gpt.GPT(vocab_size=size, context=32, layers=2, heads=4, width=64)
    page = minimal.GPT(vocab_size=size)
    page.load_state_dict({name: value for name, value in lesson.state_dict().items() if name != "head.weight"})
    batch = next(iter(data.train_dataloader()))["text"]
    torch.testing.assert_close(page(batch), lesson(batch)[0], rtol=1e-5, atol=1e-5)

    watched = Losses()
    settings = {"max_steps": STEPS, "limit_val_batches": 0, "enable_checkpointing": False}
    trainer = pl.Trainer(callbacks=[watched], default_root_dir=tmp_path, **settings, **QUIET)
    model = LanguageModel(
        lesson,
        optimizer=lambda params: torch.optim.AdamW(params, lr=0.004, betas=(0.9, 0.95), weight_decay=0.1),
        lr_scheduler=None,
    )
    trainer.fit(model, datamodule=data)
    losses = minimal.train(page, data, STEPS)
    assert losses == pytest.approx(watched.values, rel=1e-4)
    assert losses[-1] < 0.8 * losses[0]


def test_a_continuation_begins_with_its_prompt(data: LanguageData) -> None:
    text = minimal.continuation(minimal.GPT(data.tokenizer.size), data, "the fox", length=9)
    assert text.startswith("the fox")
    assert len(text) == len("the fox") + 9
