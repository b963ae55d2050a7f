"""`plcourse benchmark scaling`: measures how much faster more ranks train, and where the rest of the time goes.

    plcourse benchmark scaling -c ddp/one_process

Every job trains the same global batch under the suite's Trainer: one process with one thread, one with two, two ranks
with one each, and so on. All jobs are started once and stay warm; `plcourse.verbs.benchmark.coordinator` lets one train
at a time. The ranks of a job are also timed without exchanging their gradients; the time saved is communication,
including the time that ranks wait for each other.
"""

import json
import os
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml

from plcourse.cli.request import read_request
from plcourse.errors import Interrupted, RunFailed, UserError, printable
from plcourse.files import write_json, write_text
from plcourse.processes.forking import can_fork, threads_survive
from plcourse.processes.supervisor import supervise
from plcourse.processes.worker_process import send_output_to
from plcourse.processes.workers import PoolSettings, Signals, WorkerPool
from plcourse.runs.environment import environment
from plcourse.runs.folders import new_folder
from plcourse.runs.record import SCHEMA, timestamp
from plcourse.runs.run import BENCHMARKS, Run
from plcourse.verbs.benchmark.plan import Job, ScalingCommand, ScalingSetup, job_flags, jobs_of, read_command
from plcourse.verbs.benchmark.result import build_result
from plcourse.verbs.benchmark.show import as_text, draw

RECORD, PLOT, LOG = "scaling.json", "scaling.png", "log.txt"


def scaling(arguments: list[str]) -> None:
    """Runs `plcourse benchmark scaling -c CONFIG [flags]`; RunFailed if a job ended before it was measured."""
    command = read_command(arguments)
    read_request("fit", command.arguments)  # finds most mistakes before anything heavy is imported
    if not can_fork():
        raise UserError("plcourse benchmark scaling forks its jobs, which needs Linux and a process without CUDA")
    if "torch" in sys.modules and not threads_survive(2):
        why = "this process has run torch on several threads, which do not survive a fork"
        raise UserError(f"{why}: run `plcourse benchmark scaling` in a new process")
    with Signals() as signals:
        workers = PoolSettings.prepare(1, 1, signals, _preload)
        with workers.pool(1) as pool:
            ((_, outcome),) = pool.run([(_resolve, command.arguments)])
        if signals.stop:
            raise Interrupted(signals.stop)
        if outcome.status != "finished":
            raise UserError(outcome.error or outcome.status)
        _measure(command, outcome.value, signals)


def _preload() -> None:
    """Imports what every worker needs, once for all of them."""
    import plcourse.cli.course_cli  # noqa: F401


def _resolve(arguments: list[str]) -> ScalingSetup:
    """In a worker: resolves the config, and finds what the jobs need to know of it and of the machine."""
    import torch

    from plcourse.cli.course_cli import Resolver

    request = read_request("fit", arguments)
    request.flags_are_typed = False  # each job reads them from a file in its own folder
    resolver = Resolver.of(request)
    text, processes = resolver.resolved()
    trainer, data = resolver.config.fit.trainer, resolver.config.fit.data
    batch_size = data.init_args.get("batch_size")
    if not isinstance(batch_size, int):
        raise UserError(f"{data.class_path} has no batch_size, which the ranks must be able to divide")
    name = str(trainer.accelerator)
    if name not in ("auto", "cpu", "gpu", "cuda"):
        raise UserError(f"trainer.accelerator is {name}; `plcourse benchmark scaling` measures on cpu and gpu")
    on_gpus = name != "cpu" and torch.cuda.is_available()
    if name in ("gpu", "cuda") and not on_gpus:
        raise UserError(f"trainer.accelerator is {name}, but torch finds no GPU; use --trainer.accelerator cpu")
    return ScalingSetup(
        name=request.name,
        config=text,
        permissions=request.permissions,
        device="cuda" if on_gpus else "cpu",
        device_name=torch.cuda.get_device_name() if on_gpus else None,
        available=torch.cuda.device_count() if on_gpus else len(os.sched_getaffinity(0)),
        global_batch=batch_size * processes,
        strategy=yaml.safe_load(text)["trainer"]["strategy"],
    )


@dataclass(frozen=True)
class _JobTask:
    """What a worker needs to run a job; `connections` are the file descriptors of its ranks."""

    job: Job
    folder: Path
    config: str
    arguments: list[str]
    connections: list[int]


