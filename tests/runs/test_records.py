"""What a run writes beside its checkpoints: table, scores, schedule, predictions, coverage and random states."""

import contextlib
import csv
import math
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plcourse import Run, Trainer
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import MLP
from plcourse.errors import RunFailed, UserError
from plcourse.runs.recorder import RunRecorder, TidyLogger, shortest
from plcourse.training.metrics import SampleMean
from plcourse.training.random_state import RandomState, apply, capture
from plcourse.training.run_checkpoint import RunCheckpoint
from trainers import quiet_trainer

FULL = Path("/dev/full")  # every write to it fails as on a full disk
HEADER = "step,epoch,metric,value\n"


def trainer(**settings: Any) -> Trainer:
    return quiet_trainer(**{"max_epochs": 1, "num_sanity_val_steps": 0, **settings})


class TestTable:
    def test_rows_are_appended_and_read_back(self, tmp_path: Path) -> None:
        table = TidyLogger(tmp_path / "metrics.csv")
        table.log_metrics({"train/loss": 0.1, "epoch": 0}, 4)
        table.finalize("")
        again = TidyLogger(tmp_path / "metrics.csv")
        again.log_metrics({"val/loss": math.pi, "val/accuracy": float(np.float32(0.981)), "epoch": 1}, 9)
        again.save()
        text = (tmp_path / "metrics.csv").read_text()
        assert text == f"{HEADER}4,0,train/loss,0.1\n9,1,val/loss,{math.pi}\n9,1,val/accuracy,0.981\n"
        assert Run(tmp_path).metrics == [
            {"step": 4, "epoch": 0, "metric": "train/loss", "value": 0.1},
            {"step": 9, "epoch": 1, "metric": "val/loss", "value": math.pi},
            {"step": 9, "epoch": 1, "metric": "val/accuracy", "value": 0.981},
        ]
        again.finalize("")

    @pytest.mark.parametrize("name", ["a,b", 'the "best"', "'", " padded ", "größe/μ", 'x,"y",z', "per class; 3"])
    def test_any_name_is_readable(self, tmp_path: Path, name: str) -> None:
        table = TidyLogger(tmp_path / "metrics.csv")
        table.log_metrics({name: 1.5, "other": 2.0}, 0)
        table.finalize("")
        with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
            assert [row["metric"] for row in csv.DictReader(file)] == [name, "other"]
        assert [row["metric"] for row in Run(tmp_path).metrics] == [name, "other"]

    def test_a_cut_drops_the_rows_after_a_size(self, tmp_path: Path) -> None:
        table = TidyLogger(tmp_path / "metrics.csv")
        assert table.size() == len(HEADER)
        table.log_metrics({"a": 1.0}, 0)
        size = table.size()
        table.log_metrics({"a": 2.0}, 1)
        table.cut(size)
        table.log_metrics({"a": 3.0}, 2)
        table.finalize("")
        assert (tmp_path / "metrics.csv").read_text() == f"{HEADER}0,0,a,1.0\n2,0,a,3.0\n"
        table.cut(0)
        assert table.size() == len(HEADER)
        table.finalize("")

    def test_a_cut_never_makes_a_table_longer(self, tmp_path: Path) -> None:
        table = TidyLogger(tmp_path / "metrics.csv")
        table.log_metrics({"a": 1.0}, 0)
        table.cut(10_000)  # a table that lost rows after its checkpoint, as power cuts do
        assert (tmp_path / "metrics.csv").read_text() == f"{HEADER}0,0,a,1.0\n"

    def test_a_table_that_lost_rows_ends_with_its_last_whole_row_and_it_is_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        table, file = TidyLogger(tmp_path / "metrics.csv"), tmp_path / "metrics.csv"
        for step in range(3):
            table.log_metrics({"a": 1.0}, step)
        size = table.size()
        table.finalize("")
        table.cut(size)
        assert capsys.readouterr().out == ""
        os.truncate(file, size - 4)  # a power failure
        table.cut(size)
        assert file.read_text() == f"{HEADER}0,0,a,1.0\n1,0,a,1.0\n"
        assert capsys.readouterr().out == (
            f"{file} lacks 10 of the {size} bytes that were there at the last checkpoint\n"
        )

    def test_rows_are_on_disk_before_a_checkpoint_counts_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[tuple[str, int]] = []
        sync = os.fsync

        def note(handle: int) -> None:
            sync(handle)
            synced.append((Path(f"/proc/self/fd/{handle}").readlink().name, os.fstat(handle).st_size))

        monkeypatch.setattr(os, "fsync", note)
        run = Run.create("own/x", tmp_path, {})
        table = TidyLogger(run.path / "metrics.csv")
        fit_trainer = trainer(
            callbacks=[RunRecorder(run, table)], logger=table, default_root_dir=run.path, log_every_n_steps=1
        )
        fit_trainer.fit(ImageClassifier(MLP(hidden=(4,))), ImageData("digits", batch_size=512))
        counted = torch.load(run.checkpoint("last"), weights_only=True)["plcourse"]["metrics_size"]
        names = [name for name, _ in synced]
        at = synced.index(("metrics.csv", counted))
        assert any(name.startswith(".last.ckpt.") for name in names[at:])
        assert not any(name.startswith(".last.ckpt.") for name in names[:at])

    def test_a_cut_of_a_table_that_is_not_there_makes_none(self, tmp_path: Path) -> None:
        TidyLogger(tmp_path / "metrics.csv").cut(100)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("call", ["log_metrics", "save", "size", "finalize"])
    def test_a_full_disk_is_one_line_that_names_the_table(self, call: str) -> None:
        table = TidyLogger(FULL)

        def write() -> None:
            for step in range(1000 if call == "log_metrics" else 1):  # beyond the buffer of the file
                table.log_metrics({"train/loss": 0.123456789}, step)
            if call != "log_metrics":
                getattr(table, call)(*(["finished"] if call == "finalize" else []))

        try:
            with pytest.raises(RunFailed, match=r"^cannot write /dev/full: No space left on device$"):
                write()
        finally:
            if table._file is not None:  # what is still in its buffer has nowhere to go
                with contextlib.suppress(OSError):
                    table._file.close()

    def test_a_folder_that_is_not_there_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(RunFailed, match=r"cannot write .*nowhere/metrics\.csv: No such file"):
            TidyLogger(tmp_path / "nowhere" / "metrics.csv").log_metrics({"a": 1.0}, 0)

    def test_an_inactive_table_takes_nothing(self, tmp_path: Path) -> None:
        table = TidyLogger(tmp_path / "metrics.csv")
        table.active = False
        table.log_metrics({"a": 1.0}, 0)
        assert not table.path.exists()

    @settings(deadline=None)
    @given(st.floats(allow_nan=False))
    def test_the_shortest_form_of_a_double_is_the_same_number_in_its_precision(self, value: float) -> None:
        written = shortest(value)
        assert written == value or np.float32(written) == np.float32(value)

    @settings(deadline=None)
    @given(st.floats(width=32, allow_nan=False, allow_infinity=False))
    def test_the_shortest_form_of_a_single_is_what_numpy_writes(self, value: float) -> None:
        assert shortest(value) == float(str(np.float32(value)))

    def test_the_shortest_form_by_example(self) -> None:
        assert shortest(float(np.float32(0.981))) == 0.981
        assert shortest(0.1) == 0.1
        assert shortest(math.pi) == math.pi
        assert shortest(3) == 3.0
        assert math.isnan(shortest(math.nan))
        assert shortest(-math.inf) == -math.inf


