"""A run that continues: with other settings, from where its command started, or with nothing left to do."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import plcourse
from gan_configs import points_config
from plcourse.cli import run_verb
from plcourse.errors import UserError
from plcourse.runs.run import Run
from small_runs import EPOCH, rates, small
from support import Command, failing, write_config

OPTIMIZER = "model.init_args.optimizer.init_args"


def go_on(run: Run, *flags: str) -> None:
    run_verb("fit", ["--run", str(run.path), *flags])


def groups(run: Run) -> list[dict[str, Any]]:
    states = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"]
    return [group for state in states for group in state["param_groups"]]


def files(run: Run) -> dict[str, bytes]:
    return {str(path.relative_to(run.path)): path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that the tests leave as it is."""
    return plcourse.run("fit", small(), runs_root=tmp_path_factory.mktemp("finished"))


class TestOtherSettings:
    @pytest.mark.medium
    def test_a_rate_is_used_and_recorded_with_its_step(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = plcourse.run("fit", small())
        go_on(run, "--optimizer.lr=0.001", "--optimizer.weight_decay=0.5", "--trainer.max_epochs=4")
        assert rates(run) == [0.1] * 2 * EPOCH + [0.001] * 2 * EPOCH
        assert (groups(run)[0]["lr"], groups(run)[0]["weight_decay"]) == (0.001, 0.5)
        assert groups(run)[0]["momentum"] == 0.9
        (change,) = run.record["changes"]
        assert (change["from_step"], change["from_epoch"]) == (2 * EPOCH, 2)
        assert change["settings"] == {
            "trainer.max_epochs": [2, 4],
            f"{OPTIMIZER}.lr": [0.1, 0.001],
            f"{OPTIMIZER}.weight_decay": [0.0, 0.5],
        }
        earlier, now = (yaml.safe_load((run.path / name).read_text()) for name in ("config-1.yaml", "config.yaml"))
        kept = [each["model"]["init_args"]["optimizer"]["init_args"]["lr"] for each in (earlier, now)]
        assert kept == [0.1, 0.001]
        assert (
            f"from step {2 * EPOCH} on: trainer.max_epochs 2 -> 4, {OPTIMIZER}.lr 0.1 -> 0.001"
            in capsys.readouterr().out
        )
        go_on(run, "--trainer.max_epochs=5", "--optimizer.lr=0.01")
        assert rates(run)[4 * EPOCH :] == [0.01] * EPOCH
        assert [each["from_step"] for each in run.record["changes"]] == [2 * EPOCH, 4 * EPOCH]
        assert yaml.safe_load((run.path / "config-2.yaml").read_text()) == now

    @pytest.mark.medium
    def test_a_rate_with_a_schedule_is_its_peak(self, runs: Path) -> None:
        schedule = {"model__init_args__lr_scheduler": {"class_path": "WarmupCosine", "init_args": {"warmup": 0.0}}}
        run = plcourse.run("fit", small(trainer__max_steps=2 * EPOCH, trainer__max_epochs=-1, **schedule))
        go_on(run, "--optimizer.lr=0.01", f"--trainer.max_steps={4 * EPOCH}")
        curve = [(1 + math.cos(math.pi * step / (4 * EPOCH))) / 2 for step in range(2 * EPOCH, 4 * EPOCH)]
        assert rates(run)[2 * EPOCH :] == pytest.approx([0.01 * fraction for fraction in curve])
        assert min(rates(run)) > 0

    @pytest.mark.medium
    def test_two_optimizers_stepped_by_hand(self, runs: Path) -> None:
        run = plcourse.run("fit", points_config(trainer__max_epochs=1, model__init_args__generator_lr_scheduler=None))
        go_on(run, "--model.init_args.generator_optimizer.init_args.lr=0.0005", "--trainer.max_epochs=2")
        assert set(rates(run, "train/generator_lr")) == {0.001, 0.0005}
        assert rates(run, "train/generator_lr")[-1] == 0.0005
        assert [group.get("initial_lr", group["lr"]) for group in groups(run)] == [0.0005, 0.001]

    @pytest.mark.medium
    def test_the_patience_of_a_callback(self, runs: Path) -> None:
        stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 2}}
        config = small(model__init_args__optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}})
        config["trainer"]["callbacks"].append(stopping)
        run = plcourse.run("fit", config)
        go_on(run, "--trainer.max_epochs=9", "--trainer.callbacks.patience=4")
        assert max(row["epoch"] for row in run.metrics) == 4, "the first epoch is the best, four more do not better it"
        with pytest.raises(UserError, match="it stopped early; to go on, change the callback that stopped it"):
            go_on(run, "--trainer.max_epochs=12")
        go_on(run, "--trainer.callbacks.patience=6")
        assert max(row["epoch"] for row in run.metrics) == 6

    @pytest.mark.medium
    def test_another_monitor_starts_a_count_of_its_own(self, runs: Path) -> None:
        run = plcourse.run("fit", small())
        assert run.record["best"]["metric"] == "val/loss"
        go_on(run, "--trainer.max_epochs=3", "--trainer.callbacks.monitor=val/accuracy", "--trainer.callbacks.mode=max")
        scores = [row["value"] for row in run.metrics if row["metric"] == "val/accuracy"]
        assert run.record["best"]["metric"] == "val/accuracy"
        assert run.record["best"]["value"] == pytest.approx(scores[-1])

    @pytest.mark.medium
    def test_a_callback_that_only_watches(self, runs: Path) -> None:
        run = plcourse.run("fit", small())
        go_on(
            run, "--trainer.max_epochs=3", "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"
        )
        (change,) = run.record["changes"]
        added = change["settings"]["trainer.callbacks.1"]
        assert (added[0], added[1]["class_path"]) == (None, "pytorch_lightning.callbacks.EarlyStopping")

    @pytest.mark.medium
    @pytest.mark.parametrize(
        ("flag", "message"),
        [
            (
                "--model.init_args.network.init_args.hidden=[9]",
                r"init_args.hidden.0 is 8 in run .* and 9 is asked",
            ),
            ("--model.init_args.network=ResNet", "model.init_args.network is MLP in run .* and ResNet is asked for"),
            ("--data.init_args.source=mnist5k", "data.init_args.source is digits in run .* and mnist5k is asked for"),
            ("--data.init_args.val_size=0.2", "data.init_args.val_size is 0.1 in run .* and 0.2 is asked for"),
            ("--data.init_args.batch_size=64", "data.init_args.batch_size is 256 in run .* and 64 is asked for"),
            ("--seed_everything=9", "seed_everything is 3 in run .* and 9 is asked for"),
            ("--optimizer=torch.optim.AdamW", "model.init_args.optimizer is SGD in run .* and AdamW is asked for"),
            ("--lr_scheduler=WarmupCosine", "lr_scheduler is null in run .* and WarmupCosine is asked for"),
            (
                "--trainer.accumulate_grad_batches=2",
                "trainer.accumulate_grad_batches is 1 in run .* and 2 is asked for",
            ),
            ("--trainer.limit_train_batches=2", "trainer.limit_train_batches is null in run .* and 2 is asked for"),
            ("--trainer.callbacks+=GradientAccumulationScheduler", "the planned steps depend on it"),
            ("--trainer.fast_dev_run=true", "trainer.fast_dev_run is False in run .* and True is asked for"),
            ("--trainer.callbacks+=BatchSizeFinder", "it chooses a setting before a run starts"),
        ],
    )
    def test_what_would_make_another_run_is_refused(self, finished: Run, flag: str, message: str) -> None:
        before = files(finished)
        more = ["--trainer.callbacks.scheduling={1: 2}"] if flag.endswith("Scheduler") else []
        with pytest.raises(UserError, match=message) as refused:
            go_on(finished, flag, *more, "--trainer.max_epochs=3")
        assert "\n" not in str(refused.value)
        assert files(finished) == before

    def test_fewer_epochs_than_are_trained(self, finished: Run) -> None:
        before = files(finished)
        with pytest.raises(UserError, match=r"trainer.max_epochs is 1, but 2 epochs are trained already"):
            go_on(finished, "--trainer.max_epochs=1")
        assert files(finished) == before

    def test_a_new_run_from_a_checkpoint_takes_its_own_rate_too(self, finished: Run, runs: Path) -> None:
        start = ["--ckpt_path", str(finished.path / "checkpoints" / "last.ckpt")]
        run = plcourse.run("fit", small(trainer__max_epochs=3), {f"{OPTIMIZER}.lr": 0.02}, flags=start)
        assert rates(run) == [0.02] * EPOCH
        adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.02}}
        config = small(trainer__max_epochs=3, model__init_args__optimizer=adam)
        with pytest.raises(UserError, match="trained with the optimizer SGD, whose state Adam cannot"):
            plcourse.run("fit", config, flags=start)


