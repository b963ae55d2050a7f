"""The run that a command writes into: opens it, and records how the command ended."""

import contextlib
import errno
import os
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plcourse.catalog import PACKAGE
from plcourse.cli.request import Request
from plcourse.console import open_streams, say
from plcourse.errors import BAD_REQUEST, Interrupted, RunFailed, UserError, first_line
from plcourse.files import write_text
from plcourse.processes import launcher
from plcourse.processes.diagnosis import is_secondary
from plcourse.runs.changes import Change
from plcourse.runs.claim import claimed
from plcourse.runs.confinement import outside_record
from plcourse.runs.folders import settle_latest
from plcourse.runs.recorder import TidyLogger
from plcourse.runs.references import last_digest, pending_start, start_record
from plcourse.runs.run import Run
from plcourse.training.signals import undisturbed


@contextlib.contextmanager
def recorded_run(request: Request, config: str, seed: int | None, change: Change | None = None) -> Iterator[Run]:
    """Opens the folder of a request, and records how the block ended: finished, failed or interrupted.

    The folder is new, or that of the run that the request continues or evaluates; all processes of a job get the same.
    While a fit runs, no other command can continue its run. An evaluation leaves the record of its run as it is. A
    changed config is written by the first training step.

    Raises:
        UserError: another process is writing into the run; also for a ValueError of the suite, whose message says what
            would be right.
    """
    with contextlib.ExitStack() as held:
        run = _open(request, seed, held)
        with _recorded(run, request, config, change):
            yield run


@contextlib.contextmanager
def _recorded(run: Run, request: Request, config: str, change: Change | None) -> Iterator[None]:
    records = is_first_process() and (request.run is None or request.continues)
    before: dict[Path, str] = {}
    if records and request.continues:
        kept = (run.path / "run.json", run.config_path)
        before = {path: path.read_text(encoding="utf-8") for path in kept if path.is_file()}
        start = start_record(request.checkpoint, run)
        run.resume(trust=request.trusted, start=start, outside=outside_record(request.outside))
        if request.checkpoint is None or not request.checkpoint.resolve().is_relative_to(run.path.resolve()):
            TidyLogger(run.path / "metrics.csv").cut(0)  # it starts again
    if records and (not request.continues or request.checkpoint is None or change is None):
        write_text(run.config_path, config)
    if records and request.verb == "fit":
        say(f"run {run.path}")
    last = last_digest(run) if before else None
    try:
        with _without_repeated_traceback():
            yield
    except BaseException as error:
        known = _as_request(error, run)
        if records:
            # If nothing can be written, as on a full disk, the error must still be shown. Without its process the run
            # counts as killed.
            with undisturbed(), contextlib.suppress(UserError, OSError):
                refused = isinstance(known, UserError) and known.status == BAD_REQUEST
                if before and refused and last_digest(run) == last:
                    for path, content in before.items():  # a bad request leaves the run as it was
                        write_text(path, content)
                elif isinstance(known, Interrupted | KeyboardInterrupt):
                    run.finish("interrupted")
                else:
                    run.finish("failed", error=first_line(known))
                    settle_latest(run.path)
        if known is error:
            raise
        raise known from error
    if records:
        run.finish("finished")
        settle_latest(run.path)


def settle_process() -> None:
    """Opens closed standard streams, and forgets variables of ranks that no launcher has started."""
    open_streams()
    if strays := launcher.forget_strays():
        say(f"ignoring {', '.join(strays)} in the environment: no launcher has started this process as a rank")


def is_first_process() -> bool:
    """Returns whether this process writes the records: rank 0, the supervisor, or the only process."""
    rank = launcher.find_rank()
    return rank is None or rank.number == 0


def _open(request: Request, seed: int | None, held: contextlib.ExitStack) -> Run:
    """Returns the run that the command writes into, claimed until `held` closes; rank 0 chooses it for all ranks.

    A fit that torchrun has restarted continues the run of the previous attempt, from its last checkpoint or else from
    the checkpoint that the attempt started from.
    """
    record = {"verb": request.verb, "seed": seed, "trust": request.trusted}
    record["outside"] = outside_record(request.outside)
    if request.verb == "fit" and request.run is None and is_first_process():
        record["start"] = start_record(request.checkpoint)

    opened: list[Run] = []  # by the first process

    def decide(earlier: str) -> dict[str, Any]:
        run, restarted = request.run, request.verb == "fit" and bool(earlier)
        if restarted:
            run, request.continues = Run(earlier, request.root), True
        run = run or Run.create(request.name, request.root, record)
        if request.run is None or request.continues:
            force = request.force or restarted  # torchrun has ended the earlier attempt
            held.enter_context(claimed(run.path, f"run {run.name}", run.record, force))
        if restarted:
            request.checkpoint = pending_start(run)
            if request.checkpoint is None and last_digest(run) is not None:
                request.checkpoint = run.checkpoint("last")
            say(f"started again by torchrun: continuing from {request.checkpoint or 'the beginning'}")
        elif request.continues and run.record.get("started") != request.read_at:
            raise UserError(f"another command has continued run {run.name} since this one began; give it again")
        opened.append(run)
        chosen = str(request.checkpoint.resolve()) if request.checkpoint else ""
        decision = {"run": str(run.path.resolve()), "checkpoint": chosen}
        return {**decision, "continues": request.continues, "named": request.named}

    decision = launcher.agree(decide)
    held.enter_context(launcher.shared(decision))
    if opened:
        return opened[0]
    request.continues, request.named = decision["continues"], decision["named"]
    request.checkpoint = Path(decision["checkpoint"]) if decision["checkpoint"] else None
    return Run(decision["run"], request.root)


@contextlib.contextmanager
def _without_repeated_traceback() -> Iterator[None]:
    """Hides the traceback of TensorBoard's writing thread, because the training thread raises its error again."""
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not type(failed.thread).__module__.startswith("tensorboard."):
            before(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _as_request(error: BaseException, run: Run) -> BaseException:
    """Translates an error into one that a user can act on.

    A ValueError raised by the suite is a bad request. Under a launcher a broken connection means that another rank
    failed. A full disk, a folder without write permission and a removed folder are no errors of the program.
    """
    # only the first process is certain to see the folder
    if isinstance(error, OSError | UserError) and is_first_process() and not (run.path / "run.json").is_file():
        return RunFailed(f"'{run.path}' was removed or renamed while the run wrote into it; start the run again")
    if isinstance(error, OSError):
        place = Path(os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else run.path)
        denied = error.errno in (errno.EACCES, errno.EPERM) and place.absolute().is_relative_to(run.path.absolute())
        if denied or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return RunFailed(f"cannot write '{place}': {error.strerror}")
    if is_secondary(error) and (rank := launcher.find_rank()):
        reason = first_line(error)
        return RunFailed(
            f"rank {rank.number} lost the other ranks; the rank that ended first shows the cause ({reason})"
        )
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = bool(files) and Path(files[-1]).resolve().is_relative_to(PACKAGE)
    return UserError(first_line(error)) if isinstance(error, ValueError) and own else error
