"""Small corpora and configs of lesson 19's tests."""

import random
from pathlib import Path
from typing import Any

import pytest

from plcourse import Run
from support import TWO_PROCESSES, Command, changed, write_config

WORDS = {
    "good": ["fine", "warm", "clever", "lovely", "bright", "funny", "tender", "sharp"],
    "bad": ["dull", "cold", "stupid", "ugly", "dark", "boring", "clumsy", "flat"],
}
COMMON = ["the", "a", "film", "story", "plot", "cast", "it", "was", "is", "and", "but", "with", "of", "scene", "ending"]


def sentence(draw: random.Random, kind: str, n: int) -> str:
    """Some words, every third of a kind that gives the class away."""
    words = [draw.choice(WORDS[kind] if i % 3 == 2 else COMMON) for i in range(n)]
    return " ".join(words) + " ."


def table(path: Path, n: int = 120, seed: int = 0) -> Path:
    """A CSV of `n` distinct texts of two classes, 4 to 24 words long."""
    draw = random.Random(seed)
    rows = [
        f'"{sentence(draw, kind, draw.randint(4, 24))} {i}",{kind}'
        for i in range(n)
        for kind in [("good", "bad")[i % 2]]
    ]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


def long_text(path: Path, n: int = 400, seed: int = 1) -> Path:
    """A text of `n` lines."""
    draw = random.Random(seed)
    path.write_text(
        "\n".join(sentence(draw, draw.choice(["good", "bad"]), draw.randint(4, 12)) for _ in range(n)) + "\n"
    )
    return path


def language_config(path: Path, network: str = "LSTMLanguageModel", **changes: Any) -> dict[str, Any]:
    """A config that trains a small language model in seconds, in double precision.

    Args:
        path: the text.
        network: ``LSTMLanguageModel``, its state carried on, or ``GPT``.
        **changes: dotted keys with ``__`` for the dots.
    """
    lstm = network == "LSTMLanguageModel"
    sizes = {"embedding": 8, "hidden": 16} if lstm else {"context": 24, "layers": 1, "heads": 2, "width": 16}
    config: dict[str, Any] = {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 3,
            "precision": "64-true",
            "log_every_n_steps": 2,
            "callbacks": [
                {
                    "class_path": "RunCheckpoint",
                    "init_args": {"monitor": "val/loss", "mode": "min", "every_n_train_steps": 5},
                }
            ],
        },
        "model": {
            "class_path": "LanguageModel",
            "init_args": {
                "network": {"class_path": network, "init_args": {"vocab_size": 64, "dropout": 0.1, **sizes}},
                "carry_state": lstm,
                "max_new_tokens": 40,
            },
        },
        "data": {
            "class_path": "LanguageData",
            "init_args": {
                "source": "text_file",
                "path": str(path),
                "val_size": 0.1,
                "test_size": 0.1,
                "vocab_size": 64,
                "block_size": 16,
                "eval_context": 8,
                "batch_size": 16,
                "order": "tracks" if lstm else "shuffled",
            },
        },
    }
    return changed(config, changes)


def assert_two_processes_equal_one(forked: Command, folder: Path, config: dict[str, Any], batch_size: int) -> None:
    """Runs a config without dropout in one process, and in two with `batch_size` each; all metrics must agree."""
    config["model"]["init_args"]["network"]["init_args"]["dropout"] = 0.0  # each process draws its own
    found = []
    for name in ("one", "two"):
        forked("fit", "-c", write_config(folder / f"{name}.yaml", config), "--then", "test,predict")
        found.append(Run.load(f"own/{name}/latest"))
        config["trainer"] |= {"devices": 2, "strategy": TWO_PROCESSES["trainer__strategy"]}
        config["data"]["init_args"]["batch_size"] = batch_size
    one, two = found
    assert len(one.metrics) == len(two.metrics) > 10
    for row, row_2 in zip(one.metrics, two.metrics, strict=True):
        assert (row["step"], row["metric"]) == (row_2["step"], row_2["metric"])
        assert row_2["value"] == pytest.approx(row["value"], rel=1e-9), row
    tests = [run.eval("test") for run in found]
    assert tests[0]["coverage"] == tests[1]["coverage"]
    assert tests[1]["metrics"] == pytest.approx(tests[0]["metrics"], rel=1e-9)
