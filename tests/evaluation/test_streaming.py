"""Predictions in shards give the same table with any number of kills and of processes."""

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
import pytorch_lightning as pl
import torch

import plcourse
from plcourse.ddp.networks import MLP
from plcourse.errors import UserError
from plcourse.evaluation.data import EvaluationData
from plcourse.evaluation.generated import GeneratedSplits
from plcourse.evaluation.model import Classifier
from plcourse.evaluation.shards import MANIFEST, PARTIAL, QUARANTINE, Shard, ShardFolder
from plcourse.evaluation.streaming_loop import GridBatches, StreamingPredictLoop
from plcourse.training.checkpoint import AtomicCheckpointIO
from support import Command, write_config
from trainers import quiet_trainer

ROWS, BATCH = 1050, 100


def classifier(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(MLP(in_features=16, num_classes=4, hidden=(8,), dropout=0.2), num_classes=4, mc_samples=2)


class Stop(pl.Callback):
    """Ends the prediction after a number of batches, and counts them."""

    def __init__(self, after: int = -1) -> None:
        self.after, self.seen = after, 0

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        self.seen += 1
        if self.seen == self.after:
            raise KeyboardInterrupt


def predict(folder: Path, model: Classifier | None = None, stop: int = -1, rows: int = ROWS, **arguments: Any) -> int:
    """Predicts into a folder and returns how many batches it took."""

    def loop(trainer: pl.Trainer) -> StreamingPredictLoop:
        return StreamingPredictLoop(trainer, output_dir=str(folder), **{"rows_per_shard": 200, **arguments})

    counter = Stop(stop)
    trainer = quiet_trainer(predict_loop=loop, callbacks=[counter])
    data = EvaluationData("generated", eval_batch_size=BATCH, val_size=10, test_size=10)
    data.splits = GeneratedSplits(rows, val_size=10, test_size=10, train_size=100)
    try:
        trainer.predict(model or classifier(), datamodule=data, return_predictions=False)
    except (KeyboardInterrupt, SystemExit):
        assert stop > 0
    return counter.seen


def read(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder)


def test_one_ordered_table_with_every_row_once(tmp_path: Path) -> None:
    assert predict(tmp_path / "out") == 11
    table = read(tmp_path / "out")
    assert table.id.tolist() == list(range(ROWS))
    assert set(table) == {"id", "label", "probability", "total", "aleatoric", "epistemic", "label_name"}
    assert (table.label_name == [f"class_{k}" for k in table.label]).all()
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["given"], manifest["seen"], manifest["quarantined"]) == (ROWS, ROWS, 0)
    assert [shard["rows"] for shard in manifest["shards"]] == [200] * 5 + [50]
    assert ds.dataset(tmp_path / "out").count_rows() == ROWS
    assert not (tmp_path / "out" / PARTIAL).exists()


@pytest.mark.medium
@pytest.mark.parametrize("stops", [[1], [3, 4], [2, 2, 2, 2], [10]])
def test_only_what_is_missing_is_computed_and_the_table_is_the_same(tmp_path: Path, stops: list[int]) -> None:
    predict(tmp_path / "whole")
    for stop in stops:
        predict(tmp_path / "out", stop=stop)
        assert not (tmp_path / "out" / MANIFEST).exists()
    committed = ShardFolder(tmp_path / "out", "", "parquet")._committed()
    kept = sum(shard.batches for shard in committed)
    assert predict(tmp_path / "out") == 11 - kept
    pd.testing.assert_frame_equal(read(tmp_path / "out"), read(tmp_path / "whole"))


def test_a_complete_prediction_is_not_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert predict(tmp_path / "out") == 0
    assert "nothing was missing" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    next((tmp_path / "out").glob("*.parquet")).unlink()
    assert predict(tmp_path / "out") == 11


def test_an_earlier_dataset_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    predict(tmp_path / "out")
    first = read(tmp_path / "out")
    predict(tmp_path / "out", classifier(seed=1), stop=5)
    pd.testing.assert_frame_equal(read(tmp_path / "out"), first)
    assert predict(tmp_path / "out", classifier(seed=2)) == 11  # not a mixture of the two
    predict(tmp_path / "other", classifier(seed=2))
    pd.testing.assert_frame_equal(read(tmp_path / "out"), read(tmp_path / "other"))
    assert not read(tmp_path / "out").total.equals(first.total)


