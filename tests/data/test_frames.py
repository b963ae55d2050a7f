"""Tables are read as they were written: every cell a person wrote, and no row more or less."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plcourse.data.frames import as_text, numbers, read_frame
from plcourse.data.lines import read_lines
from plcourse.data.names import class_names
from plcourse.errors import UserError

ALL = (".csv", ".tsv", ".jsonl", ".parquet")


def read(folder: Path, content: str | bytes, name: str = "t.csv") -> pd.DataFrame:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_frame(folder / name, ALL)


WORDS = ["0017", "12345678901234567890", "None", "NA", "N/A", "null", "nan", "0100", "1.0", "1e3", "True", "2020-01-01"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_cell_is_what_the_person_wrote(tmp_path: Path, suffix: str) -> None:
    rows = [[word, str(i)] for i, word in enumerate(WORDS)]
    content = {
        ".csv": "word,n\n" + "".join(f"{word},{n}\n" for word, n in rows),
        ".tsv": "word\tn\n" + "".join(f"{word}\t{n}\n" for word, n in rows),
        ".jsonl": "".join(f'{{"word": "{word}", "n": {n}}}\n' for word, n in rows),
    }[suffix]
    frame = read(tmp_path, content, f"t{suffix}")
    assert as_text(frame, "word").tolist() == WORDS
    assert numbers(frame, "n").tolist() == list(range(len(WORDS)))


def test_numbers_of_json_are_text_as_written(tmp_path: Path) -> None:
    frame = read(tmp_path, '{"a": 12345678901234567890, "b": 1.0}\n{"a": 7, "b": null}\n', "t.jsonl")
    assert as_text(frame, "a").tolist() == ["12345678901234567890", "7"]
    assert as_text(frame, "b").tolist() == ["1.0", None]


def test_whole_numbers_of_parquet_have_no_point_and_lose_no_digit(tmp_path: Path) -> None:
    exact = pd.array([2**60 + 1, None, 3], "Int64")
    pd.DataFrame({"id": exact, "f": [1.0, np.nan, 2.5]}).to_parquet(tmp_path / "t.parquet")
    frame = read_frame(tmp_path / "t.parquet")
    assert as_text(frame, "id").tolist() == ["1152921504606846977", None, "3"]
    assert as_text(frame, "f").tolist() == ["1", None, "2.5"]


def test_an_index_of_pandas_in_parquet_is_a_column_if_it_has_a_name(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0]}, index=pd.Index(["a", "b"], name="id"))
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_frame(tmp_path / "t.parquet")["id"].tolist() == ["a", "b"]
    frame.rename_axis(None).to_parquet(tmp_path / "t.parquet")
    assert list(read_frame(tmp_path / "t.parquet")) == ["x"]


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("a;b\n1,5;2\n", {"a": ["1,5"], "b": ["2"]}),
        ("a\tb\n1,5\t2\n", {"a": ["1,5"], "b": ["2"]}),
        ("a|b\n1|2\n", {"a": ["1"], "b": ["2"]}),
        ("sep=;\na;b\n1;2\n", {"a": ["1"], "b": ["2"]}),
        ("a,b;c\n1,2\n3,4\n", {"a": ["1", "3"], "b;c": ["2", "4"]}),
        ('"a,b";c\n1;2\n', {"a,b": ["1"], "c": ["2"]}),
        (" a ,b\n1, 2\n", {"a": ["1"], "b": [" 2"]}),
        ('a, b\n1, "2, 3"\n', {"a": ["1"], "b": ["2, 3"]}),
        ("a,b,\n1,2,\n3,4,\n", {"a": ["1", "3"], "b": ["2", "4"]}),
        ("a,b\r\n1,2\r\n", {"a": ["1"], "b": ["2"]}),
        ("a,b\r1,2\r", {"a": ["1"], "b": ["2"]}),
        ("\n\na,b\n\n1,2\n\n", {"a": ["1"], "b": ["2"]}),
        ("\ufeffa,b\n1,2\n", {"a": ["1"], "b": ["2"]}),
        ("a,b\n1\u2028x,2\u0085y\x0cz\n", {"a": ["1\u2028x"], "b": ["2\u0085y\x0cz"]}),
        (",x\n0,5\n1,6\n", {"Unnamed: 0": ["0", "1"], "x": ["5", "6"]}),
    ],
)
def test_separators_and_line_ends_are_found(tmp_path: Path, content: str, columns: dict[str, list[str]]) -> None:
    assert read(tmp_path, content).to_dict("list") == columns


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_mark_are_read(tmp_path: Path, encoding: str) -> None:
    assert read(tmp_path, "a,b\né,ü\n".encode(encoding)).to_dict("list") == {"a": ["é"], "b": ["ü"]}


def test_a_tsv_has_no_quotes_unless_all_names_have(tmp_path: Path) -> None:
    frame = read(tmp_path, 'text\tlabel\n5" disk\tgood\n"well"\tbad\n', "t.tsv")
    assert frame["text"].tolist() == ['5" disk', '"well"']
    frame = read(tmp_path, '"text"\t"label"\n"a\tb"\t"good"\n', "t.tsv")
    assert frame.to_dict("list") == {"text": ["a\tb"], "label": ["good"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", 'text,label\n"a,x\nb,y\n', r"line 2: a double quote opens a cell there and is never closed"),
        ("t.csv", 'text,label\nk,x\n"a,x\nb,y\n"c",x\n', r"line 3: text follows a closing double quote .* line 5"),
        ("t.csv", 'text,label\nk,x\n"a,x\nb,y\n5",x\n', r"line 3: a double quote .* to line 5, and line 3 within it"),
        ("t.csv", 'label,text\nx,k\ny,"a\nx,b 5"\n', r"line 3: .* line 4 within it looks like a separate row"),
        ("t.csv", "a,b\n1\r1,2\n", r"line 2: a cell contains a carriage return"),
        ("t.csv", "a|b,c\n1|2,3\n", r"contains a comma and a pipe, and either may separate the columns"),
        ("t.tsv", "a,b\n1,2\n", r"it ends with .tsv, but its first line has a comma"),
        ("t.tsv", 'a\tb\n"1\t2"\t3\n', r"line 2: it has 3 cells.* cells of a .tsv file are not quoted"),
        ("t.csv", "a,b,a\n1,2,3\n", r"two columns 'a'"),
        ("t.csv", "", r"it is empty"),
        ("t.jsonl", '{"a": 1}\n{"a": 1, "a": 2}\n', r"line 2: duplicate key 'a'"),
        ("t.jsonl", '{"a": "\\ud800"}\n', r"line 1: .*surrogates not allowed"),
    ],
)
def test_what_cannot_be_known_is_named_with_its_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, content, name)
    assert "\n" not in str(error.value)


def test_rows_on_several_lines_are_read_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = read(tmp_path, 'text,label\n"Dear sir, I\nlove, it",x\nb,y\n')
    assert frame["text"].tolist() == ["Dear sir, I\nlove, it", "b"]
    assert "2 rows; 1 of them contain line breaks within quotes, the first in line 2" in capsys.readouterr().out


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=8)


@pytest.mark.medium
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6))
def test_what_pandas_writes_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    """Each cell alone in its column, so that a line within quotes is never a row that stands elsewhere too."""
    frame = pd.DataFrame(rows, columns=["a", "b"]).map(lambda cell: f"{cell}#")
    frame["b"] += [str(i) for i in range(len(frame))]
    stream = io.StringIO(newline="")
    frame.to_csv(stream, index=False)
    back = read(tmp_path_factory.getbasetemp(), stream.getvalue())
    assert back.to_dict("list") == frame.to_dict("list")


def test_numbers_are_those_of_python(tmp_path: Path) -> None:
    written = ["0.1", " 1.5", "+2", "1e-3", "-0", "12345678901234567", "0.30000000000000004"]
    frame = read(tmp_path, "x\n" + "\n".join(written) + "\n")
    assert numbers(frame, "x").tolist() == [float(each) for each in written]
    assert np.isnan(numbers(read(tmp_path, "x;y\n1_0;\nabc;\n1,5;\n"), "x")).all()


def test_classes_are_sorted_and_likenesses_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert class_names("t", ["10", "2", "1"]) == ["1", "2", "10"]
    assert class_names("t", ["b", "NA", "10", "nan"]) == ["10", "NA", "b", "nan"]
    assert not capsys.readouterr().out
    assert class_names("t", ["good", "Good ", "bad", "01", "1"]) == ["01", "1", "Good ", "bad", "good"]
    said = capsys.readouterr().out
    assert "classes 'Good ', 'good' differ only in notation, and are treated as 2 classes" in said
    assert "classes '01', '1' differ" in said


def test_lines_end_at_line_feeds_and_keep_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes("one\r\n\r\ntwo\u2028two\u0085two\x0btwo\x0ctwo\x1ctwo\rtwo\n \t\nfour".encode())
    assert read_lines(path) == [(1, "one"), (3, "two\u2028two\u0085two\x0btwo\x0ctwo\x1ctwo\rtwo"), (5, "four")]
    assert "3 of 5 lines contain text; 2 are blank and left out" in capsys.readouterr().out
    path.write_bytes(b"one\rtwo\r")
    assert read_lines(path) == [(1, "one"), (2, "two")]
    assert not capsys.readouterr().out
