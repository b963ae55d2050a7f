"""Sampling: the distribution asked for, the same sample from the same seed, and what is said of it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from corpus import language_config, long_text
from plcourse.nlp.generate import Sampling, continuations, describe, draw, longest_copy, probabilities
from plcourse.nlp.gpt import GPT
from plcourse.nlp.lstm import LSTMLanguageModel
from plcourse.nlp.tokenizers import END
from support import Command, write_config

LOGITS = torch.log(torch.tensor([[0.3, 0.3, 0.0, 0.2, 0.1, 0.06, 0.04]]))  # padding and unknown would be likely
KEPT = torch.tensor([0.0, 0.0, 0.0, 0.5, 0.25, 0.15, 0.1], dtype=torch.float64)


def sampling(temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Sampling:
    return Sampling(20, temperature, top_k, top_p)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (sampling(), KEPT),
        (sampling(top_k=2), torch.tensor([0, 0, 0, 2 / 3, 1 / 3, 0, 0])),
        (sampling(top_p=0.5), torch.tensor([0, 0, 0, 1.0, 0, 0, 0])),
        (sampling(top_p=0.51), torch.tensor([0, 0, 0, 2 / 3, 1 / 3, 0, 0])),
        (sampling(temperature=0), torch.tensor([0, 0, 0, 1.0, 0, 0, 0])),
        (sampling(temperature=0.5), KEPT**2 / (KEPT**2).sum()),
    ],
)
def test_the_distribution(settings: Sampling, expected: Tensor) -> None:
    assert torch.allclose(probabilities(LOGITS, settings)[0], expected.double(), rtol=0, atol=1e-6)


def test_draws_follow_the_distribution() -> None:
    uniform = (np.arange(10_000) + 0.5) / 10_000
    drawn = draw(KEPT.expand(10_000, -1), uniform)
    assert torch.allclose(torch.bincount(drawn, minlength=7) / 10_000, KEPT.float(), rtol=0, atol=2e-4)
    assert draw(KEPT[None], np.array([0.0])).item() == 3
    assert draw(KEPT[None], np.array([1 - 2**-53])).item() == 6


@pytest.mark.parametrize("network", [LSTMLanguageModel(30, 8, 16), GPT(30, 12, 1, 2, 16)])
def test_a_sample_depends_on_its_seed_and_id_alone(network: nn.Module) -> None:
    network.double().eval()
    prompt_BT = torch.tensor([[END, 5, 6]])
    together = continuations(network, prompt_BT.expand(3, -1), ["a", "b", "c"], 1, sampling(), 30)
    alone = continuations(network, prompt_BT, ["b"], 1, sampling(), 30)
    n = alone.shape[1]
    assert together[1, :n].tolist() == alone[0].tolist()
    assert together[1, n:].eq(END).all()
    assert continuations(network, prompt_BT, ["b"], 2, sampling(), 30).tolist() != alone.tolist()


def test_a_full_context_restarts_from_its_second_half() -> None:
    network = GPT(30, 8, 2, 2, 16).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.4)
    made = continuations(network, torch.tensor([[END, 5, 6]]), ["a"], 1, Sampling(40, 0, None, None), 30)[0].tolist()
    tokens, window = [END, 5, 6], 3
    for token in made:
        if window == 8 + 1:
            window = 4
        scores = network(torch.tensor([tokens[-window:]]))[0][0, -1]
        scores[:2] = -math.inf
        assert scores.argmax().item() == token
        tokens.append(token)
        window += 1


def test_sampling_stops_at_the_end_token_and_draws_known_tokens_only() -> None:
    class Ends(nn.Module):
        context = None

        def forward(self, tokens_BT: Tensor, state: None) -> tuple[Tensor, None]:
            scores = torch.full((*tokens_BT.shape, 9), -9.0)
            scores[..., 8] = 99.0  # beyond the tokenizer
            scores[..., END if tokens_BT[0, -1] == 4 else 4] = 9.0
            return scores, None

    made = continuations(Ends(), torch.tensor([[END]]), ["a"], 0, sampling(temperature=0), 8)
    assert made.tolist() == [[4, END]]


def test_describe_measures_variety_and_copies() -> None:
    said = describe("a b a b a b", "p", "x a b a. y")
    assert said["distinct_1"] == pytest.approx(2 / 6)
    assert said["distinct_2"] == pytest.approx(2 / 5)
    assert said["repetition"] == pytest.approx(1 - 2 / 3)
    assert said["copied"] == len(" a b a")
    assert said["characters"] == 11
    assert describe("", "", None)["copied"] is None


def test_the_longest_copy_is_exact() -> None:
    assert longest_copy("the cat sat on a mat", "on the mat the cat sang") == "the cat sa"
    assert longest_copy("xyz", "abc") == ""
    assert longest_copy("", "abc") == ""


def test_predict_streams_and_writes_a_table(forked: Command, tmp_path: Path, runs: Path) -> None:
    config = language_config(long_text(tmp_path / "text.txt", 200), "GPT", trainer__max_epochs=1)
    forked("fit", "-c", write_config(tmp_path / "own.yaml", config))
    (tmp_path / "prompts.txt").write_text("the film\na plot\n")
    run = runs / "own/own/latest"
    prompts = ["--data.init_args.prompts_path", tmp_path / "prompts.txt", "--data.init_args.samples", "2"]
    done = forked("predict", "--run", run, *prompts)
    rows: Any = pd.concat([pd.read_parquet(path) for path in sorted((run / "predictions").glob("*.parquet"))])
    assert rows["prompt"].tolist() == ["the film"] * 2 + ["a plot"] * 2
    assert rows["id"].is_unique
    for prompt, text in zip(rows["prompt"][::2], rows["text"][::2], strict=True):
        assert prompt + text in done.stdout
    assert (rows["copied"] > 0).all()
    (tmp_path / "prompts.txt").write_text("the film\nλ plot\n")
    refused = forked("predict", "--run", run, *prompts, status=2)
    assert "the prompt line/00002: character 1, 'λ' (U+03BB), is not in the training text" in refused.stderr
    (tmp_path / "text.txt").unlink()  # a prediction needs the checkpoint alone
    done = forked("predict", "--run", run)
    assert "not searching for copies of the training text" in done.stdout + done.stderr
