"""The part of a run's page with the commands that reproduce it, and that with its predictions."""

import shlex
from collections.abc import Mapping
from typing import Any

from plcourse.runs.run import Run
from plcourse.runs.variants import Evaluation, command, environment_flags, prediction_sets
from plcourse.training.variant import said
from plcourse.verbs.report import page

_VERBS = {"val": "validate", "test": "test"}


def repeat_part(run: Run, evaluated: list[Evaluation], record: Mapping[str, Any]) -> str:
    """The commands that repeat the training, each evaluation and each prediction."""
    root, trust = run.root, record.get("trust") or []
    flags = environment_flags(root, trust)
    verbs = [_VERBS[each.stage] for each in evaluated if each.stage in _VERBS and not each.is_variant]
    lines = []
    if record.get("verb") == "fit":
        typed = record.get("command")
        if isinstance(typed, str) and typed.startswith("plcourse fit ") and " --run" not in typed:
            lines += ["# as it was typed", typed, ""]
        words = ["plcourse", "fit", "-c", str(run.config_path)]
        if isinstance(start := record.get("start"), dict) and start.get("checkpoint"):
            words += ["--ckpt_path", str(run.path / start["checkpoint"])]
        words += ["--then", ",".join(verbs)] * bool(verbs)
        lines += ["# from the run's own folder, every default written out", shlex.join([*words, *flags])]
        if record.get("changes"):
            lines.append("# (settings were changed during training; run.json lists them with their steps)")
    for each in evaluated:
        if each.stage in _VERBS and (line := _evaluation(run, each, record, flags)):
            lines += ["", f"# the scores of part {each.stage}{_with(each.settings)}", line]
    for folder, manifest in prediction_sets(run):
        settings = manifest.get("settings") or {}
        if manifest.get("checkpoint"):
            again = command("predict", run.path, root, settings, manifest.get("trust") or trust)
            lines += ["", f"# the predictions in {folder}{_with(settings)}", again]
    return page.code("\n".join(lines).strip("\n"))


def _evaluation(run: Run, evaluation: Evaluation, record: Mapping[str, Any], flags: list[str]) -> str:
    """The command that repeats one evaluation; empty if only training gives its scores."""
    verb, trust = _VERBS[evaluation.stage], evaluation.content.get("trust") or record.get("trust") or []
    if evaluation.content.get("checkpoint") or (run.path / "folds").is_dir():
        return command(verb, run.path, run.root, evaluation.settings, trust)
    if record.get("verb") == verb:  # without a checkpoint: fresh weights, or an exported file
        return shlex.join(["plcourse", verb, "-c", str(run.config_path), "--allow_untrained", *flags])
    return ""


def _with(settings: dict[str, Any]) -> str:
    return f" with {said(settings)}" if settings else ""


def predictions_part(run: Run) -> str:
    """A table of the run's predictions; empty without any."""
    rows = []
    for folder, manifest in prediction_sets(run):
        rows_written = manifest.get("rows", manifest.get("seen"))
        where = folder.relative_to(run.path).as_posix()
        settings = said(manifest.get("settings") or {}) or "the run's own"
        rows.append([where, settings, rows_written, manifest.get("given"), manifest.get("quarantined", 0)])
    head = ["folder", "settings", "rows", "inputs", "could not be read"]
    return page.table(head, rows, "Predictions, a folder for each set of inputs and settings") if rows else ""
