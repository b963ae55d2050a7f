"""Every packaged config runs every verb that its header names, through the real `main`, on one batch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml
from _pytest.mark import ParameterSet
from scripts.tools import regolden, resolve_configs

import guides
from plcourse import catalog
from plcourse.__main__ import main
from plcourse.runs.config_yaml import parse_config
from plcourse.runs.configs import find_config, parse_header
from plcourse.runs.run import Run
from support import Command

ROOT = Path(__file__).parents[1]
ONE_BATCH = [
    "--trainer.max_epochs=1",
    "--trainer.log_every_n_steps=1",
    *(f"--trainer.limit_{stage}_batches=1" for stage in ("train", "val", "test", "predict")),
]
HEADERS = {name: parse_header(find_config(name)) for name in catalog.config_names()}
FREE = [name for name, header in HEADERS.items() if not header.needs]
EXCUSED = {name: header.needs for name, header in HEADERS.items() if header.needs}
MAIN = {guides.first_config(lesson.key) for lesson in catalog.LESSONS}  # the other configs run in the slow tier
# whether the files in configs/_resolved/ were written with this version of torch
WRITTEN_HERE = f"torch=={regolden.machine()['torch']}" in (ROOT / "constraints.txt").read_text().split()
# which samples are in the first batches follows from scores whose solver stops when it is near enough
ORDERED_BY_A_SOLVER = {"curriculum/adaptive", "curriculum/easy_first", "curriculum/hard_first"}


def by_tier(names: Iterable[str]) -> list[ParameterSet]:
    return [pytest.param(name, marks=() if name in MAIN else pytest.mark.slow) for name in names]


def devices(name: str) -> int:
    return parse_config(find_config(name))["trainer"].get("devices", 1)


def test_the_configs_are_found() -> None:
    assert len(FREE) >= 3
    assert len(EXCUSED) < len(FREE)
    folder = catalog.configs_dir()
    on_disk = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")}
    assert set(HEADERS) == {name for name in on_disk if not name.startswith(("sweeps/", "_resolved/"))}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What runs share below their root, such as trained feature networks: once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", by_tier(FREE))
def test_every_verb_runs_on_one_batch(name: str, runs: Path, forked: Command, cache: Path) -> None:
    header = HEADERS[name]
    runs.mkdir()
    (runs / "cache").symlink_to(cache)
    # in this process where it can be, in one of its own where several ranks are forked
    call = (lambda arguments: main(arguments)) if devices(name) == 1 else (lambda arguments: forked(*arguments))
    run = runs / name / "latest"
    verbs = [verb for verb in header.verbs if verb not in ("fit", "export")]
    if "fit" in header.verbs:  # and all but the last of the others in the same command; the last from the run's folder
        *chained, last = verbs
        call(["fit", "-c", name, *ONE_BATCH, *(["--then", ",".join(chained)] if chained else [])])
        call([last, "--run", str(run), *ONE_BATCH])
    else:
        for verb in verbs:
            call([verb, "-c", name, "--allow_untrained", *ONE_BATCH])
    for verb in verbs:
        if verb == "predict":
            assert list((run / "predictions").glob("*.parquet"))
        else:
            part = {"validate": "val", "test": "test"}[verb]
            assert json.loads((run / "eval" / f"{part}.json").read_text())["metrics"]
    if "fit" in header.verbs:
        metrics = guides.logged(Run.load(name, runs))
        assert len(metrics) >= 3
        assert not guides.undefined(name.partition("/")[0], metrics), "the guide's section on what is logged"


EXPORTED = [name for name in FREE if "export" in HEADERS[name].verbs]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_every_model_that_exports_is_verified(name: str, runs: Path) -> None:
    main(["fit", "-c", name, *ONE_BATCH])
    run = runs / name / "latest"
    main(["export", "--run", str(run), *ONE_BATCH, "--batch_sizes=2"])
    rows = json.loads((run / "export" / "verification.json").read_text())["rows"]
    assert rows["onnx"]["status"] == "verified"


@pytest.mark.medium
@pytest.mark.skipif(not WRITTEN_HERE, reason="the defaults of torch's classes differ between versions of torch")
@pytest.mark.parametrize("name", by_tier(HEADERS))
def test_the_resolved_file_is_up_to_date_and_the_same_config(
    name: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, verb = catalog.resolved_path(name).read_text(), HEADERS[name].verbs[0]
    assert text == resolve_configs.resolved(name), "run resolve_configs.py"
    if name in FREE:
        main([verb, "-c", str(catalog.resolved_path(name)), "--print_config"])
        assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(text)


@pytest.mark.parametrize("name", by_tier(regolden.configs_with_curves()))
def test_the_first_losses_are_golden(
    name: str, forked: Command, cache: Path, record_property: Callable[[str, object], None]
) -> None:
    def run_command(arguments: list[str]) -> None:
        root = Path(arguments[arguments.index("--runs_root") + 1])
        (root / "cache").symlink_to(cache)
        forked(*arguments)

    golden, losses = regolden.records(name), regolden.first_losses(name, run_command)
    assert len(losses) >= 2
    of_this_kind = [record["losses"] for record in golden if record["machine"] == regolden.machine()]
    if of_this_kind:
        record_property("difference", 0.0)  # for scripts/tools/environments.py
        assert [losses] == of_this_kind
    else:  # another processor or version of torch rounds differently
        differences = [relative_difference(losses, record["losses"]) for record in golden]
        record_property("difference", min(differences))
        assert min(differences) <= (0.05 if name in ORDERED_BY_A_SOLVER else 1e-3)


def relative_difference(losses: list[float], golden: list[float]) -> float:
    """The largest difference of a loss, relative to the golden one."""
    assert len(losses) == len(golden)
    return max(abs(loss - right) / abs(right) for loss, right in zip(losses, golden, strict=True))


def test_no_golden_curve_is_left_over() -> None:
    found = {p.relative_to(regolden.GOLDEN).with_suffix("").as_posix() for p in regolden.GOLDEN.rglob("*.json")}
    assert found == set(regolden.configs_with_curves())


def test_every_short_name_resolves_to_its_class() -> None:
    for name, path in catalog.CLASSES.items():
        module, _, last = path.rpartition(".")
        assert last == name
        assert isinstance(getattr(__import__(module, fromlist=[last]), last), type)
    assert len(catalog.CLASSES) >= 13


@pytest.mark.slow
def test_print_config_by_a_pipe_is_the_same_run(forked: Command, runs: Path, tmp_path: Path) -> None:
    """`plcourse fit -c <(plcourse fit -c X --print_config)`, typed in a real shell."""
    limits = " ".join([*ONE_BATCH, "--trainer.max_steps=1", "--trainer.log_every_n_steps=1"])
    python = sys.executable
    script = f"{python} -m plcourse fit -c <({python} -m plcourse fit -c ddp/one_process --print_config) {limits}"
    subprocess.run(
        ["bash", "-c", script],
        check=True,
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    forked("fit", "-c", "ddp/one_process", *limits.split())
    piped, named = runs / "own" / "pipe" / "latest", runs / "ddp" / "one_process" / "latest"
    assert (piped / "metrics.csv").read_text() == (named / "metrics.csv").read_text()
    assert (piped / "config.yaml").read_text() == (named / "config.yaml").read_text()
