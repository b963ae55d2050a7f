"""What a run writes beside its checkpoints: table, scores, schedule, predictions, coverage and random states."""

import contextlib
import csv
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LRScheduler

from plcourse import Run, Trainer
from plcourse.data import BatchLoader, EvalSampler
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import MLP
from plcourse.errors import RunFailed, UserError
from plcourse.runs.prediction_writer import PredictionWriter
from plcourse.runs.recorder import RunRecorder, TidyLogger, shortest
from plcourse.training.callbacks import Coverage
from plcourse.training.metrics import SampleMean
from plcourse.training.random_state import RandomState, apply, capture
from plcourse.training.run_checkpoint import RunCheckpoint
from plcourse.training.schedules import WarmupCosine
from plcourse.vision.schedule import WarmupHoldDecay
from support import TWO_PROCESSES, Command, digits_config, write_config
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


def rates(schedule: LRScheduler, steps: int) -> list[float]:
    values = []
    for _ in range(steps):
        values.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return values


def sgd(rate: float = 2.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def resumed(
    schedule: WarmupCosine, stop: int, total: int, change: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> WarmupCosine:
    """A schedule of `total` steps that takes over the state of another after `stop` steps."""
    rates(schedule, stop)
    longer = WarmupCosine(sgd(), schedule.warmup, schedule.final, total)
    longer.optimizer.load_state_dict(schedule.optimizer.state_dict())
    longer.load_state_dict(change(schedule.state_dict()))
    return longer


class TestWarmupCosine:
    @pytest.mark.parametrize(("warmup", "final"), [(0.2, 0.0), (0.2, 0.1), (0.0, 0.0), (0.0, 0.5), (1.0, 0.0)])
    def test_the_rates_are_those_of_the_formula(self, warmup: float, final: float) -> None:
        total, peak = 50, 2.0
        w = round(warmup * total)
        values = rates(WarmupCosine(sgd(peak), warmup, final, total), total)
        for step in range(w):
            assert values[step] == pytest.approx(peak * (step + 1) / w)
        for t in range(w, total):
            cosine = (1 + math.cos(math.pi * (t - w) / (total - w))) / 2
            assert values[t] == pytest.approx(peak * (final + (1 - final) * cosine)), t

    def test_start_end_of_the_warm_up_middle_and_end(self) -> None:
        schedule = WarmupCosine(sgd(2.0), warmup=0.2, final=0.1, total_steps=50)
        values = rates(schedule, 60)
        assert values[0] == pytest.approx(0.2)
        assert values[9] == values[10] == pytest.approx(2.0)
        assert values[30] == pytest.approx(2.0 * (0.1 + 0.9 / 2))
        assert values[50] == pytest.approx(0.2)
        assert values[59] == pytest.approx(0.2)  # beyond the end it stays

    def test_every_group_has_its_own_peak(self) -> None:
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 0.1)]
        schedule = WarmupCosine(torch.optim.SGD(groups), warmup=0.5, total_steps=4)
        assert [group["lr"] for group in schedule.optimizer.param_groups] == [0.5, 0.05]

    @pytest.mark.parametrize("stop", [0, 3, 5, 20, 49])
    def test_it_goes_on_from_its_state(self, stop: int) -> None:
        alone = rates(WarmupCosine(sgd(), 0.2, 0.1, 50), 50)
        first = WarmupCosine(sgd(), 0.2, 0.1, 50)
        before = rates(first, stop)
        second = WarmupCosine(sgd(), 0.2, 0.1, 50)
        second.optimizer.load_state_dict(first.optimizer.state_dict())
        second.load_state_dict(first.state_dict())
        assert before + rates(second, 50 - stop) == alone

    @pytest.mark.parametrize("stop", [50, 30])
    def test_a_longer_run_moves_over_to_its_own_curve_without_a_jump_or_a_step_at_0(self, stop: int) -> None:
        whole = rates(WarmupCosine(sgd(), 0.2, 0.0, 50), 51)
        longer = rates(WarmupCosine(sgd(), 0.2, 0.0, 100), 100)
        values = rates(resumed(WarmupCosine(sgd(), 0.2, 0.0, 50), stop, 100), 100 - stop)
        steps = round(0.2 * (100 - stop))
        for k in range(steps):
            share = (k + 1) / steps
            assert values[k] == pytest.approx(whole[stop] * (1 - share) + longer[stop + k] * share), k
        assert values[steps:] == longer[stop + steps :]
        assert min(values) > 0
        jumps = [abs(b - a) for a, b in zip([whole[stop], *values], values, strict=False)]
        assert max(jumps) < 2.0 / (0.2 * 50), "no steeper than a warm-up from 0 to the peak"

    def test_a_longer_run_that_is_interrupted_keeps_its_way(self) -> None:
        longer = rates(resumed(WarmupCosine(sgd(), 0.2, 0.0, 50), 50, 100), 50)
        first = resumed(WarmupCosine(sgd(), 0.2, 0.0, 50), 50, 100)
        before = rates(first, 4)
        assert before + rates(resumed(first, 0, 100), 46) == longer

    def test_a_curve_that_goes_on_where_it_was_needs_no_way_over(self) -> None:
        def held(hold: float) -> WarmupHoldDecay:
            return WarmupHoldDecay(sgd(), 0.1, hold, 0.0, 50)

        trunk = held(1.0)
        rates(trunk, 30)
        branch = held(0.6)
        branch.optimizer.load_state_dict(trunk.optimizer.state_dict())
        branch.load_state_dict(trunk.state_dict())
        assert rates(branch, 20) == rates(held(0.6), 50)[30:]

    def test_a_checkpoint_that_does_not_say_its_plan(self) -> None:
        def older(state: dict[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in state.items() if key not in ("plan", "_bridge")}

        known = rates(resumed(WarmupCosine(sgd(), 0.2, 0.0, 50), 50, 100), 50)
        assert rates(resumed(WarmupCosine(sgd(), 0.2, 0.0, 50), 50, 100, older), 50) == pytest.approx(known)

    @pytest.mark.parametrize("name", ["warmup", "final"])
    @pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
    def test_a_share_outside_0_to_1_is_refused(self, name: str, share: float) -> None:
        with pytest.raises(ValueError, match=rf"^{name} is .*between 0 and 1$"):
            WarmupCosine(sgd(), **cast(Any, {name: share}))

    def test_a_training_without_an_end_is_refused_in_one_line(self) -> None:
        with pytest.raises((UserError, ValueError), match=r"(?i)max_epochs|max_steps"):
            trainer(max_epochs=-1, max_time="00:00:00:02", limit_train_batches=2, limit_val_batches=0).fit(
                ImageClassifier(MLP(64)), ImageData("digits")
            )


class Predicts(pl.LightningModule):
    """Predicts columns of every kind; breaks where it is told to."""

    def __init__(self, breaks_at: int = -1, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.breaks_at, self.kind = breaks_at, dtype

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        if batch_idx == self.breaks_at:
            raise ZeroDivisionError("planted")
        number = torch.tensor([int(sample) for sample in batch["id"]])
        probability = torch.stack([number / 10, 1 - number / 10], dim=1).to(self.kind)
        return {"id": batch["id"], "label": number % 2, "probability": probability}


class Counted:
    """Sample number i has the id str(i)."""

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        return {"id": [str(index) for index in indices], "image": torch.zeros(len(indices), 1)}


def loader(n: int, batch_size: int = 4) -> BatchLoader:
    return BatchLoader(Counted(), EvalSampler(n, batch_size))


def predict(folder: Path, n: int = 10, module: Predicts | None = None, names: list[str] | None = None) -> None:
    writer = PredictionWriter(folder, names)
    trainer(callbacks=[writer]).predict(module or Predicts(), loader(n), return_predictions=False)
    assert writer.rows == n


class TestPredictions:
    def test_the_columns_hold_what_predict_step_returned(self, tmp_path: Path) -> None:
        predict(tmp_path / "predictions", names=["even", "odd"])
        (file,) = Run(tmp_path).predictions
        assert file.name == "part-00000.parquet"
        table = pq.read_table(file)
        assert table.column_names == ["id", "label", "probability", "label_name"]
        assert table["id"].to_pylist() == [str(i) for i in range(10)]
        assert table["label"].to_pylist() == [i % 2 for i in range(10)]
        assert table["label_name"].to_pylist() == ["even", "odd"] * 5
        assert np.allclose(np.stack(table["probability"].to_pylist())[:, 0], np.arange(10) / 10)
        assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == ["_manifest.json", file.name]

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
    def test_tensors_of_any_precision_are_written(self, tmp_path: Path, dtype: torch.dtype) -> None:
        predict(tmp_path, module=Predicts(dtype=dtype))
        rows = np.stack(pq.read_table(tmp_path / "part-00000.parquet")["probability"].to_pylist()).astype(float)
        assert np.allclose(rows[:, 0], np.arange(10) / 10, atol=0.01)

    def test_an_earlier_prediction_stays_until_the_new_one_is_complete(self, tmp_path: Path) -> None:
        predict(tmp_path, n=10)
        before = (tmp_path / "part-00000.parquet").read_bytes()
        with pytest.raises(ZeroDivisionError, match="planted"):
            predict(tmp_path, n=12, module=Predicts(breaks_at=2))
        assert (tmp_path / "part-00000.parquet").read_bytes() == before
        predict(tmp_path, n=12)
        assert pq.read_metadata(tmp_path / "part-00000.parquet").num_rows == 12
        assert sorted(path.name for path in tmp_path.iterdir()) == ["_manifest.json", "part-00000.parquet"]

    def test_the_files_of_ranks_that_no_longer_exist_go(self, tmp_path: Path) -> None:
        predict(tmp_path)
        (tmp_path / "part-00000.parquet").rename(tmp_path / "part-00001.parquet")
        (tmp_path / "notes.txt").write_text("mine")
        predict(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["_manifest.json", "notes.txt", "part-00000.parquet"]

    def test_two_ranks_write_two_files_that_hold_the_samples_in_order(
        self, forked: Command, tmp_path: Path, runs: Path
    ) -> None:
        network = {"class_path": "MLP", "init_args": {"in_features": 64}}
        config = digits_config(
            trainer__max_epochs=1,
            trainer__limit_train_batches=2,
            model__init_args__network=network,
            data__init_args__augment=None,
            data__init_args__test_size=37,
            **TWO_PROCESSES,
        )
        forked("fit", "-c", write_config(tmp_path / "two.yaml", config), "--then", "predict")
        run = Run.load(runs / "own" / "two" / "latest")
        assert [file.name for file in run.predictions] == ["part-00000.parquet", "part-00001.parquet"]
        tables = [pq.read_table(file) for file in run.predictions]
        assert [table.num_rows for table in tables] == [19, 18]
        samples = ImageData("digits", test_size=37)
        samples.setup("test")
        expected = [sample for batch in samples.test_dataloader() for sample in batch["id"]]
        assert [sample for table in tables for sample in table["id"].to_pylist()] == expected


class Twice(EvalSampler):
    """A broken sampler: the first sample comes again at the end."""

    def batches(self, epoch: int, start: int = 0) -> Any:
        yield from super().batches(epoch, start)
        yield np.zeros(1, np.int64)

    def __len__(self) -> int:
        return super().__len__() + 1


class Sizes(pl.LightningModule):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/size", float(len(batch["id"])), batch_size=1)

    validation_step = test_step


class TestCoverage:
    @pytest.mark.parametrize(
        ("samples", "limit", "expected"),
        [
            (EvalSampler(10, 4), 1.0, {"expected": 10, "seen": 10, "twice": 0}),
            (Twice(10, 4), 1.0, {"expected": 10, "seen": 10, "twice": 1}),
            (EvalSampler(10, 4), 2, {"expected": 10, "seen": 8, "twice": 0}),
        ],
        ids=["exact", "one twice", "limited"],
    )
    @pytest.mark.parametrize("verb", ["test", "validate"])
    def test_samples_seen_and_seen_twice(self, samples: EvalSampler, limit: Any, expected: Any, verb: str) -> None:
        coverage = Coverage()
        own = trainer(callbacks=[coverage], limit_test_batches=limit, limit_val_batches=limit)
        for _ in range(2):  # counted anew each time
            getattr(own, verb)(Sizes(), BatchLoader(Counted(), samples), verbose=False)
            assert coverage.report == expected


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