class TestRecorder:
    def fit(self, run: Run, epochs: int, resume: bool = False) -> None:
        pl.seed_everything(1, verbose=False)
        table = TidyLogger(run.path / "metrics.csv")
        own = trainer(
            callbacks=[RunCheckpoint("val/accuracy", "max"), RunRecorder(run, table)],
            logger=[table],
            max_epochs=epochs,
            limit_train_batches=4,
            limit_val_batches=2,
            log_every_n_steps=1,
        )
        classifier = ImageClassifier(MLP(64), lr_scheduler=None)
        last = run.path / "checkpoints" / "last.ckpt"
        own.fit(classifier, ImageData("digits"), ckpt_path=last if resume else None, weights_only=True)

    def test_rows_newer_than_the_checkpoint_are_dropped_on_resume(self, tmp_path: Path) -> None:
        run, alone = Run.create("own/x", tmp_path, {}), Run.create("own/x", tmp_path, {})
        self.fit(alone, 3)
        self.fit(run, 2)
        with (run.path / "metrics.csv").open("a") as file:
            file.write("9,2,train/loss,0.5\n10,2,train/lo")  # written after the checkpoint, then killed
        self.fit(run, 3, resume=True)
        assert (run.path / "metrics.csv").read_text() == (alone.path / "metrics.csv").read_text()

    def test_they_are_dropped_wherever_the_run_lies_by_now(self, tmp_path: Path) -> None:
        run, alone = Run.create("own/x", tmp_path / "runs", {}), Run.create("own/x", tmp_path / "runs", {})
        self.fit(alone, 3)
        self.fit(run, 2)
        with (run.path / "metrics.csv").open("a") as file:
            file.write("9,2,train/loss,0.5\n")
        moved = Run(run.path.rename(tmp_path / "moved"))
        self.fit(moved, 3, resume=True)
        assert (moved.path / "metrics.csv").read_text() == (alone.path / "metrics.csv").read_text()

    def test_another_runs_checkpoint_leaves_a_runs_own_table_alone(self, tmp_path: Path) -> None:
        first, second = Run.create("own/x", tmp_path, {}), Run.create("own/x", tmp_path, {})
        self.fit(first, 1)
        table = TidyLogger(second.path / "metrics.csv")
        table.log_metrics({"mine": 1.0}, 0)
        table.finalize("")
        (second.path / "checkpoints").mkdir()
        (first.path / "checkpoints" / "last.ckpt").rename(second.path / "checkpoints" / "last.ckpt")
        (first.path / "checkpoints" / "last.ckpt.sha256").rename(second.path / "checkpoints" / "last.ckpt.sha256")
        self.fit(second, 2, resume=True)
        rows = second.metrics
        assert rows[0]["metric"] == "mine"
        assert [row["step"] for row in rows if row["metric"] == "train/loss"] == [4, 5, 6, 7]

    def test_the_record_has_the_best_score_and_the_training_time(self, tmp_path: Path) -> None:
        run = Run.create("own/x", tmp_path, {})
        self.fit(run, 3)
        scores = {row["epoch"]: (row["value"], row["step"]) for row in run.metrics if row["metric"] == "val/accuracy"}
        epoch = max(scores, key=lambda epoch: (scores[epoch][0], -epoch))
        best = run.record["best"]
        assert (best["metric"], best["epoch"], best["step"]) == ("val/accuracy", epoch, scores[epoch][1] + 1)
        assert shortest(best["value"]) == scores[epoch][0]
        assert run.record["training_seconds"] > 0


