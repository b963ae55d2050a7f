"""The verb `sweep`: runs the cells of a sweep in warm processes, and resumes a sweep that was stopped.

    plcourse sweep --arms ddp/one_process --seeds 0..4 --grid optimizer.lr=0.05,0.2 --n_jobs 2 --metric test/accuracy

Torch is imported once, and the workers are forked from this process (or started anew where forking is impossible), so
that neither a cell nor a replaced worker waits for the import. A worker runs cell after cell as `plcourse fit --run`
does; what a cell changes in its process is undone, and a worker that saw a failure is replaced. Cells of several
processes come last, one at a time, each in a new worker whose ranks `plcourse.processes.supervisor` supervises. Workers
end with this process, however it ends; `--resume` then continues each cell from its last checkpoint.
"""

import shlex
import sys
import time

from plcourse.cli.request import read_request
from plcourse.errors import Interrupted, UserError
from plcourse.processes.launcher import forget_strays
from plcourse.processes.worker_process import one_line, send_output_to
from plcourse.processes.workers import PoolSettings, Signals, WorkerPool
from plcourse.runs.confinement import check_links
from plcourse.runs.run import Run, runs_below
from plcourse.verbs.sweep.command import SweepCommand, read_command
from plcourse.verbs.sweep.plan import LATEST, SweepCell, SweepPlan
from plcourse.verbs.sweep.screen import Screen, summary
from plcourse.verbs.sweep.sweep import LOG, ResolvedConfig, Sweep


def sweep(verb: str, arguments: list[str]) -> None:
    """Runs `plcourse sweep (-c SWEEP | --arms CONFIG...) [flags]` or `plcourse sweep --resume [SWEEP]`."""
    command = read_command(arguments)
    forget_strays()
    if command.resume is not None:
        name = command.plan.name if command.plan and command.resume == LATEST else command.resume
        found = Sweep.load(name, command.root)
        check_links(found.path)
        with found.claimed(command.force):
            _resume(Sweep(found.path, command.root), command)  # as it is now that nobody else can change it
        return
    assert command.plan is not None
    _check_arms(command.plan)
    with Signals() as signals, runs_below(command.root):
        workers = PoolSettings.prepare(command.n_jobs, None, signals, _preload)
        record = _create(command.plan, command, workers)
        with record.claimed():
            _run_pending(record, list(record.cells), command, workers)


def _resume(record: Sweep, command: SweepCommand) -> None:
    pending = record.reopen(command.plan)
    if not pending:
        record.close(stopped=False)
        _say_how_it_ended(record, Screen(record))
        return
    with Signals() as signals, runs_below(command.root):
        # A resumed cell uses as many threads as before, so that sums round in the same way.
        workers = PoolSettings.prepare(command.n_jobs, record.record.get("threads"), signals, _preload)
        _run_pending(record, pending, command, workers)


def _preload() -> None:
    """Imports what every worker needs, once for all of them."""
    import plcourse.cli.course_cli  # noqa: F401


def _check_arms(plan: SweepPlan) -> None:
    """Reads the config and the flags of every arm, which finds most mistakes before torch is imported."""
    for arm in plan.arms:
        try:
            read_request("fit", plan.flags(arm, plan.points()[0]))
        except UserError as error:
            raise UserError(f"arm '{arm.name}': {error}") from error


def _create(plan: SweepPlan, command: SweepCommand, workers: PoolSettings) -> Sweep:
    """Parses every arm at every point of the grid, which finds all mistakes, then makes the folder."""
    pairs = plan.arms_and_points()
    resolved: dict[int, ResolvedConfig] = {}
    with workers.pool(len(pairs)) as pool:
        for at, result in pool.run([(_resolve, plan.flags(arm, point)) for arm, point in pairs]):
            if result.status != "finished" and not workers.signals.stop:
                raise UserError(f"arm '{pairs[at][0].name}': {result.error or result.status}")
            resolved[at] = result.value
    if workers.signals.stop:
        raise Interrupted(workers.signals.stop)
    return Sweep.create(plan, [resolved[at] for at in range(len(pairs))], command.root, workers.threads)


def _run_pending(record: Sweep, pending: list[SweepCell], command: SweepCommand, workers: PoolSettings) -> None:
    """Runs the cells that are left and prints the result."""
    screen = Screen(record)
    screen.say(f"sweep {record.path}\n{len(pending)} of {len(record.cells)} cells to run, {command.n_jobs} at a time")
    began = time.monotonic()
    stop = workers.signals
    try:
        single = [cell for cell in pending if cell.processes == 1]
        several = [cell for cell in pending if cell.processes > 1]
        _run_cells(record, single, command, workers.pool(len(single)), screen)
        _run_cells(record, several, command, workers.single(), screen)
    finally:
        screen.close()
        record.close(bool(stop.stop))
    if stop.stop:
        screen.say(f"\nto resume: plcourse sweep --resume {shlex.quote(str(record.path))}")
        raise Interrupted(stop.stop)
    _say_how_it_ended(record, screen, f" after {time.monotonic() - began:.1f} s")


def _say_how_it_ended(record: Sweep, screen: Screen, took: str = "") -> None:
    screen.say("\n".join(["", *summary(record), "", f"{record.status}{took}: {record.path}"]))
    if error := record.failures():
        screen.say(f"  plcourse sweep --resume {shlex.quote(str(record.path))}")
        raise error
    scored = next((score for cell in record.cells if (score := record.score(cell))), None)
    if scored is not None:
        screen.say(f"  {shlex.join(['plcourse', 'compare', str(record.path), '--metric', scored[0]])}")


def _run_cells(record: Sweep, cells: list[SweepCell], command: SweepCommand, pool: WorkerPool, screen: Screen) -> None:
    shared = ["--then", ",".join(record.record["then"])] if record.record["then"] else []
    shared += ["--force"] if command.force else []
    shared += [*record.permissions, *command.permissions]
    tasks = [(_run_cell, ["--run", str(record.run(cell).path), *shared]) for cell in cells]

    def started(at: int) -> None:
        record.update(cells[at], status="running", error=None)
        screen.started(cells[at])

    with pool:
        for at, result in pool.run(tasks, started, screen.redraw):
            cell = cells[at]
            seconds = round((cell.seconds or 0.0) + result.seconds, 3)
            record.update(cell, status=result.status, error=result.error, seconds=seconds)
            screen.ended(cell)


def _resolve(arguments: list[str]) -> ResolvedConfig:
    """In a worker: resolves the config of one arm at one point of the grid."""
    from plcourse.cli.course_cli import Resolver

    request = read_request("fit", [*arguments, "--seed_everything=0"])
    request.flags_are_typed = False  # a sweep's file may have given them, and each cell reads them from its config
    return ResolvedConfig(*Resolver.of(request).resolved())


def _run_cell(arguments: list[str]) -> None:
    """In a worker: runs `plcourse fit --run CELL --then ...` with its output in the cell's folder."""
    from plcourse.cli.course_cli import carry_out

    run = Run(arguments[1])
    send_output_to(run.path / LOG)
    sys.argv[:] = ["plcourse", "fit", *arguments]
    try:
        carry_out(read_request("fit", arguments))
    except Exception as error:
        if run.status not in ("failed", "unreadable"):  # a refused request does not touch the run's record
            run.update(status="failed", error=one_line(error))
        raise
