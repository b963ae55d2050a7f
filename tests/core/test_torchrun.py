"""Ranks that torchrun has started share one run folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

from support import TWO_PROCESSES, digits_config, write_config


def test_ranks_of_torchrun_share_one_run(tmp_path: Path, runs: Path) -> None:
    path = write_config(tmp_path / "job.yaml", digits_config(trainer__max_epochs=1, **TWO_PROCESSES))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "plcourse", "fit", "-c", str(path), "--then", "test"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    records = list(runs.rglob("run.json"))
    assert len(records) == 1
    assert json.loads(records[0].read_text())["status"] == "finished"
    report = json.loads((records[0].parent / "eval" / "test.json").read_text())
    assert report["processes"] == 2
    assert report["coverage"] == {"expected": 359, "seen": 359, "twice": 0}
