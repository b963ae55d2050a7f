"""The tables that every start of plcourse reads."""

import importlib.util
import subprocess
import sys

import pytest

from plcourse import catalog
from plcourse.cli import help as helps

HEAVY = ("torch", "pytorch_lightning", "numpy", "pandas", "jsonargparse", "rich")


def test_the_lessons_are_12_to_19_in_order():
    assert [lesson.number for lesson in catalog.LESSONS] == list(range(12, 20))
    assert len({lesson.key for lesson in catalog.LESSONS}) == 8


def test_short_class_names_are_the_last_part_of_their_paths():
    assert len(catalog.CLASSES) > 10
    assert {path.rpartition(".")[2] for path in catalog.CLASSES.values()} == set(catalog.CLASSES)
    assert list(catalog.CLASSES) == sorted(catalog.CLASSES)


def test_every_verb_has_a_help_and_the_root_help_names_it():
    root = helps.root_help()
    for name, verb in catalog.VERBS.items():
        assert f"\n  {name} " in root
        assert verb.summary in root
        assert helps.verb_help(name).startswith(f"usage: plcourse {name} ")
        assert verb.group in ("run", "look")


def test_no_help_line_is_wider_than_a_terminal():
    texts = [helps.root_help(), *(helps.verb_help(verb) for verb in catalog.VERBS)]
    texts += [helps.verb_help("benchmark", [name]) for name in catalog.BENCHMARKS]
    assert max(len(line) for text in texts for line in text.splitlines()) <= 120


def test_the_look_verbs_targets_exist():
    for name in catalog.verbs_of("look"):
        module, _, function = catalog.VERBS[name].target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_config_names_follow_the_lessons_and_know_nothing_else(tmp_path, monkeypatch):
    for name in ("nlp/b", "nlp/a", "ddp/z", "sweeps/s", "notes/x", "_resolved/ddp/z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.yaml").touch()
    (tmp_path / "ddp/README.md").touch()
    monkeypatch.setattr(catalog, "configs_dir", lambda: tmp_path)
    assert catalog.config_names() == ["ddp/z", "nlp/a", "nlp/b"]
    assert catalog.config_names("nlp") == ["nlp/a", "nlp/b"]


def test_a_wheel_has_its_configs_inside_the_package(tmp_path, monkeypatch):
    package = tmp_path / "site" / "lib" / "plcourse"
    package.mkdir(parents=True)
    monkeypatch.setattr(catalog, "PACKAGE", package)
    assert catalog.configs_dir() == tmp_path / "site" / "configs"
    (package / "configs").mkdir()
    assert catalog.configs_dir() == package / "configs"


def test_every_packaged_file_belongs_to_a_lesson_or_is_a_sweep():
    files = list(catalog.configs_dir().rglob("*.y*ml"))
    assert files, f"found no configs in {catalog.configs_dir()}"
    known = {f"{folder}{name}.yaml" for name in catalog.config_names() for folder in ("", "_resolved/")}
    stray = {path.relative_to(catalog.configs_dir()).as_posix() for path in files} - known
    assert not [name for name in stray if not name.startswith("sweeps/")]


@pytest.mark.medium
@pytest.mark.parametrize(
    "command", [["-h"], ["ls"], ["ls", "runs"], ["learn"], ["--version"], ["doctor", "-h"], ["fit", "-h"], ["fitt"], []]
)
def test_starting_imports_nothing_heavy(command, tmp_path):
    code = (
        "import sys; from plcourse.__main__ import main\n"
        f"try: main({command!r})\n"
        "except SystemExit: pass\n"
        f"sys.stderr.write('HEAVY ' + repr([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stderr.endswith("HEAVY []")
    assert bool(done.stdout) == (command != ["fitt"])


@pytest.mark.medium
def test_the_package_imports_lazily_and_lists_its_api():
    code = (
        "import sys, plcourse; assert {'run', 'Run', 'Trainer', '__version__'} <= set(dir(plcourse));"
        "plcourse.Run; assert 'torch' not in sys.modules; assert 'plcourse.cli.api' in sys.modules\n"
        "try: plcourse.nonsense\n"
        "except AttributeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "nonsense" in done.stdout
    assert importlib.util.find_spec("plcourse.__main__")
