"""Properties that hold for any input: paces, manifests, folds, merged settings, and names as paths or markup."""

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import pytest
import pytorch_lightning as pl
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from plcourse.console.figures import caption
from plcourse.console.flags import as_flags
from plcourse.curriculum.pacing import AdaptivePacing, Kind, PacingFunction
from plcourse.errors import RunFailed, printable
from plcourse.evaluation.shards import PARTIAL, Shard, ShardFolder
from plcourse.kfold.folds import plan_folds
from plcourse.runs.config_yaml import locate_key, parse_config
from plcourse.runs.configs import ConfigSource, own_name
from plcourse.runs.run import Run
from plcourse.verbs.report import page
from plcourse.verbs.sweep.plan import Arm, Settings, SweepPlan

# A test's folder serves all examples: each makes its own below it.
any_example = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

shares = st.floats(0, 1, exclude_min=True)
words = st.text(st.characters(codec="utf-8"), max_size=40)
keys = st.from_regex(r"[a-z_]{1,6}", fullmatch=True)
plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | words
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=2), max_leaves=4
)


@pytest.mark.medium
@any_example
@given(st.sampled_from(get_args(Kind)), shares, shares, st.integers(1, 20), st.lists(st.floats(0, 1), min_size=2))
def test_a_pace_never_shrinks_and_ends_with_everything(
    kind: Kind, start: float, ramp: float, stairs: int, moments: list[float]
) -> None:
    pace = PacingFunction(kind, start, ramp, stairs)
    admitted = [pace.fraction(moment) for moment in sorted(moments)]
    assert all(start <= fraction <= 1 for fraction in admitted)
    assert all(a <= b for a, b in pairwise(admitted))
    assert pace.fraction(1.0) == 1


@pytest.mark.medium
@any_example
@given(shares, shares, st.integers(1, 4), st.lists(st.floats()), st.data())
def test_an_adaptive_pace_never_shrinks_and_goes_on_from_its_state(
    start: float, increment: float, patience: int, scores: list[float], data: st.DataObject
) -> None:
    def adaptive() -> AdaptivePacing:
        return AdaptivePacing("m", "max", start, increment, patience)

    pace, resumed = adaptive(), adaptive()
    stop = data.draw(st.integers(0, len(scores)))
    found = [pace.fraction(0)]
    for number, score in enumerate(scores):
        pace.observe({"m": score})
        found.append(pace.fraction(0))
        if number + 1 == stop:
            resumed.load_state_dict(json.loads(json.dumps(pace.state_dict())))
        elif number + 1 > stop > 0:
            resumed.observe({"m": score})
    assert all(a <= b <= 1 for a, b in pairwise(found))
    assert stop == 0 or resumed.fraction(0) == pace.fraction(0)


class Samples(pl.LightningDataModule):
    def __init__(self, labels: np.ndarray, groups: np.ndarray | None) -> None:
        super().__init__()
        self.labels, self.groups = labels, groups
        self.ids = [f"s{i}" for i in range(len(labels))]

    def with_split(self, train_ids: Sequence[str], val_ids: Sequence[str]) -> Self:
        return self


@any_example
@given(st.integers(2, 5), st.integers(1, 3), st.integers(10, 60), st.booleans(), st.integers(0, 99))
def test_every_sample_is_held_out_once_per_repeat(
    n_splits: int, repeats: int, n: int, grouped: bool, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    groups = draw.integers(0, 8, n) if grouped else None
    assume(groups is None or len(np.unique(groups)) >= n_splits)
    data = Samples(draw.normal(size=n), groups)
    plan = plan_folds(data, n_splits=n_splits, n_repeats=repeats, random_state=seed)
    assert len(plan.folds) == n_splits * repeats
    for repeat in range(repeats):
        held_out = [name for fold in plan.folds if fold.repeat == repeat for name in fold.val_ids]
        assert sorted(held_out) == sorted(data.ids)
    for fold in plan.folds:
        assert not set(fold.train_ids) & set(fold.val_ids)
        assert sorted([*fold.train_ids, *fold.val_ids]) == sorted(data.ids)
        if groups is not None:
            group_of = dict(zip(data.ids, groups.tolist(), strict=True))
            assert not {group_of[name] for name in fold.train_ids} & {group_of[name] for name in fold.val_ids}


@any_example
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=6), st.data())
def test_a_torn_journal_never_counts_more_than_was_written(
    tmp_path: Path, parts: list[tuple[int, int]], data: st.DataObject
) -> None:
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    shards = ShardFolder(folder, "key", "parquet")
    shards.open()
    written = []
    for number, (rows, unread) in enumerate(parts):
        quarantined = [(f"{number}-{i}", "unreadable") for i in range(unread)]
        shard = Shard(f"part-{number}.parquet", number, 1, rows, rows + 1, quarantined)
        (temporary := shards.path(number)).write_bytes(bytes(shard.bytes))
        shards.commit(temporary, shard)
        written.append(shard)
    given_rows = sum(rows + unread for rows, unread in parts)
    journal = folder / PARTIAL / "journal-00000.jsonl"
    content = journal.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    journal.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n") + (cut < len(content) and content[cut : cut + 1] == b"\n")
    assert shards._committed() == written[:whole]  # the rows of a torn line are computed again
    journal.write_bytes(content)
    with pytest.raises(RunFailed, match="do not add up to"):
        shards.publish(written, given_rows + 1)
    assert shards.publish(written, given_rows)["quarantined"] == sum(unread for _, unread in parts)
    shards.close()


