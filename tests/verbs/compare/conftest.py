"""`plcourse compare` in an empty folder of runs."""

import json
import os

import pytest

from plcourse.runs import record


@pytest.fixture(scope="module")
def environment():
    """What a run records of this machine, asked once: git and the packages are slow to ask for each run."""
    return record.environment()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, environment):
    """An empty current folder, whose runs are in `runs`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record, "environment", lambda: environment)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of runs, none of which has to outlive a power cut
    monkeypatch.delenv("PLCOURSE_RUNS", raising=False)
    monkeypatch.delenv("PLCOURSE_DEBUG", raising=False)
    return tmp_path


@pytest.fixture
def typed(typed):
    """Runs `plcourse compare ...`; gives its status, output and errors."""
    return lambda *argv: typed("compare", *argv)


@pytest.fixture
def said(typed):
    """Runs a comparison that succeeds; gives what it prints."""

    def run(*argv: object) -> str:
        status, out, err = typed(*argv)
        assert (status, err) == (0, "")
        return out

    return run


@pytest.fixture
def reported(said):
    """Runs a comparison that succeeds; gives its JSON."""
    return lambda *argv: json.loads(said(*argv, "--json", "-"), parse_constant=pytest.fail)