def _measure(command: ScalingCommand, setup: ScalingSetup, signals: Signals) -> None:
    from plcourse.verbs.benchmark.coordinator import Coordinator

    jobs = jobs_of(command.world_sizes, setup.device, setup.available)
    flags = [job_flags(job, setup.global_batch, setup.strategy) for job in jobs]
    parent = command.root / BENCHMARKS / "scaling"
    record = {"schema": SCHEMA, "status": "running", "config": setup.name, "started": timestamp(), **environment()}
    try:
        with new_folder(parent) as folder:
            write_text(folder / "config.yaml", setup.config)
            write_json(folder / RECORD, record)
    except OSError as error:
        what = f"cannot make a folder in '{parent}': {error.strerror}"
        raise UserError(f"{what}; --runs_root names another root") from error
    if command.json != "-":
        _write(f"benchmark {folder}\n")
    coordinator = Coordinator(jobs, command, _show_progress)
    others = _used_by_others()
    tasks = []
    for job, own, ends in zip(jobs, flags, coordinator.ends, strict=True):
        arguments = ["--config", str(folder / "config.yaml"), *own, *setup.permissions]
        task = _JobTask(job, folder / job.folder, setup.name, arguments, [end.fileno() for end in ends])
        tasks.append((_run_job, task))
    try:
        with WorkerPool(len(jobs), None, True, signals) as pool:
            for at, outcome in pool.run(tasks, tick=coordinator.tick, wake=coordinator.connections):
                if outcome.status == "failed":
                    log = folder / jobs[at].folder / LOG
                    raise RunFailed(f"{jobs[at].label}: {outcome.error} (see {log})")
    except RunFailed as error:
        write_json(folder / RECORD, {**record, "status": "failed", "ended": timestamp(), "error": str(error)})
        raise
    finally:
        _show_progress("")
    if signals.stop:
        write_json(folder / RECORD, {**record, "status": "interrupted", "ended": timestamp()})
        raise Interrupted(signals.stop)
    result = build_result(coordinator, setup, max(others, _used_by_others()))
    report = {**record, "status": "finished", "ended": timestamp(), **result.as_json()}
    write_json(folder / RECORD, report)
    draw(result, folder / PLOT)
    if command.json == "-":
        _write(json.dumps(report, indent=2, default=str) + "\n")
        return
    _write(printable(as_text(result)))
    if command.json is not None:
        write_json(Path(command.json), report)
    _write(f"\nnumbers in {folder / RECORD}, plot in {folder / PLOT}\n")


def _used_by_others(seconds: float = 1.0) -> float:
    """The fraction of the cores' time that other processes use while this one sleeps, 0 to 1."""
    before = _core_times()
    time.sleep(seconds)
    idle, every = (late - early for early, late in zip(before, _core_times(), strict=True))
    return 1 - idle / every if every else 0.0


def _core_times() -> tuple[int, int]:
    """Idle and total ticks of all cores since the machine started (proc(5), /proc/stat)."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)  # waiting for a disk counts as idle


def _show_progress(line: str) -> None:
    """Replaces the last line of a terminal; writes nothing elsewhere."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        _write(f"\r\x1b[K{line}")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _run_job(task: _JobTask) -> None:
    """In a worker: runs one job to its last stretch, in this process or in ranks forked from it."""
    import torch

    from plcourse.cli.course_cli import CourseCLI
    from plcourse.cli.messages import quieten
    from plcourse.runs import allowlist
    from plcourse.training.run_checkpoint import RunCheckpoint
    from plcourse.training.trainer import Trainer
    from plcourse.verbs.benchmark.timed_callback import TimedCallback

    job, folder = task.job, task.folder
    folder.mkdir(parents=True)
    send_output_to(folder / LOG)
    os.environ["OMP_NUM_THREADS"] = str(job.threads)
    torch.set_num_threads(job.threads)

    class Measured(CourseCLI):
        """A fit in the job's folder whose stretches are timed."""

        rank = 0

        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            """Builds the trainer without checkpoints, which would be written during stretches."""
            trainer = super().instantiate_trainer(**kwargs)
            connection = Connection(os.dup(task.connections[self.rank]))
            kept = [callback for callback in trainer.callbacks if not isinstance(callback, RunCheckpoint)]
            trainer.callbacks = [*kept, TimedCallback(connection)]
            return trainer

        def _run_subcommand(self, subcommand: str) -> None:
            self.run_folder = Run(folder)
            write_json(folder / "run.json", {"schema": SCHEMA, "created": timestamp(), "config": task.config})
            if job.ranks == 1:
                self._work_as(0)
            else:
                supervise(job.ranks, self._work_as)

        def _work_as(self, rank: int) -> None:
            self.rank = rank
            self._work(Run(folder))

    request = read_request("fit", task.arguments)
    allowlist.install(request.trusted)
    quieten()
    Measured(request)
