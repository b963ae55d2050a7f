"""The run that one command writes into: opened before the work, closed with a record of how it ended."""

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
    """Opens the folder that a request writes into: a new one, that of the run it continues, or that it evaluates.

    Args:
        request: what was asked for.
        config: the complete config as YAML.
        seed: the seed of the run.
        change: what a fit that goes on changes; recorded when it trains its first step.

    Attributes:
        run: the folder, the same for all processes of a job.
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
                TidyLogger(self.run.path / "metrics.csv").cut(0)  # it starts over
        if not request.continues or request.checkpoint is None or change is None:
            write_text(self.run.config_path, config)
        if request.verb == "fit":
            say(f"run {self.run.path}")

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Records how the work inside ended: finished, failed or interrupted.

        Raises:
            UserError: in place of a ValueError of the suite, which says what would be right.
        """
        try:
            with _told_once():
                yield
        except BaseException as error:
            known = _as_request(error, self.run)
            if self._owns_record and is_first_process():
                # Where nothing can be recorded, on a full disk say, why it ended is still to be told; without its
                # process the run counts as killed.
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
            for path, content in self._before.items():  # a refused request leaves the run as it was
                write_text(path, content)
        elif isinstance(error, Interrupted | KeyboardInterrupt):
            self.run.finish("interrupted")
        else:
            self.run.finish("failed", error=first_line(error))
            settle_latest(self.run)


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def is_first_process() -> bool:
    """Whether this process keeps the records: rank 0, the supervisor, or the only one."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _shared(request: Request, record: dict[str, Any]) -> Run:
    """The run that rank 0 chooses for every rank of a torchrun job.

    A fit that torchrun has started again continues the run of the attempt before it, from its last checkpoint or, where
    there is none yet, from where that attempt had started.
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
    """Leaves out the traceback of TensorBoard's writing thread, whose error the training thread raises again."""
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
    """The error in the suite's own terms.

    A ValueError that the suite itself raised says what would be right: it is a bad request, not a failure. Under
    torchrun, where nobody sees all ranks, a broken connection only says that another rank failed. What a full disk, a
    folder that may not be written any more or one that is gone does to a run is no error of the program.
    """
    # another process may be on a machine that never sees the folder
    if isinstance(error, OSError | UserError) and is_first_process() and not (run.path / "run.json").is_file():
        return RunFailed(f"'{run.path}' was removed or renamed while the run wrote into it; start it again")
    if isinstance(error, OSError):
        place = Path(os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else run.path)
        denied = error.errno in (errno.EACCES, errno.EPERM) and place.absolute().is_relative_to(run.path.absolute())
        if denied or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return RunFailed(f"cannot write '{place}': {error.strerror}")
    if torchrun.is_rank() and is_secondary(error):
        rank, reason = os.environ["RANK"], first_line(error)
        return RunFailed(f"rank {rank} lost the other ranks; the one that ended first says why ({reason})")
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    own = frame is not None and Path(frame.tb_frame.f_code.co_filename).resolve().is_relative_to(PACKAGE)
    return UserError(first_line(error)) if isinstance(error, ValueError) and own else error