def test_another_member_of_the_ensemble_makes_another_prediction(tmp_path: Path) -> None:
    def ensemble(seed: int) -> Classifier:
        weights = {f"network.{name}": value for name, value in classifier(seed).network.state_dict().items()}
        AtomicCheckpointIO().save_checkpoint({"state_dict": weights}, tmp_path / "member.ckpt")
        model = classifier()
        model.ensemble = [str(tmp_path / "member.ckpt")]
        return model

    assert predict(tmp_path / "out", ensemble(seed=1)) == 11
    assert predict(tmp_path / "out", ensemble(seed=1)) == 0
    assert predict(tmp_path / "out", ensemble(seed=2)) == 11


def test_other_columns_or_batches_are_another_prediction(tmp_path: Path) -> None:
    predict(tmp_path / "out", stop=5)
    assert predict(tmp_path / "out", columns=["id", "label_name"]) == 11
    assert list(read(tmp_path / "out")) == ["id", "label_name"]
    assert predict(tmp_path / "out", rows=ROWS + BATCH) == 12


@pytest.mark.medium
def test_every_format_holds_the_same_rows(tmp_path: Path) -> None:
    tables = {}
    for name in ("parquet", "csv", "jsonl"):
        predict(tmp_path / name, format=name)
        files = sorted((tmp_path / name).glob(f"*.{name}"))
        assert len(files) == 6
        reader = {"parquet": pd.read_parquet, "csv": pd.read_csv, "jsonl": lambda f: pd.read_json(f, lines=True)}[name]
        tables[name] = pd.concat([reader(file) for file in files], ignore_index=True)
    assert tables["jsonl"].probability.tolist() == [pytest.approx(p) for p in tables["parquet"].probability]
    for column in ("id", "label", "total"):
        assert tables["csv"][column].to_numpy() == pytest.approx(tables["parquet"][column].to_numpy())
    assert tables["csv"].probability_3.tolist() == pytest.approx([p[3] for p in tables["parquet"].probability])
    assert list(tables["csv"].label_name) == list(tables["parquet"].label_name)


def test_formulas_are_escaped_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["=1+1", "@x", "-2", "a=b"]
    monkeypatch.setattr(GeneratedSplits, "label_names", names, raising=False)
    predict(tmp_path / "plain", format="csv")
    predict(tmp_path / "escaped", format="csv", escape_formulas=True)
    plain, escaped = (
        pd.concat([pd.read_csv(file, dtype={"label_name": str}) for file in sorted((tmp_path / name).glob("*.csv"))])
        for name in ("plain", "escaped")
    )
    assert plain.label_name.tolist() == [names[label] for label in plain.label]
    assert escaped.label_name.tolist() == [["'=1+1", "'@x", "'-2", "a=b"][label] for label in plain.label]
    assert set(escaped.label) >= {0, 2, 3}, "two formulas and a name that is none"
    others = [name for name in plain if name != "label_name"]
    assert plain[others].equals(escaped[others]), "numbers stay numbers"
    with pytest.raises(ValueError, match="escape_formulas has an effect on the format csv only"):
        predict(tmp_path / "out", escape_formulas=True)


def test_formulas_among_the_inputs_that_cannot_be_read(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path, "key", "csv", escape_formulas=True)
    folder.open()
    folder.begin([])
    (path := folder.path(0)).write_text("x\n")
    shard = Shard("part-000000000000.csv", 0, 1, 0, 2, [("=1+1.png", "\tcut off"), ("a.png", "damaged")])
    folder.commit(path, shard)
    folder.publish([shard], 2)
    assert (tmp_path / QUARANTINE).read_bytes() == b"id,reason\r\n'=1+1.png,'\tcut off\r\na.png,damaged\r\n"


def test_polars_and_duckdb_read_the_shards_as_one_table(tmp_path: Path) -> None:
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    predict(tmp_path / "out")
    expected = read(tmp_path / "out")
    table = polars.read_parquet(f"{tmp_path}/out/*.parquet")
    rows = duckdb.sql(f"from '{tmp_path}/out/*.parquet'").fetchall()
    assert table.columns == list(expected)
    assert table["id"].to_list() == [row[0] for row in rows] == list(range(ROWS))
    for name in ("label", "label_name", "total"):
        place = table.columns.index(name)
        assert table[name].to_list() == [row[place] for row in rows] == expected[name].tolist()
    place = table.columns.index("probability")
    first = pytest.approx(expected.probability[0])
    assert table["probability"][0].to_list() == first
    assert list(rows[0][place]) == first


