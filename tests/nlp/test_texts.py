"""Sources of texts: what is read, what is refused, and that nothing of the training part is in the others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import table
from plcourse.data import overlap, split
from plcourse.data.lines import read_text
from plcourse.data.near_duplicates import own_and_shared_hashes
from plcourse.data.texts import open_texts
from plcourse.errors import UserError

REVIEW = (
    "A slow start, but the second half, in which the brothers meet again at the harbour, is as good as anything that "
    "this director has made in years; the photography alone is worth the ticket, and the score never gets in its way."
)


def test_the_packaged_reviews() -> None:
    source = open_texts("rotten_tomatoes")
    assert len(source.texts) == len(set(source.ids)) == 8530
    assert np.bincount(source.labels).tolist() == [4265, 4265]
    assert source.label_names == ["negative", "positive"]
    assert source.ids[0] == "rotten_tomatoes/00000"


def test_no_duplicate_of_a_training_review_is_in_validation_or_test() -> None:
    source = open_texts("rotten_tomatoes")
    parts = split(source, 0.1, 0.1)
    assert not overlap(parts, source)
    hashes = source.hashes
    assert len(set(hashes.tolist())) < len(hashes)  # there are near-duplicates to keep together
    assert len({text.lower() for text in source.texts}) > len(set(hashes.tolist()))


@pytest.mark.slow
def test_no_training_review_of_the_whole_corpus_is_elsewhere() -> None:
    """Nor does a language model of IMDB's reviews read one that the classifier of the others is tested with."""
    source = open_texts("reviews")
    assert not overlap(split(source, 0.1, 0.1), source)
    imdb = np.array([name.startswith("imdb/") for name in source.ids])
    assert not np.isin(source.hashes[~imdb], source.hashes[imdb]).any()


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (REVIEW.upper(), True),
        (REVIEW.replace(",", " --").replace(" ", "  "), True),
        (REVIEW.replace("slow start", "sluggish opening"), True),
        ("I saw it twice. " + REVIEW, True),
        (REVIEW[:60] + " and that is all there is to be said about it, for the rest of it I slept through.", False),
        ("Nothing in common with it whatsoever, which one hopes is true of most pairs of reviews in the world.", False),
    ],
)
def test_what_counts_as_a_near_duplicate(other: str, same: bool) -> None:
    first, second = own_and_shared_hashes([REVIEW, other])[:, 1]
    assert (first == second) == same


@pytest.mark.medium
@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=80), max_size=12), st.randoms())
def test_hashes_do_not_depend_on_the_order(texts: list[str], random: Any) -> None:
    shuffled = list(range(len(texts)))
    random.shuffle(shuffled)
    hashes = own_and_shared_hashes(texts)[:, 1]
    assert hashes[shuffled].tolist() == own_and_shared_hashes([texts[i] for i in shuffled])[:, 1].tolist()
    assert hashes.dtype == np.uint64


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_users_table(tmp_path: Path, suffix: str) -> None:
    frame = pd.read_csv(table(tmp_path / "mine.csv", 20)).rename(columns={"text": "body", "label": "mood"})
    path = tmp_path / f"mine{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, sep="\t" if suffix == ".tsv" else ",", index=False)
    source = open_texts("text_table", str(path), "body", "mood")
    assert source.texts == frame["body"].tolist()
    assert [source.label_names[i] for i in source.labels] == frame["mood"].tolist()


def test_numeric_classes_are_sorted_by_value(tmp_path: Path) -> None:
    path = tmp_path / "stars.csv"
    path.write_text("text,label\none,10\ntwo,2\nthree,1\n")
    assert open_texts("text_table", str(path)).label_names == ["1", "2", "10"]


def test_a_folder_keeps_its_parts_without_leaking_texts(tmp_path: Path) -> None:
    table(tmp_path / "train.csv", 30, seed=1)
    rows = table(tmp_path / "test.csv", 10, seed=2).read_text().splitlines()
    leaked = (tmp_path / "train.csv").read_text().splitlines()[1]
    (tmp_path / "test.csv").write_text("\n".join([*rows, leaked]) + "\n")
    source = open_texts("text_table", str(tmp_path))
    parts = split(source, 0.2, 0.0)
    assert len(parts["test"]) == 11
    assert len(parts["train"]) + len(parts["val"]) == 29
    assert not overlap(parts, source)


