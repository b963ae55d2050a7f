"""Every `plcourse` command on a page or above a config is accepted: its verb, its flags, its classes and names.

Nothing is run: running verbs print their config, looking verbs stop once they have parsed their flags.
"""

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from scripts.tools import measure

from guides import commands
from plcourse import catalog
from plcourse.__main__ import main
from plcourse.console.line_parser import LineParser
from plcourse.errors import UserError
from plcourse.runs.configs import find_config
from plcourse.verbs.benchmark.plan import read_command as read_benchmark
from plcourse.verbs.sweep.command import read_command as read_sweep

ROOT = Path(__file__).parent.parent
LESSONS = ROOT / "lessons"
PAGES = [*measure.pages(), ROOT / "CONTRIBUTING.md"]
KEYS = "|".join(lesson.key for lesson in catalog.LESSONS)
KNOWN = {*catalog.config_names(), *catalog.sweep_names()}
Refusal = Callable[[str], str]
TRAINING = ("fit", "validate", "test", "predict", "export")


@pytest.fixture
def refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """The error of a command, empty where it is accepted. `mine.yaml` and `mine.py` are the reader's own files."""

    def parse_only(self: LineParser, argv: list[str]) -> None:
        if unknown := self.parse_known_args(argv)[1]:
            self.error(f"unknown {unknown}")
        sys.exit(0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLCOURSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(LineParser, "parse", parse_only)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("mine.py").write_text("from torch import nn\nclass Net(nn.Identity): ...\nclass Unstable(nn.Identity): ...\n")
    for name in ("mine.yaml", "config.yaml"):
        Path(name).write_text(find_config("ddp/two_processes").text)

    def refused(command: str) -> str:
        verb, *words = shlex.split(command)[1:]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                if verb == "sweep":
                    read_sweep(words)
                elif verb == "benchmark":
                    rest = read_benchmark(words[1:]).arguments if words[0] == "scaling" else words[1:]
                    main(["test", *rest, "--print_config"])
                elif verb in TRAINING and not {"-h", "--help_all", "--model.help"} & {*words}:
                    main([verb, *words, "--print_config"])
                else:
                    main([verb, *words])
        except UserError as error:
            return str(error)
        except SystemExit as stopped:
            return capsys.readouterr().err if stopped.code else ""
        return ""

    return refused


def complete(text: str, main_config: str) -> list[str]:
    """The commands of a page, a run's config standing for the run; without those that only name a verb or end open."""
    found = []
    for command in commands(text):
        for place, name in (("RUN/folds/0/", ""), ("runs/kfold/classifier/latest/folds/3/", ""), ("RUN", main_config)):
            command = command.replace(place, name)
        command = re.sub(r"--run ([\w/]+?)(/latest)?(?= |$)", r"-c \1", command)
        if len(command.split()) > 2 and not re.search(r"( -c| --run|/)$|VERB|SWEEP", command):
            found.append(command)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_is_accepted(page: Path, refusal: Refusal) -> None:
    text = page.read_text(encoding="utf-8")
    main_config = re.search(rf"plcourse fit -c ((?:{KEYS})/\w+)", text)
    shown = complete(text, main_config[1] if main_config else "")
    refused = [(command, why) for command in shown if (why := refusal(command))]
    assert not refused


@pytest.mark.slow
def test_every_command_above_a_config_is_accepted(refusal: Refusal) -> None:
    refused = []
    for name in sorted(KNOWN):
        text = (catalog.configs_dir() / f"{name}.yaml").read_text(encoding="utf-8")
        header = "".join(line.removeprefix("# ") for line in text.splitlines(keepends=True) if line.startswith("# "))
        shown = complete(f"    {re.sub('^torchrun .* -m ', '', header)}", name)
        assert shown, f"{name} shows no command"
        refused += [(name, command, why) for command in shown if (why := refusal(command))]
    assert not refused


FILES = [*PAGES, *LESSONS.rglob("*.py"), *map(catalog.config_path, KNOWN)]


def test_every_run_that_is_named_has_a_config() -> None:
    """`runs/<lesson>/<variant>` in a guide, a docstring or a config, and what `--run` takes."""
    unknown = []
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        named = re.findall(rf"(?:\bruns/|--run )((?:{KEYS}|sweeps)/\w+)", text)
        made = {f"sweeps/{name}" for name in re.findall(r"--name (\w+)", text)}
        unknown += [(file.name, name) for name in named if name not in KNOWN | made]
    assert not unknown


@pytest.mark.parametrize("lesson", KEYS.split("|"))
def test_every_run_that_a_guide_uses_is_made_by_one_of_its_commands(lesson: str) -> None:
    text = (LESSONS / "plcourse" / lesson / "README.md").read_text(encoding="utf-8")
    shown = " ".join(commands(text))
    used = re.findall(rf"\bruns/((?:{lesson}|sweeps)/\w+)", text)
    used += re.findall(rf"(?:--run |compare |report )((?:{lesson}|sweeps)/\w+)", shown)
    made = re.findall(rf"(?:fit|sweep) (?:--\S+ )?-c ((?:{KEYS}|sweeps)/\w+)", shown)
    made += [f"sweeps/{name}" for name in re.findall(r"--name (\w+)", shown)]
    assert not {*used} - {*made}
