"""Opens the run that a command writes into, and records how the command ended."""

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plcourse.catalog import PACKAGE
from plcourse.cli.request import Request
from plcourse.console import say
from plcourse.errors import BAD_REQUEST, Interrupted, RunFailed, UserError, first_line
from plcourse.files import write_text
from plcourse.processes import torchrun
from plcourse.processes.diagnosis import is_secondary
from plcourse.runs.changes import Change
from plcourse.runs.latest import settle_latest
from plcourse.runs.recorder import TidyLogger
from plcourse.runs.run import Run
from plcourse.runs.start import last_digest, pending_start, start_record
from plcourse.training.signals import undisturbed


class Session:
    """Opens the folder of a request: a new one, or that of the run which the request continues or evaluates.

    Args:
        request: the request.
        config: the complete config as YAML.
        seed: the seed of the run.
        change: the settings that a continued run changes; the first training step records them.

    Attributes:
        run: the run, the same for all processes of a job.
    """

    def __init__(self, request: Request, config: str, seed: int | None, change: Change | None = None) -> None:
        self._before: dict[Path, str] = {}
        self._last: str | None = None
        self._owns_record = request.run is None or request.continues
        record = {"verb": request.verb, "seed": seed, "trust": request.trusted}
        if request.verb == "fit" and request.run is None and is_first_process():
            record["start"] = start_record(request.checkpoint)
        if torchrun.is_rank():
            self.run = _shared(request, record)
            self._owns_record = self._owns_record or request.continues
        else:
            self.run = request.run or Run.create(request.name, request.root, record)
        if not self._owns_record or not is_first_process():
            return
        if request.continues:
            kept = (self.run.path / "run.json", self.run.config_path)
            self._before = {path: path.read_text(encoding="utf-8") for path in kept if path.is_file()}
            self._last = last_digest(self.run)
            self.run.resume(trust=request.trusted, start=start_record(request.checkpoint, self.run))
            if request.checkpoint is None or not _is_below(request.checkpoint, self.run.path):
                TidyLogger(self.run.path / "metrics.csv").cut(0)  # it starts again
        if not request.continues or request.checkpoint is None or change is None:
            write_text(self.run.config_path, config)
        if request.verb == "fit":
            say(f"run {self.run.path}")

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Records how the block ended: finished, failed or interrupted.

        Raises:
            UserError: for a ValueError of the suite, whose message says what would be right.
        """
        try:
            with _told_once():
                yield
        except BaseException as error:
            known = _as_request(error, self.run)
            if self._owns_record and is_first_process():
                # If nothing can be written, as on a full disk, the error must still be shown. Without its process the
                # run counts as killed.
                with undisturbed(), contextlib.suppress(UserError, OSError):
                    self._close_after(known)
            if known is error:
                raise
            raise known from error
        if self._owns_record and is_first_process():
            self.run.finish("finished")
            settle_latest(self.run)

    def _close_after(self, error: BaseException) -> None:
        refused = isinstance(error, UserError) and error.status == BAD_REQUEST
        if self._before and refused and last_digest(self.run) == self._last:
            for path, content in self._before.items():  # a bad request leaves the run as it was
                write_text(path, content)
        elif isinstance(error, Interrupted | KeyboardInterrupt):
            self.run.finish("interrupted")
        else:
            self.run.finish("failed", error=first_line(error))
            settle_latest(self.run)


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def is_first_process() -> bool:
    """Whether this process writes the records: rank 0, the supervisor, or the only process."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _shared(request: Request, record: dict[str, Any]) -> Run:
    """Returns the run that rank 0 chooses for all ranks of a torchrun job.

    A fit that torchrun has restarted continues the run of the previous attempt, from its last checkpoint or else from
    the checkpoint that the attempt started from.
    """

    def decide(earlier: str) -> dict[str, Any]:
        run, checkpoint, continues = request.run, request.checkpoint, request.continues
        if request.verb == "fit" and earlier:
            run, continues = Run(earlier, request.root), True
            checkpoint = pending_start(run)
            if checkpoint is None and last_digest(run) is not None:
                checkpoint = run.checkpoint("last")
            say(f"started again by torchrun: continuing from {checkpoint or 'the beginning'}")
        run = run or Run.create(request.name, request.root, record)
        chosen = str(checkpoint.resolve()) if checkpoint else ""
        return {"run": str(run.path.resolve()), "checkpoint": chosen, "continues": continues, "named": request.named}

    chosen = torchrun.agree(decide)
    request.continues, request.named = chosen["continues"], chosen["named"]
    request.checkpoint = Path(chosen["checkpoint"]) if chosen["checkpoint"] else None
    return Run(chosen["run"], request.root)


@contextlib.contextmanager
def _told_once() -> Iterator[None]:
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

    A ValueError raised by the suite is a bad request. Under torchrun a broken connection means that another rank
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
    if torchrun.is_rank() and is_secondary(error):
        rank, reason = os.environ["RANK"], first_line(error)
        return RunFailed(f"rank {rank} lost the other ranks; the rank that ended first shows the cause ({reason})")
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    own = frame is not None and Path(frame.tb_frame.f_code.co_filename).resolve().is_relative_to(PACKAGE)
    return UserError(first_line(error)) if isinstance(error, ValueError) and own else error
