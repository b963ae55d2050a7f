"""Every test runs real processes: a server imports torch once and forks the supervisor of each job."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch_server import Server
from plcourse.processes import rank_process
from plcourse.processes.forking import can_fork
from plcourse.processes.shared_state import Failure, RankReporter, SharedState
from plcourse.processes.supervisor import supervise

TIMEOUT = 1.5  # of the jobs' collectives
BOUND = TIMEOUT + 5  # a failed job has ended by then


VALUE_ERROR = "ValueError at step 3: the label is 12 and there are 10 classes"
FAILURES = [
    ({1: "raise"}, 2, f"rank 1 raised {VALUE_ERROR}"),
    ({0: "raise"}, 3, f"rank 0 raised {VALUE_ERROR}"),
    ({0: "raise", 1: "raise"}, 2, f"every rank raised {VALUE_ERROR}"),
    ({1: "raise_in_vain"}, 2, "rank 1 raised ValueError at step 3: the cause"),
    ({0: "kill"}, 2, "rank 0 was killed by SIGKILL after step 3"),
    ({1: "kill"}, 2, "rank 1 was killed by SIGKILL after step 3"),
    ({1: "kill"}, 3, "rank 1 was killed by SIGKILL after step 3"),
    ({0: "mend", 1: "kill"}, 2, "rank 1 was killed by SIGKILL after step 3"),
    ({1: "abort"}, 2, "rank 1 was killed by SIGABRT after step 3"),
    ({1: "term_itself"}, 2, "rank 1 was killed by SIGTERM after step 3"),
    ({0: "exit"}, 2, "rank 0 exited with status 0 after step 3, before the run had ended"),
    ({2: "exit"}, 3, "rank 2 exited with status 0 after step 3, before the run had ended"),
    ({1: "sys_exit"}, 2, "rank 1 exited with status 0 after step 3, before the run had ended"),
    ({1: "exit_3"}, 2, "rank 1 exited with status 3 after step 3, before the run had ended"),
    ({0: "stop"}, 2, "rank 0 has stalled after step 3 (suspended by a signal): rank 1 waited for it for 1.5 s"),
    ({1: "stop"}, 3, "rank 1 has stalled after step 3 (suspended by a signal): the others waited for it for 1.5 s"),
    ({1: "sleep"}, 2, "rank 1 has stalled after step 3: rank 0 waited for it for 1.5 s"),
    ({0: "sleep"}, 3, "rank 0 has stalled after step 3: the others waited for it for 1.5 s"),
    ({0: "mend", 1: "sleep"}, 2, "rank 1 has stalled after step 3: rank 0 waited for it for 1.5 s"),
    (
        {0: "return"},
        2,
        "rank 0 had finished after step 3, but rank 1 waited for it in a collective at step 3 for 1.5 s",
    ),
    ({1: "run_failed"}, 2, "the loss is nan"),
]


@pytest.mark.parametrize(("faults", "n", "cause"), FAILURES, ids=[f"{f}-of-{n}" for f, n, _ in FAILURES])
def test_a_job_that_fails_ends_and_names_the_first_cause(
    server: Server, tmp_path: Path, faults: dict[int, str], n: int, cause: str
) -> None:
    ended = server.run(tmp_path, "training", faults=faults, n=n)
    assert (ended.status, ended.err) == (1, f"RunFailed: {cause}")
    assert ended.seconds < BOUND


def test_ranks_in_different_collectives_are_said_to_have_missed_each_other(server: Server, tmp_path: Path) -> None:
    ended = server.run(tmp_path, "training", faults={1: "other_collective"}, n=2)
    assert ended.status == 1
    # Whose time runs out first cuts off the other, unless that one's runs out at the same moment.
    assert re.fullmatch(
        r"RunFailed: (rank 0|rank 1|ranks 0 and 1) waited at step 3 for 1.5 s "
        "in a collective that other ranks entered too late or not at all",
        ended.err,
    )
    assert ended.seconds < BOUND


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_job_whose_ranks_all_finish_returns(server: Server, tmp_path: Path, n: int) -> None:
    ended = server.run(tmp_path, "training", faults={}, n=n)
    assert (ended.status, ended.err) == (0, "")
    assert [server.notes(rank) for rank in range(n)] == [["finished"]] * n


@pytest.mark.parametrize(
    ("faults", "cause"),
    [
        ({1: "raise"}, "rank 1 raised ValueError before its first step: the label is 12 and there are 10 classes"),
        ({0: "kill"}, "rank 0 was killed by SIGKILL before its first step"),
        ({0: "sleep"}, "rank 0 has stalled before its first step: rank 1 waited for it for 1.5 s"),
        ({1: "sleep"}, "rank 1 has stalled before its first step: rank 0 waited for it for 1.5 s"),
    ],
)
def test_a_rank_that_never_joins_is_named(server: Server, tmp_path: Path, faults: dict[int, str], cause: str) -> None:
    ended = server.run(tmp_path, "joining", faults=faults)
    assert ended.status == 1
    assert ended.err.splitlines()[-1] == f"RunFailed: {cause}"  # torch's store logs its timeouts before it
    assert ended.seconds < BOUND


@pytest.mark.parametrize("faults", [{1: "user_error"}, {0: "user_error", 1: "user_error"}])
def test_a_bad_request_found_by_a_rank_is_said_once_as_it_is(
    server: Server, tmp_path: Path, faults: dict[int, str]
) -> None:
    ended = server.run(tmp_path, "joining", faults=faults)
    assert (ended.status, ended.err) == (2, "UserError: no class 'Restnet'; did you mean 'ResNet'?")


@pytest.mark.parametrize(
    ("scenario", "cause"),
    [
        # A rank that never finishes, though no collective waits for it.
        (
            "silent_end",
            "rank 1 has stalled after step 4: it gave no sign of life for 1.5 s after another rank had finished",
        ),
        # The ranks that were started go when another cannot be.
        ("cannot_fork", "rank 1 could not be started: [Errno 11] Resource temporarily unavailable"),
        # What the parent ignores stays ignored, except its children.
        ("ignores_children", "rank 1 exited with status 0 before its first step, before the run had ended"),
    ],
)
def test_a_job_that_cannot_go_on_ends_and_says_why(server: Server, tmp_path: Path, scenario: str, cause: str) -> None:
    ended = server.run(tmp_path, scenario)
    assert (ended.status, ended.err) == (1, f"RunFailed: {cause}")
    assert ended.seconds < BOUND


def test_a_rank_that_works_on_alone_and_beats_is_left_to_finish(server: Server, tmp_path: Path) -> None:
    ended = server.run(tmp_path, "slow_end")
    assert (ended.status, ended.err) == (0, "")
    assert ended.seconds > TIMEOUT


def test_the_store_outlives_the_work_of_rank_0(server: Server, tmp_path: Path) -> None:
    ended = server.run(tmp_path, "late_store")
    assert (ended.status, ended.err) == (0, "")
    assert server.notes(1) == ["yes"]


def test_a_rank_finds_the_surroundings_of_a_lightning_process(server: Server, tmp_path: Path) -> None:
    ended = server.run(tmp_path, "surroundings")
    assert (ended.status, ended.err) == (0, "")
    for rank in (0, 1):
        (line,) = server.notes(rank)
        assert json.loads(line) == {
            "RANK": None,
            "LOCAL_RANK": str(rank),
            "NODE_RANK": "0",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            "lightning's rank": rank,
            "threads": True,
            "stdin": "",
            "group": True,
            "SIGTERM": True,
            "SIGINT": True,
        }
    assert ended.out.count("said once") == 1
    lines = ended.out.removeprefix("said once ").splitlines()
    assert sorted(lines) == ["and at last", "rank 0 was here", "rank 1 was here"]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_killed_from_outside_is_named(server: Server, tmp_path: Path, victim: int) -> None:
    server.start(tmp_path, "stepping", obey=False)
    server.until_ready()
    os.kill(int(server.notes(victim)[0]), signal.SIGKILL)
    ended = server.wait()
    assert ended.status == 1
    assert ended.err.startswith(f"RunFailed: rank {victim} was killed by SIGKILL after step ")


def test_ranks_get_one_thread_if_openmp_would_hang(server: Server, tmp_path: Path) -> None:
    ended = server.run(tmp_path, "used_openmp")
    assert (ended.status, ended.err, server.notes(0)) == (0, "", ["1"])
    assert ended.out.startswith("UserWarning this process has run torch on several threads")


def test_the_warning_about_threads_is_ignored_in_the_parent_only(server: Server, tmp_path: Path) -> None:
    ended = server.run(tmp_path, "forks_with_a_warning")
    assert (ended.status, ended.err) == (0, "")
    assert [server.notes(rank) for rank in (0, 1)] == [["filters kept: True"]] * 2


def test_a_traceback_is_shown_on_demand(server: Server, tmp_path: Path) -> None:
    ended = server.run(tmp_path, "debugging")
    assert ended.status == 1
    assert ended.err.count("Traceback (most recent call last)") == 1
    assert "raise_value_error" in ended.err


def test_outside_a_job_the_ranks_functions_do_nothing() -> None:
    assert rank_process.beat(3) == 0
    assert rank_process.beat() == 0
    assert rank_process.stop_requested() == 0
    assert not rank_process.is_supervised()
    rank_process.report_failure(ValueError())


def test_a_failure_text_is_cut_between_two_characters() -> None:
    shared = SharedState(2)
    RankReporter(shared, 0).fail(Failure.OWN, 1, "é" * 2000)
    RankReporter(shared, 1).fail(Failure.OWN, 1, "\ud800 and 'x'")
    assert [record.text.decode() for record in shared.ranks] == ["é" * 512, "\\ud800 and 'x'"]


def test_a_job_has_ranks() -> None:
    with pytest.raises(ValueError, match="n is 0"):
        supervise(0, print)


def test_only_linux_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_fork() == (sys.platform == "linux")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not can_fork()


@pytest.mark.medium
def test_the_module_does_not_import_torch() -> None:
    code = "import sys, plcourse.processes.supervisor; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