class TestNothingLeft:
    def test_it_is_said_and_the_run_stays_as_it_was(self, finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
        before = files(finished)
        go_on(finished)
        line = f"nothing is left to train in run {finished.path} with max_epochs 2: to go on: plcourse fit --run"
        assert line in capsys.readouterr().out
        assert files(finished) == before

    def test_what_would_have_no_effect_is_refused(self, finished: Run) -> None:
        before = files(finished)
        with pytest.raises(UserError, match=rf"--trainer.max_epochs 4; {OPTIMIZER}.lr 0.1 -> 0.5 would have no effect"):
            go_on(finished, "--optimizer.lr=0.5")
        assert files(finished) == before

    @pytest.mark.medium
    def test_what_is_to_follow_follows(self, runs: Path) -> None:
        run = plcourse.run("fit", small())
        table = run.metrics
        go_on(run, "--then", "test")
        assert run.eval("test")["checkpoint"] == "checkpoints/best.ckpt"
        assert (run.metrics, run.status) == (table, "finished")


class TestLatest:
    @pytest.mark.medium
    def test_a_run_that_failed_without_a_checkpoint_is_never_the_latest(self, tmp_path: Path, runs: Path) -> None:
        path = write_config(tmp_path / "own.yaml", small())
        good = plcourse.run("fit", path)
        for bad, status in (({"data.init_args.root": "x", "data.init_args.source": "image_folder"}, 2), ({}, 1)):
            broken = path if status == 2 else write_config(path, failing(small(), step=2, how="nan"))
            with pytest.raises(UserError) as failed:
                plcourse.run("fit", broken, bad, trust=["faulty"])
            assert failed.value.status == status
            assert Run.load("own/own/latest", runs).path.name == good.path.name
            assert (good.path.parent / "latest").resolve() == good.path.resolve()
        assert len(list(good.path.parent.glob("2*"))) == 3

    def test_a_first_run_that_failed_leaves_no_latest(self, tmp_path: Path, runs: Path) -> None:
        path = write_config(tmp_path / "own.yaml", failing(small(), step=2, how="nan"))
        with pytest.raises(UserError):
            plcourse.run("fit", path, trust=["faulty"])
        assert not (runs / "own" / "own" / "latest").exists()

    @pytest.mark.medium
    def test_a_failed_run_that_has_a_checkpoint_can_be_resumed_by_that_name(self, tmp_path: Path, runs: Path) -> None:
        config = failing(small(), step=EPOCH + 2, how="nan", once=str(tmp_path / "once"))
        path = write_config(tmp_path / "own.yaml", config)
        with pytest.raises(UserError, match="the loss is nan"):
            plcourse.run("fit", path, trust=["faulty"])
        run_verb("fit", ["--run", "own/own/latest", "--trust", "faulty"])
        assert Run.load("own/own/latest", runs).status == "finished"


class TestStart:
    """A run starts again where its command started, until it has written a checkpoint."""

    @pytest.mark.medium
    def test_the_record_says_where_a_run_started(self, finished: Run, runs: Path) -> None:
        best = finished.path / "checkpoints" / "best.ckpt"
        run = plcourse.run("fit", small(trainer__max_epochs=3), flags=["--ckpt_path", str(best)])
        start = run.record["start"]
        assert start["checkpoint"] == str(best.resolve())
        assert start["sha256"] == (best.parent / "best.ckpt.sha256").read_text().strip()
        assert plcourse.run("fit", small(trainer__max_epochs=1)).record["start"] is None

    @pytest.mark.slow
    def test_killed_before_its_first_checkpoint_it_starts_there_again(
        self, forked: Command, tmp_path: Path, runs: Path
    ) -> None:
        first = write_config(tmp_path / "first.yaml", small())
        forked("fit", "-c", first)
        file = tmp_path / "start.ckpt"
        file.write_bytes((runs / "own/first/latest/checkpoints/last.ckpt").read_bytes())
        forked("fit", "-c", write_config(tmp_path / "whole.yaml", small(trainer__max_epochs=4)), "--ckpt_path", file)
        config = failing(small(trainer__max_epochs=4), step=2 * EPOCH + 2, how="kill", once=str(tmp_path / "killed"))
        cut = write_config(tmp_path / "cut.yaml", config)
        forked("fit", "-c", cut, "--ckpt_path", file, "--trust", "faulty", status=-9)
        latest = runs / "own/cut/latest"
        assert not (latest / "checkpoints/last.ckpt").exists()
        content = file.read_bytes()
        for spoil, what in ((lambda: file.write_bytes(content[:-1]), "has changed since"), (file.unlink, "is gone")):
            spoil()
            refused = forked("fit", "--run", latest, "--trust", "faulty", status=2)
            assert what in refused.stderr
            assert str(file) in refused.stderr
        file.write_bytes(content)
        forked("fit", "--run", latest, "--trust", "faulty")
        assert (latest / "metrics.csv").read_text() == (runs / "own/whole/latest/metrics.csv").read_text()
        assert min(row["step"] for row in Run(latest).metrics) == 2 * EPOCH

    @pytest.mark.slow
    def test_a_run_that_went_back_to_its_best_and_was_killed_goes_back_again(
        self, forked: Command, tmp_path: Path, runs: Path
    ) -> None:
        config = small(trainer__max_epochs=4, trainer__check_val_every_n_epoch=2)
        config["trainer"]["callbacks"][0]["init_args"].pop("every_n_train_steps")
        failing(config, step=2 * EPOCH + 2, how="kill", once=str(tmp_path / "killed"))
        (tmp_path / "killed").touch()
        path = write_config(tmp_path / "own.yaml", config)
        forked("fit", "-c", path, "--trust", "faulty")
        run = Run(runs / "own/own/latest")
        table = (run.path / "metrics.csv").read_text()
        saved = run.path / "checkpoints"
        for name in ("previous.ckpt", "previous.ckpt.sha256"):  # the state after two epochs, as a best one of then
            assert (saved / name).is_file()
        (tmp_path / "killed").unlink()
        forked("fit", "--run", run.path, "--ckpt_path", "previous", "--trust", "faulty", status=-9)
        forked("fit", "--run", run.path, "--trust", "faulty")
        assert (run.path / "metrics.csv").read_text() == table
