"""What is installed: a wheel that needs nothing but itself, and dependencies whose bounds are explained and tested."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import plcourse
from plcourse import catalog
from plcourse.verbs.doctor.installation import SECURE

ROOT = Path(__file__).parent.parent
PYPROJECT = ROOT / "pyproject.toml"
LATEST, OLDEST = ROOT / "constraints.txt", ROOT / "constraints-oldest.txt"


def project() -> dict[str, Any]:
    return tomllib.loads(PYPROJECT.read_text())["project"]


def requirements() -> list[Requirement]:
    groups = [project()["dependencies"], *project()["optional-dependencies"].values()]
    return [Requirement(text) for group in groups for text in group]


def constraints(file: Path = LATEST) -> dict[str, Version]:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    pins = [re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.+!]+)", line) for line in lines]
    assert all(pins), [line for line, pin in zip(lines, pins, strict=True) if not pin]
    return {canonicalize_name(pin[1]): Version(pin[2]) for pin in pins if pin}


class TestDependencies:
    def test_every_requirement_has_a_bound_and_its_reason_beside_it(self) -> None:
        lines = [line for line in PYPROJECT.read_text().splitlines() if re.match(r'\s*"[A-Za-z].*[<>=]=?\d.*"', line)]
        assert len(lines) == len(requirements())
        for line in lines:
            assert re.search(r'",\s+#\s\S+ \S+', line) or re.search(r'",\s+#\s\S{4,}', line), line
        for requirement in requirements():
            assert any(bound.operator in (">=", "==", "~=") for bound in requirement.specifier), requirement

    def test_the_compromised_releases_are_excluded(self) -> None:
        (lightning,) = (r for r in requirements() if r.name == "pytorch-lightning")
        assert [lightning.specifier.contains(f"2.6.{patch}") for patch in range(5)] == [True, True, False, False, True]
        assert not lightning.specifier.contains("2.7.0")

    @pytest.mark.parametrize("file", [LATEST, OLDEST], ids=lambda file: file.stem)
    def test_constraints_are_exact_and_from_no_other_place(self, file: Path) -> None:
        text = file.read_text()
        assert "://" not in text
        assert " @ " not in text
        assert "--" not in text.replace("# ", "")
        pins = constraints(file)
        assert len(pins) > 20
        assert all(not version.is_prerelease and version.local is None for version in pins.values())
        assert "plcourse" not in pins

    @pytest.mark.parametrize("file", [LATEST, OLDEST], ids=lambda file: file.stem)
    def test_constraints_satisfy_every_bound(self, file: Path) -> None:
        pins = constraints(file)
        checked = 0
        for requirement in requirements():
            if requirement.marker is None or requirement.marker.evaluate():
                version = pins[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(version), f"{requirement} but {version}"
                checked += 1
        assert checked > 15

    def test_the_oldest_constraints_are_the_lower_bounds(self) -> None:
        pins = constraints(OLDEST)
        lower = {
            canonicalize_name(each.name): Version(bound.version)
            for each in map(Requirement, project()["dependencies"])
            for bound in each.specifier
            if bound.operator in (">=", "==")
        }
        assert {name: pins[name] for name in lower} == lower

    def test_the_latest_constraints_have_no_known_vulnerability(self) -> None:
        pins = constraints()
        assert SECURE
        for name, (secure, _) in SECURE.items():
            assert pins[name] >= Version(secure), name

    def test_every_python_that_is_named_is_allowed(self) -> None:
        named = [each.rpartition(" ")[2] for each in project()["classifiers"] if " 3." in each]
        allowed = SpecifierSet(project()["requires-python"])
        assert named[0] == str(next(iter(allowed)).version)
        assert all(number in allowed for number in named)

    def test_the_version_is_said_once_and_alike(self) -> None:
        assert project()["version"] == plcourse.__version__


class TestReadme:
    def test_the_two_commands_are_one_line_each(self) -> None:
        commands = [line.strip() for line in (ROOT / "README.md").read_text().splitlines() if "python3 -m venv" in line]
        run, test = commands
        setup = "python3 -m venv .venv && .venv/bin/pip install -qc constraints.txt -e "
        assert run == f"{setup}. && .venv/bin/plcourse fit -c ddp/two_processes --then test"
        assert test == f"{setup}'.[dev]' && .venv/bin/pytest"

    def test_they_stand_on_the_first_screen(self) -> None:
        screen = (ROOT / "README.md").read_text().splitlines()[:24]
        assert sum("python3 -m venv" in line for line in screen) == 2

    def test_every_command_it_shows_names_what_exists(self) -> None:
        text = (ROOT / "README.md").read_text()
        scripts = set(re.findall(r"\bscripts/[\w/]+\.py", text))
        assert scripts
        for path in scripts | set(re.findall(r"\btests/[\w/]+\.py", text)):
            assert (ROOT / path).is_file(), path
        configs = set(re.findall(r"-c ([a-z]+/\w+)", text))
        assert configs
        for name in configs:
            assert (ROOT / "configs" / f"{name}.yaml").is_file(), name


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, and the bin folder of a new environment whose plcourse comes from it alone.

    What it depends on is taken from this environment's site-packages, as files on the path: their .pth files, such as
    that of an editable install, count for nothing there, and nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("package")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    environment = folder / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return wheel, environment / "bin"


@pytest.mark.slow
class TestWheel:
    def test_it_holds_configs_guides_and_resolved_configs(self, installed: tuple[Path, Path]) -> None:
        names = set(zipfile.ZipFile(installed[0]).namelist())
        configs = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))
        assert len(configs) >= 4
        wanted = {f"plcourse/{name}" for name in configs}
        wanted |= {f"plcourse/configs/_resolved/{name}.yaml" for name in catalog.config_names()}
        wanted |= {"plcourse/README.md", "plcourse/results.md"}
        wanted |= {f"plcourse/{path.parent.name}/{path.name}" for path in ROOT.glob("lessons/plcourse/*/*.md")}
        files = (
            path for path in ROOT.glob("lessons/plcourse/**/*") if path.suffix in (".py", ".txt", ".yaml", ".html")
        )
        wanted |= {path.relative_to(ROOT / "lessons").as_posix() for path in files}
        assert wanted <= names
        assert not [name for name in names if "__pycache__" in name or name.startswith(("tests", "scripts"))]
        assert {name for name in names if name.endswith(".yaml")} == {name for name in wanted if name.endswith(".yaml")}

    def test_every_verb_works_from_an_empty_folder(self, installed: tuple[Path, Path], tmp_path: Path) -> None:
        _, bin_folder = installed
        clean = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        empty = tmp_path / "empty"
        empty.mkdir()

        def command(*words: str) -> str:
            done = subprocess.run(words, capture_output=True, text=True, env=clean, cwd=empty, timeout=300)
            assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
            return done.stdout

        where = command("python", "-c", "import plcourse; print(plcourse.__file__)").strip()
        assert Path(where).is_relative_to(bin_folder.parent)
        assert command("plcourse", "--version") == f"plcourse {project()['version']}\n"
        assert command("python", "-m", "plcourse", "--version") == command("plcourse", "--version")
        assert "ddp/one_process" in command("plcourse", "ls")
        config = (ROOT / "configs/ddp/one_process.yaml").read_text()
        assert command("plcourse", "cat", "ddp/one_process") == config
        resolved = yaml.safe_load(command("plcourse", "cat", "ddp/one_process", "--resolved"))
        assert resolved["trainer"]["max_epochs"] == yaml.safe_load(config)["trainer"]["max_epochs"]
        assert resolved["trainer"]["accumulate_grad_batches"] == 1  # a default that the config leaves out
        assert list(empty.iterdir()) == []
        command("plcourse", "cp", "ddp/one_process", "mine.yaml")
        assert [path.name for path in empty.iterdir()] == ["mine.yaml"]
        printed = command("plcourse", "fit", "-c", "kfold/traced", "--then", "test,predict")
        assert "\nFitLoop.run\n" in printed
        run = empty / "runs" / "kfold" / "traced" / "latest"
        record = json.loads((run / "run.json").read_text())
        assert (record["status"], record["verb"]) == ("finished", "fit")
        assert 0 <= json.loads((run / "eval" / "test.json").read_text())["metrics"]["test/accuracy"] <= 1
        assert len(list((run / "predictions").glob("*.parquet"))) == 1
        command("plcourse", "report", "kfold/traced")
        assert "<style>" in (run / "report.html").read_text(encoding="utf-8")
        assert command("plcourse", "learn", "14").startswith("# Lesson 14")
        command("plcourse", "learn", "14", "--exercise", "mine.py", "--name", "scaler")
        (empty / "mine.py").unlink()
        assert sorted(path.name for path in empty.iterdir()) == ["mine.yaml", "runs"]
