"""The running verbs as a user types them."""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import torchvision

import plcourse
from plcourse.__main__ import main
from plcourse.errors import UserError
from support import HELPERS, digits_config, write_config

FAST = {"trainer__max_epochs": 1, "trainer__limit_train_batches": 3}


@pytest.fixture
def fast(tmp_path: Path, runs: Path) -> Path:
    return write_config(tmp_path / "fast.yaml", digits_config(**FAST))


@pytest.fixture
def run(fast: Path, runs: Path) -> plcourse.Run:
    """A finished fit of `fast`."""
    main(["fit", "-c", str(fast)])
    return plcourse.Run.load("own/fast", runs)


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert stopped.value.code == status, error
    lines = [line for line in error.splitlines() if line]
    assert len(lines) == 1, error
    assert lines[0].startswith("plcourse: error: ")
    return lines[0].removeprefix("plcourse: error: ")


@pytest.mark.medium
def test_fit_then_test_and_predict(fast: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "-c", str(fast), "--then", "test,predict"])
    printed = capsys.readouterr().out
    run = plcourse.Run.load("own/fast", runs)
    assert run.status == "finished"
    assert run.record["best"]["metric"] == "val/loss"
    assert run.eval("test")["coverage"] == {"expected": 359, "seen": 359, "twice": 0}
    assert "plcourse test --run" not in printed  # it has been done
    assert f"\n  plcourse report {run.path}\n" in printed
    assert f"predictions in {run.path / 'predictions'}: 359 of 359 samples" in printed
    table = pq.read_table(run.predictions).to_pydict()
    assert set(table) == {"id", "label", "label_name", "probability"}
    assert len(set(table["id"])) == 359
    logged = {row["metric"] for row in run.metrics}
    assert logged - {"train/loss", "train/lr"} == {"val/loss", "val/accuracy", "val/f1"}
    assert ("train/loss" in logged) == ("train/lr" in logged)


@pytest.mark.medium
def test_a_part_of_a_prediction_is_called_a_part(run: plcourse.Run, capsys: pytest.CaptureFixture[str]) -> None:
    main(["predict", "--run", "own/fast/latest", "--trainer.limit_predict_batches", "1"])
    (folder,) = (path for path in (run.path / "predictions").iterdir() if path.is_dir())
    rows = len(pq.read_table(folder))
    assert 0 < rows < 359
    assert f"predictions in {folder}: {rows} of 359 samples" in capsys.readouterr().out


@pytest.mark.medium
def test_evaluation_writes_into_the_run_it_evaluates(fast: Path, run: plcourse.Run) -> None:
    main(["test", "--run", str(run.path)])
    first = run.eval("test")
    main(["test", "-c", str(fast), "--ckpt_path", "best"])
    main(["test", "-c", str(fast), "--ckpt_path", str(run.checkpoint("last"))])
    assert [folder.name for folder in run.path.parent.iterdir() if not folder.is_symlink()] == [run.path.name]
    assert sorted(path.name for path in (run.path / "eval").iterdir()) == ["test-1.json", "test-last.json", "test.json"]
    assert json.loads((run.path / "eval" / "test-1.json").read_text()) == first


@pytest.mark.medium
def test_no_run_overwrites_another(fast: Path, runs: Path) -> None:
    for _ in range(2):
        main(["fit", "-c", str(fast)])
    folders = [folder for folder in (runs / "own" / "fast").iterdir() if not folder.is_symlink()]
    assert len(folders) == 2
    assert (runs / "own" / "fast" / "latest").resolve() == max(folders).resolve()


