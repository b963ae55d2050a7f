"""The page of one run: its results, its config and environment, and the commands that repeat it."""

import shlex
from datetime import datetime

from plcourse.catalog import LESSONS
from plcourse.console import duration
from plcourse.runs.config_yaml import lookup
from plcourse.runs.record import RunRecord
from plcourse.runs.run import Run
from plcourse.runs.variants import Evaluation, command, environment_flags, evaluations, prediction_sets
from plcourse.training.variant import said
from plcourse.verbs.report import page, results

_VERBS = {"val": "validate", "test": "test"}


def run_page(run: Run) -> str:
    """The page of a run as HTML.

    Raises:
        UserError: the run's record or table cannot be read.
    """
    record, found = run.record, evaluations(run)
    summary = results.read_json(run.path / "summary.json")
    sections = [
        ("scores", "Scores", "".join(results.scores(each, record, summary) for each in found)),
        ("folds", "Folds", results.folds(summary)),
        ("predictions", "Predictions", _predictions(run)),
        ("curves", "Curves", results.curves(run, lookup(record, "best.step"))),
        ("pictures", "Pictures", results.pictures(run.path / "plots", found)),
        ("scaling", "Scaling", results.scaling(run.path, str(record.get("config")))),
        ("exports", "Exports", results.exports(run.path / "export" / "verification.json")),
        ("config", "Config", _config(run)),
        ("environment", "Environment", _environment(record)),
        ("repeat", "How to repeat it", _repeat(run, found, record)),
    ]
    title = f"{record.get('config') or 'run'}, {run.path.resolve().name}"
    tiles = results.headline_tiles(found, record, summary)
    return page.document(title, _header(record, run.status, tiles), sections, lookup(record, "versions.plcourse"))


def _when(moment: str | None) -> str:
    try:
        return datetime.fromisoformat(moment or "").strftime("%Y-%m-%d %H:%M")
    except (TypeError, ValueError):
        return page.number(None)


def _header(record: RunRecord, status: str, tiles: list[str]) -> str:
    name = str(record.get("config") or "run")
    lesson = next((each for each in LESSONS if each.key == name.partition("/")[0]), None)
    kicker = f"Lesson {lesson.number}: {lesson.title}" if lesson else "A run of plcourse"
    kind = page.text(status) if status.isalpha() else "unreadable"
    lines = [
        f'<p class="kicker">{page.text(kicker)}</p><h1>{page.text(name)}</h1>',
        f'<p class="meta"><span class="status {kind}">{page.text(status)}</span> '
        f"{page.text(record.get('verb') or '')}, {_when(record.get('created'))}</p>",
    ]
    if record.get("error"):
        lines.append(f'<p class="problem">{page.text(record["error"])}</p>')
    tiles = [*tiles, page.tile("took", duration(record.get("seconds")))]
    if isinstance(record.get("steps"), int):
        tiles.append(page.tile("optimizer steps", f"{record['steps']:,}"))
    if record.get("seed") is not None:
        tiles.append(page.tile("seed", str(record["seed"])))
    return "".join([*lines, f'<ul class="tiles">{"".join(tiles)}</ul>'])


def _predictions(run: Run) -> str:
    rows = [
        [
            folder.relative_to(run.path).as_posix(),
            said(manifest.get("settings") or {}) or "the run's own",
            manifest.get("rows", manifest.get("seen")),
            manifest.get("given"),
            manifest.get("quarantined", 0),
        ]
        for folder, manifest in prediction_sets(run)
    ]
    head = ["folder", "settings", "rows", "inputs", "could not be read"]
    return page.table(head, rows, "Predictions, a folder for each set of inputs and settings")


def _config(run: Run) -> str:
    try:
        source = run.config_path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return page.details("config.yaml, complete", page.code(source))


def _environment(record: RunRecord) -> str:
    pairs: list[tuple[str, object]] = [*(record.get("versions") or {}).items()]
    pairs += [(name, lookup(record, f"hardware.{name}")) for name in ("platform", "cpu", "cores")]
    pairs.append(("memory, GiB", lookup(record, "hardware.memory_gib")))
    if record.get("git"):
        changes = ", with changes" if lookup(record, "git.dirty") else ""
        pairs.append(("git commit", f"{lookup(record, 'git.commit')}{changes}"))
    pairs += [("training seconds", record.get("training_seconds")), ("began", _when(record.get("created")))]
    return page.facts([(name, value) for name, value in pairs if value not in (None, "")])


def _repeat(run: Run, evaluated: list[Evaluation], record: RunRecord) -> str:
    """The commands that repeat the training, each evaluation and each prediction."""
    root, trust = run.root, record.get("trust") or []
    flags = environment_flags(root, trust)
    lines = []
    if record.get("verb") == "fit":
        typed = record.get("command")
        if isinstance(typed, str) and typed.startswith("plcourse fit ") and " --run" not in typed:
            lines += ["# as it was typed", typed, ""]
        words = ["plcourse", "fit", "-c", str(run.config_path)]
        if start := lookup(record, "start.checkpoint"):
            words += ["--ckpt_path", str(run.path / start)]
        verbs = [_VERBS[each.stage] for each in evaluated if each.stage in _VERBS and not each.is_variant]
        words += ["--then", ",".join(verbs)] * bool(verbs)
        lines += ["# from the run's own folder, every default written out", shlex.join([*words, *flags])]
        if record.get("changes"):
            lines.append("# (settings were changed during training; run.json lists them with their steps)")
    for each in evaluated:
        if each.stage in _VERBS and (line := _evaluation(run, each, record, flags)):
            lines += ["", f"# the scores of part {each.stage}{results.with_settings(each.settings)}", line]
    for folder, manifest in prediction_sets(run):
        settings = manifest.get("settings") or {}
        if manifest.get("checkpoint"):
            again = command("predict", run.path, root, settings, manifest.get("trust") or trust)
            lines += ["", f"# the predictions in {folder}{results.with_settings(settings)}", again]
    return page.code("\n".join(lines).strip("\n"))


def _evaluation(run: Run, evaluation: Evaluation, record: RunRecord, flags: list[str]) -> str:
    """The command that repeats one evaluation; empty if only training gives its scores."""
    verb, trust = _VERBS[evaluation.stage], evaluation.content.get("trust") or record.get("trust") or []
    if evaluation.content.get("checkpoint") or (run.path / "folds").is_dir():
        return command(verb, run.path, run.root, evaluation.settings, trust)
    if record.get("verb") == verb:  # without a checkpoint: fresh weights, or an exported file
        return shlex.join(["plcourse", verb, "-c", str(run.config_path), "--allow_untrained", *flags])
    return ""
