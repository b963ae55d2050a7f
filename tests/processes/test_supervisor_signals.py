"""Signals to a supervised job: every rank stops before the same step, and nothing outlives the supervisor."""

import os
import signal
import time
from pathlib import Path

import pytest

from launch_server import Server


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to", ["supervisor", "group", "both, as timeout(1) does"])
def test_a_signal_reaches_each_rank_once_and_all_stop_before_the_same_step(
    server: Server, tmp_path: Path, signum: signal.Signals, to: str
) -> None:
    server.start(tmp_path, "stepping")
    server.until_ready()
    if to != "group":
        os.kill(server.pid, signum)
    if to != "supervisor":
        os.killpg(server.pid, signum)
    ended = server.wait()
    assert (ended.status, ended.err) == (128 + signum, "")
    stops = []
    for rank in (0, 1):
        _, _, *signals, stop = server.notes(rank)
        assert signals == [f"signal {signum:d}"]
        stops.append(stop)
    assert stops[0] == stops[1]
    assert stops[0].endswith(f"asked by {signum:d}")


@pytest.mark.parametrize("attempt", range(3))
def test_ranks_that_step_as_fast_as_they_can_stop_together(server: Server, tmp_path: Path, attempt: int) -> None:
    ended = server.run_and_signal(tmp_path, "fast_stepping", signal.SIGTERM, n=3)
    assert (ended.status, ended.err) == (143, "")
    assert len({server.notes(rank)[-1] for rank in range(3)}) == 1


def test_a_second_signal_kills_at_once(server: Server, tmp_path: Path) -> None:
    server.start(tmp_path, "stepping", obey=False)
    server.until_ready()
    os.kill(server.pid, signal.SIGINT)
    server.until(lambda: "signal 2" in server.notes(0))
    time.sleep(0.4)  # sooner it would be taken for the same signal
    again = time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    ended = server.wait()
    assert (ended.status, ended.err) == (130, "")
    assert time.monotonic() - again < 2


def test_ranks_that_do_not_stop_in_time_are_killed(server: Server, tmp_path: Path) -> None:
    ended = server.run_and_signal(tmp_path, "stepping", signal.SIGTERM, obey=False, stop_timeout=1)
    assert ended.status == 1
    said = "ranks 0 and 1 did not stop within 1 s of SIGTERM and had to be killed; the last checkpoint is intact"
    assert ended.err == f"RunFailed: {said}"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ranks_without_handlers_stop_as_python_does(server: Server, tmp_path: Path, signum: signal.Signals) -> None:
    ended = server.run_and_signal(tmp_path, "plain", signum)
    assert (ended.status, ended.err) == (128 + signum, "")
    said = ["ready", "KeyboardInterrupt"] if signum == signal.SIGINT else ["ready"]
    assert [server.notes(rank) for rank in (0, 1)] == [said, said]


def test_a_signal_to_one_rank_stops_the_job(server: Server, tmp_path: Path) -> None:
    server.start(tmp_path, "plain")
    server.until_ready()
    victim = next(pid for pid in server.left() if pid != server.pid)
    os.kill(victim, signal.SIGINT)
    ended = server.wait()
    assert (ended.status, ended.err) == (130, "")


def test_a_failure_while_stopping_is_a_failure(server: Server, tmp_path: Path) -> None:
    ended = server.run_and_signal(tmp_path, "fails_while_stopping", signal.SIGTERM)
    assert ended.status == 1
    assert ended.err.startswith("RunFailed: rank 1 raised OSError at step ")
    assert ended.err.endswith("[Errno 28] No space left on device, while stopping on SIGTERM")


def test_a_job_that_finishes_when_asked_to_stop_is_interrupted_all_the_same(server: Server, tmp_path: Path) -> None:
    ended = server.run_and_signal(tmp_path, "finishes_when_asked", signal.SIGTERM)
    assert (ended.status, ended.err, ended.out) == (143, "", "")


def test_ctrl_z_suspends_the_ranks_too(server: Server, tmp_path: Path) -> None:
    server.start(tmp_path, "counting")
    server.until_ready()
    pids = server.left()
    assert len(pids) == 3
    os.killpg(server.pid, signal.SIGTSTP)
    server.until(lambda: all(state(pid) == "T" for pid in pids))
    counted = server.notes(0)
    time.sleep(0.3)
    assert server.notes(0) == counted
    os.killpg(server.pid, signal.SIGCONT)
    ended = server.wait()
    assert (ended.status, ended.err) == (0, "")
    assert [len(server.notes(rank)) for rank in (0, 1)] == [15, 15]


@pytest.mark.parametrize("watcher", [False, True])
def test_nobody_outlives_a_killed_supervisor(server: Server, tmp_path: Path, watcher: bool) -> None:
    server.start(tmp_path, "with_loaders", fault="return", watcher=watcher)
    server.until_ready()
    assert len(server.left()) == 7  # the supervisor, two ranks, four loader workers
    os.kill(server.pid, signal.SIGKILL)
    assert server.wait().status == -signal.SIGKILL
    # torch's loader workers look for their parent every 5 s.
    server.until(lambda: server.left() == [], seconds=8)


@pytest.mark.parametrize("fault", ["kill", "exit"])
def test_the_loader_workers_of_a_dead_rank_go_with_the_job(server: Server, tmp_path: Path, fault: str) -> None:
    ended = server.run(tmp_path, "with_loaders", fault=fault)
    assert ended.status == 1
    assert "rank 1" in ended.err
