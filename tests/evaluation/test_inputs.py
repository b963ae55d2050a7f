"""New inputs are found, read when their batch is needed, and quarantined if they cannot be read."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import plcourse
from plcourse import Run
from plcourse.data.features import Standardizer
from plcourse.data.frames import read_frame
from plcourse.data.image_files import find_images
from plcourse.errors import RunFailed, UserError
from plcourse.evaluation.inputs import TableInputs
from plcourse.evaluation.tables import Schema, TableSource, TableSplits, to_features
from support import digits_config


def classify(data: dict[str, Any], network: dict[str, Any], classes: int) -> dict[str, Any]:
    model = {"network": {"class_path": "MLP", "init_args": network}, "num_classes": classes}
    config = digits_config(trainer__max_epochs=1, trainer__predict_loop={"class_path": "StreamingPredictLoop"})
    config["model"] = {"class_path": "Classifier", "init_args": model}
    config["data"] = {"class_path": "EvaluationData", "init_args": {"batch_size": 8, **data}}
    return config


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i in range(12):
        pixels = np.full((8, 8), i * 20, np.uint8)
        Image.fromarray(pixels).save(folder / ("more" if i % 2 else "") / f"{i:02d}.png")
    (folder / "broken.png").write_bytes(b"not an image")
    (folder / "cut.png").write_bytes((folder / "00.png").read_bytes()[:40])
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = classify({"source": "digits", "batch_size": 64}, {"in_features": 64}, 10)
    return plcourse.run("fit", config, runs_root=tmp_path_factory.mktemp("runs"))


class TestImages:
    def test_every_way_to_name_them(self, photos: Path, tmp_path: Path) -> None:
        def find(*paths: Path | str) -> list[str]:
            return find_images(list(map(str, paths)), "paths", Counter())

        below = find(photos)
        assert len(below) == 14
        assert find(photos / "**" / "*.png") == sorted(below)
        listed = tmp_path / "list.txt"
        listed.write_bytes("\r\n".join(["\ufeff" + below[3], "", below[1], below[3]]).encode())
        assert find(listed) == [below[3], below[1]]
        with pytest.raises(UserError, match=r"paths: '.*nothing\*.png' leads to no image; give"):
            find(photos / "nothing*.png")

    def test_a_name_is_taken_as_it_is_before_it_is_a_pattern(self, photos: Path) -> None:
        for name in ("img[1].png", "img1.png", "a*b.png", "notes.csv"):
            (photos / name).write_bytes((photos / "00.png").read_bytes())
        left_out: Counter[str] = Counter()
        assert find_images([str(photos / "img[1].png")], "paths", left_out) == [f"{photos}/img[1].png"]
        assert find_images([str(photos / "a*b.png")], "paths", left_out) == [f"{photos}/a*b.png"]
        assert find_images([str(photos / "img[12].png")], "paths", left_out) == [f"{photos}/img1.png"]
        assert not left_out
        assert len(find_images([str(photos / "*")], "paths", left_out)) == 17  # folders that match are looked into
        assert left_out == {".csv": 1}
        with pytest.raises(UserError, match=r"leads to no image \(only to 1 .csv\)"):
            find_images([str(photos / "*.csv")], "paths", left_out)

    @pytest.mark.medium
    def test_what_cannot_be_read_is_quarantined_and_the_rest_predicted(
        self, photos: Path, fitted: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        names = fitted.predict({"data.init_args.paths": [str(photos)]})
        printed = capsys.readouterr().out
        assert "warning: 2 of 14 inputs could not be read" in printed
        table = pd.concat(map(pd.read_parquet, names))
        with names[0].with_name("_quarantine.csv").open() as file:
            quarantined = {Path(row["id"]).name: row["reason"] for row in csv.DictReader(file)}
        assert quarantined.keys() == {"broken.png", "cut.png"}
        assert quarantined["broken.png"] == "not an image of a known format"
        assert len(table) + len(quarantined) == 14
        assert not {Path(name).name for name in table.id} & quarantined.keys()
        assert set(table.label_name) <= set("0123456789")
        with pytest.raises(RunFailed, match="--strict: inputs that could not be read: 2"):
            plcourse.run("predict", fitted.path / "config.yaml", flags=self.flags(fitted, photos, "--strict"))
        assert "nothing was missing" in capsys.readouterr().out

    def flags(self, run: Run, photos: Path, *more: str) -> list[str]:
        return ["--ckpt_path", str(run.checkpoint("best")), f"--data.init_args.paths=[{photos}]", *more]

    @pytest.mark.medium
    def test_a_new_file_makes_it_another_prediction(self, photos: Path, fitted: Run) -> None:
        fitted.predict({"data.init_args.paths": [str(photos)]})
        (photos / "broken.png").write_bytes((photos / "00.png").read_bytes())
        assert sum(map(len, map(pd.read_parquet, fitted.predict({"data.init_args.paths": [str(photos)]})))) == 13

    def test_strict_goes_with_predict(self, fitted: Run) -> None:
        with pytest.raises(UserError, match="--strict goes with predict"):
            plcourse.run("test", fitted.path / "config.yaml", flags=["--strict", "--allow_untrained"])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    kind = draw.choice(["cat", "dog", "owl"], 90)
    size = draw.normal(size=90) + 2 * (kind == "dog")
    frame = pd.DataFrame(
        {"size": size, "speed": draw.normal(size=90), "kind": kind, "place": "north", "name": range(90)}
    )
    frame.to_csv(tmp_path / "animals.csv", index=False)
    return tmp_path / "animals.csv"


class TestTables:
    @pytest.mark.medium
    def test_a_table_of_ones_own_from_fit_to_prediction(self, table: Path, tmp_path: Path) -> None:
        data = {"source": "table", "root": str(table), "label_column": "kind", "id_column": "name"}
        run = plcourse.run("fit", classify(data, {"in_features": 2, "num_classes": 3}, 3), runs_root=tmp_path / "runs")
        new = pd.read_csv(table).drop(columns="kind").astype({"size": object})
        new.loc[4, "size"] = "tall"
        new.loc[7, "speed"] = np.nan
        new.to_csv(tmp_path / "new.csv", index=False)
        (file,) = run.predict({"data.init_args.paths": [str(tmp_path / "new.csv")]})
        predicted = pd.read_parquet(file)
        assert predicted.id.tolist() == [str(i) for i in range(90) if i not in (4, 7)]
        assert set(predicted.label_name) <= {"cat", "dog", "owl"}
        lines = file.with_name("_quarantine.csv").read_text().splitlines()
        assert lines[1:] == ["4,\"column 'size' is 'tall', not a finite number\"", "7,column 'speed' is missing"]

    def test_parquet_by_row_groups_is_the_whole_table(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"x": np.arange(50.0), "y": np.arange(50.0) ** 2})
        pq.write_table(pa.Table.from_pandas(frame), tmp_path / "a.parquet", row_group_size=7)
        pq.write_table(pa.Table.from_pandas(frame), tmp_path / "b.parquet", row_group_size=50)
        schema, unchanged = Schema(features=["x", "y"]), Standardizer(["x", "y"], np.zeros(2), np.ones(2))
        grouped = TableInputs([str(tmp_path / "a.parquet")], schema, unchanged)
        whole = TableInputs([str(tmp_path / "b.parquet")], schema, unchanged)
        both = TableInputs([str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")], schema, unchanged)
        assert (len(grouped), len(both)) == (50, 100)
        for start in range(0, 50, 9):
            rows = np.arange(start, min(start + 9, 50))
            a, b = grouped.fetch(rows, 0), whole.fetch(rows, 0)
            assert a["features"].equal(b["features"])
            assert a["id"].tolist() == b["id"].tolist() == rows.tolist()
        across = both.fetch(np.arange(46, 54), 0)
        assert across["features"][:, 0].tolist() == [46, 47, 48, 49, 0, 1, 2, 3]
        assert [name.rpartition("/")[2] for name in across["id"][3:5]] == ["a.parquet#49", "b.parquet#0"]

    @pytest.mark.medium
    def test_texts_are_features(self, tmp_path: Path) -> None:
        good, bad = "a fine and warm film", "a dull and cold film"
        frame = pd.DataFrame({"text": [f"{(good, bad)[i % 2]} number {i}" for i in range(60)], "label": [0, 1] * 30})
        frame.to_parquet(tmp_path / "reviews.parquet")
        data = {"source": "table", "root": str(tmp_path / "reviews.parquet"), "text_column": "text"}
        config = classify(data, {"in_features": 1024, "num_classes": 2}, 2)
        config["trainer"]["max_epochs"] = 6
        run = plcourse.run("fit", config, then=["test"], runs_root=tmp_path / "runs")
        assert run.eval("test")["metrics"]["test/accuracy"] == 1
        predicted = pd.concat(map(pd.read_parquet, run.predict({"data.init_args.paths": [data["root"]]})))
        assert predicted["text"].tolist() == frame["text"].tolist()

    def test_the_training_table_is_checked(self, table: Path, tmp_path: Path) -> None:
        frame = pd.read_csv(table)
        frame.loc[3, "size"] = np.inf
        frame.to_csv(table, index=False)
        with pytest.raises(UserError, match=r"row 3: column 'size' is 'inf', not a finite number"):
            _ = TableSplits(str(table), Schema(label="kind", id="name")).source
        skipped = TableSplits(str(table), Schema(label="kind", id="name"), on_error="skip").source
        assert len(skipped.ids) == 89
        assert skipped.rejected[0][0] == "3"
        with pytest.raises(UserError, match=r"no column 'knd'; it has .*; did you mean 'kind'"):
            _ = TableSplits(str(table), Schema(label="knd")).source

    def test_columns_that_are_not_features_are_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        frame = pd.DataFrame(
            {"ticket": [1, 2, 3, "A/5"], "place": "north", "flag": [True, False] * 2, "x": [3, 1, 2, 9]}
        )
        frame.assign(label=[0, 1, 0, 1]).to_csv(tmp_path / "t.csv", index=False)
        assert TableSplits(str(tmp_path / "t.csv"), Schema()).source.schema.features == ["x"]
        said = capsys.readouterr().out
        assert "1 features; left out because they are not numeric: ticket ('A/5' is not a number), place, flag" in said
        source = TableSplits(str(tmp_path / "t.csv"), Schema(features=["flag", "x"])).source
        assert source.features.tolist() == [[1, 3], [0, 1], [1, 2], [0, 9]]

    def test_rows_that_are_equal_in_float32_alone_are_no_duplicates(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"x": [1e9, 1e9 + 1, 1e9 + 1, 0.1, 0.1], "label": [0, 1, 1, 0, 1]})
        hashes = TableSource("t", frame, Schema(), "raise").hashes
        assert [hashes[0] == hashes[1], hashes[1] == hashes[2], hashes[3] == hashes[4]] == [False, True, True]

    def test_a_row_beyond_float32_is_named(self, tmp_path: Path) -> None:
        small = Standardizer.fit(np.array([[1.0], [1.0 + 1e-9]]), ["x"])
        assert small.std[0] == pytest.approx(5e-10)
        assert list(small.beyond(np.array([[1.5], [1e35]]))) == [1]
        with pytest.raises(UserError, match=r"column 'x' is 1e\+35, too far from the training rows"):
            small(np.array([[1e35]]))
        frame = pd.DataFrame({"x": [1.0, 1e35]})
        frame.to_csv(tmp_path / "new.csv", index=False)
        batch = TableInputs([str(tmp_path / "new.csv")], Schema(features=["x"]), small).fetch(np.arange(2), 0)
        assert [row for row, _ in batch["quarantined"]] == [1]

    @pytest.mark.parametrize("name", ["missing.csv", "table.xlsx", "broken.parquet"])
    def test_a_file_that_is_no_table(self, tmp_path: Path, name: str) -> None:
        if name != "missing.csv":
            (tmp_path / name).write_text("nonsense")
        with pytest.raises(UserError, match="cannot read the table"):
            read_frame(str(tmp_path / name))

    def test_a_missing_feature_is_named(self) -> None:
        with pytest.raises(UserError, match=r"no column 'sise'; it has size; did you mean 'size'"):
            to_features("t", pd.DataFrame({"size": [1.0]}), Schema(features=["sise"]))
