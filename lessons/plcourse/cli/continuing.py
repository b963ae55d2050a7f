"""Compares a fit that continues a run with what the run has done already."""

from typing import Any

from plcourse.cli.request import Request
from plcourse.runs.changes import Change
from plcourse.runs.config_yaml import read_tree
from plcourse.runs.round_trip import dumped
from plcourse.training.checkpoint import LAST


def changed(request: Request, parser: Any, text: str) -> Change | None:
    """Returns the settings that differ from the run's config; None where a run does not continue from its checkpoint.

    Args:
        request: the request.
        parser: the parser of the verb.
        text: the complete config of the request as YAML.

    Raises:
        UserError: a setting that must not change.
    """
    run, recorded = request.run, request.recorded
    if run is None or recorded is None or request.checkpoint is None:
        return None
    if not request.checkpoint.resolve().is_relative_to(run.path.resolve()):  # the run has trained no step yet
        return None
    before = read_tree(dumped(parser, parser.parse_args([recorded])))
    change = Change.between(before, read_tree(text), text)
    change.check(run)
    return change if change.settings else None


def is_finished(request: Request, change: Change | None) -> bool:
    """Whether a fit continues a run that is finished, without any change."""
    if not request.continues or request.run is None or change is not None:
        return False
    last = request.checkpoint is None or request.checkpoint.name == LAST
    return last and request.run.status == "finished"
