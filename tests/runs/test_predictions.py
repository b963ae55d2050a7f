"""The Parquet files of predictions, and how many samples an evaluation saw."""

import contextlib
import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch

from plcourse import Run, Trainer, files
from plcourse.data import BatchLoader, EvalSampler
from plcourse.ddp.data import ImageData
from plcourse.runs.prediction_writer import PredictionWriter
from plcourse.runs.variants import prediction_sets
from plcourse.training.callbacks import Coverage
from support import TWO_PROCESSES, Command, digits_config, write_config
from trainers import quiet_trainer


def trainer(**settings: Any) -> Trainer:
    return quiet_trainer(**{"max_epochs": 1, "num_sanity_val_steps": 0, **settings})


class Predicts(pl.LightningModule):
    """Predicts columns of every kind; raises an error at a batch that can be chosen."""

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


NUMBERS = [str(number) for number in range(12)]


class Killed(BaseException):
    """The end of the process."""


def die_after(changes: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Makes every renaming and removal fail after some have worked; returns the names of those that failed."""
    failed: list[str] = []
    done = itertools.count()

    def dies(name: str) -> Any:
        change = getattr(os, name)

        def changed(*arguments: Any, **options: Any) -> None:
            if next(done) >= changes:
                failed.append(name)
                raise Killed
            change(*arguments, **options)

        return changed

    for name in ("replace", "unlink", "rmdir"):
        patch.setattr(os, name, dies(name))
    return failed


def ids(files: Iterable[Path]) -> list[str]:
    return [name for file in files for name in pq.read_table(file)["id"].to_pylist()]


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

    def test_killed_at_any_moment_a_second_prediction_leaves_no_sample_twice(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A kill after any number of changes to the folder, where the first prediction was that of two ranks."""
        order = []
        for changes in itertools.count():
            folder = tmp_path / str(changes) / "predictions"
            predict(folder, n=10)
            pq.write_table(pq.read_table(folder / "part-00000.parquet").slice(5), folder / "part-00001.parquet")
            pq.write_table(pq.read_table(folder / "part-00000.parquet").slice(0, 5), folder / "part-00000.parquet")
            with monkeypatch.context() as patch:
                died = die_after(changes, patch)
                with contextlib.suppress(Killed):
                    predict(folder, n=12)
            for handle in set(files._handles):
                files.release(handle)  # as the end of a process does
            visible = ids(sorted(folder.glob("*.parquet")))
            assert len(visible) == len(set(visible))
            found = ids(Run(folder.parent).predictions)
            assert found in (NUMBERS[:10], NUMBERS[:12])
            order.append(len(found))
            assert bool(prediction_sets(Run(folder.parent))) == (folder / "_manifest.json").is_file()
            predict(folder, n=11)
            assert ids(Run(folder.parent).predictions) == NUMBERS[:11]
            assert sorted(path.name for path in folder.iterdir()) == ["_manifest.json", "part-00000.parquet"]
            if not died:
                break
        assert order == sorted(order)
        assert order[-2] == 12, "it was killed while it replaced the files, too"

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