def test_a_wrong_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'probabilty'.*did you mean 'probability'"):
        predict(tmp_path / "out", columns=["id", "probabilty"])


@pytest.mark.parametrize("wrong", [{"rows_per_shard": 0}, {"format": "xml"}])
def test_wrong_arguments_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))!r}: give"):
        predict(tmp_path / "out", **wrong)


def test_two_predictions_do_not_write_into_one_folder(tmp_path: Path) -> None:
    first = ShardFolder(tmp_path, "a", "parquet")
    first.open()
    with pytest.raises(UserError, match="another process is writing predictions"):
        ShardFolder(tmp_path, "a", "parquet").open()
    first.close()
    assert ShardFolder(tmp_path, "a", "parquet").open() == ([], False)


class TestShardsAfterAKill:
    """Every state that a kill can leave behind, made by hand."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> ShardFolder:
        folder = ShardFolder(tmp_path / "out", "key", "csv")
        folder.open()
        folder.begin([])
        for first in (0, 10):
            folder.path(first).write_text("x\n1\n")
            folder.commit(folder.path(first), Shard(f"part-{first:012d}.csv", first // 10, 1, 10, 4))
        folder.close()
        return folder

    def committed(self, folder: ShardFolder) -> list[int]:
        shards, finished = folder.open()
        folder.close()
        assert not finished
        return [shard.first for shard in shards]

    def test_nothing_torn(self, folder: ShardFolder) -> None:
        assert self.committed(folder) == [0, 1]

    def test_a_torn_journal_line(self, folder: ShardFolder) -> None:
        journal = folder.partial / "journal-00000.jsonl"
        journal.write_text(journal.read_text()[:-20])
        assert self.committed(folder) == [0]

    def test_a_shard_without_its_line(self, folder: ShardFolder) -> None:
        (folder.partial / "part-000000000020.csv").write_text("x\n1\n")
        shards, _ = folder.open()
        folder.begin(shards)
        assert not (folder.partial / "part-000000000020.csv").exists()
        assert len(shards) == 2

    def test_a_shard_that_is_shorter_than_its_line_says(self, folder: ShardFolder) -> None:
        (folder.partial / "part-000000000010.csv").write_text("x")
        assert self.committed(folder) == [0]

    def test_a_journal_is_whole_again_after_the_next_start(self, folder: ShardFolder) -> None:
        journal = folder.partial / "journal-00000.jsonl"
        journal.write_text(journal.read_text() + '{"file": "par')
        shards, _ = folder.open()
        folder.begin(shards)
        folder.path(20).write_text("x\n1\n")
        folder.commit(folder.path(20), Shard("part-000000000020.csv", 2, 1, 10, 4))
        folder.close()
        assert self.committed(folder) == [0, 1, 2]

    @pytest.mark.parametrize("moved", [0, 1, 2])
    def test_a_kill_while_publishing(self, folder: ShardFolder, moved: int) -> None:
        shards, _ = folder.open()
        manifest = {"key": "key", "complete": True, "shards": [vars(shard) for shard in shards]}
        (folder.partial / MANIFEST).write_text(json.dumps(manifest))
        (folder.folder / "part-00000.parquet").write_text("of the plain writer")
        for shard in shards[:moved]:
            (folder.partial / shard.file).replace(folder.folder / shard.file)
        folder.close()
        found, finished = folder.open()
        folder.close()
        assert finished
        assert found == shards
        assert sorted(p.name for p in folder.folder.iterdir()) == [MANIFEST, *(shard.file for shard in shards)]


class TestGrid:
    @pytest.mark.parametrize("n", [1, 99, 100, 101, 1050])
    @pytest.mark.parametrize("world_size", [1, 2, 3])
    def test_ranks_share_the_batches_of_one_process(self, n: int, world_size: int) -> None:
        batches = -(-n // BATCH)
        parts = np.array_split(np.arange(batches), world_size)
        ranks = [list(GridBatches(n, BATCH, part, world_size).batches(0)) for part in parts]
        alone = list(GridBatches(n, BATCH, np.arange(batches)).batches(0))
        assert [b.tolist() for rank in ranks for b in rank] == [b.tolist() for b in alone]
        assert np.concatenate(alone).tolist() == list(range(n))


def config() -> dict[str, Any]:
    loop = {"class_path": "StreamingPredictLoop", "init_args": {"rows_per_shard": 300}}
    network = {"class_path": "MLP", "init_args": {"in_features": 16, "num_classes": 4, "dropout": 0.1}}
    model = {"network": network, "num_classes": 4, "mc_samples": 2}
    data = {"source": "generated", "rows": 60_000, "val_size": 100, "test_size": 100, "batch_size": 1000}
    return {
        "seed_everything": 1,
        "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "predict_loop": loop},
        "model": {"class_path": "Classifier", "init_args": model},
        "data": {"class_path": "EvaluationData", "init_args": {**data, "eval_batch_size": 100}},
    }


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its predictions, made by one process that was not killed."""
    folder = tmp_path_factory.mktemp("fitted")
    job = write_config(folder / "job.yaml", config())
    return plcourse.run("fit", job, runs_root=folder / "runs", then=["predict"]).path


