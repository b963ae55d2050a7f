"""The Python API: verbs as functions that return a `Run`.

run = plcourse.run("fit", "ddp/one_process", {"trainer.max_epochs": 3}, then=["test"])
run.eval("test")["metrics"]["test/accuracy"]
"""

import signal
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from plcourse.cli.request import permission_flags, read_request
from plcourse.console.flags import as_flags
from plcourse.errors import UserError
from plcourse.runs.export_request import words
from plcourse.runs.run import Run as RecordedRun
from plcourse.training.variant import predictions_folder


class Run(RecordedRun):
    """The folder of a run, with methods that evaluate its best checkpoint; see `plcourse.runs.run.Run`.

    Attributes:
        trust: your modules that the run's config may name: those that `run` was called with. A run that was loaded
            trusts none, whatever its folder says; set it after you have read the config.
    """

    trust: Sequence[str] = ()

    @classmethod
    def of(cls, record: RecordedRun) -> Self:
        """Returns the same run with these methods."""
        run = cls(record.path, record.root)
        run.variant = record.variant
        return run

    def test(self, overrides: Mapping[str, object] | None = None) -> dict[str, float]:
        """Scores the best checkpoint on the test part and returns the scores."""
        return self._scores("test", "test", overrides)

    def validate(self, overrides: Mapping[str, object] | None = None) -> dict[str, float]:
        """Scores the best checkpoint on the validation part and returns the scores."""
        return self._scores("validate", "val", overrides)

    def predict(self, overrides: Mapping[str, object] | None = None) -> list[Path]:
        """Writes the best checkpoint's predictions and returns the Parquet files."""
        variant = self._evaluate("predict", overrides)
        return sorted(predictions_folder(self.path, variant).glob("*.parquet")) if variant else self.predictions

    def _scores(self, verb: str, stage: str, overrides: Mapping[str, object] | None) -> dict[str, float]:
        variant = self._evaluate(verb, overrides)
        return self.eval(f"{stage}-{variant}" if variant else stage)["metrics"]

    def _evaluate(self, verb: str, overrides: Mapping[str, object] | None) -> str:
        """Does what ``plcourse VERB --run RUN`` does and returns the name of the variant."""
        links = [] if self.viewed is None else ["--allow_writes", str(self.viewed)]  # a view links its checkpoints
        return _run(
            verb, ["--run", str(self.path), *links, *as_flags(overrides), *permission_flags(self.trust)]
        ).variant


def run_verb(verb: str, arguments: list[str]) -> Run | None:
    """Does what ``plcourse VERB ARGUMENTS`` does and returns the run; see `plcourse.cli.course_cli.carry_out`."""
    request = read_request(verb, ["--help" if word == "--help_all" else word for word in arguments])
    from plcourse.cli.course_cli import carry_out  # here, since it imports torch and most mistakes are found by now

    record = carry_out(request)
    return None if record is None else Run.of(record)


def latency(arguments: list[str]) -> None:
    """Carries out ``plcourse benchmark latency ARGUMENTS``."""
    run_verb("latency", arguments)


def run(
    verb: str,
    config: str | Path | dict[str, Any],
    overrides: Mapping[str, object] | None = None,
    *,
    then: Iterable[str] = (),
    runs_root: str | Path | None = None,
    trust: str | Iterable[str] = (),
    flags: Iterable[str] = (),
) -> Run:
    """Runs one verb, as ``plcourse VERB -c CONFIG`` does, and returns the run.

    Args:
        verb: fit, validate, test, predict or export.
        config: a packaged name, a file, or the config itself, which may write to any path, as your own code may.
        overrides: dotted keys and their values, such as ``{"trainer.max_epochs": 3}``.
        then: verbs to run after a fit.
        runs_root: the root folder of all runs.
        trust: your modules that the config may name, as a list or in one string with commas.
        flags: further flags as on the command line, such as ``["--allow_untrained"]``.

    Raises:
        UserError: a bad request.
        RunFailed: a run that could not be finished.
    """
    options = list(flags)
    if then := list(then):
        options += ["--then", ",".join(then)]
    if runs_root is not None:
        options += ["--runs_root", str(runs_root)]
    trusted = words([trust] if isinstance(trust, str) else list(trust))
    options += permission_flags(trusted)
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(config, dict):
            path = Path(folder) / "inline.yaml"
            path.write_text(yaml.safe_dump(config, sort_keys=False))
            config = path
            options += ["--allow_writes", str(Path(folder).anchor)]
        run = _run(verb, ["--config", str(config), *as_flags(overrides), *options])
    run.trust = trusted
    return run


def _run(verb: str, arguments: list[str]) -> Run:
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        run = run_verb(verb, arguments)
    finally:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in handlers.items():
                signal.signal(signum, handler)
    if run is None:
        raise UserError(f"{verb} wrote no run")
    return run
