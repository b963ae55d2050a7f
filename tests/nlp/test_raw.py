"""A text classifier is exported with its tokenizer, and verified on texts that this alone encoded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from corpus import table
from plcourse.export.graph import Bridge, Program
from plcourse.export.samples import Samples
from plcourse.export.scoring import RawAnswers
from plcourse.nlp.data import TextData
from plcourse.nlp.networks import EmbeddingBag
from plcourse.nlp.sentiment import SentimentClassifier


def parts(tmp_path: Path, kind: Any) -> tuple[TextData, SentimentClassifier]:
    data = TextData("text_table", str(table(tmp_path / "texts.csv")), tokenizer=kind, vocab_size=300, max_length=6)
    data.setup("fit")
    torch.manual_seed(0)
    return data, SentimentClassifier(EmbeddingBag(300, 2, 8, 1)).eval()


@pytest.mark.parametrize("kind", ["characters", "words", "bpe"])
def test_tokens_come_from_the_card_alone(tmp_path: Path, kind: str) -> None:
    data, module = parts(tmp_path, kind)
    program = Program(module, module, data.state_dict(), datamodule=data)
    batch = next(iter(data.test_dataloader()))
    assert program.data["max_length"] == batch["text"].shape[1] == 6
    of_card = program.inputs({**batch, "text": batch["text"] * 0})
    for found, expected in zip(of_card, (batch["text"], batch["length"]), strict=True):
        assert torch.equal(found, expected)


def test_a_card_with_another_encoding_fails(tmp_path: Path) -> None:
    data, module = parts(tmp_path, "characters")
    state = json.loads(json.dumps(data.state_dict()))
    state["tokenizer"]["symbols"] = state["tokenizer"]["symbols"][::-1]
    program = Program(module, module, state, datamodule=data)
    samples = Samples.of(program, data.test_dataloader())
    (found,) = program.eager(samples.inputs)
    assert abs(found - samples.outputs[0]).max() > 1e-3
    answers = RawAnswers(program, Bridge(program.card("onnx", program.inputs(batch_of(data)), {}, {})), program.eager)
    answers.batch = batch_of(data)
    wrong = answers(answers.batch["text"], answers.batch["length"])
    assert isinstance(wrong, torch.Tensor)
    assert not torch.allclose(wrong, module(answers.batch["text"], answers.batch["length"]), atol=1e-3)


def batch_of(data: TextData) -> dict[str, Any]:
    return next(iter(data.test_dataloader()))
