"""What all tests share: real commands in real processes, and small configs."""

import multiprocessing.process
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch: threads of tests that run side by side share two cores

import pytest
import torch

from forking import Forker, Shell
from readers import Reader
from support import HELPERS, Command

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # What a shell starts in the background ignores Ctrl-C, and so would every command that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

for _name in ("COLUMNS", "LINES"):  # set by the line editor that pytest loads; output into a pipe has no width
    os.environ.pop(_name, None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Starts no workers where test paths are given, and one more than there are cores for the quick tests.

    A few tests end sooner than workers start. Of the time of the quick tests, a third is waiting for processes; the
    slow tests keep the cores busy.
    """
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        return 0
    return (os.cpu_count() or 1) + 1 if "not slow" in config.option.markexpr else None


# Fixtures that start processes; a test with one of them is not in the fast tier.
PROCESSES = {"plcourse", "forker", "shell", "_server", "agents", "ranks", "exported"}
# Programs whose absence the suite and its libraries cope with; a fast test does without them.
DISPENSABLE = ("git", "uname", "fc-list", "lscpu")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test as fast unless it has another tier or its fixtures start processes."""
    for item in items:
        if PROCESSES & set(getattr(item, "fixturenames", ())):
            item.add_marker("medium")
        if not any(item.get_closest_marker(name) for name in ("medium", "slow", "campaign")):
            item.add_marker("fast")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Under ``-m fast``, fails a test that starts a process, its fixtures included."""
    if item.get_closest_marker("fast") is None or "fast" not in item.config.option.markexpr:
        return (yield)

    def refuse(*arguments: Any, **options: Any) -> None:
        pytest.fail(f"a fast test starts a process: {arguments}; mark it with pytest.mark.medium")

    def start(self: Any, command: Any, *arguments: Any, **options: Any) -> None:
        if not isinstance(command, str) and command[0] in DISPENSABLE:
            raise FileNotFoundError(command[0])
        refuse(command)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", start)
        patch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
        patch.setattr(os, "fork", refuse)
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def user_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the key that exports are signed with, instead of the one in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("config")
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        yield folder / "plcourse" / "key"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty root for runs, which commands in this and in other processes use."""
    root = tmp_path / "runs"
    monkeypatch.setenv("PLCOURSE_RUNS", str(root))
    monkeypatch.delenv("PLCOURSE_TRUST", raising=False)
    return root


@pytest.fixture
def plcourse(runs: Path, tmp_path: Path) -> Command:
    """Runs ``plcourse ARGUMENTS`` in a process of its own, in an empty folder; checks the exit status."""

    def command(*arguments: Any, status: int = 0, timeout: float = 240, **environment: str) -> Any:
        # One thread each: the models are tiny, and tests that run side by side would wait for each other's threads.
        path = os.pathsep.join(filter(None, (str(HELPERS), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment}
        done = subprocess.run(
            [sys.executable, "-m", "plcourse", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            cwd=tmp_path,
        )
        assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return command


@pytest.fixture(scope="session")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    """A process that has imported what commands need, to be forked for each of them."""
    with Forker(tmp_path_factory.mktemp("forker"), "plcourse.kfold.loop", "plcourse.ddp.data") as fork:
        yield fork


@pytest.fixture
def forked(forker: Forker, runs: Path, tmp_path: Path) -> Command:
    """Like `plcourse`, without the seconds that each process takes to import torch."""

    def command(*arguments: Any, status: int = 0, timeout: float = 240, **environment: str) -> Any:
        done = forker.run(tmp_path, *arguments, timeout=timeout, **environment)
        assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return command


@pytest.fixture(scope="session")
def shell() -> Iterator[Shell]:
    with Shell("plcourse.kfold.loop", "plcourse.ddp.data") as shell:
        yield shell


@pytest.fixture
def reader(request: pytest.FixtureRequest, shell: Shell, tmp_path: Path) -> Reader:
    return Reader(request.node.name.removeprefix("test_"), shell, tmp_path)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One intra-op thread, as the workers have: other numbers of threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many packaged configs were found, run and excused."""
    from plcourse import catalog
    from plcourse.runs.configs import find_config, parse_header

    reports = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
    ran = [r for r in reports if r.when == "call" and "test_every_verb_runs_on_one_batch" in r.nodeid]
    if not ran:
        return
    headers = {name: parse_header(find_config(name)) for name in catalog.config_names()}
    excused = [f"{name} (needs {' and '.join(header.needs)})" for name, header in headers.items() if header.needs]
    passed = sum(report.passed for report in ran)
    terminalreporter.write_line(
        f"configs: {len(headers)} found, {len(ran)} run, {passed} passed, {len(excused)} excused: {', '.join(excused)}"
    )
