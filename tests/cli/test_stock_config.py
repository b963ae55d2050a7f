"""Modules and configs of a stock LightningCLI run: their data, optimizers, checkpoints and class paths."""

import json
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import yaml

import plcourse
from plcourse.__main__ import main
from plcourse.errors import UserError
from plcourse.runs import allowlist
from support import HELPERS, Command, write_config
from trainers import SMALL_DATA

pytestmark = SMALL_DATA

STOCK = "stock_modules"
SAMPLES, CLASSES = 20, 3  # of stock_modules
TRUST = ("--trust", STOCK)


def stock_config(model: str = "StockNet", data: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A config as a stock LightningCLI writes it."""
    return {
        "seed_everything": 1,
        "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False, "enable_progress_bar": False},
        "model": {"class_path": f"{STOCK}.{model}"},
        "data": {"class_path": f"{STOCK}.StockData", "init_args": data or {}},
        "weights_only": None,
        "optimizer": None,
        **more,
    }


@pytest.fixture
def here(tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(HELPERS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(run: plcourse.Run, **overrides: Any) -> pd.DataFrame:
    """The predictions of a run with other settings."""
    return pd.concat(map(pd.read_parquet, run.predict({key.replace("__", "."): v for key, v in overrides.items()})))


def scores_of(run: plcourse.Run) -> torch.Tensor:
    """What the trained layer answers for each point, computed without the suite."""
    weights = torch.load(run.checkpoint("best"), weights_only=True)["state_dict"]
    points = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(0))
    return points @ weights["layer.weight"].T + weights["layer.bias"]


class TestData:
    @pytest.mark.parametrize("form", ["tuple", "dict", "nested"])
    def test_every_form_of_batch(self, here: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
        run = plcourse.run("fit", stock_config(data={"form": form}), then=["test"], trust=[STOCK])
        report, scores = run.eval("test"), scores_of(run)
        hits = (scores.argmax(1) == torch.arange(SAMPLES) % CLASSES).float().mean()
        assert report["metrics"]["test/accuracy"] == pytest.approx(float(hits))
        counted = {"expected": SAMPLES, "seen": SAMPLES, "twice": 0}
        assert report["coverage"] == (counted if form == "dict" else None)
        table = rows(run)
        key = "id" if form == "dict" else "index"
        assert table[key].tolist() == [i + 100 * (form == "dict") for i in range(SAMPLES)]
        columns = [f"prediction_{k}" for k in range(CLASSES)]
        assert list(table) == [key, *columns]
        assert torch.allclose(torch.tensor(table[columns].to_numpy()), scores)
        assert f"{SAMPLES} of {SAMPLES} samples" in capsys.readouterr().out

    def test_every_kind_of_prediction(self, here: Path) -> None:
        run = plcourse.run("fit", stock_config(), trust=[STOCK])
        scores = scores_of(run)
        label = scores.argmax(1).tolist()
        returns = "model__init_args__returns"
        assert rows(run, **{returns: "label"})["prediction"].tolist() == label
        pair = rows(run, **{returns: "tuple"})
        assert pair["prediction_0"].tolist() == label
        assert torch.allclose(torch.tensor(np.array([*pair["prediction_1"]])), scores)
        assert list(rows(run, **{returns: "named"})) == ["index", "label", "score"]
        assert rows(run, **{returns: "dict"})[["answer.label", "model"]].to_numpy().tolist() == [
            [each, "linear"] for each in label
        ]
        assert [len(each) for each in rows(run, **{returns: "rows"})["boxes"]] == [1, 2] * (SAMPLES // 2)
        assert len(rows(run, **{returns: "maps"})["prediction"].iloc[0]) == 2 * CLASSES
        with pytest.raises(UserError, match="returned a list of object"):
            run.predict({"model.init_args.returns": "object"})

    def test_several_loaders(self, here: Path) -> None:
        config = stock_config(data={"form": "dict", "loaders": 2})
        run = plcourse.run("fit", config, then=["validate", "test"], trust=[STOCK])
        report = run.eval("test")
        assert report["metrics"].keys() == {f"test/accuracy/dataloader_idx_{number}" for number in range(2)}
        assert report["coverage"] == {"expected": 2 * SAMPLES, "seen": 2 * SAMPLES, "twice": 0}
        assert run.eval("val")["coverage"] == report["coverage"]
        table = rows(run)
        assert table["loader"].tolist() == [0] * SAMPLES + [1] * SAMPLES
        assert table["id"].tolist() == 2 * list(range(100, 100 + SAMPLES))

    def test_data_without_a_length(self, here: Path) -> None:
        run = plcourse.run("fit", stock_config(data={"stream": True}), then=["test"], trust=[STOCK])
        assert run.eval("test")["coverage"] is None
        assert torch.allclose(torch.tensor(rows(run).to_numpy()), scores_of(run))

    @pytest.mark.filterwarnings("ignore:predict returned None")
    def test_a_writer_of_the_user_gets_indices(self, here: Path) -> None:
        writer = {"class_path": f"{STOCK}.Indices", "init_args": {"path": str(here / "indices.json")}}
        config = stock_config(data={"loaders": 2})
        config["model"]["init_args"] = {"returns": "none"}
        config["trainer"]["callbacks"] = [writer]
        run = plcourse.run("predict", config, trust=[STOCK], flags=["--allow_untrained"])
        batches = [list(range(start, min(start + 8, SAMPLES))) for start in range(0, SAMPLES, 8)]
        found = json.loads((here / "indices.json").read_text())
        assert found["epoch"] == [batches, batches]
        assert found["batches"] == [[loader, i, batch] for loader in range(2) for i, batch in enumerate(batches)]
        assert not run.predictions

    def test_a_writer_of_the_user_gets_the_indices_of_the_suite_s_data(self, here: Path) -> None:
        writer = {"class_path": f"{STOCK}.Indices", "init_args": {"path": str(here / "indices.json")}}
        trainer = {"trainer.callbacks": [writer]}
        plcourse.run("predict", "ddp/one_process", trainer, trust=STOCK, flags=["--allow_untrained"])
        epoch = json.loads((here / "indices.json").read_text())["epoch"]
        assert list(chain(*epoch[0])) == list(range(1000))

    def test_no_predict_step(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write_config(here / "m.yaml", stock_config("NoPredictStep"))
        with pytest.raises(SystemExit):
            main(["predict", "-c", str(path), "--allow_untrained", *TRUST])
        error = capsys.readouterr().err
        assert "NoPredictStep has no predict_step, so forward gets the whole batch, which fails with" in error
        assert error.count("\n") == 1

    @pytest.mark.medium
    def test_two_processes(self, forked: Command, tmp_path: Path, runs: Path) -> None:
        config = stock_config(data={"form": "nested", "batch_size": 3})
        config["trainer"] |= {"devices": 2, "strategy": "ddp"}
        forked("predict", "-c", write_config(tmp_path / "two.yaml", config), "--allow_untrained", *TRUST)
        run = plcourse.Run.load("own/two", runs)
        parts = [pd.read_parquet(path)["index"].tolist() for path in sorted(run.predictions)]
        assert parts == [list(range(rank, SAMPLES, 2)) for rank in range(2)]


class TestOptimizers:
    def test_lightning_configures_a_model_that_takes_none(self, here: Path) -> None:
        optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.25}}
        schedule = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1, "gamma": 0.5}}
        with pytest.warns(UserWarning, match="configure_optimizers` will be overridden"):
            run = plcourse.run("fit", stock_config(optimizer=optimizer, lr_scheduler=schedule), trust=[STOCK])
        (state,) = torch.load(run.checkpoint("last"), weights_only=True)["optimizer_states"]
        assert state["param_groups"][0]["lr"] == 0.125
        assert "betas" in state["param_groups"][0]
        assert yaml.safe_load(run.config_path.read_text())["optimizer"]["init_args"]["lr"] == 0.25
        with pytest.warns(UserWarning, match="configure_optimizers` will be overridden"):
            assert run.test() == run.eval("test")["metrics"]

    def test_a_model_that_takes_one_gets_it(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.25}}
        first = write_config(here / "optimizer.yaml", {"optimizer": optimizer, "lr_scheduler": None})
        for model in ("Configurable", "Inherited"):
            second = write_config(here / "m.yaml", stock_config(model))
            main(["fit", "-c", str(second), "-c", str(first), "--optimizer.eps", "0.5", "--print_config", *TRUST])
            config = yaml.safe_load(capsys.readouterr().out)
            found = config["model"]["init_args"]["optimizer"]
            assert (found["class_path"], found["init_args"]["lr"]) == ("torch.optim.Adam", 0.25)
            assert found["init_args"]["eps"] == 0.5
            assert "optimizer" not in config

    def test_a_schedule_alone_is_refused(self, here: Path) -> None:
        schedule = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1}}
        with pytest.raises(UserError, match="lr_scheduler has no effect without optimizer"):
            plcourse.run("fit", stock_config(lr_scheduler=schedule), trust=[STOCK])


class TestCheckpoints:
    @pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create")
    def test_one_that_plain_lightning_wrote(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        allowlist.install([STOCK])
        stock = import_module(STOCK)
        settings: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(accelerator="cpu", max_epochs=1, default_root_dir=str(here), **settings)
        model, data = stock.StockNet(), stock.StockData()
        trainer.fit(model, data)
        trainer.save_checkpoint("stock.ckpt")
        (scores,) = trainer.test(model, data, verbose=False)
        flags = ["--ckpt_path", "stock.ckpt"]
        assert plcourse.run("test", stock_config(), trust=[STOCK], flags=flags).eval("test")[
            "metrics"
        ] == pytest.approx(scores)
        capsys.readouterr()
        run = plcourse.run("fit", stock_config(), {"trainer.max_epochs": 2}, trust=[STOCK], flags=flags)
        assert "was not written by plcourse and holds no random states" in capsys.readouterr().out
        assert torch.load(run.checkpoint("last"), weights_only=True)["global_step"] == 6
