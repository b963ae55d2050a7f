"""A shell in which `plcourse` starts at once: each command is forked from a process that has imported everything.

The commands of the guides hold loops, pipes and `python -c`; only a shell runs them as a reader would. With two seconds
for each import of torch, that would take minutes that test nothing.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from support import TESTS

_SERVER = """
import contextlib, json, os, shlex, signal, socket, sys, threading, traceback
from plcourse.__main__ import main
import plcourse.api, plcourse.cli.course_cli, torch
for module in sys.argv[2:]:
    __import__(module)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
while True:
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
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    ended.append(True)
    with contextlib.suppress(BrokenPipeError):  # the client was killed
        connection.send(str(status).encode())
    os._exit(0)
"""

_CLIENT = """#!{python} -SE
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
socket.send_fds(connection, [json.dumps([os.getcwd(), dict(os.environ), sys.argv[1:]]).encode()], [0, 1, 2])
status = int(connection.recv(16))
sys.exit(128 - status if status < 0 else status)
"""


class Shell:
    """Runs commands with bash; one folder is one reader.

    Args:
        folder: for the socket, the shim and nothing else; a short path.
        *modules: what the commands will need, to be imported once.
    """

    def __init__(self, folder: Path, *modules: str) -> None:
        address, self._bin = str(folder / "socket"), folder / "bin"
        self._bin.mkdir()
        shim = self._bin / "plcourse"
        shim.write_text(_CLIENT.format(python=sys.executable, address=address))
        shim.chmod(0o755)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
        self._process = subprocess.Popen([sys.executable, "-c", _SERVER, address, *modules], env=environment)
        while not Path(address).exists():
            assert self._process.poll() is None, "the process that forks has ended"
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()

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
            status: that the last of them must end with.
            timeout: seconds after which the test fails.
            **shorter: flags that are appended to each `plcourse VERB`, such as ``fit="--trainer.max_epochs 1"``.
        """
        process = self.start(folder, commands, **shorter)
        try:
            output, _ = process.communicate(timeout=timeout)
        finally:
            process.kill()
        assert process.returncode == status, f"status {process.returncode} of\n{commands}\n{output}"
        return output
