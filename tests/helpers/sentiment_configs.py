"""Small networks and configs of lesson 19's classifiers."""

from pathlib import Path
from typing import Any

import torch

from plcourse.nlp.finetuned import LanguageModelClassifier
from plcourse.nlp.gpt import GPT
from plcourse.nlp.lstm import LSTMLanguageModel
from plcourse.nlp.networks import BiLSTM, EmbeddingBag, TextCNN

SIZES: dict[str, dict[str, Any]] = {
    "EmbeddingBag": {"embedding": 8, "ngrams": 3, "buckets": 50},
    "BiLSTM": {"embedding": 8, "hidden": 6},
    "TextCNN": {"embedding": 8, "filters": 6},
}


def network_of(name: str) -> torch.nn.Module:
    """A network with three classes and weights that are not small; the last two read with a language model's."""
    torch.manual_seed(0)
    if name in SIZES:
        kind: Any = {"EmbeddingBag": EmbeddingBag, "BiLSTM": BiLSTM, "TextCNN": TextCNN}[name]
        network = kind(vocab_size=60, num_classes=3, **SIZES[name])
    else:
        encoder = GPT(60, 40, 1, 2, 16) if name == "GPT" else LSTMLanguageModel(60, 8, 6)
        network = LanguageModelClassifier(encoder, 3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.double().eval()


def sentiment_config(path: Path, name: str = "EmbeddingBag", **trainer: Any) -> dict[str, Any]:
    network = {"vocab_size": 200, "dropout": 0.2, **SIZES[name]}
    checkpoint = {"monitor": "val/loss", "mode": "min", "every_n_train_steps": 5}
    return {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 4,
            "precision": "64-true",
            "log_every_n_steps": 2,
            "callbacks": [
                {"class_path": "RunCheckpoint", "init_args": checkpoint},
                {"class_path": "LinearBaseline"},
                {"class_path": "Attributions", "init_args": {"texts": 3}},
            ],
            **trainer,
        },
        "model": {
            "class_path": "SentimentClassifier",
            "init_args": {"network": {"class_path": name, "init_args": network}},
        },
        "data": {
            "class_path": "TextData",
            "init_args": {"source": "text_table", "path": str(path), "vocab_size": 200, "batch_size": 8},
        },
    }
