"""`plcourse benchmark scaling`: what more ranks bring, measured in a fit, and what takes the rest.

    plcourse benchmark scaling -c ddp/one_process

Every job trains the same global batch under the suite's Trainer: one process with one thread, one with two, two ranks
with one each, and so on. All jobs are started once and stay warm; `plcourse.verbs.benchmark.coordinator` lets one at a
time train. The ranks of a job are also timed without exchanging their gradients: what that saves is communication, the
ranks' waiting for each other included.
"""

import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml

from plcourse.cli.request import read_request
from plcourse.errors import Interrupted, RunFailed, UserError
from plcourse.files import write_json, write_text
from plcourse.processes.forking import can_fork, threads_survive
from plcourse.processes.supervisor import supervise
from plcourse.processes.worker_process import send_output_to
from plcourse.processes.workers import PoolSettings, Signals, WorkerPool
from plcourse.runs.environment import environment
from plcourse.runs.folders import new_folder
from plcourse.runs.record import SCHEMA, timestamp
from plcourse.runs.run import BENCHMARKS, Run
from plcourse.verbs.benchmark.plan import Command, job_flags, jobs_of, read_command
from plcourse.verbs.benchmark.result import build_report
from plcourse.verbs.benchmark.show import as_json, as_text, draw

RECORD, PLOT, LOG = "scaling.json", "scaling.png", "log.txt"


def scaling(arguments: list[str]) -> None:
    """`plcourse benchmark scaling -c CONFIG [flags]`.

    Raises:
        UserError: a bad request; RunFailed: a job ended before it was measured; Interrupted: a signal stopped it.
    """
    command = read_command(arguments)
    read_request("fit", command.arguments)  # finds most mistakes, before anything heavy is imported
    _check_machine()
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
    """Imports what each worker needs, once for all of them."""
    import plcourse.cli.course_cli  # noqa: F401


def _check_machine() -> None:
    if not can_fork():
        raise UserError("plcourse benchmark scaling forks its jobs, which takes Linux and a process without CUDA")
    if "torch" in sys.modules and not threads_survive(2):
        raise UserError(
            "this process has run torch on several threads, which do not survive a fork: "
            "run `plcourse benchmark scaling` in a new process"
        )


def _resolve(arguments: list[str]) -> dict[str, Any]:
    """In a worker: the complete config, and what the jobs need to know of it and of the machine."""
    import torch

    from plcourse.cli.course_cli import Resolver

    request = read_request("fit", arguments)
    resolver = Resolver.of(request)
    text, processes = resolver.resolved()
    trainer, data = resolver.config.fit.trainer, resolver.config.fit.data
    batch_size = data.init_args.get("batch_size")
    if not isinstance(batch_size, int):
        raise UserError(f"{data.class_path} takes no batch_size, which is what all ranks must be able to share")
    name = str(trainer.accelerator)
    if name not in ("auto", "cpu", "gpu", "cuda"):
        raise UserError(f"trainer.accelerator is {name}; `plcourse benchmark scaling` measures on cpu and gpu")
    on_gpus = name != "cpu" and torch.cuda.is_available()
    if name in ("gpu", "cuda") and not on_gpus:
        raise UserError(f"trainer.accelerator is {name}, but torch finds no GPU; --trainer.accelerator cpu")
    return {
        "name": request.name,
        "config": text,
        "trust": request.trusted,
        "device": "cuda" if on_gpus else "cpu",
        "device_name": torch.cuda.get_device_name() if on_gpus else None,
        "available": torch.cuda.device_count() if on_gpus else len(os.sched_getaffinity(0)),
        "global_batch": batch_size * processes,
        "strategy": yaml.safe_load(text)["trainer"]["strategy"],
    }


