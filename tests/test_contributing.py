"""The example of CONTRIBUTING.md: run as it is written, in a copy of the suite."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from plcourse.runs.configs import find_config, parse_header

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.mark.medium
def test_the_new_lesson_is_short_and_works(tmp_path: Path) -> None:
    model, config, catalog = re.findall(r"^```(?:python|yaml)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len((model + config + catalog).splitlines()) < 100
    package, configs = tmp_path / "lessons" / "plcourse", tmp_path / "configs"
    package.mkdir(parents=True)
    configs.mkdir()
    for folder, copy in ((ROOT / "lessons/plcourse", package), (ROOT / "configs", configs)):
        for entry in folder.iterdir():
            if entry.name not in ("catalog.py", "__pycache__"):
                (copy / entry.name).symlink_to(entry)
    lesson, name = catalog.splitlines(keepends=True)
    text = (ROOT / "lessons/plcourse/catalog.py").read_text(encoding="utf-8")
    text = text.replace("LESSONS = (\n", f"LESSONS = (\n{lesson}").replace("CLASSES = {\n", f"CLASSES = {{\n{name}")
    (package / "catalog.py").write_text(text)
    (package / "mixup").mkdir()
    (package / "mixup/__init__.py").touch()
    (package / "mixup/model.py").write_text(model)
    (configs / "mixup").mkdir()
    (configs / "mixup/digits.yaml").write_text(config)
    assert parse_header(find_config(str(configs / "mixup/digits.yaml"))).verbs == ("fit", "validate", "test")
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "plcourse", "fit", "-c", "mixup/digits", "--then", "test", "--runs_root", "runs"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "runs/mixup/digits/latest/eval/test.json").read_text())
    assert report["metrics"]["test/accuracy"] > 0.8


@pytest.mark.medium
def test_a_submission_runs_the_readmes_words_in_an_environment_that_it_removes(tmp_path: Path) -> None:
    """With stand-ins for the tools, which print what they were called with."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    environments, tools = tmp_path / "tmp", tmp_path / "tools"
    environments.mkdir()
    tools.mkdir()
    for name in ("chromium", "lint-imports", "pyright", "pytest", "python", "python3", "ruff"):
        (tools / name).write_text('#!/bin/sh\necho "$0 $*"\n')
        (tools / name).chmod(0o755)
    (tmp_path / "README.md").write_text("Test it:\n\n    cp -r tools .venv/bin && .venv/bin/pytest\n")
    environment = {**os.environ, "TMPDIR": str(environments), "PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run([".ci/run"], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    ran = [line for line in done.stdout.splitlines() if line.startswith(str(environments))]
    called = [re.sub(r"^\S+/bin/", "", line).split() for line in ran]
    assert {name for name, *_ in called} == {"lint-imports", "pyright", "pytest", "python", "ruff"}
    assert (called[0], called[-2]) == (["pytest"], ["pytest", "-m", "slow"])
    oldest = re.search(r"environments\.py (--folder \S+) --install oldest\n", done.stdout)
    assert oldest is not None
    assert called[-1] == ["python", "scripts/tools/environments.py", *oldest[1].split(), "oldest"]
    assert list(environments.iterdir()) == []
    assert not (tmp_path / ".venv").exists()


def test_each_commit_runs_checks_that_a_submission_runs_too() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    submission = (ROOT / ".ci/run").read_text()
    for hook in repository["hooks"]:
        assert f"run {hook['entry']}" in submission
        assert hook["language"] == "system"


def test_the_commands_it_names_exist() -> None:
    for path in set(re.findall(r"\bscripts/[\w/]+\.py", TEXT)):
        assert (ROOT / path).is_file(), path


def test_every_data_source_has_its_terms() -> None:
    from plcourse.data.sources import SOURCES

    text = (ROOT / "DATA_LICENSES.md").read_text(encoding="utf-8")
    assert len(SOURCES) > 4
    assert not [name for name in SOURCES if f"`{name}`" not in text]


@pytest.mark.medium
@pytest.mark.parametrize(
    "line", re.findall(r"^  (logger: .*)$", (ROOT / "lessons/README.md").read_text(), re.MULTILINE)
)
def test_a_logger_takes_the_line_that_the_guide_shows(line: str, tmp_path: Path) -> None:
    """Without its package: what is checked is that the line is accepted and names the logger's own arguments."""
    (tmp_path / "a.yaml").write_text(f"trainer:\n  {line}\n")
    command = [sys.executable, "-m", "plcourse", "fit", "-c", "ddp/mlp", "-c", "a.yaml", "--print_config"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    logger = yaml.safe_load(done.stdout)["trainer"]["logger"]
    assert logger["class_path"].endswith("Logger")
    wanted = yaml.safe_load(line)["logger"]["init_args"]
    assert logger["init_args"].items() >= wanted.items()
