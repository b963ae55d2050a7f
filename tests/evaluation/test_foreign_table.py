"""A table of another program through fit, test, predict and export; its numbers are recomputed without the suite."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

import plcourse
from plcourse.__main__ import main
from support import digits_config

FEATURES = ["länge", "seconds", "offset"]


def foreign(path: Path, n: int, seed: int, first: int = 0) -> pd.DataFrame:
    """A CSV as spreadsheets write it: byte order mark, semicolons, CRLF, an index, ids with zeros, a class `None`."""
    draw = np.random.default_rng(seed)
    kind = draw.choice(["None", "NA", "Straße"], n)
    frame = pd.DataFrame(
        {
            "Unnamed: 0": draw.permutation(n),
            "nr": [f"{i:06d}" for i in range(first, first + n)],
            "länge": draw.normal(size=n) + 3 * (kind == "NA"),
            "seconds": 1_700_000_000 + draw.integers(0, 60, n) + 100 * (kind == "None"),
            "offset": 14.62,
            "place": draw.choice(["nan", 'Café "Süd"; Hof', "zwei\nZeilen"], n),
            "kind": kind,
        }
    )
    frame.to_csv(path, sep=";", index=False, lineterminator="\r\n", encoding="utf-8-sig")
    return pd.read_csv(path, sep=";", dtype=str, keep_default_na=False, encoding="utf-8-sig").set_index("nr")


@pytest.mark.medium
def test_a_foreign_table_from_fit_to_export(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, new = foreign(tmp_path / "table.csv", 200, 0), foreign(tmp_path / "new.csv", 40, 1, first=1000)
    config = digits_config(trainer__max_epochs=15)
    network = {"class_path": "MLP", "init_args": {"in_features": 3, "num_classes": 3}}
    config["model"] = {"class_path": "Classifier", "init_args": {"network": network, "num_classes": 3}}
    data = {"source": "table", "root": str(tmp_path / "table.csv"), "label_column": "kind", "id_column": "nr"}
    config["data"] = {"class_path": "EvaluationData", "init_args": {**data, "batch_size": 16, "test_size": 0.4}}
    run = plcourse.run("fit", config, then=["test"])
    assert "column 'Unnamed: 0' is a saved index and is left out" in capsys.readouterr().out

    predicted = pd.concat(map(pd.read_parquet, run.predict())).set_index("id")
    truth = table.loc[predicted.index, "kind"]
    scores = run.eval("test")["metrics"]
    assert len(predicted) == 80
    assert scores["test/accuracy"] == pytest.approx(accuracy_score(truth, predicted["label_name"].astype(str)))
    assert scores["test/f1"] == pytest.approx(f1_score(truth, predicted["label_name"].astype(str), average="macro"))
    assert scores["test/accuracy"] > 0.8

    main(["export", "--run", str(run.path), "--format", "onnx", "--probabilities", "--batch_sizes", "3"])
    manifest = json.loads((run.path / "export" / "manifest.json").read_text())
    assert json.loads((run.path / "export" / "verification.json").read_text())["rows"]["onnx"]["status"] == "verified"
    known = manifest["artefacts"]["onnx"]["card"]["data"]
    assert (known["features"], known["label_names"]) == (FEATURES, ["NA", "None", "Straße"])
    inputs = (new[FEATURES].to_numpy(float) - known["mean"]) / known["std"]
    (file,) = (run.path / "export" / "onnx").glob("*.onnx")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    outputs: Any = session.run(None, {session.get_inputs()[0].name: inputs.astype(np.float32)})
    (probability,) = outputs
    files = run.predict({"data.init_args.paths": [str(tmp_path / "new.csv")]})
    predicted = pd.concat(map(pd.read_parquet, files)).set_index("id").loc[new.index]
    assert np.stack(predicted["probability"].to_list()) == pytest.approx(probability, abs=1e-5)
    assert predicted["label_name"].tolist() == [known["label_names"][i] for i in probability.argmax(axis=1)]
    assert accuracy_score(new["kind"], predicted["label_name"].astype(str)) > 0.8
