"""A sentiment classifier that begins with the weights of a language model."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from corpus import language_config, long_text, table
from plcourse import Run
from plcourse.__main__ import main
from plcourse.errors import UserError
from plcourse.nlp.finetuned import take_over
from plcourse.nlp.lstm import LSTMLanguageModel
from plcourse.nlp.sentiment import SentimentClassifier
from plcourse.training.checkpoint import load
from sentiment_configs import network_of, sentiment_config
from support import write_config

_SIZES = ("val_size", "test_size")


def finetuned_config(path: Path, pretrained: str | None, encoder: str = "LSTMLanguageModel") -> dict[str, Any]:
    """A classifier whose encoder is the network of `language_config`."""
    config = sentiment_config(path, max_epochs=1, callbacks=[])
    network = language_config(path, encoder)["model"]["init_args"]["network"]
    config["model"]["init_args"] |= {
        "network": {"class_path": "LanguageModelClassifier", "init_args": {"encoder": network}},
        "pretrained": pretrained,
        "encoder_lr": 0.5,
    }
    config["data"]["init_args"]["vocab_size"] = 64
    return config


@pytest.mark.medium
def test_finetuning_starts_from_the_weights_and_tokenizer_of_the_language_model(tmp_path: Path, runs: Path) -> None:
    language = language_config(long_text(tmp_path / "text.txt", 100), trainer__max_epochs=1)
    main(["fit", "-c", str(write_config(tmp_path / "lm.yaml", language))])
    config = finetuned_config(table(tmp_path / "mine.csv"), "own/lm")
    config["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}
    main(["fit", "-c", str(write_config(tmp_path / "fine.yaml", config))])
    run, known_run = Run.load(runs / "own/fine/latest"), Run.load(runs / "own/lm/latest")
    own, known = (load(each.checkpoint(which)) for each, which in ((run, "last"), (known_run, "best")))
    prefix = "network.encoder."
    kept = {name: value for name, value in own["state_dict"].items() if name.startswith(prefix)}
    assert len(kept) == 5
    for name, value in kept.items():
        assert torch.equal(value, known["state_dict"][f"network.{name.removeprefix(prefix)}"])
    assert own["TextData"]["tokenizer"] == known["LanguageData"]["tokenizer"]
    (runs / "own/lm").rename(runs / "own/moved")  # what was taken over is in the run's own checkpoint
    main(["test", "--run", str(run.path)])


@pytest.mark.medium
def test_texts_that_the_language_model_was_trained_on_are_not_scored(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = table(tmp_path / "mine.csv")
    changes = {"trainer__max_epochs": 1, "data__init_args__source": "text_table"}
    config = finetuned_config(own, "own/lm")
    for seed, status in ((config["data"]["init_args"].get("split_seed", 0), None), (1, 2)):
        language = language_config(own, **changes, data__init_args__split_seed=seed)
        language["data"]["init_args"] |= {size: config["data"]["init_args"].get(size, 0.1) for size in _SIZES}
        main(["fit", "-c", str(write_config(tmp_path / "lm.yaml", language))])
        main(["fit", "-c", str(write_config(tmp_path / "fine.yaml", config))])
        if status is None:
            main(["test", "--run", "own/fine"])
            continue
        with pytest.raises(SystemExit) as ended:
            main(["test", "--run", "own/fine"])
        assert ended.value.code == status
        assert re.search(r"was trained on \d+ of the \d+ test samples.*split_seed=1", capsys.readouterr().err)


def test_unsuitable_networks_and_checkpoints_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLCOURSE_RUNS", str(tmp_path))
    with pytest.raises(UserError, match="needs a LanguageModelClassifier as the network, not TextCNN"):
        take_over(network_of("TextCNN"), "own/lm")
    network = network_of("LSTMLanguageModel")
    with pytest.raises(UserError, match="own/lm"):
        take_over(network, "own/lm")
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="is not a checkpoint of a language model"):
        take_over(network, str(path))
    other = LSTMLanguageModel(60, 8, 7)
    weights = {f"network.{name}": value for name, value in other.state_dict().items()}
    torch.save({"state_dict": weights, "LanguageData": {"tokenizer": {}}}, path)
    with pytest.raises(
        UserError, match=r"lstm.weight_ih_l0 is \(28, 8\) in that run and \(24, 8\) in the encoder; give"
    ):
        take_over(network, str(path))


def test_the_encoder_has_a_separate_learning_rate() -> None:
    module = SentimentClassifier(network_of("GPT"), 3, lr_scheduler=None, encoder_lr=0.5)
    module.optimizer = lambda params: torch.optim.SGD(params, lr=0.1)
    optimizer = module.configure_optimizers()["optimizer"]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.05]
    grouped = [each for group in optimizer.param_groups for each in group["params"]]
    assert {id(each) for each in grouped} == {id(each) for each in module.parameters()}
    assert len(grouped) == len({id(each) for each in grouped})
