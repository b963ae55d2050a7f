"""Runs a part of the tests with other versions of Python and torch, each set in a new environment.

    python scripts/tools/environments.py oldest                             # what .ci/run does
    python scripts/tools/environments.py --folder DIR torch-2.11            # keeps the environment and uses it again
    python scripts/tools/environments.py --record python-3.13 tests/ddp     # these tests; rewrites a row of the table

The part is what depends most on the versions: every lesson's main config through every verb, the golden curves, the
equality of one and two processes, checkpoints, and a run of version 0.1.0, which is resumed and exported.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "scripts" / "tools" / "measured" / "environments.json"
PAGE = ROOT / "lessons" / "results.md"
TESTS = (
    "tests/test_configs.py",
    "tests/test_core.py",
    "tests/ddp/test_equality.py",
    "tests/runs/test_recorded_run.py",
    "tests/training/test_checkpoint.py",
)
SHOWN = ("torch", "torchvision", "pytorch-lightning", "numpy", "onnx", "onnxruntime")
_WITH_TORCH = re.compile(r"(torch|torchvision|triton|(nvidia|cuda)-[\w-]+)==")
_BLOCK = re.compile(r"(<!-- environments -->\n)(.*?)(<!-- end of environments -->)", re.DOTALL)


@dataclass(frozen=True)
class Environment:
    """A Python and a set of versions: a file of constraints, in which `instead` can replace torch's."""

    python: str
    constraints: str
    instead: tuple[str, ...] = ()


ENVIRONMENTS = {
    "oldest": Environment("3.12", "constraints-oldest.txt"),
    "torch-2.11": Environment("3.12", "constraints.txt", ("torch==2.11.0", "torchvision==0.26.0")),
    "torch-2.14": Environment("3.11", "constraints.txt", ("torch==2.14.1", "torchvision==0.29.1")),
    "python-3.13": Environment("3.13", "constraints.txt"),
    "latest": Environment("3.11", "constraints.txt"),
}


@dataclass(frozen=True)
class Outcome:
    """What the tests gave in one environment."""

    python: str
    versions: dict[str, str]
    tests: str  # which ones
    passed: int
    skipped: int
    failed: int
    difference: float | None  # the largest of a first loss to its golden curve, relative to it; None if not compared
    date: str


def find_python(version: str) -> str | None:
    """Returns the program of a Python such as 3.12, from the PATH or from pyenv; None if there is none."""
    candidates = [f"python{version}"]
    with suppress(OSError):
        prefix = subprocess.run(["pyenv", "prefix", version], capture_output=True, text=True).stdout.strip()
        candidates += [f"{prefix}/bin/python"] if prefix else []
    for program in candidates:
        with suppress(OSError):
            code = "import sys; print('%d.%d' % sys.version_info[:2])"
            if subprocess.run([program, "-c", code], capture_output=True, text=True).stdout.strip() == version:
                return program
    return None


def install(environment: Environment, folder: Path) -> None:
    """Makes a virtual environment with the project and its tests."""
    program = find_python(environment.python)
    if program is None:
        program = sys.executable
        here = ".".join(map(str, sys.version_info[:2]))
        print(f"there is no Python {environment.python} here: Python {here} is used instead", flush=True)
    lines = (ROOT / environment.constraints).read_text().splitlines()
    if environment.instead:
        lines = [line for line in lines if not _WITH_TORCH.match(line)] + [*environment.instead]
    subprocess.run([program, "-m", "venv", folder], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(lines) + "\n")
    pip = [folder / "bin" / "python", "-m", "pip", "install", "-q", "--no-compile", "-c", constraints]
    subprocess.run([*pip, "-e", f"{ROOT}[dev]"], check=True)


def run_tests(folder: Path, arguments: list[str]) -> Outcome:
    """Runs pytest with these arguments, or without any the part, in an environment and prints what it prints."""
    python, report = folder / "bin" / "python", folder / "report.xml"
    code = f"""
import json, platform
from importlib.metadata import version
print(json.dumps([platform.python_version(), {{name: version(name) for name in {SHOWN}}}]))
"""
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    number, versions = json.loads(found.stdout)
    print(f"Python {number}, {', '.join(f'{name} {version}' for name, version in versions.items())}", flush=True)
    chosen = arguments or [*TESTS, "-n", str(os.cpu_count())]
    subprocess.run([python, "-m", "pytest", "-o", "junit_family=xunit1", f"--junitxml={report}", *chosen], cwd=ROOT)
    suite = ElementTree.parse(report).getroot()[0]
    count = {name: int(suite.get(name, 0)) for name in ("tests", "skipped", "failures", "errors")}
    failed = count["failures"] + count["errors"]
    differences = [float(each.get("value", 0)) for each in suite.iter("property") if each.get("name") == "difference"]
    return Outcome(
        python=number,
        versions=versions,
        tests=f"`{shlex.join(arguments)}`" if arguments else "the part",
        passed=count["tests"] - count["skipped"] - failed,
        skipped=count["skipped"],
        failed=failed,
        difference=max(differences, default=None),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
    )


def records() -> dict[str, Outcome]:
    """Reads the recorded outcomes by environment."""
    found = json.loads(RECORDS.read_text()) if RECORDS.is_file() else {}
    return {name: Outcome(**found[name]) for name in ENVIRONMENTS if name in found}


def table(found: dict[str, Outcome]) -> str:
    """Builds the table of the results page."""
    head = ["environment", "Python", *SHOWN, "tests", "passed", "skipped", "largest difference of a loss", "date"]
    rows = [head, ["---"] * len(head)]
    for name, each in found.items():
        difference = "not compared" if each.difference is None else f"{each.difference:.1g}"
        outcome = [each.tests, each.passed, each.skipped, difference, each.date]
        rows.append([f"`{name}`", each.python, *each.versions.values(), *map(str, outcome)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def written(text: str) -> str:
    """Replaces the table of a page by that of the records."""
    return _BLOCK.sub(lambda block: f"{block[1]}{table(records())}{block[3]}", text)


def main() -> None:
    """Runs the tests in one environment; the exit status is 1 if one fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the environment is made and kept; default a temporary one")
    parser.add_argument("--install", action="store_true", help="only make the environment, in --folder")
    parser.add_argument("--record", action="store_true", help="record the outcome and rewrite the table")
    parser.add_argument("name", choices=ENVIRONMENTS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="what pytest gets instead of this part")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary) / "environment").absolute()
        if not (folder / "bin").is_dir():
            install(ENVIRONMENTS[options.name], folder)
        if options.install:
            return
        outcome = run_tests(folder, options.arguments)
    if options.record and not outcome.failed:
        kept = {name: asdict(each) for name, each in {**records(), options.name: outcome}.items()}
        RECORDS.write_text(json.dumps({name: kept[name] for name in ENVIRONMENTS if name in kept}, indent=1) + "\n")
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(1 if outcome.failed or not outcome.passed else 0)


if __name__ == "__main__":
    main()
