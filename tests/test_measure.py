"""Numbers that verify themselves: what a page shows has a record, and what can be measured is measured or awaited."""

from pathlib import Path
from typing import Any

import pytest
from scripts import measure

FOUND: dict[str, dict[str, Any]] = {
    "ddp/mlp": {
        "runs": [
            {"metric": "test/accuracy", "value": value, "seconds": 90.0, "peak_mib": 700 + seed}
            for seed, value in enumerate((0.95, 0.96, 0.97))
        ]
    },
    "gan/r3gan": {"runs": [{"metric": "test/frechet", "value": 3.21, "seconds": 600.0, "peak_mib": 1500}]},
}


def test_every_table_shows_the_records_and_nothing_else() -> None:
    found = measure.records()
    for page in measure.pages():
        text = page.read_text(encoding="utf-8")
        assert text == measure.written(text, found), f"{page}: run `python scripts/measure.py --table`"


def test_every_config_has_a_record_or_waits_for_one() -> None:
    found, waiting = measure.records(), measure.PENDING.read_text().split()
    assert not set(found) & set(waiting)
    assert sorted([*found, *waiting]) == sorted(measure.measurable()), "add new configs to scripts/measured/pending.txt"
    files = {path.relative_to(measure.RECORDS).with_suffix("").as_posix() for path in measure.RECORDS.rglob("*.json")}
    assert files == set(found), "a record of a config that is gone"


def test_no_record_is_of_another_config() -> None:
    old = [name for name, record in measure.records().items() if record["config_hash"] != measure.config_hash(name)]
    assert not old, f"these configs changed since they were measured: {old}"


def test_rows_say_score_spread_minutes_and_memory() -> None:
    rows = measure.table("all", FOUND).splitlines()[2:]
    assert rows[0] == "| `ddp/mlp` | test/accuracy 0.96 (0.01), 3 seeds | 1.5 | 702 |"
    assert rows[1] == "| `gan/r3gan` | test/frechet 3.21, 1 seed | 10.0 | 1,500 |"
    assert len(measure.table("gan", FOUND).splitlines()) == 3


def test_a_page_is_changed_between_its_marks_only() -> None:
    page = "before\n<!-- measured: ddp -->\n| stale 0.99 |\n<!-- end of measured -->\nafter\n"
    once = measure.written(page, FOUND)
    assert once.startswith("before\n<!-- measured: ddp -->\n| config |")
    assert once.endswith("| 702 |\n<!-- end of measured -->\nafter\n")
    assert "stale" not in once
    assert measure.written(once, FOUND) == once
    assert measure.written("no marks 0.5\n", FOUND) == "no marks 0.5\n"


@pytest.mark.parametrize(
    ("best", "tested", "metric"),
    [
        ({"metric": "val/loss", "value": 0.5}, {"test/loss": 0.6, "test/accuracy": 0.9}, "test/accuracy"),
        ({"metric": "val/frechet", "value": 3.0}, {"test/kid": 1.0, "test/frechet": 4.0}, "test/frechet"),
        ({"metric": "val/loss", "value": 0.5}, {}, "val/loss"),
    ],
)
def test_the_score_that_stands_for_a_run(best: Any, tested: Any, metric: str) -> None:
    assert measure._score({"best": best}, tested)[0] == metric


@pytest.mark.slow
def test_a_real_measurement(tmp_path: Path) -> None:
    record = measure.measure("kfold/classifier", 1)
    assert (record["seed"], record["metric"]) == (1, "test/accuracy")
    assert 0.8 < record["value"] <= 1
    assert 200 < record["peak_mib"] < 8000
