"""Another program's texts through fit, test, predict and export, their numbers computed again without the suite."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import accuracy_score

import plcourse
from plcourse.__main__ import main
from plcourse.errors import UserError
from sentiment_configs import sentiment_config

GOOD, BAD, PLAIN = "好美妙精彩喜爱", "坏差无聊失望烂", "电影剧情演员的这部很了在看"


def review(draw: random.Random, kind: str) -> str:
    own = GOOD if kind == "None" else BAD
    text = "".join(draw.choice(own if i % 3 == 0 else PLAIN) for i in range(draw.randint(8, 20)))
    return text[:4] + draw.choice(["\u2028", "\x85", " ", ""]) + text[4:]


def rows(n: int, seed: int) -> pd.DataFrame:
    draw = random.Random(seed)
    kinds = ["None" if i % 2 else "bad" for i in range(n)]
    return pd.DataFrame({"body": [review(draw, kind) + f"{seed}{i}" for i, kind in enumerate(kinds)], "mood": kinds})


def config(folder: Path, tokenizer: str) -> dict[str, Any]:
    config = sentiment_config(folder, max_epochs=8, precision="32-true", callbacks=[{"class_path": "RunCheckpoint"}])
    network = {"class_path": "EmbeddingBag", "init_args": {"vocab_size": 400, "embedding": 8, "ngrams": 1}}
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.05}}
    config["model"]["init_args"] = {"network": network, "optimizer": optimizer}
    columns = {"text_column": "body", "label_column": "mood"}
    config["data"]["init_args"] |= {**columns, "tokenizer": tokenizer, "vocab_size": 400, "batch_size": 16}
    return config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`train.tsv` and `test.jsonl`."""
    (folder := tmp_path / "reviews").mkdir()
    train, test = rows(160, 1), rows(60, 2)
    (folder / "train.tsv").write_bytes(
        ("body\tmood\r\n" + "".join(f'"{a}\t{b}\r\n' for a, b in train.itertuples(index=False))).encode("utf-8-sig")
    )
    test.to_json(folder / "test.jsonl", orient="records", lines=True, force_ascii=False)
    return folder


@pytest.mark.medium
def test_foreign_texts_from_fit_to_export(
    folder: Path, tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = plcourse.run("fit", config(folder, "characters"), then=["test"])
    test = rows(60, 2)
    total = sum(map(len, test["body"]))
    assert f"reviews, test: 0.0% of {total:,} tokens are unknown to the tokenizer" in capsys.readouterr().out
    predicted = pd.concat(map(pd.read_parquet, run.predict()))
    number = predicted["id"].str.removeprefix("test/").astype(int).to_numpy()
    assert sorted(number) == list(range(60))
    assert predicted["text"].tolist() == test["body"].iloc[number].tolist()
    accuracy = accuracy_score(test["mood"].iloc[number], predicted["label_name"].astype(str))
    assert run.eval("test")["metrics"]["test/accuracy"] == pytest.approx(accuracy)
    assert accuracy > 0.9

    main(["export", "--run", str(run.path), "--format", "onnx", "--batch_sizes", "3"])
    lines = [*test["body"].iloc[:5], "", "好\x0c坏"]
    (tmp_path / "new.txt").write_bytes("\r\n".join(lines).encode("utf-16"))
    files = run.predict({"data.init_args.predict_path": str(tmp_path / "new.txt")})
    predicted = pd.concat(map(pd.read_parquet, files)).sort_values("id")
    assert predicted["id"].tolist() == [f"line/{n:05d}" for n in (1, 2, 3, 4, 5, 7)]
    assert predicted["text"].tolist() == [line for line in lines if line]
    symbols = json.loads((run.path / "tokenizer.json").read_text())["symbols"]
    (file,) = (run.path / "export" / "onnx").glob("*.onnx")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for text, probability in zip(predicted["text"], predicted["probability"], strict=True):
        tokens = [symbols.index(c) + 3 if c in symbols else 1 for c in text]
        tokens += [0] * max(0, 2 - len(tokens))
        (found,) = session.run(None, {"tokens": np.array([tokens]), "lengths": np.array([len(text)])})
        assert softmax(np.asarray(found)[0]) == pytest.approx(probability, abs=1e-5)


@pytest.mark.medium
def test_a_word_tokenizer_reports_that_it_knows_no_chinese_word(
    folder: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plcourse.run("fit", {**config(folder, "words")}, {"trainer.max_epochs": 1}, then=["test"])
    said = capsys.readouterr().out
    assert said.count("train with --data.init_args.tokenizer characters or bpe") == 3  # train, val and test
    with (folder / "test.jsonl").open("a") as file:
        file.write('{"body": "电影", "mood": "so so"}\n')
    with pytest.raises(UserError, match=r"class 'so so' is in test .1 of 61 samples. but not in"):
        plcourse.run("fit", config(folder, "words"))
