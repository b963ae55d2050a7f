"""Language models: scores are sums over the text, the state is carried on, killed and resumed equals uninterrupted."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.nn import functional

from corpus import assert_two_processes_equal_one, language_config, long_text, table
from forking import Forker, kill_and_resume
from plcourse.nlp.baselines import joined, lzma_bits, ngram_bits, zlib_bits
from plcourse.nlp.data import LanguageData
from plcourse.nlp.gpt import GPT
from plcourse.nlp.language_model import LanguageModel, TextScores
from plcourse.nlp.lstm import LSTMLanguageModel
from plcourse.nlp.streams import NOT_SCORED, Stream
from plcourse.nlp.tokenizers import Kind, fit_tokenizer
from support import TWO_PROCESSES, Command, assert_same_end, kill_at_step, write_config

NETWORKS = ["LSTMLanguageModel", "GPT"]


def network_of(name: str) -> LSTMLanguageModel | GPT:
    torch.manual_seed(0)
    network = LSTMLanguageModel(40, 8, 16, 2) if name == "LSTMLanguageModel" else GPT(40, 24, 2, 2, 16)
    for parameter in network.parameters():  # also those that start at zero
        torch.nn.init.normal_(parameter, std=0.3)
    return network.double().eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_reading_in_pieces_is_reading_at_once(name: str) -> None:
    network = network_of(name)
    tokens_BT = torch.randint(40, (3, 20), generator=torch.Generator().manual_seed(1))
    whole_BTV, _ = network(tokens_BT)
    state, pieces = None, []
    for step in [tokens_BT[:, :7], *(tokens_BT[:, i : i + 1] for i in range(7, 20))]:
        logits_BTV, state = network(step, state)
        pieces.append(logits_BTV)
    assert torch.allclose(torch.cat(pieces, dim=1), whole_BTV, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_score_depends_on_a_later_token(name: str) -> None:
    network = network_of(name)
    tokens_BT = torch.randint(40, (2, 20), generator=torch.Generator().manual_seed(1))
    changed_BT = tokens_BT.clone()
    changed_BT[:, 12:] = (changed_BT[:, 12:] + 1) % 40
    first_BTV, second_BTV = network(tokens_BT)[0], network(changed_BT)[0]
    assert torch.allclose(first_BTV[:, :12], second_BTV[:, :12], rtol=0, atol=1e-12)
    assert not torch.allclose(first_BTV[:, 12:], second_BTV[:, 12:])


def test_a_new_gpt_predicts_from_the_last_token_alone() -> None:
    """Zero residual projections: the score of the next token depends on this one alone."""
    network = GPT(40, 24, 2, 2, 16).eval()
    tokens_BT = torch.tensor([[5, 6, 7], [9, 8, 7]])
    logits_BTV, _ = network(tokens_BT)
    # rows of a product round differently
    assert torch.allclose(logits_BTV[0, -1], logits_BTV[1, -1], rtol=0, atol=1e-5)
    assert not torch.allclose(logits_BTV[0, 0], logits_BTV[1, 0], rtol=0, atol=1e-2)
    assert network.head.weight is network.embedding.weight


@pytest.mark.medium
def test_the_score_is_a_sum_over_the_text_whatever_the_windows(tmp_path: Path) -> None:
    network, found = network_of("GPT"), []
    for length, batch in ((5, 1), (8, 7)):
        sizes: Any = {"block_size": length, "eval_context": 0, "eval_batch_size": batch}
        data = LanguageData("text_file", str(long_text(tmp_path / "text.txt")), vocab_size=40, **sizes)
        data.setup("test")
        scores, total, n = TextScores("test"), 0.0, 0
        for rows in data.test_dataloader():
            logits_BTV, target_BT = network(rows["text"])[0], rows["target"]
            nats = functional.cross_entropy(
                logits_BTV.flatten(0, 1), target_BT.flatten(), ignore_index=NOT_SCORED, reduction="none"
            )
            scores.update(logits_BTV, target_BT, rows["characters"])
            total, n = total + nats.sum().item(), n + int((target_BT != NOT_SCORED).sum())
        values = scores.compute()
        text = data.splits.texts("test")[0]
        assert n == len(text)
        assert values["test/loss"].item() == pytest.approx(total / n, rel=1e-12)
        assert values["test/bits_per_character"].item() == pytest.approx(total / math.log(2) / len(text), rel=1e-12)
        assert values["test/perplexity"].item() == pytest.approx(math.exp(total / n), rel=1e-12)
        found.append(n)
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_bits_count_characters_whatever_the_tokens_are(tmp_path: Path, kind: str) -> None:
    data = LanguageData("text_table", str(table(tmp_path / "mine.csv")), tokenizer=cast(Any, kind), vocab_size=300)
    data.setup("test")
    characters = sum(int(rows["characters"].sum()) for rows in data.test_dataloader())
    assert characters == sum(map(len, data.splits.texts("test")))


@pytest.mark.parametrize("name", NETWORKS)
def test_killed_in_mid_epoch_and_resumed(name: str, forked: Command, tmp_path: Path, runs: Path) -> None:
    """With dropout, and for the LSTM with the state that was carried to where the kill fell."""
    config = language_config(long_text(tmp_path / "text.txt", 300), name)
    kill_at_step(forked, tmp_path, runs, "kill", 43, config)


@pytest.mark.parametrize("name", NETWORKS)
def test_two_processes_are_one(name: str, forked: Command, tmp_path: Path, runs: Path) -> None:
    config = language_config(long_text(tmp_path / "text.txt", 200), name, trainer__max_epochs=2)
    assert_two_processes_equal_one(forked, tmp_path, config, batch_size=8)


def test_a_carried_state_starts_each_window_without_gradient() -> None:
    """Window t of a track begins with the state behind window t - 1, the first with none, and no gradient goes back."""
    model = LanguageModel(LSTMLanguageModel(40, 8, 16), carry_state=True).double()
    model._trainer = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
        log_every_n_steps=0, fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=0))
    )
    tokens_BT = torch.randint(40, (2, 21), generator=torch.Generator().manual_seed(1))
    batches = [{"text": tokens_BT[:, i : i + 10], "target": tokens_BT[:, i + 1 : i + 11]} for i in (0, 10)]
    first, second = (model.training_step(batch, i) for i, batch in enumerate(batches))
    logits_BTV, _ = model.network(tokens_BT[:, :20])
    together = functional.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())
    assert ((first + second) / 2).item() == pytest.approx(together.item(), rel=1e-12)
    assert model.training_step(batches[1], 0).item() != second.item()  # batch 0 of an epoch starts without a state
    with pytest.raises(ValueError, match="carry_state=true needs a network with a state, such as an LSTM, not GPT"):
        LanguageModel(GPT(), carry_state=True)


class TestFloors:
    def test_the_probabilities_of_an_ngram_model_sum_to_one(self) -> None:
        training, symbols = "abracadabra abracadabra ", "abcdr "
        total = sum(2 ** -(ngram_bits(training + "abra", symbol, 3)) for symbol in symbols)
        assert total == pytest.approx(1.0, rel=1e-12)

    def test_an_order_of_one_is_the_smoothed_frequency(self) -> None:
        # Witten and Bell: (count + kinds / base) / (n + kinds), of 6 a and 2 b
        bits = -np.log2([(6 + 2 / 2) / 10, (2 + 2 / 2) / 10])
        assert ngram_bits("aaaaaabb", "ab", 1) == pytest.approx(bits.sum(), rel=1e-12)

    def test_repetitive_text_needs_few_bits(self) -> None:
        text = "the film was good but the ending was not " * 30
        assert ngram_bits(text, text[:200]) < 0.2 * 200
        assert lzma_bits(text, text[:400]) < zlib_bits(text[:400])

    @pytest.mark.parametrize("kind", ["characters", "words", "bpe"])
    @pytest.mark.parametrize("texts", [["A film, really."], ["A film.", "Not a  film!", "Ends\u2026 here"]])
    def test_floors_and_models_score_the_same_symbols_and_characters(self, kind: Kind, texts: list[str]) -> None:
        stream = Stream(texts, fit_tokenizer(kind, texts * 2, 300))
        assert stream.characters.sum() == sum(map(len, texts))  # what the floors divide by
        if kind == "characters":  # every token but the first is scored: each character, and the end of each of several
            assert len(stream) - 1 == len(joined(texts))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data__init_args__vocab_size": 128, "model__init_args__network__init_args__vocab_size": 20},
            "but the network 20; set",
        ),
        (
            {"data__init_args__block_size": 100},
            "block_size + eval_context is 108 and exceeds the network's context of 24",
        ),
        ({"data__init_args__path": None}, "text_file needs a file"),
        ({"data__init_args__batch_size": 100_000}, "drop_last leaves no batch"),
        ({"data__init_args__test_size": 0.95}, "leave none to train on"),
        ({"model__init_args__temperature": -1.0}, "temperature=-1.0 is not a number of 0 or more"),
    ],
)
def test_a_mismatch_is_reported_in_one_line(
    changes: dict[str, object], message: str, forked: Command, tmp_path: Path
) -> None:
    config = language_config(long_text(tmp_path / "text.txt", 100), "GPT", **changes)
    done = forked("fit", "-c", write_config(tmp_path / "wrong.yaml", config), status=2)
    (line,) = done.stderr.strip().splitlines()
    assert message in line


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_killed_at_random_moments(name: str, processes: int, tmp_path: Path, runs: Path) -> None:
    """20 kills in all."""
    config = language_config(long_text(tmp_path / "text.txt", 300), name)
    if processes == 2:
        config["trainer"] |= {"devices": 2, "strategy": TWO_PROCESSES["trainer__strategy"]}
    with Forker(tmp_path, "plcourse.nlp.data") as fork:
        kill_and_resume(fork, tmp_path, runs, config, 5, assert_same_end)
