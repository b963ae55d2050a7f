"""Checkpoints of one value, and processes that are killed while they write them."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import torch

from plcourse.training.checkpoint import AtomicCheckpointIO, load
from support import HELPERS


def content(value: float, size: int = 1000) -> dict[str, Any]:
    return {"state_dict": {"weight": torch.full((size,), value)}, "epoch": 3}


def value_of(path: Path) -> float:
    return float(load(path)["state_dict"]["weight"][0])


def save(path: Path, value: float = 1.0, size: int = 1000) -> None:
    AtomicCheckpointIO().save_checkpoint(content(value, size), path)


def temporary_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".tmp")


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


def run_script(script: str, *arguments: Any) -> str:
    """Runs Python source in a process of its own, which forks what it kills: torch is imported once."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=HELPERS.parent,
        env={**os.environ, "PYTHONPATH": str(HELPERS)},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


FORK = """
import os, signal, sys, time, random
from pathlib import Path
import torch
torch.set_num_threads(1)
from plcourse.training import checkpoint as ck

def killed(work, after=None):
    "Forks a process that works until it kills itself, or is killed after some seconds."
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(3)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status

def save(path, value, size=10):
    ck.AtomicCheckpointIO().save_checkpoint({"state_dict": {"weight": torch.full((size,), float(value))}}, path)

def value_of(path):
    "The value a checkpoint was filled with, nan where it does not load."
    try:
        weight = ck.load(path)["state_dict"]["weight"]
    except ck.UserError:
        return float("nan")
    assert (weight == weight[0]).all()
    return float(weight[0])

def die_at_rename(number):
    "The kill arrives just before the numbered rename of this process."
    original, renames = Path.replace, [0]
    def replace(self, target):
        renames[0] += 1
        if renames[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, target)
    Path.replace = replace
"""
