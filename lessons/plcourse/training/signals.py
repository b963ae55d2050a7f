"""SIGINT and SIGTERM: a fit writes a checkpoint at its next safe point and ends; anything else ends at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector

from plcourse.errors import Interrupted
from plcourse.processes.diagnosis import signal_name
from plcourse.processes.rank_process import is_supervised
from plcourse.processes.supervisor import STOP_SECONDS
from plcourse.training.safe_points import SafePoint

_GRACE = 10.0  # seconds from the second signal to the end of the process


class SignalHandler(_SignalConnector):
    """Replaces Lightning's signal handling, which exits with status 0 after SIGTERM (Lightning issue 21623).

    The first signal lets a fit finish its step; the second ends it immediately, and so does a step that takes too long.
    On SLURM with automatic requeueing, Lightning's handlers stay, because the scheduler's protocol depends on them.
    """

    def __init__(self, trainer: pl.Trainer, safe_point: SafePoint) -> None:
        super().__init__(trainer)
        self._safe_point = safe_point
        self._ended: threading.Event | None = None  # made after a signal, since it cannot be pickled

    def register_signal_handlers(self) -> None:
        """Installs the handlers, if this is the main thread."""
        environment = self.trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            super().register_signal_handlers()
            return
        self.received_sigterm = False
        if threading.current_thread() is not threading.main_thread():
            return
        self._original_handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._on_signal)

    def teardown(self) -> None:
        """Restores the previous handlers, but not after a signal, so that a second one still reaches ours."""
        if self._ended is not None:
            self._ended.set()
        if not self._safe_point.stop_signal:
            super().teardown()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if not self.trainer.training and not (self.trainer.state.fn == "fit" and self.trainer.validating):
            raise Interrupted(signum)
        if not is_supervised():  # otherwise the supervisor says when, and kills on the second signal
            if self._safe_point.stop_signal:
                raise Interrupted(signum)
            self._safe_point.stop_signal = signum
            self._ended = threading.Event()
            threading.Thread(target=_insist, args=(signum, self._ended), daemon=True).start()
        if self.trainer.is_global_zero:
            print("\nfinishing this step and writing a checkpoint; a second signal stops at once", flush=True)  # noqa: T201


def _insist(signum: int, ended: threading.Event) -> None:
    """Ends a fit whose step does not end, such as one that waits for a disk or another machine."""
    if ended.wait(STOP_SECONDS):
        return
    what = f"the step did not end within {STOP_SECONDS:g} s of {signal_name(signum)} and is abandoned"
    print(f"{what}; the last checkpoint is intact", flush=True)  # noqa: T201
    signal.pthread_kill(threading.main_thread().ident or 0, signum)  # as a second signal
    if not ended.wait(_GRACE):  # the step is in a library that ignores signals
        os._exit(128 + signum)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignores SIGINT and SIGTERM in the block, so that the record of a run is written completely."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signum: signal.signal(signum, signal.SIG_IGN) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