def _measure(command: Command, found: dict[str, Any], signals: Signals) -> None:
    from plcourse.verbs.benchmark.coordinator import Coordinator

    jobs = jobs_of(command.world_sizes, found["device"], found["available"])
    flags = [job_flags(job, found["global_batch"], found["strategy"]) for job in jobs]
    parent = command.root / BENCHMARKS / "scaling"
    record = {"schema": SCHEMA, "status": "running", "config": found["name"], "started": timestamp(), **environment()}
    try:
        with new_folder(parent) as folder:
            write_text(folder / "config.yaml", found["config"])
            write_json(folder / RECORD, record)
    except OSError as error:
        raise UserError(
            f"cannot make a folder in '{parent}': {error.strerror}; --runs_root names another root"
        ) from error
    line = _Line()
    if command.json != "-":
        line.write(f"benchmark {folder}\n")
    conductor = Coordinator(jobs, command, line.show)
    others = _used_by_others()
    tasks = [
        (
            _run_job,
            {
                "job": job,
                "folder": str(folder / job.folder),
                "arguments": ["--config", str(folder / "config.yaml"), *own, *_trusting(found["trust"])],
                "connections": [end.fileno() for end in ends],
                "config": found["name"],
            },
        )
        for job, own, ends in zip(jobs, flags, conductor.ends, strict=True)
    ]
    try:
        with WorkerPool(len(jobs), None, True, signals) as pool:
            for at, outcome in pool.run(tasks, tick=conductor.tick, wake=conductor.connections):
                if outcome.status == "failed":
                    log = folder / jobs[at].folder / LOG
                    raise RunFailed(f"{jobs[at].label}: {outcome.error} (see {log})")
    except RunFailed as error:
        write_json(folder / RECORD, {**record, "status": "failed", "ended": timestamp(), "error": str(error)})
        raise
    finally:
        line.clear()
    if signals.stop:
        write_json(folder / RECORD, {**record, "status": "interrupted", "ended": timestamp()})
        raise Interrupted(signals.stop)
    found["used_by_others"] = max(others, _used_by_others())
    report = {**record, "status": "finished", "ended": timestamp(), **build_report(conductor, found)}
    write_json(folder / RECORD, report)
    draw(report, folder / PLOT)
    if command.json == "-":
        line.write(as_json(report))
        return
    line.write(as_text(report))
    if command.json is not None:
        write_json(Path(command.json), report)
    line.write(f"\nnumbers in {folder / RECORD}, plot in {folder / PLOT}\n")


def _used_by_others(seconds: float = 1.0) -> float:
    """The share of the cores' time that goes to others, while this process sleeps; 0 to 1."""
    before = _core_times()
    time.sleep(seconds)
    idle, every = (late - early for early, late in zip(before, _core_times(), strict=True))
    return 1 - idle / every if every else 0.0


def _core_times() -> tuple[int, int]:
    """Ticks that all cores have idled, and that they have run, since the machine started (proc(5), /proc/stat)."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)  # waiting for a disk is idling too


def _trusting(modules: list[str]) -> list[str]:
    return [word for module in modules for word in ("--trust", module)]


class _Line:
    """Standard output, with one line on a terminal that says how far it is."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, text: str) -> None:
        """Replaces the line."""
        if self._live:
            self.write(f"\r\x1b[K{text}")

    def clear(self) -> None:
        """Takes the line away."""
        if self._live:
            self.write("\r\x1b[K")

    def write(self, text: str) -> None:
        """Writes text at once."""
        sys.stdout.write(text)
        sys.stdout.flush()


def _run_job(task: dict[str, Any]) -> None:
    """In a worker: one job from its start to its last stretch, in this process or in ranks forked from it."""
    import torch

    from plcourse.cli.course_cli import CourseCLI, quieten
    from plcourse.runs import allowlist
    from plcourse.training.run_checkpoint import RunCheckpoint
    from plcourse.verbs.benchmark.timed_callback import TimedCallback

    job, folder = task["job"], Path(task["folder"])
    folder.mkdir(parents=True)
    send_output_to(folder / LOG)
    os.environ["OMP_NUM_THREADS"] = str(job.threads)
    torch.set_num_threads(job.threads)

    class Measured(CourseCLI):
        """A fit with a metronome, into a folder that was made for it."""

        rank = 0

        def instantiate_trainer(self, **kwargs: Any) -> Any:
            """The trainer of a run, without its checkpoints: when they are due is a matter of time."""
            trainer = super().instantiate_trainer(**kwargs)
            connection = Connection(os.dup(task["connections"][self.rank]))
            kept = [callback for callback in trainer.callbacks if not isinstance(callback, RunCheckpoint)]
            trainer.callbacks = [*kept, TimedCallback(connection)]
            return trainer

        def _run_subcommand(self, subcommand: str) -> None:
            self.run_folder = Run(folder)
            write_json(folder / "run.json", {"schema": SCHEMA, "created": timestamp(), "config": task["config"]})
            if job.ranks == 1:
                self._work(subcommand)
            else:
                supervise(job.ranks, self._work_as)

        def _work_as(self, rank: int) -> None:
            self.rank = rank
            self._work("fit")

    request = read_request("fit", task["arguments"])
    allowlist.install(request.trusted)
    quieten()
    Measured(request)
