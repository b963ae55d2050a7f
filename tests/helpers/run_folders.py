"""Run folders made by hand, processes that write into them, and the header of a config."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plcourse.errors import UserError
from plcourse.runs.run import Run

NAME = "ddp/two_processes"
HEADER = """\
# plcourse fit -c ddp/two_processes --then test
# Two processes train a small network;
# the same losses as one.
# verbs: fit, test
# needs: nothing
"""


def made(root: Path, stamp: str, name: str = NAME, **record: Any) -> Run:
    """Makes a run folder with a given time."""
    folder = root / name / stamp
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"schema": 1, "status": "finished", **record}))
    return Run(folder, root)


def message(call: Callable[..., object], *args: Any) -> str:
    """Returns the one line that a bad request gives."""
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    assert caught.value.status == 2
    return str(caught.value)


def script(code: str, *args: object, **options: Any) -> subprocess.Popen[str]:
    """Starts a Python process that has the names of `plcourse.runs.run`."""
    text = "import sys, os, time, json\nfrom plcourse.runs.run import *\n" + code
    return subprocess.Popen([sys.executable, "-c", text, *map(str, args)], text=True, **options)
