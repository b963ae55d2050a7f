"""Commands that start at once, because each is forked from a process that has already imported everything.

Importing torch takes two seconds. `Forker` runs single commands and kills them; `Shell` runs the command lines of the
guides, with their loops, pipes and ``python -c``, in bash.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from support import HELPERS, write_config

# The process that waits for a command tells the client its id, then its exit status, and kills it if the client dies.
_SERVER = """
import contextlib, json, os, select, shlex, signal, socket, sys, threading, traceback
from plcourse.__main__ import main
import plcourse.cli.api, plcourse.cli.course_cli, torch
for module in sys.argv[2:]:
    __import__(module)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1] + ".new")
listener.listen()
os.rename(sys.argv[1] + ".new", sys.argv[1])
while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:  # until the tests close it
    connection, _ = listener.accept()
    if os.fork():
        connection.close()
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    listener.close()
    message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    folder, environment, argv = json.loads(message)
    pid = os.fork()
    if pid == 0:
        connection.close()
        os.chdir(folder)
        os.environ.clear(), os.environ.update(environment)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        shorter = shlex.split(os.environ.get("SHORTER_" + argv[0], "")) if argv else []
        sys.argv, status = ["plcourse", *argv, *shorter], 1
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status or 0)
    def end_with_client():
        if not connection.recv(1) and not ended:
            os.kill(pid, signal.SIGKILL)
    ended = []
    threading.Thread(target=end_with_client, daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # the client was killed
        connection.send(f"{pid}\\n".encode())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        ended.append(True)
        connection.send(f"{status}\\n".encode())
    os._exit(0)
"""

_SHIM = """#!{python} -SE
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
socket.send_fds(connection, [json.dumps([os.getcwd(), dict(os.environ), sys.argv[1:]]).encode()], [0, 1, 2])
pid, status = map(int, connection.makefile())
sys.exit(128 - status if status < 0 else status)
"""


class _Server:
    """The process that is forked for each command; a context manager.

    Args:
        *modules: imported once, so that the commands need not.
    """

    def __init__(self, *modules: str) -> None:
        self._own = tempfile.TemporaryDirectory()  # pytest's folders have longer paths than sockets may have
        self._address = Path(self._own.name) / "socket"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HELPERS), *sys.path])}
        command = [sys.executable, "-c", _SERVER, str(self._address), *modules]
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)
        while not self._address.exists():
            assert self._process.poll() is None, "the forking process has ended"
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._own.cleanup()


class Forker(_Server):
    """Runs single commands in forked processes.

    Args:
        folder: where called commands run.
        *modules: imported once, so that the commands need not.
    """

    def __init__(self, folder: Path, *modules: str) -> None:
        super().__init__(*modules)
        self._folder, self.log = folder, folder / "command.log"

    def __call__(self, *arguments: Any, kill_after: float | None = None) -> int:
        """Runs a command and returns its exit status; `log` then holds its output.

        Args:
            *arguments: of the command line.
            kill_after: seconds after which it gets SIGKILL; the status is -9 unless it ended before.
        """
        self.log.write_text("")
        with self._start(self._folder, (self.log, self.log), arguments) as answers:
            pid = int(answers.readline())
            if kill_after is not None:
                time.sleep(kill_after)
                with suppress(ProcessLookupError):  # it ended before
                    os.kill(pid, signal.SIGKILL)
            return int(answers.readline())

    def run(
        self, folder: Path, *arguments: Any, timeout: float = 240, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in a folder, as `subprocess.run` would.

        Args:
            folder: where it runs, and where its output is kept.
            *arguments: of the command line.
            timeout: seconds after which it is killed, and the test fails.
            **environment: further variables.
        """
        files = folder / "stdout", folder / "stderr"
        for file in files:
            file.write_text("")
        with self._start(folder, files, arguments, timeout, **environment) as answers:
            _, status = map(int, answers)
        return subprocess.CompletedProcess(arguments, status, *(file.read_text() for file in files))

    @contextmanager
    def _start(
        self,
        folder: Path,
        files: tuple[Path, Path],
        arguments: tuple[Any, ...],
        timeout: float | None = None,
        **environment: str,
    ) -> Iterator[TextIO]:
        """Two lines, the process id and the exit status; the command is killed at the end of the context."""
        message = [str(folder), {**os.environ, "OMP_NUM_THREADS": "1", **environment}, [*map(str, arguments)]]
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile() as answers:
            connection.settimeout(timeout)
            connection.connect(str(self._address))
            with Path(os.devnull).open() as nothing, files[0].open("a") as out, files[1].open("a") as err:
                streams = [file.fileno() for file in (nothing, out, err)]
                socket.send_fds(connection, [json.dumps(message).encode()], streams)
            yield answers


class Shell(_Server):
    """Runs bash, in which `plcourse` is a client of the server; each folder stands for one reader.

    Args:
        *modules: imported once, so that the commands need not.
    """

    def __init__(self, *modules: str) -> None:
        super().__init__(*modules)
        self._bin = self._address.parent / "bin"
        self._bin.mkdir()
        shim = self._bin / "plcourse"
        shim.write_text(_SHIM.format(python=sys.executable, address=str(self._address)))
        shim.chmod(0o755)

    def start(self, folder: Path, commands: str, **shorter: str) -> subprocess.Popen[str]:
        """Starts commands as `run` does, and does not wait for them."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PLCOURSE")}
        environment |= {f"SHORTER_{verb}": flags for verb, flags in shorter.items()}
        places = [str(self._bin), str(Path(sys.executable).parent), os.environ["PATH"]]
        environment |= {"OMP_NUM_THREADS": "1", "PATH": os.pathsep.join(places), "COLUMNS": "120"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, "text": True}
        return subprocess.Popen(["bash", "-c", commands], cwd=folder, env=environment, **pipes)

    def run(self, folder: Path, commands: str, status: int = 0, timeout: float = 240, **shorter: str) -> str:
        """Runs commands and returns what they printed, errors included.

        Args:
            folder: where they run.
            commands: as a reader types them.
            status: the exit status expected of the last of them.
            timeout: seconds after which the test fails.
            **shorter: flags appended to each `plcourse VERB`, such as ``fit="--trainer.max_epochs 1"``.
        """
        process = self.start(folder, commands, **shorter)
        try:
            output, _ = process.communicate(timeout=timeout)
        finally:
            process.kill()
        assert process.returncode == status, f"status {process.returncode} of\n{commands}\n{output}"
        return output


def kill_and_resume(
    fork: Forker,
    folder: Path,
    runs: Path,
    config: dict[str, Any],
    kills: int,
    assert_same: Callable[[Path, Path], None],
) -> None:
    """Kills runs of a config ``kills`` times in all, up to four times each, and compares each with an undisturbed one.

    Moments are uniform over what an undisturbed command takes, so that a kill falls into the start, into a step, into
    the writing of a checkpoint or into what follows training.

    Args:
        fork: starts the commands.
        folder: where configs are written.
        runs: the root of the runs.
        config: of the run.
        kills: kills in all.
        assert_same: compares a run's folder with the undisturbed one's.
    """
    path = write_config(folder / "reference.yaml", config)
    began = time.monotonic()
    assert fork("fit", "-c", path) == 0, fork.log.read_text()
    seconds = time.monotonic() - began
    reference = (runs / "own" / "reference" / "latest").resolve()
    chooser = random.Random(kills)
    number = done = 0
    while done < kills:
        number += 1
        name = f"killed_{number}"
        command: list[Any] = ["fit", "-c", write_config(folder / f"{name}.yaml", config)]
        latest = runs / "own" / name / "latest"
        for _ in range(min(4, kills - done)):
            status = fork(*command, kill_after=chooser.uniform(0, seconds))
            if status == 0:
                break
            assert status == -signal.SIGKILL, fork.log.read_text()
            if (latest / "config.yaml").is_file():  # before that there is no run yet
                command = ["fit", "--run", latest, "--ckpt_path", "last"]
                done += 1
        assert fork(*command) == 0, fork.log.read_text()
        assert_same(latest.resolve(), reference)