@pytest.mark.parametrize(
    "names", [("Train.csv", "TEST.csv"), ("training.csv", "eval.tsv"), ("train.csv", "testing.csv")]
)
def test_parts_are_recognized_in_any_case_and_by_their_usual_names(
    tmp_path: Path, names: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, rows in zip((*names, "unlabelled.csv", "Dev.csv"), (30, 10, 5, 7), strict=True):
        frame = pd.read_csv(table(tmp_path / "any.csv", rows, seed=rows))
        frame.to_csv(tmp_path / name, index=False, sep="\t" if name.endswith("tsv") else ",")
    (tmp_path / "any.csv").unlink()
    source = open_texts("text_table", str(tmp_path))
    assert source.parts is not None
    assert {part: len(rows) for part, rows in source.parts.items()} == {"train": 30, "val": 7, "test": 10}
    assert {source.ids[i].split("/")[0] for i in source.parts["test"]} == {names[1].split(".")[0]}
    assert "left out tables in" in capsys.readouterr().out
    table(tmp_path / "valid.csv", 4)
    with pytest.raises(UserError, match=r"'.*Dev\.csv' and 'valid\.csv' both mean the val part; keep one of them"):
        open_texts("text_table", str(tmp_path))


def test_unusable_rows_are_named_or_left_out(tmp_path: Path) -> None:
    path = tmp_path / "holes.csv"
    path.write_text("text,label\nfine,good\n,bad\nfair,\n   ,bad\nflat,bad\n" + "x" * 1_000_001 + ",good\n")
    with pytest.raises(UserError, match=r"holes/00001: the text is missing; .*on_error=skip"):
        open_texts("text_table", str(path))
    source = open_texts("text_table", str(path), on_error="skip")
    assert source.texts == ["fine", "flat"]
    assert [row for row, _ in source.rejected] == ["holes/00001", "holes/00002", "holes/00003", "holes/00005"]
    assert "1,000,001 characters" in source.rejected[-1][1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.csv", "text,label\nna\xefve,good\nbad,bad\n".encode("latin1"), r"not UTF-8: byte 13 is 0xef"),
        ("empty.csv", b"", r"cannot read the table"),
        ("header.csv", b"text,label\n", r"has no rows"),
        ("one.csv", b"text,label\na,good\nb,good\n", r"holds one class, 'good'"),
        ("column.csv", b"texts,label\na,good\nb,bad\n", r"no column 'text'; it has texts, label.*text_column.*'texts'"),
        ("ragged.csv", b"text,label\na,good\nb,bad,worse\n", r"cannot read the table .*line 3"),
        ("wrong.jsonl", b'{"text": "a"\n', r"cannot read the table"),
        ("wrong.parquet", b"PAR1", r"cannot read the table"),
        ("table.xlsx", b"", r"ends with '.xlsx'; give a file that ends with .csv"),
    ],
)
def test_an_unusable_table_is_reported(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        open_texts("text_table", str(path))
    assert "\n" not in str(error.value)


def test_unknown_sources_and_missing_paths(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown source 'imbd'"):
        open_texts("imbd")
    with pytest.raises(UserError, match=r"a text_file has no labels"):
        open_texts("text_file")
    with pytest.raises(UserError, match=r"give --data.init_args.path"):
        open_texts("text_table")
    with pytest.raises(UserError, match=r"it does not exist"):
        open_texts("text_table", str(tmp_path / "none.csv"))
    (tmp_path / "only").mkdir()
    with pytest.raises(UserError, match=r"must hold a train and a val or test file"):
        open_texts("text_table", str(tmp_path / "only"))


def test_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffeins\r\nzwei\n".encode())
    assert read_text(path) == "eins\r\nzwei\n"
    path.write_bytes(b"good \xff bad")
    with pytest.raises(UserError, match=r"not UTF-8: byte 5 is 0xff"):
        read_text(path)
    path.write_bytes(b" \n")
    with pytest.raises(UserError, match=r"is empty"):
        read_text(path)
    with pytest.raises(UserError, match=r"No such file"):
        read_text(tmp_path / "none.txt")


def test_a_single_line_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("ab " * 3_500_000)
    assert len(read_text(path)) == 10_500_000
    row = tmp_path / "long.jsonl"
    row.write_text(json.dumps({"text": "ab " * 3_500_000, "label": "x"}) + '\n{"text": "b", "label": "y"}\n')
    with pytest.raises(UserError, match=r"long/00000: the text has 10,500,000 characters, more than 1,000,000"):
        open_texts("text_table", str(row))
