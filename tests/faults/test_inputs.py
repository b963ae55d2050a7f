"""What users have on their disks: uneven tables, mixed encodings, links, other people's folders."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from plcourse.console.figures import caption
from plcourse.data.frames import read_frame
from plcourse.data.image_folder import FolderSource
from plcourse.data.texts import open_texts
from plcourse.errors import RunFailed, UserError
from plcourse.evaluation.diagnostics.confusion import _draw
from plcourse.evaluation.tables import Schema, TableSource
from plcourse.runs.recorder import TidyLogger
from plcourse.runs.run import Run


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("more.csv", b"text,label\na,x,1\nb,y,2\n", "line 2: it has 3 cells, .* the first line"),
        (
            "more.tsv",
            b"text\tlabel\na\tx\t1\nb\ty\t2\n",
            "line 2: it has 3 cells, .* the first line",
        ),
        ("some_more.csv", b"text,label\na,x\nb,y,2\n", "line 3: it has 3 cells"),
        ("less.csv", b"text,label\na,x\nb\nc,y\n", "less/00001: the label is missing"),
        ("blank.csv", b"text,label\na,x\nb, \nc,y\n", "blank/00001: the label is empty"),
        ("two.csv", "text,label\ncafé,x\n".encode() + "café,y\n".encode("latin1"), "byte 22 is 0xe9"),
        ("utf16.csv", "text,label\na,x\nb,y\n".encode("utf-16le"), "NUL characters.*UTF-16 without a byte order mark"),
        ("torn.jsonl", b'{"text":"a","label":"x"}\n{"text":"b","lab', "cannot read the table"),
        ("lists.jsonl", b'{"text":"a","label":"x"}\n[1, 2]\n', "each line must be one JSON object"),
        ("less.jsonl", b'{"text":"a","label":"x"}\n{"label":"y"}\n', "less/00001: the text is missing"),
        ("null.jsonl", b'{"text":"a","label":"x"}\n{"text":"b","label":null}\n', "null/00001: the label is missing"),
        ("deep.jsonl", b'{"text":"a","label":[1]}\n{"text":"b","label":[2]}\n', "deep/00000: the label is a list"),
        (
            "object.jsonl",
            b'{"text":{"a":1},"label":1}\n{"text":"b","label":2}\n',
            "object/00000: the text is a list or",
        ),
        ("latin.jsonl", '{"text":"é","label":"x"}\n'.encode("latin1"), "is not UTF-8: byte 9 is 0xe9"),
    ],
)
def test_an_uneven_table_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        open_texts("text_table", str(tmp_path / name))
    assert "\n" not in str(raised.value)


def test_rows_left_out_and_rows_kept_are_all_rows(tmp_path: Path) -> None:
    rows = ['{"text":"a","label":"x"}', '{"text":["b"],"label":"x"}', '{"label":"y"}', '{"text":"d","label":"y"}']
    (tmp_path / "t.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n".join(rows).encode())
    source = open_texts("text_table", str(tmp_path / "t.jsonl"), on_error="skip")
    assert (source.ids, [row for row, _ in source.rejected]) == (["t/00000", "t/00003"], ["t/00001", "t/00002"])


def test_labels_of_several_types_are_classes_by_what_they_say(tmp_path: Path) -> None:
    lines = [f'{{"text":"{i}a","label":{label}}}' for i, label in enumerate(('"x"', "true", "1", "true"))]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    source = open_texts("text_table", str(tmp_path / "t.jsonl"))
    assert [source.label_names[label] for label in source.labels] == ["x", "True", "1", "True"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [(["a", "b", "a"], "row 2: column 'id' is 'a' again"), (["a", None, "b"], "row 1: column 'id' is missing")],
)
def test_ids_of_a_table_that_are_none(ids: list[str | None], message: str) -> None:
    frame = pd.DataFrame({"id": ids, "x": [1.0, 2.0, 3.0], "label": [0, 1, 1]})
    with pytest.raises(UserError, match=message):
        TableSource("t.csv", frame, Schema(id="id"), "raise")
    with pytest.raises(UserError, match=r"no column 'ids'; it has .*; did you mean 'id'"):
        TableSource("t.csv", frame, Schema(id="ids"), "raise")


@pytest.fixture
def photos(tmp_path: Path) -> Callable[..., Path]:
    """Two classes of two images each."""

    def make() -> Path:
        for number, name in enumerate(("cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png")):
            (file := tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), number, np.uint8)).save(file)
        return tmp_path / "photos"

    return make


def test_links_are_followed_once_and_named_where_they_lead_nowhere(photos: Callable[..., Path], tmp_path: Path) -> None:
    root = photos()
    (root / "cat" / "again").symlink_to(root, target_is_directory=True)  # a circle
    (root / "dog" / "5.png").symlink_to(root / "cat" / "1.png")
    source = FolderSource.of_classes(str(root))
    assert source.ids == ["cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png", "dog/5.png"]
    (root / "dog" / "6.png").symlink_to(tmp_path / "nowhere.png")
    (root / "dog" / "7.png").symlink_to(root / "dog" / "7.png")  # to itself
    with pytest.raises(UserError, match=r"cannot read the image '.*dog/6.png'"):
        FolderSource.of_classes(str(root))
    source = FolderSource.of_classes(str(root), on_error="skip")
    assert len(source.ids) == 5
    assert [Path(path).name for path, _ in source.rejected] == ["6.png", "7.png"]


@pytest.mark.parametrize("file", ["run.json", "metrics.csv"])
def test_a_link_in_a_run_from_elsewhere_does_not_lead_a_write_out_of_it(tmp_path: Path, file: str) -> None:
    (victim := tmp_path / "victim").write_text("precious")
    run = Run.create("own/x", tmp_path / "runs", {"verb": "fit"})
    (run.path / file).unlink(missing_ok=True)
    (run.path / file).symlink_to(victim)
    if file == "run.json":
        with pytest.raises(UserError, match="not valid JSON"):
            run.update(status="finished")
    else:
        table = TidyLogger(run.path / file)
        for write in (lambda: table.log_metrics({"x": 1.0}), table.size, lambda: table.cut(0)):
            with pytest.raises(RunFailed, match=r"metrics.csv.* is a link"):
                write()
    assert victim.read_text() == "precious"


def test_a_folder_that_may_not_be_read_is_named(photos: Callable[..., Path]) -> None:
    root = photos()
    (root / "dog" / "4.png").chmod(0)
    if os.geteuid() == 0:  # root reads everything: a file of another kind stands in for it
        (root / "dog" / "4.png").unlink()
        (root / "dog" / "4.png").symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match=r"cannot read the image '.*dog/4.png'"):
        FolderSource.of_classes(str(root))


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"id\n" * 3])
def test_what_is_no_parquet_is_no_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read the table '.*t.parquet'"):
        read_frame(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    "name", [r"$x_{$", r"\$\frac{$ $", "$5 and $6", "a\n\x1b]0;b\x07" * 40, "\N{RIGHT-TO-LEFT OVERRIDE}$", ""]
)
def test_any_name_of_a_class_can_be_drawn(tmp_path: Path, name: str) -> None:
    names = [name, "other"]
    _draw(np.array([[3, 1], [0, 2]]), names, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    assert names == [name, "other"]
    assert "$" not in caption(name).replace(r"\$", "")
