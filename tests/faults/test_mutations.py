"""Damaged and hostile files through every reader: read or named in one line, never anything else."""

import json
import random
from pathlib import Path

import pandas as pd
import pytest
from scripts.tools.mutations import mutate_all, mutated, peak_mib, targets

from plcourse.__main__ import main
from plcourse.data.frames import read_frame
from plcourse.errors import UserError, printable
from plcourse.evaluation.shards import MANIFEST, PARTIAL, ShardFolder
from plcourse.runs.run import Run


def test_mutated_files_are_read_or_named(tmp_path: Path) -> None:
    count = 480
    outcomes, escaped, _ = mutate_all(count, seed=1, folder=tmp_path)
    assert not escaped, "\n".join(escaped)
    assert outcomes.total() == count
    assert {name for name, outcome in outcomes if outcome == "named"} >= {"png", "parquet", "yaml", "json", "onnx"}


@pytest.mark.slow
def test_ten_thousand_more_within_bounded_memory(tmp_path: Path) -> None:
    mutate_all(500, seed=2, folder=tmp_path)
    before = peak_mib()
    outcomes, escaped, _ = mutate_all(10_000, seed=3, folder=tmp_path)
    assert not escaped, "\n".join(escaped)
    assert outcomes.total() == 10_000
    assert peak_mib() - before < 512


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("kind", "seed"),
    [("onnx", "0/1061"), ("tiff", "0/8554"), ("tiff", "11/28840")],
)
def test_files_that_once_escaped_are_named(tmp_path: Path, kind: str, seed: str) -> None:
    """A name that is no UTF-8, and a header that asked for a gigabyte."""
    (target,) = (each for each in targets(tmp_path) if each.name == kind)
    (file := tmp_path / f"file.{kind}").write_bytes(mutated(target.content, random.Random(seed)))
    with pytest.raises(target.named) as raised:
        target.read(file)
    assert str(raised.value).strip()


@pytest.mark.parametrize("seed", ["3/7965", "3/9513"])
def test_damaged_notes_of_pandas_leave_a_table_as_it_is(tmp_path: Path, seed: str) -> None:
    (target,) = (each for each in targets(tmp_path) if each.name == "parquet")
    (intact := tmp_path / "intact.parquet").write_bytes(target.content)
    (damaged := tmp_path / "damaged.parquet").write_bytes(mutated(target.content, random.Random(seed)))
    assert damaged.read_bytes() != intact.read_bytes()
    pd.testing.assert_frame_equal(read_frame(damaged), read_frame(intact))


def test_a_mutation_is_made_again_from_its_seed() -> None:
    content = bytes(range(256)) * 4
    assert mutated(content, random.Random("1/7")) == mutated(content, random.Random("1/7"))
    assert len({mutated(content, random.Random(f"1/{i}")) for i in range(50)}) > 40


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, '"\\ud800', "[]", "9" * 5000])
@pytest.mark.parametrize("file", ["run.json", "eval/test.json"])
def test_hostile_json_of_a_run_is_named(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / file).write_text(content)
    run = Run(tmp_path)
    with pytest.raises(UserError, match=Path(file).name):
        _ = run.record if file == "run.json" else run.eval("test")


@pytest.mark.parametrize("name", ["../victim", "/victim", "..", ""])
@pytest.mark.parametrize("where", [MANIFEST, f"{PARTIAL}/{MANIFEST}"])
def test_a_manifest_cannot_remove_files_outside_its_folder(tmp_path: Path, where: str, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "predictions"
    (folder / PARTIAL).mkdir(parents=True)
    file = str(victim) if name == "/victim" else name
    shard = {"file": file, "first": 0, "batches": 1, "rows": 1, "bytes": 8, "quarantined": []}
    (folder / where).write_text(json.dumps({"schema": 1, "key": "k", "complete": True, "shards": [shard]}))
    if where != MANIFEST:
        (folder / MANIFEST).write_text("{}")
    shards = ShardFolder(folder, "k", "parquet")
    with pytest.raises(UserError, match="is not a file name"):
        shards.open()
    shards.close()
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("raw", ["\x1b]0;title\x07", "\x1b[2J", "\x9b2J", "a\rb", "\u202eabc"])
def test_control_characters_never_reach_the_terminal(raw: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cat", f"x{raw}y"])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.rstrip("\n").isprintable()
    assert printable(raw).isprintable()
    assert printable("two\nlines é") == "two\nlines é"


def test_escape_sequences_of_a_record_are_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Run.create("own/x", "runs", {"status": "\x1b[2Jfinished", "verb": "\x1b]0;x\x07"})
    main(["ls", "runs", "--runs_root", "runs"])
    assert capsys.readouterr().out.replace("\n", "").isprintable()