@pytest.mark.medium
def test_the_saved_config_repeats_the_run(run: plcourse.Run, runs: Path) -> None:
    main(["fit", "-c", str(run.config_path)])
    again = plcourse.Run.load("own/config", runs)
    assert again.metrics == run.metrics
    assert again.config_path.read_text() == run.config_path.read_text()


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_untrained_weights_are_refused(fast: Path, runs: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert "needs trained weights" in error_of(capsys, verb, "-c", str(fast))
    assert not runs.exists()
    main([verb, "-c", str(fast), "--allow_untrained"])
    assert plcourse.Run.load("own/fast", runs).status == "finished"


def test_several_configs_merge_left_to_right(fast: Path, runs: Path, tmp_path: Path) -> None:
    more = write_config(
        tmp_path / "more.yaml", {"trainer": {"limit_val_batches": 1}, "data": {"init_args": {"batch_size": 16}}}
    )
    main(["fit", "-c", str(fast), "-c", str(more), "--trainer.log_every_n_steps", "1"])
    config = plcourse.Run.load("own/more", runs).config_path.read_text()
    assert "batch_size: 16" in config
    assert "limit_val_batches: 1\n" in config
    assert "source: digits" in config


def test_the_optimizer_alias(fast: Path, runs: Path) -> None:
    main(["fit", "-c", str(fast), "--optimizer", "Adam", "--optimizer.lr", "0.003"])
    config = plcourse.Run.load("own/fast", runs).config_path.read_text()
    assert "torch.optim.Adam" in config
    assert "lr: 0.003" in config


@pytest.mark.medium
def test_the_python_api(runs: Path) -> None:
    run = plcourse.run(
        "fit", digits_config(**FAST), {"trainer.log_every_n_steps": 1, "seed_everything": 5}, then=["test"]
    )
    assert run.record["seed"] == 5
    assert [row["step"] for row in run.metrics if row["metric"] == "train/loss"] == [0, 1, 2]
    assert run.test() == run.eval("test-1")["metrics"]
    assert run.predict() == run.predictions
    assert plcourse.Run.load(run.path).status == "finished"
    with pytest.raises(UserError, match="max_epochs"):
        plcourse.run("fit", digits_config(), {"trainer.max_epochs": "many"})


def test_a_refused_resume_leaves_the_run_as_it_was(run: plcourse.Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in (run.path / "run.json", run.config_path, run.path / "metrics.csv")}
    capsys.readouterr()
    error_of(capsys, "fit", "--run", str(run.path), "--data.init_args.val_size", "99999")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.medium
def test_a_longer_run_stretches_its_schedule(run: plcourse.Run) -> None:
    main(["fit", "--run", str(run.path), "--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "1"])
    rates = [row["value"] for row in run.metrics if row["metric"] == "train/lr"]
    assert len(rates) == 6
    assert max(rates) > 0.01
    assert run.status == "finished"


def test_short_class_names_by_flag(fast: Path, runs: Path) -> None:
    flags = ["--model.init_args.network", "MLP", "--trainer.fit_loop=TracingFitLoop"]
    main(["fit", "-c", str(fast), *flags])
    config = plcourse.Run.load("own/fast", runs).config_path.read_text()
    assert "class_path: MLP\n" in config
    assert "class_path: TracingFitLoop\n" in config
    assert "plcourse." not in config


def test_a_development_run_promises_no_checkpoint(fast: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "-c", str(fast), "--trainer.fast_dev_run", "true", "--then", "test"])
    assert "plcourse test --run" not in capsys.readouterr().out


MISTAKES: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "key": ({"trainer__max_epoch": 3}, [], ["m.yaml:", "trainer.max_epoch", "did you mean 'max_epochs'"]),
    "top-level key": ({"modle": {}}, [], ["m.yaml:", "modle", "did you mean 'model'"]),
    "class": ({"model__class_path": "ImageClasifier"}, [], ["m.yaml:", "did you mean 'ImageClassifier'"]),
    "argument": ({"model__init_args__label_smothing": 0.1}, [], ["m.yaml:", "did you mean 'label_smoothing'"]),
    "nested argument": ({"model__init_args__network__init_args__width": 1}, [], ["m.yaml:", "did you mean 'widths'"]),
    "type": ({"trainer__max_epochs": "many"}, [], ["m.yaml:", "trainer.max_epochs", "'many' is not int"]),
    "nested type": ({"data__init_args__batch_size": "big"}, [], ["m.yaml:", "batch_size", "'big' is not int"]),
    "slot": (
        {"trainer__fit_loop": {"class_path": "TracingTestLoop"}},
        [],
        ["trainer.fit_loop", "is not a subclass of FitLoop"],
    ),
    "slot the other way": (
        {"trainer__test_loop": {"class_path": "TracingValidationLoop"}},
        [],
        ["is not a subclass of TestLoop"],
    ),
    "no model": ({"model": None}, [], ["no model"]),
    "flag": ({}, ["--trainer.max_epoch", "3"], ["--trainer.max_epoch", "did you mean '--trainer.max_epochs'"]),
    "flag of a class": ({}, ["--model.label_smothing", "3"], ["did you mean 'label_smoothing'"]),
    "optimizer": ({}, ["--optimizer", "Adamm"], ["did you mean 'Adam'"]),
    "optimizer argument": ({}, ["--optimizer.lrr", "3"], ["did you mean 'lr'"]),
    "stray word": ({}, ["stray"], ["unexpected argument 'stray'"]),
    "then": ({}, ["--then", "tset"], ["did you mean 'test'"]),
    "run": ({}, ["--run", "nothere"], ["no run 'nothere'"]),
    "value": ({"data__init_args__batch_size": -1}, [], ["batch_size=-1"]),
    "source": ({"data__init_args__source": "digts"}, [], ["did you mean 'digits'"]),
    "flag without value": ({}, ["--run"], ["--run takes a value"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    changes, flags, wanted = MISTAKES[name]
    config = digits_config(**changes)
    if changes.get("model", 0) is None:
        del config["model"]
    error = error_of(capsys, "fit", "-c", str(write_config(tmp_path / "m.yaml", config)), *flags)
    for text in wanted:
        assert text in error


def test_a_monitor_that_nobody_logs(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = digits_config(**FAST)
    config["trainer"]["callbacks"][0]["init_args"]["monitor"] = "val/los"
    error = error_of(capsys, "fit", "-c", str(write_config(tmp_path / "m.yaml", config)))
    assert "monitor 'val/los' is never logged; did you mean 'val/loss'?" in error


@pytest.mark.medium
def test_weights_of_another_model(fast: Path, run: plcourse.Run, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    flags = ["--ckpt_path", str(run.checkpoint("best")), "--model.init_args.network.init_args.widths", "[16,16]"]
    error = error_of(capsys, "test", "-c", str(fast), *flags)
    assert "was written by another model" in error


def test_a_loss_that_is_not_finite(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HELPERS))
    config = digits_config(trainer__max_epochs=3)
    config["trainer"]["callbacks"].append({"class_path": "faulty.FailAt", "init_args": {"step": 30, "how": "nan"}})
    path = write_config(tmp_path / "nan.yaml", config)
    error = error_of(capsys, "fit", "-c", str(path), "--trust", "faulty", status=1)
    assert "the loss is nan at step 31 (epoch 1, batch 10" in error
    run = plcourse.Run.load("own/nan", runs)
    assert run.status == "failed"
    assert "step 31" in str(run.record["error"])
    checkpoint = torch.load(run.checkpoint("last"), weights_only=True)
    assert checkpoint["global_step"] == 28
    assert all(torch.isfinite(weight).all() for weight in checkpoint["state_dict"].values())


def test_help_all_shows_the_slots(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--help_all"])
    printed = capsys.readouterr().out
    for slot in ("fit_loop", "validate_loop", "test_loop", "predict_loop"):
        assert f"--trainer.{slot}" in printed
    assert sys.getsizeof(printed) > 10_000


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore:Attribute 'network' is an instance of `nn.Module`")  # as users' modules often do
def test_plain_lightning_loads_a_checkpoint_of_a_user_s_own_model(
    tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_net.py").write_text(
        "import pytorch_lightning as pl\n"
        "import torch\n"
        "from torch import nn\n\n\n"
        "class Net(pl.LightningModule):\n"
        "    def __init__(self, network: nn.Module):\n"
        "        super().__init__()\n"
        "        self.save_hyperparameters()\n"
        "        self.network = network\n\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        return self.network(batch['image']).square().mean()\n\n"
        "    def validation_step(self, batch, batch_idx):\n"
        "        self.log('val/loss', self.training_step(batch, batch_idx), batch_size=len(batch['id']))\n\n"
        "    def configure_optimizers(self):\n"
        "        return torch.optim.SGD(self.parameters(), 0.1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = {"class_path": "own_net.Net", "init_args": {"network": {"class_path": "MLP"}}}
    config = digits_config(**FAST, model=model)
    run = plcourse.run("fit", config, trust=["own_net"], runs_root=runs)
    hyper_parameters = torch.load(run.checkpoint("last"), weights_only=True)["hyper_parameters"]
    assert hyper_parameters["network"]["class_path"] == "plcourse.catalog.MLP"
    assert torchvision.ops.MLP  # another class of this name is imported
    loaded = import_module("own_net").Net.load_from_checkpoint(run.checkpoint("last"))
    assert type(loaded.network).__module__ == "plcourse.ddp.networks"
