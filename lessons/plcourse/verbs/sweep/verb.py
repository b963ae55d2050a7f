"""The verb `sweep`: runs the cells of a sweep in warm processes, and goes on where it was stopped.

    plcourse sweep --arms ddp/one_process --seeds 0..4 --grid optimizer.lr=0.05,0.2 --n_jobs 2 --metric test/accuracy

Torch is imported once, here, and the workers are forked from this process (started afresh where there is no fork), so
that neither a cell nor a replaced worker waits for the import. A worker runs cell after cell as `plcourse fit --run`
does; what a cell changes in its process is put back, and a worker that saw a failure is replaced. Cells of several
processes come last, one at a time, each in a worker of its own whose ranks `plcourse.processes.launch` watches over.
Workers die with this process, however it dies; `--resume` then takes up each cell at its last checkpoint.
"""

import shlex
import sys
import time
from typing import Any

from plcourse.errors import Interrupted, UserError
from plcourse.processes.workers import Crew, Pool, Signals, one_line, send_output_to
from plcourse.runs.run import Run, runs_below
from plcourse.verbs.sweep.plan import LATEST, Command, Plan, read_command
from plcourse.verbs.sweep.sweep import LOG, Screen, Sweep, arms_and_points, failures, summary


def sweep(verb: str, arguments: list[str]) -> None:
    """`plcourse sweep (-c SWEEP | --arms CONFIG...) [flags]` and `plcourse sweep --resume [SWEEP]`.

    Raises:
        UserError: a bad request, before anything runs; RunFailed: cells failed; Interrupted: a signal stopped it.
    """
    command = read_command(arguments)
    record, pending = None, []
    if command.resume is not None:
        record = Sweep.load(_to_resume(command), command.root)
        pending = record.reopen(command.plan)
        if not pending:
            record.close(stopped=False)
            _say_how_it_ended(record, Screen(record))
            return
    with Signals() as signals, runs_below(command.root):
        # The threads that it began with, so that a resumed cell rounds alike.
        threads = record.record.get("threads") if record else None
        crew = Crew.prepare(command.n_jobs, threads, signals, _preload)
        if record is None:
            assert command.plan is not None
            record = _start(command.plan, command, crew)
            pending = list(record.cells)
        _carry_on(record, pending, command, crew)


def _preload() -> None:
    """Imports what each worker needs, once for all of them."""
    import plcourse.cli.course_cli  # noqa: F401


def _to_resume(command: Command) -> str:
    """The sweep that is meant: the one that is named, else the plan's own latest, else the newest of all."""
    assert command.resume is not None
    return command.plan.name if command.plan is not None and command.resume == LATEST else command.resume


def _start(plan: Plan, command: Command, crew: Crew) -> Sweep:
    """Parses every arm at every point of the grid, which finds all mistakes, then makes the folder."""
    arms = {arm.name: arm for arm in plan.arms}
    pairs = arms_and_points(plan)
    resolved: dict[int, Any] = {}
    with crew.pool(len(pairs)) as pool:
        for at, result in pool.run([(_resolve, plan.flags(arms[name], point)) for name, point in pairs]):
            if result["status"] != "finished" and not crew.signals.stop:
                raise UserError(f"arm '{pairs[at][0]}': {result['error'] or result['status']}")
            resolved[at] = result["value"]
    if crew.signals.stop:
        raise Interrupted(crew.signals.stop)
    return Sweep.create(plan, [resolved[at] for at in range(len(pairs))], command.root, crew.threads)


def _carry_on(record: Sweep, pending: list[dict[str, Any]], command: Command, crew: Crew) -> None:
    """Runs the cells that are left, then says how it all ended."""
    screen = Screen(record)
    screen.say(f"sweep {record.path}\n{len(pending)} of {len(record.cells)} cells to run, {command.n_jobs} at a time")
    began = time.monotonic()
    stop = crew.signals
    try:
        single = [cell for cell in pending if cell["processes"] == 1]
        several = [cell for cell in pending if cell["processes"] > 1]
        _run_cells(record, single, command, crew.pool(len(single)), screen)
        _run_cells(record, several, command, crew.single(), screen)
    finally:
        screen.close()
        record.close(bool(stop.stop))
    if stop.stop:
        screen.say(f"\nto go on: plcourse sweep --resume {shlex.quote(str(record.path))}")
        raise Interrupted(stop.stop)
    _say_how_it_ended(record, screen, f" after {time.monotonic() - began:.1f} s")


def _say_how_it_ended(record: Sweep, screen: Screen, took: str = "") -> None:
    screen.say("\n".join(["", *summary(record), "", f"{record.status}{took}: {record.path}"]))
    if error := failures(record):
        screen.say(f"  plcourse sweep --resume {shlex.quote(str(record.path))}")
        raise error
    scored = next((score for cell in record.cells if (score := record.score(cell))), None)
    if scored is not None:
        screen.say(f"  {shlex.join(['plcourse', 'compare', str(record.path), '--metric', scored[0]])}")


def _run_cells(record: Sweep, cells: list[dict[str, Any]], command: Command, pool: Pool, screen: Screen) -> None:
    then, trust = record.record["then"], [*record.record["trust"], *command.trust]
    tasks = [(_run_cell, {"run": str(record.run(cell).path), "then": then, "trust": trust}) for cell in cells]

    def started(at: int) -> None:
        record.update(cells[at], status="running", error=None)
        screen.started(cells[at])

    with pool:
        for at, result in pool.run(tasks, started, screen.redraw):
            cell = cells[at]
            seconds = round((cell["seconds"] or 0.0) + result["seconds"], 3)
            record.update(cell, status=result["status"], error=result["error"], seconds=seconds)
            screen.ended(cell)


def _resolve(arguments: list[str]) -> dict[str, Any]:
    """The complete config of one arm at one point, and the processes that it takes."""
    from plcourse.cli.course_cli import Resolver
    from plcourse.cli.request import read_request

    text, processes = Resolver.of(read_request("fit", [*arguments, "--seed_everything=0"])).resolved()
    return {"config": text, "processes": processes}


def _run_cell(cell: dict[str, Any]) -> None:
    """What `plcourse fit --run CELL --then ...` does, with its output in the cell's folder."""
    from plcourse.cli.course_cli import carry_out

    run = Run(cell["run"])
    arguments = ["--run", str(run.path)]
    if cell["then"]:
        arguments += ["--then", ",".join(cell["then"])]
    for module in cell["trust"]:
        arguments += ["--trust", module]
    send_output_to(run.path / LOG)
    sys.argv[:] = ["plcourse", "fit", *arguments]
    try:
        carry_out("fit", arguments)
    except Exception as error:
        if run.status not in ("failed", "unreadable"):  # a refused request leaves a run's record as it was
            run.update(status="failed", error=one_line(error))
        raise