def killed(forked: Command, run: Path, folder: Path, batch: int, delay: float, *more: Any) -> None:
    where = f"--trainer.predict_loop.init_args.output_dir={folder}"
    kill = f"--trainer.callbacks+={{class_path: faulty.KillPrediction, init_args: {{batch: {batch}, delay: {delay}}}}}"
    forked("predict", "--run", run, where, kill, "--trust", "faulty", *more, status=-9)


def test_killed_and_started_again(forked: Command, tmp_path: Path, fitted: Path) -> None:
    where = f"--trainer.predict_loop.init_args.output_dir={tmp_path / 'out'}"
    killed(forked, fitted, tmp_path / "out", 100, 0.0)
    assert not list((tmp_path / "out").glob("*.parquet"))
    printed = forked("predict", "--run", fitted, where).stdout
    assert "rows are there already" in printed
    pd.testing.assert_frame_equal(read(tmp_path / "out"), read(fitted / "predictions"))


def test_two_processes_write_the_table_of_one(forked: Command, tmp_path: Path, fitted: Path) -> None:
    where = f"--trainer.predict_loop.init_args.output_dir={tmp_path / 'two'}"
    killed(forked, fitted, tmp_path / "two", 30, 0.05, "--trainer.devices=2")
    forked("predict", "--run", fitted, where, "--trainer.devices=2")
    pd.testing.assert_frame_equal(read(tmp_path / "two"), read(fitted / "predictions"))


@pytest.mark.slow
def test_two_nodes_of_torchrun_write_the_table_of_one(tmp_path: Path, fitted: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "predict"]
    command = [*launcher, "--local_addr", "127.0.0.1", "-m", "plcourse", "predict"]
    command += ["-c", str(fitted / "config.yaml"), "--ckpt_path", str(fitted / "checkpoints" / "best.ckpt")]
    command += ["--trainer.num_nodes=2", f"--trainer.predict_loop.init_args.output_dir={tmp_path / 'nodes'}"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    printed = [node.communicate(timeout=200)[0].decode() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    manifest = json.loads((tmp_path / "nodes" / MANIFEST).read_text())
    assert len(manifest["shards"]) >= 2
    pd.testing.assert_frame_equal(read(tmp_path / "nodes"), read(fitted / "predictions"))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_again_and_again(forked: Command, tmp_path: Path, fitted: Path, processes: int) -> None:
    """Ten kills each, at random batches and moments, on top of what the previous kills left behind."""
    chooser = random.Random(processes)
    where = f"--trainer.predict_loop.init_args.output_dir={tmp_path / 'out'}"
    devices = f"--trainer.devices={processes}"
    for _ in range(10):
        killed(forked, fitted, tmp_path / "out", chooser.randrange(20), chooser.uniform(0, 0.02), devices)
    forked("predict", "--run", fitted, where, devices)
    pd.testing.assert_frame_equal(read(tmp_path / "out"), read(fitted / "predictions"))
