"""Sentiment: padding changes nothing, attributions add up, the baseline is scored on the same texts."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch
from tokenizers import Tokenizer

from corpus import assert_two_processes_equal_one, table
from plcourse import Run
from plcourse.__main__ import main
from plcourse.errors import UserError
from plcourse.export.formats import write
from plcourse.export.graph import Program
from plcourse.nlp.attribution import Attributions, integrated_gradients, marked
from plcourse.nlp.baselines import LinearBaseline, paired
from plcourse.nlp.generative_classifier import ClassConditionalLSTM
from plcourse.nlp.gpt import GPT
from plcourse.nlp.language_model import LanguageModel
from plcourse.nlp.lstm import LSTMLanguageModel
from plcourse.nlp.networks import EmbeddingBag, TextCNN
from plcourse.nlp.sampled import sampled_cross_entropy
from plcourse.nlp.sentiment import SentimentClassifier
from sentiment_configs import SIZES, network_of, sentiment_config
from support import Command, kill_at_step, write_config

NETWORKS = [*SIZES, "LSTMLanguageModel", "GPT"]


def padded(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of 1, 2, 7 and 12 tokens, padded to `n`."""
    length_B = torch.tensor([1, 2, 7, 12])
    tokens_BT = torch.randint(1, 60, (4, n), generator=torch.Generator().manual_seed(1))
    short_BT = torch.randint(1, 60, (4, 12), generator=torch.Generator().manual_seed(2))
    tokens_BT[:, :12] = short_BT
    return tokens_BT * (torch.arange(n) < length_B.unsqueeze(1)), length_B


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_never_changes_a_score(name: str) -> None:
    network = network_of(name)
    alone = [network(tokens[None, :n], torch.tensor([n])) for tokens, n in zip(*padded(12), strict=True)]
    for width in (12, 30):
        assert torch.allclose(network(*padded(width)), torch.cat(alone), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_token_matters(name: str) -> None:
    network = network_of(name)
    tokens_BT, length_B = padded(12)
    changed_BT = tokens_BT.clone()
    changed_BT[torch.arange(4), length_B - 1] = 59 - changed_BT[torch.arange(4), length_B - 1]
    assert not torch.isclose(network(tokens_BT, length_B), network(changed_BT, length_B)).all(dim=1).any()


def test_the_order_of_words_matters_to_a_bag_of_pairs_only() -> None:
    tokens_BT, length_B = torch.tensor([[5, 6, 7], [7, 6, 5]]), torch.tensor([3, 3])
    for ngrams, same in ((1, True), (2, False)):
        torch.manual_seed(0)
        network = EmbeddingBag(60, ngrams=ngrams).double()
        one, other = network(tokens_BT, length_B)
        assert torch.allclose(one, other, rtol=0, atol=1e-12) == same


@pytest.mark.medium
@pytest.mark.parametrize("name", SIZES)
def test_attributions_add_up_to_the_score(name: str) -> None:
    network = network_of(name)
    found = [integrated_gradients(network, *padded(15), steps=steps) for steps in (3, 100)]
    assert found[1].gap.max() < 5e-3
    assert found[1].gap.max() <= found[0].gap.max() + 1e-9
    outside = torch.arange(15) >= padded(15)[1].unsqueeze(1)
    assert found[1].values[outside].eq(0).all()


def test_attributions_of_a_linear_model_are_exact() -> None:
    """Of a bag of words: each word's distance from the unknown one, through the linear layer, over the length."""
    network = EmbeddingBag(60, ngrams=1).double().eval()
    tokens_BT, length_B = torch.tensor([[5, 6, 1, 0]]), torch.tensor([3])
    found = integrated_gradients(network, tokens_BT, length_B, steps=1)
    label = int(network(tokens_BT, length_B).argmax())
    head, words = network.head.weight.detach(), network.words.weight.detach()
    expected = [float((words[t] - words[1]) @ (head[label] - head[1 - label])) / 3 for t in (5, 6, 1)]
    assert found.values[0].tolist() == pytest.approx([*expected, 0.0], abs=1e-12)


def test_a_generative_classifier_sums_to_one_over_texts_and_classes() -> None:
    """All texts of two tokens, of a vocabulary of 5, under both classes: p(x, y) adds up to 1."""
    torch.manual_seed(0)
    network = ClassConditionalLSTM(5, 2, 4, 4, 3, prior=[1.0, 3.0]).double().eval()
    torch.nn.init.normal_(network.class_bias)
    texts = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    joint_BK = network(texts, torch.full((25,), 2)).exp()
    assert joint_BK.sum(dim=0).tolist() == pytest.approx([0.25, 0.75], rel=1e-6)


def test_padding_never_changes_a_generative_classifier() -> None:
    torch.manual_seed(0)
    network = ClassConditionalLSTM(60, 3).double().eval()
    torch.nn.init.normal_(network.class_bias)
    assert torch.allclose(network(*padded(12)), network(*padded(30)), rtol=0, atol=1e-10)
    label_B = torch.tensor([0, 2, 1, 0])
    scores_BK, length_B = network(*padded(12)) - network.log_prior, padded(12)[1]
    own = scores_BK[torch.arange(4), label_B] / length_B
    assert network.loss(*padded(30), label_B).item() == pytest.approx(-own.mean().item(), rel=1e-12)


def test_words_are_escaped() -> None:
    page = marked(["<script>alert(1)</script>", "&"], [1.0, -0.5])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "&amp;" in page


def test_a_network_without_embed_and_score_is_not_explained() -> None:
    module: Any = SentimentClassifier(ClassConditionalLSTM(60))
    with pytest.raises(UserError, match="which ClassConditionalLSTM lacks"):
        Attributions().on_predict_start(pl.Trainer(logger=False, accelerator="cpu", devices=1), module)


def test_a_paired_comparison() -> None:
    right = np.array([True] * 90 + [False] * 10)
    worse = right.copy()
    worse[:8] = False
    values = paired(right, worse)
    assert values["test/minus_tfidf"] == pytest.approx(0.08)
    assert 0.02 < values["test/minus_tfidf_low"] < 0.08 < values["test/minus_tfidf_high"] < 0.17
    assert values["test/mcnemar_p"] == pytest.approx(2 / 2**8)
    same = paired(right, right)
    assert (same["test/minus_tfidf"], same["test/mcnemar_p"]) == (0.0, 1.0)


def test_a_sampled_loss_of_many_draws_is_the_exact_loss() -> None:
    """With weights for how they were drawn, 20,000 draws of 30 words give the sum over all 30, and its gradient."""
    draw = torch.Generator().manual_seed(0)
    features_NE = torch.randn(7, 5, generator=draw, dtype=torch.float64)
    weight_VE = torch.randn(30, 5, generator=draw, dtype=torch.float64).requires_grad_()
    bias_V = torch.randn(30, generator=draw, dtype=torch.float64)
    target_N = torch.tensor([0, 1, 2, 5, 9, 20, 29])
    exact = torch.nn.functional.cross_entropy(features_NE @ weight_VE.t() + bias_V, target_N)
    torch.manual_seed(1)
    estimate = sampled_cross_entropy(features_NE, target_N, weight_VE, bias_V, 20_000)
    assert estimate.item() == pytest.approx(exact.item(), rel=0.02)
    gradients = [torch.autograd.grad(loss, weight_VE)[0] for loss in (estimate, exact)]
    assert torch.allclose(gradients[0], gradients[1], atol=0.02)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="sampled=0 is below 1"):
        LanguageModel(GPT(), sampled=0)
    with pytest.raises(ValueError, match=r"encoder_lr=0\.0 is not above 0"):
        SentimentClassifier(TextCNN(), encoder_lr=0.0)
    with pytest.raises(ValueError, match="ngrams=4 is not 1, 2 or 3"):
        EmbeddingBag(ngrams=4)
    with pytest.raises(ValueError, match="must be"):
        LinearBaseline(regularisation=0.0)


