"""SIGINT and SIGTERM: a fit ends at its next boundary with a checkpoint, anything else ends at once."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector

from plcourse.errors import Interrupted
from plcourse.processes import launch
from plcourse.training.safe_points import SafePoint


class SignalHandler(_SignalConnector):
    """Replaces Lightning's signal handling, which exits 0 after SIGTERM (Lightning issue 21623).

    The first signal lets a fit finish its step; the second ends it where it stands. On SLURM with automatic requeueing
    Lightning's own handlers stay, because the scheduler's protocol depends on them.

    Args:
        trainer: the trainer whose runs signals end.
        boundary: the boundary of that trainer, which ends a fit.
    """

    def __init__(self, trainer: pl.Trainer, boundary: SafePoint) -> None:
        super().__init__(trainer)
        self._boundary = boundary

    def register_signal_handlers(self) -> None:
        """Installs the handlers; only the main thread can."""
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
        """Puts the earlier handlers back; after a signal not yet, so that a second one meets ours, not theirs."""
        if not self._boundary.stop_signal:
            super().teardown()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if not self.trainer.training and not (self.trainer.state.fn == "fit" and self.trainer.validating):
            raise Interrupted(signum)
        if not launch.is_supervised():  # else the supervisor says when, and it kills on the second signal
            if self._boundary.stop_signal:
                raise Interrupted(signum)
            self._boundary.stop_signal = signum
        if self.trainer.is_global_zero:
            print("\nfinishing this step and writing a checkpoint; once more stops at once", flush=True)  # noqa: T201


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Lets the record of a run be written whole: SIGINT and SIGTERM wait for nobody, so they are ignored meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signum: signal.signal(signum, signal.SIG_IGN) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
