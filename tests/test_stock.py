"""Settings of the stock Trainer give the same numbers with the suite's, and the table says so of all."""

import re
from typing import Any

import pytest
import torch
from scripts.tools import compare_with_stock as stock

SAMPLE = (  # one per kind
    "accumulate_grad_batches 3",
    "gradient_clip_val 0.2, accumulate_grad_batches 2",
    "precision bf16-mixed",
    "TensorBoardLogger",
    "ModelCheckpoint monitor val/loss, save_top_k 2, save_last True",
    "EMAWeightAveraging decay 0.9",
    "BackboneFinetuning",
    "LBFGS",
    "manual optimization, two optimizers",
    "a stream without a length",
)


@pytest.mark.medium
def test_a_sample_is_equal_to_the_last_bit() -> None:
    named = {setting.name: setting for setting in stock.settings()}
    for name in SAMPLE:
        assert stock.compare(named[name]) == "", name


@pytest.mark.campaign
@pytest.mark.parametrize("setting", stock.settings(), ids=lambda each: f"{each.group}: {each.name}")
def test_every_setting_is_equal_to_the_last_bit(setting: stock.Setting) -> None:
    assert stock.compare(setting) == ""


@pytest.mark.medium
def test_another_seed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    run = stock.run_stock
    monkeypatch.setattr(stock, "run_stock", lambda config: run({**config, "seed_everything": 2}))
    assert stock.compare(stock.settings()[0]).startswith(".losses.0: ")


@pytest.mark.parametrize(
    ("ours", "where"),
    [
        ({"a": [torch.tensor([1.0, 2.0000002])]}, ".a.0"),
        ({"a": [torch.tensor([1.0, 2.0], dtype=torch.float64)]}, ".a.0"),
        ({"a": []}, ".a: 1 and 0 entries"),
        ({"b": 1}, ": ['a', 'b']"),
        ({"a": [2]}, ".a.0"),
    ],
)
def test_the_smallest_difference_is_named(ours: dict[str, Any], where: str) -> None:
    assert stock.difference({"a": [torch.tensor([1.0, 2.0])]}, ours).startswith(where)
    assert stock.difference(ours, ours) == ""


def test_the_table_shows_at_least_ninety_settings_and_all_are_equal() -> None:
    block = stock._BLOCK.search(stock.PAGE.read_text(encoding="utf-8"))
    assert block is not None
    rows = re.findall(r"^(\| .+) \| (.+) \|$", block[2], re.MULTILINE)[1:]
    known = [stock._row(setting) for setting in stock.settings()]
    assert [row for row, _ in rows] == [row for row in known if row in dict(rows)]
    assert {equal for _, equal in rows} == {"yes"}
    assert len(rows) >= 90