class TestSampleMean:
    @settings(deadline=None)
    @given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
    def test_the_mean_is_the_same_however_the_samples_are_batched(self, sizes: list[int], seed: int) -> None:
        values = torch.rand(sum(sizes), generator=torch.Generator().manual_seed(seed)) * 1000
        metric = SampleMean()
        for batch in values.split(sizes):
            metric.update(batch)
        assert metric.compute().item() == pytest.approx(values.double().mean().item(), rel=1e-14)

    @pytest.mark.parametrize(
        "convert",
        [
            lambda module: module.half(),
            lambda module: module.float(),
            lambda module: module.bfloat16(),
            lambda module: module.to(torch.float32),
            lambda module: module.to(torch.bfloat16),
        ],
        ids=["half", "float", "bfloat16", "to float32", "to bfloat16"],
    )
    def test_it_stays_in_double_precision_whatever_its_module_becomes(self, convert: Any) -> None:
        module = torch.nn.Module()
        module.layer, module.mean = torch.nn.Linear(2, 2), SampleMean()
        convert(module)
        module.mean.update(torch.full((1000,), 0.1))
        module.mean.update(torch.tensor([1e6]))
        assert module.mean.compute().dtype == torch.float64
        expected = (torch.full((1000,), 0.1).double().sum().item() + 1e6) / 1001
        assert module.mean.compute().item() == pytest.approx(expected, rel=1e-14)
        module.mean.reset()
        assert module.mean.total.dtype == torch.float64

    @pytest.mark.parametrize("precision", ["bf16-true", "64-true", "32-true"])
    def test_a_validation_score_is_the_mean_of_its_samples_in_any_precision(self, precision: Any) -> None:
        pl.seed_everything(2, verbose=False)
        classifier, samples = ImageClassifier(MLP(64)), ImageData("digits", batch_size=16)
        losses: list[torch.Tensor] = []
        score = classifier.val_scores.loss.update
        classifier.val_scores.loss.update = lambda values: (losses.append(values.double()), score(values))[1]
        (logged,) = trainer(precision=precision).validate(classifier, samples, verbose=False)
        assert logged["val/loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)


class TestRandomState:
    def test_python_numpy_and_torch_go_on_where_they_were(self) -> None:
        def draw() -> list[Any]:
            return [random.random(), random.gauss(), np.random.rand(), np.random.randn(), torch.rand(3).tolist()]

        pl.seed_everything(7, verbose=False)
        random.gauss()  # leaves half of a pair behind
        np.random.randn()
        state = capture()
        first = draw()
        assert draw() != first
        apply(state)
        assert draw() == first

    def test_the_state_survives_a_safe_load(self, tmp_path: Path) -> None:
        state = capture()
        first = [random.random(), np.random.rand(), torch.rand(1).item()]
        torch.save(state, tmp_path / "state.pt")
        apply(torch.load(tmp_path / "state.pt", weights_only=True))
        assert [random.random(), np.random.rand(), torch.rand(1).item()] == first

    def test_a_prepared_state_is_restored_once(self) -> None:
        states = RandomState()
        states.prepare(RandomState.of_all_ranks(), rank=0, world_size=1)
        first = torch.rand(1)
        states.restore()
        assert torch.equal(torch.rand(1), first)
        states.restore()
        assert not torch.equal(torch.rand(1), first)

    def test_the_states_of_another_number_of_processes_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"written by 1 process\(es\) and cannot be continued by 2"):
            RandomState().prepare([capture()], rank=1, world_size=2)