@any_example
@given(st.dictionaries(keys, values, max_size=4))
def test_a_setting_survives_the_way_through_a_flag(overrides: dict[str, Any]) -> None:
    for flag, (key, value) in zip(as_flags(overrides), overrides.items(), strict=True):
        name, _, text = flag.partition("=")
        assert name == f"--{key}"
        if isinstance(value, str):
            assert text == value  # what takes a text takes it as it is, quotes included
        else:
            assert "\n" not in flag
            assert yaml.safe_load(text) == value


@any_example
@given(st.dictionaries(keys, values, min_size=1, max_size=4), st.dictionaries(keys, values, min_size=1, max_size=4))
def test_of_merged_configs_the_last_that_has_a_key_is_named(first: dict[str, Any], second: dict[str, Any]) -> None:
    files = [
        ConfigSource(name, name, yaml.safe_dump(tree, allow_unicode=True), packaged=False)
        for name, tree in (("first.yaml", first), ("second.yaml", second))
    ]
    assert [parse_config(file).keys() for file in files] == [first.keys(), second.keys()]
    for key in first.keys() | second.keys():
        file, _, line = locate_key(files, key).rpartition(":")
        assert line.isdecimal()
        assert file == ("second.yaml" if key in second else "first.yaml")


@any_example
@given(*[st.dictionaries(keys, st.integers(), max_size=4)] * 3)
def test_of_merged_overrides_the_last_wins(arm: Settings, sweep: Settings, point: Settings) -> None:
    plan = SweepPlan("x", (Arm("a", "c", arm),), (0,), {}, sweep, (), None)
    config, path, *flags = plan.flags(plan.arms[0], point)
    assert (config, path) == ("--config", "c")
    merged = dict(flag.removeprefix("--").split("=") for flag in flags)
    for key in arm.keys() | sweep.keys() | point.keys():
        assert merged.pop(key) == str(point.get(key, sweep.get(key, arm.get(key))))
    assert merged == {}


@any_example
@given(st.text(max_size=300))
def test_a_run_of_any_name_lies_inside_its_root(tmp_path: Path, name: str) -> None:
    safe = own_name(name)
    assert re.fullmatch(r"own/[^\s/\\\x00]{1,100}", safe)
    assert safe[4] not in ".-"
    root = tmp_path / "root"
    run = Run.create(name, root, {"verb": "fit"})
    assert run.path.resolve().is_relative_to(root.resolve())
    assert len(run.path.relative_to(root).parts) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


class Seen(HTMLParser):
    """What a browser finds in markup."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.data = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert all(name in ("title", "class") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.data += data


markup = st.text(st.sampled_from("<>&\"'`=/! script onload;#x27-\n\x00\x1b\u202e"), max_size=60) | st.text(max_size=60)


@any_example
@given(markup)
def test_any_text_is_text_in_a_page_and_harmless_on_a_terminal(text: str) -> None:
    seen = Seen()
    seen.feed(f'<p title="{page.text(text)}">{page.text(text)}</p>')
    seen.close()
    assert seen.tags == ["p"]
    assert seen.data == "".join(c for c in text if c.isprintable() or c in "\n\t")
    assert all(c.isprintable() or c in "\n\t" for c in printable(text))
    short = caption(text)
    assert all(c.isprintable() for c in short)
    assert len(short.replace(r"\$", "$")) <= 18
