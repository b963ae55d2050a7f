"""What a fit that goes on with a run is asked to do beyond what the run does already."""

from typing import Any

from plcourse.cli.request import Request
from plcourse.runs.changes import Change
from plcourse.runs.config_yaml import read_tree
from plcourse.runs.round_trip import dumped
from plcourse.training.checkpoint import LAST


def changed(request: Request, parser: Any, text: str) -> Change | None:
    """The settings that a run which goes on from a checkpoint of its own is asked to change.

    Args:
        request: what was asked for.
        parser: of the verb.
        text: the whole config that is asked for.

    Raises:
        UserError: a setting that must not change.
    """
    run, recorded = request.run, request.recorded
    if run is None or recorded is None or request.checkpoint is None:
        return None
    if not request.checkpoint.resolve().is_relative_to(run.path.resolve()):  # nothing of it is trained yet
        return None
    before = read_tree(dumped(parser, parser.parse_args([recorded])))
    change = Change.between(before, read_tree(text), text)
    change.check(run)
    return change if change.settings else None


def is_finished(request: Request, change: Change | None) -> bool:
    """Whether a fit is asked to go on with a run that has come to its end, and to change nothing."""
    if not request.continues or request.run is None or change is not None:
        return False
    last = request.checkpoint is None or request.checkpoint.name == LAST
    return last and request.run.status == "finished"
