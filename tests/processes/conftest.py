"""The server of supervised jobs, which must leave nothing running."""

import os
import signal
from collections.abc import Iterator

import pytest

from launch_server import Server


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    server = Server(log)
    yield server
    assert server.process.stdin is not None
    assert server.process.stdout is not None
    server.process.stdin.close()
    server.process.stdout.close()
    server.process.wait(10)
    server.log.close()
    assert log.read_text() == ""


@pytest.fixture
def server(_server: Server) -> Iterator[Server]:
    yield _server
    if _server.running:  # the test failed
        os.kill(_server.pid, signal.SIGKILL)
        _server.wait()
    # After the command has returned nothing runs any more.
    assert _server.left() == []