@pytest.mark.medium
def test_all_verbs(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = sentiment_config(table(tmp_path / "mine.csv", 300))
    config["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.03}}
    path = write_config(tmp_path / "own.yaml", config)
    main(["fit", "-c", str(path), "--then", "test,predict"])
    assert len(re.findall(r"completeness within", capsys.readouterr().out)) == 3
    run = Run.load(runs / "own/own/latest")
    metrics = run.eval("test")["metrics"]
    assert metrics["test/accuracy"] - metrics["test/tfidf_accuracy"] == pytest.approx(metrics["test/minus_tfidf"])
    assert metrics["test/tfidf_accuracy"] >= 0.9
    page = (run.path / "plots" / "attributions.html").read_text()
    assert page.count("<h2>") == 3
    assert "src=" not in page
    assert 'name="viewport"' in page
    (file,) = (run.path / "predictions").glob("*.parquet")
    assert {"id", "label", "label_name", "probability"} <= set(pq.read_table(file).column_names)
    written = pd.read_csv(tmp_path / "mine.csv", dtype=str, keep_default_na=False)
    predicted = pq.read_table(file).to_pandas()
    rows = written.iloc[predicted["id"].str.removeprefix("mine/").astype(int)]
    assert predicted["text"].tolist() == rows["text"].tolist()
    right = predicted["label_name"].astype(str).to_numpy() == rows["label"].to_numpy()
    assert metrics["test/accuracy"] == pytest.approx(right.mean())
    told = re.findall(r"<h2>(.*?)</h2>\n.*predicted (\w+) with .*true label (\w+), (right|wrong);", page)
    verdicts = ["right" if each else "wrong" for each in right[:3]]
    assert told == list(
        zip(predicted["id"][:3], predicted["label_name"].astype(str)[:3], rows["label"][:3], verdicts, strict=True)
    )
    new = tmp_path / "new.txt"
    new.write_bytes("a lovely\u2028, tender\x0c film .\r\n\r\nthe plot was dull and clumsy .".encode())
    (tmp_path / "mine.csv").unlink()  # new texts need the checkpoint alone
    (file,) = run.predict({"data.init_args.predict_path": str(new)})
    assert [pq.read_table(each).num_rows for each in run.predictions] == [len(predicted)]  # stays what it was
    table_of_new = pq.read_table(file)
    assert table_of_new["label_name"].to_pylist() == ["good", "bad"]
    assert table_of_new["id"].to_pylist() == ["line/00001", "line/00003"]
    assert table_of_new["text"].to_pylist() == ["a lovely\u2028, tender\x0c film .", "the plot was dull and clumsy ."]
    assert Tokenizer.from_file(str(run.path / "tokenizer.json")).get_vocab_size() <= 200


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BiLSTM", "GPT", "generative", "lstm", "gpt"])
def test_exported_with_any_length(name: str, tmp_path: Path) -> None:
    """Batches and lengths that the exporter has not seen; the configs of the others are exported by their own test."""
    if name in ("lstm", "gpt"):
        module: Any = LanguageModel(LSTMLanguageModel(60, 8, 16, 2) if name == "lstm" else GPT(60, 24, 1, 2, 16))
    else:
        network = ClassConditionalLSTM(60, 2, 8, 8) if name == "generative" else network_of(name).float()
        module = SentimentClassifier(network)
    module.eval()
    program = Program(module, module, {})
    for format_ in ("onnx", "torch_export"):
        path = tmp_path / f"model.{format_}"
        write(format_, program, text_inputs(module, 4, 12), path, {}, 18, iter(()))
        for batch, length in ((1, 12), (3, 7), (7, 20), (2, 2)):
            inputs = text_inputs(module, batch, length)
            found: Any
            if format_ == "onnx":
                session = onnxruntime.InferenceSession(path.read_bytes())
                names = [port.name for port in session.get_inputs()]
                found = session.run(None, dict(zip(names, (each.numpy() for each in inputs), strict=True)))[0]
            else:
                found = torch.export.load(path).module()(*inputs).detach().numpy()
            np.testing.assert_allclose(found, module(*inputs).detach().numpy(), rtol=0, atol=1e-4)


def text_inputs(module: Any, batch: int, length: int) -> tuple[torch.Tensor, ...]:
    """Texts of `length` tokens at most, and, for a classifier, how many they are."""
    draw = torch.Generator().manual_seed(batch)
    length_B = torch.randint(1, length + 1, (batch,), generator=draw)
    tokens_BT = torch.randint(1, 60, (batch, length), generator=draw)
    return (tokens_BT, length_B) if isinstance(module, SentimentClassifier) else (tokens_BT,)


def test_a_length_above_the_number_of_tokens_means_all_of_them() -> None:
    module = SentimentClassifier(network_of("LSTMLanguageModel"), 3).eval()
    tokens_BT = torch.tensor([[5, 6, 7]])
    assert torch.equal(module(tokens_BT, torch.tensor([9])), module(tokens_BT, torch.tensor([3])))


@pytest.mark.slow
def test_two_processes_are_one(forked: Command, tmp_path: Path, runs: Path) -> None:
    config = sentiment_config(table(tmp_path / "mine.csv"), max_epochs=2)
    assert_two_processes_equal_one(forked, tmp_path, config, batch_size=4)


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed(forked: Command, tmp_path: Path, runs: Path) -> None:
    config = sentiment_config(table(tmp_path / "mine.csv"))
    kill_at_step(forked, tmp_path, runs, "kill", 33, config)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na film,good\nanother,good\n", "holds one class, 'good'; a classifier needs two or more"),
        ("review,label\na film,good\n", "has no column 'text'"),
        ("text,label\na film,good\n ,bad\n", "the text is empty"),
        ("text,label\n" + "".join(f"film {i},{'abc'[i % 3]}\n" for i in range(60)), "num_classes is 2, but the data"),
    ],
)
def test_wrong_data_are_reported_in_one_line(
    content: str, message: str, tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(content)
    config = sentiment_config(path)
    config["model"]["init_args"]["num_classes"] = 2  # given, so not taken from the data
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", str(write_config(tmp_path / "own.yaml", config))])
    assert stopped.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in line
