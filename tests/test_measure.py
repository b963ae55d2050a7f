"""Numbers that verify themselves: what a page shows has a record, and what can be measured is measured or awaited."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from scripts.tools import measure

from plcourse import catalog


def a_run(seed: int, metric: str, value: float, seconds: float, alone: bool) -> dict[str, Any]:
    return {
        "seed": seed,
        "metric": metric,
        "value": value,
        "seconds": seconds,
        "peak_mib": 700 + seed,
        "alone": alone,
    }


FOUND: dict[str, dict[str, Any]] = {
    "ddp/mlp": {
        "runs": [
            a_run(0, "test/accuracy", 0.95, 80.0, True),
            a_run(1, "test/accuracy", 0.96, 100.0, True),
            a_run(2, "test/accuracy", 0.97, 400.0, False),
        ]
    },
    "gan/r3gan": {"runs": [a_run(0, "test/frechet", 3.21, 600.0, False)]},
}


def test_every_table_shows_the_records_and_nothing_else() -> None:
    found = measure.records()
    for page in measure.pages():
        text = page.read_text(encoding="utf-8")
        assert text == measure.written(text, found), f"{page}: run `python scripts/tools/measure.py --table`"


def test_every_config_has_a_row_and_a_record_or_waits_for_one() -> None:
    found, waiting = measure.records(), measure.PENDING.read_text().split()
    assert not set(found) & set(waiting)
    assert sorted([*found, *waiting]) == sorted(measure.measurable()), "run `python scripts/tools/measure.py --table`"
    files = {
        path.relative_to(measure.RECORDS).with_suffix("").as_posix()
        for lesson in catalog.LESSONS
        for path in (measure.RECORDS / lesson.key).glob("*.json")
    }
    assert files == set(found), "a record of a config that is gone"
    shown = measure._BLOCK.search((measure.ROOT / "lessons/results.md").read_text(encoding="utf-8"))
    assert shown is not None
    assert shown[2] == "all"
    assert re.findall(r"^\| `([^`]+)` \|", shown[3], re.MULTILINE) == catalog.config_names()


def test_no_record_is_of_another_config() -> None:
    old = [name for name, record in measure.records().items() if record["config_hash"] != measure.config_hash(name)]
    assert not old, f"these configs changed since: {old}; run scripts/tools/measure.py, or drop them with --table"


def test_rows_say_score_spread_minutes_and_memory() -> None:
    rows = {row.split("`")[1]: row for row in measure.table("all", FOUND).splitlines()[2:]}
    assert rows["ddp/mlp"] == "| `ddp/mlp` | test/accuracy 0.96 (0.01), 3 seeds | 1.5 | 701 |"  # of the two alone
    assert rows["gan/r3gan"] == "| `gan/r3gan` | test/frechet 3.21, 1 seed | at most 10.0 | 700 |"
    assert rows["ddp/gpus"] == "| `ddp/gpus` | needs gpu | | |"
    assert rows["gan/wgan_gp"] == "| `gan/wgan_gp` | not measured yet | | |"
    assert list(rows) == catalog.config_names()
    assert len(measure.table("gan", FOUND).splitlines()) == 2 + len(catalog.config_names("gan"))


def test_a_record_grows_by_seeds_and_goes_with_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, value in ((1, 0.5), (0, 0.6), (1, 0.7)):
        measure.keep("ddp/mlp", a_run(seed, "test/accuracy", value, 1.0, True), tmp_path)
    kept = measure.records(tmp_path)
    assert [(run["seed"], run["value"]) for run in kept["ddp/mlp"]["runs"]] == [(0, 0.6), (1, 0.7)]
    assert "ddp/mlp" not in measure.drop_stale(tmp_path)
    assert measure.missing(["gan/r3gan", "ddp/mlp"], [0], kept) == [("gan/r3gan", 0)]
    assert measure.missing(["gan/r3gan", "ddp/mlp"], [2], kept)[0] == ("ddp/mlp", 2)
    monkeypatch.setattr(measure, "config_hash", lambda name: "another")
    assert "ddp/mlp" in measure.drop_stale(tmp_path)
    assert measure.records(tmp_path) == {}


def test_a_page_is_changed_between_its_marks_only() -> None:
    page = "before\n<!-- measured: ddp -->\n| stale 0.99 |\n<!-- end of measured -->\nafter\n"
    once = measure.written(page, FOUND)
    assert once.startswith("before\n<!-- measured: ddp -->\n| config |")
    assert "| 1.5 | 701 |\n" in once
    assert once.endswith("|\n<!-- end of measured -->\nafter\n")
    assert "stale" not in once
    assert measure.written(once, FOUND) == once
    assert measure.written("no marks 0.5\n", FOUND) == "no marks 0.5\n"


@pytest.mark.parametrize(
    ("best", "tested", "metric"),
    [
        ({"metric": "val/loss", "value": 0.5}, {"test/loss": 0.6, "test/accuracy": 0.9}, "test/accuracy"),
        ({"metric": "val/frechet", "value": 3.0}, {"test/kid": 1.0, "test/frechet": 4.0}, "test/frechet"),
        ({"metric": "val/loss", "value": 0.5}, {}, "val/loss"),
        ({}, {"test/loss": 0.1, "test/foreground_iou": 0.9}, "test/foreground_iou"),
    ],
)
def test_the_score_that_stands_for_a_run(best: Any, tested: Any, metric: str) -> None:
    assert measure._score({"best": best}, tested)[0] == metric


@pytest.mark.slow
def test_a_real_measurement(tmp_path: Path) -> None:
    record = measure.measure("kfold/traced", 1)
    assert (record["seed"], record["metric"]) == (1, "test/accuracy")
    assert 0 < record["value"] <= 1
    assert 200 < record["peak_mib"] < 8000
    assert record["alone"] == measure.is_alone(record["others"])
    assert str(tmp_path.parent) not in json.dumps(record)
