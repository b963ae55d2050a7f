"""The run that one command writes into: opened before the work, closed with a record of how it ended."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from plcourse.catalog import PACKAGE
from plcourse.core.errors import BAD_REQUEST, Interrupted, UserError, first_line
from plcourse.core.interrupts import undisturbed
from plcourse.core.record import TidyLogger
from plcourse.core.request import Request
from plcourse.core.runs import Run, replace_file
from plcourse.core.screen import say


class Session:
    """Opens the folder that a request writes into: a new one, that of the run it continues, or that it evaluates.

    Args:
        request: what was asked for.
        config: the complete config as YAML.
        seed: the seed of the run.

    Attributes:
        run: the folder, the same for all processes of a job.
    """

    def __init__(self, request: Request, config: str, seed: int | None) -> None:
        self._before: dict[Path, str] = {}
        self._owns_record = request.run is None or request.continues
        if request.run is None:
            record = {"verb": request.verb, "seed": seed}
            self.run = _shared(lambda: Run.create(request.name, request.root, record), request.root)
        else:
            self.run = request.run
        if not self._owns_record or not is_first_process():
            return
        if request.continues:
            kept = (self.run.path / "run.json", self.run.config_path)
            self._before = {path: path.read_text(encoding="utf-8") for path in kept if path.is_file()}
            self.run.resume()
            if request.checkpoint is None:
                TidyLogger(self.run.path / "metrics.csv").cut(0)
        replace_file(self.run.config_path, config)
        if request.verb == "fit":
            say(f"run {self.run.path}")

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Records how the work inside ended: finished, failed or interrupted.

        Raises:
            UserError: in place of a ValueError of the suite, which says what would be right.
        """
        try:
            yield
        except BaseException as error:
            known = _as_request(error)
            if self._owns_record and is_first_process():
                with undisturbed():
                    self._close_after(known)
            if known is error:
                raise
            raise known from error
        if self._owns_record and is_first_process():
            self.run.finish("finished")

    def _close_after(self, error: BaseException) -> None:
        if self._before and isinstance(error, UserError) and error.status == BAD_REQUEST:
            for path, content in self._before.items():  # a refused request leaves the run as it was
                replace_file(path, content)
        elif isinstance(error, Interrupted | KeyboardInterrupt):
            self.run.finish("interrupted")
        else:
            self.run.finish("failed", error=first_line(error))


def is_first_process() -> bool:
    """Whether this process keeps the records: rank 0, the supervisor, or the only one."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _shared(create: Callable[[], Run], root: Path) -> Run:
    """The run that rank 0 creates, for every process that torchrun has started for the job."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return create()
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  (its public name)

    # torchrun's agent serves this store; the restart count keeps the run of an earlier attempt apart
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"plcourse/run/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if is_first_process():
        run = create()
        store.set(key, str(run.path.resolve()))
        return run
    path = Path(store.get(key).decode())
    path.mkdir(parents=True, exist_ok=True)  # on another node there may be no such folder yet
    return Run(path, root)


def _as_request(error: BaseException) -> BaseException:
    """A ValueError that the suite itself raised says what would be right: it is a bad request, not a failure."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    own = frame is not None and Path(frame.tb_frame.f_code.co_filename).is_relative_to(PACKAGE)
    return UserError(first_line(error)) if isinstance(error, ValueError) and own else error
