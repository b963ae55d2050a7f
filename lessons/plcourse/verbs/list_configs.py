"""The verbs `ls`, `cat` and `cp`. No torch."""

import contextlib
import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from plcourse import catalog
from plcourse.console import duration, say
from plcourse.console.layout import broken, fitted, width
from plcourse.console.line_parser import LineParser
from plcourse.errors import UserError, nearest
from plcourse.runs.config_yaml import lookup
from plcourse.runs.configs import ConfigHeader, ConfigSource, find_config, parse_header, resolved_path
from plcourse.runs.folders import age_key
from plcourse.runs.record import read_record, status_of
from plcourse.runs.run import SWEEPS, Run, list_runs, list_sweeps, runs_root
from plcourse.runs.variants import Evaluation, evaluations, score_of
from plcourse.training.variant import said

_MOST_COLUMNS = 120  # longer lines are hard to read

Row = dict[str, Any]  # of a JSON listing


def ls_parser() -> LineParser:
    """Returns the parser of `plcourse ls`."""
    parser = LineParser("ls", "[LESSON | sweeps | runs] [--json]")
    what = "a lesson by name or number; `sweeps`; `runs` for all recorded runs"
    parser.add_argument("what", nargs="?", metavar="LESSON", help=what)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_runs_root("with `ls runs`: ")
    return parser


def cat_parser() -> LineParser:
    """Returns the parser of `plcourse cat`."""
    parser = LineParser("cat", "NAME_OR_PATH [--resolved]")
    parser.add_argument("name", metavar="NAME_OR_PATH", help="a packaged config or sweep, or a YAML file")
    parser.add_argument("--resolved", action="store_true", help="print a packaged config with every default")
    return parser


def cp_parser() -> LineParser:
    """Returns the parser of `plcourse cp`."""
    parser = LineParser("cp", "NAME DEST [--force]")
    parser.add_argument("name", metavar="NAME", help="a packaged config or sweep, or a YAML file")
    parser.add_argument("dest", metavar="DEST", help="an existing folder, or a new file whose name ends with .yaml")
    parser.add_argument("--force", action="store_true", help="overwrite DEST")
    return parser


def ls(argv: list[str]) -> None:
    """Lists configs or runs: `plcourse ls [LESSON | sweeps | runs] [--json] [--runs_root DIR]`."""
    args = ls_parser().parse(argv)
    if args.what == "runs":
        _ls_runs(args.runs_root, args.json)
        return
    if args.runs_root is not None:
        raise UserError("plcourse ls: --runs_root has no effect without `runs`, as in `plcourse ls runs`")
    shelves = [shelf for shelf in _shelves() if args.what in (None, shelf["lesson"], str(shelf["number"]))]
    if not shelves:
        keys = [lesson.key for lesson in catalog.LESSONS]
        known = f"{', '.join(keys)}, `{SWEEPS}` and `runs`{nearest(str(args.what), [*keys, SWEEPS, 'runs'])}"
        raise UserError(f"plcourse ls: unknown lesson {args.what!r}; known are {known}")
    say(json.dumps(shelves, indent=2) if args.json else "\n\n".join(map(_shelf_text, shelves)))


def cat(argv: list[str]) -> None:
    """Prints a config: `plcourse cat NAME_OR_PATH [--resolved]`."""
    args = cat_parser().parse(argv)
    source = _find(args.name)
    if args.resolved and source.name in catalog.sweep_names():
        raise UserError(f"--resolved is for the configs of runs; a sweep names its configs, see `cat {source.name}`")
    if args.resolved and not source.packaged:
        path = shlex.quote(args.name)
        raise UserError(f"--resolved is for packaged configs; for a file, use `plcourse fit -c {path} --print_config`")
    text = resolved_path(source.name).read_text(encoding="utf-8") if args.resolved else source.text
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())  # the file's bytes, whatever the terminal's encoding


def cp(argv: list[str]) -> None:
    """Copies a config to a file: `plcourse cp NAME DEST [--force]`."""
    args = cp_parser().parse(argv)
    source = _find(args.name)
    dest = _destination(args.dest, Path(source.label).stem)
    try:
        with dest.open("wb" if args.force else "xb") as file:
            file.write(source.text.encode())
    except FileExistsError as error:
        raise UserError(f"'{dest}' exists; --force overwrites it") from error
    except OSError as error:
        raise UserError(f"cannot write '{dest}': {error.strerror}") from error
    header, _ = _header(source)
    verb = header.verbs[0] if header else "fit"
    say(f"copied {source.name} to {dest}\nnext: plcourse {verb} -c {shlex.quote(str(dest))}")


def _find(name: str) -> ConfigSource:
    """Finds the config of a run or a sweep; an existing file wins."""
    packaged = name.removesuffix(".yaml")
    if packaged in catalog.sweep_names() and not Path(name).is_file():
        return dataclasses.replace(find_config(str(catalog.config_path(packaged))), name=packaged)
    return find_config(name)


def _destination(dest: str, stem: str) -> Path:
    """The file that `cp` writes, in a folder that must exist."""
    path = Path(dest)
    if dest and path.is_dir():
        return path / f"{stem}.yaml"
    if dest.endswith(("/", os.sep)) or not path.parent.is_dir():
        folder = dest if dest.endswith(("/", os.sep)) else path.parent
        raise UserError(f"the folder '{folder}' does not exist; make it first, or name another DEST")
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"DEST is {dest!r}; give a folder that exists, or a name that ends with .yaml")
    return path


def _ls_runs(flag: str | None, as_json: bool) -> None:
    root = runs_root(flag)
    if flag is not None and not root.is_dir():
        raise UserError(f"plcourse ls runs: --runs_root is '{flag}', which does not exist")
    rows = [_run_row(run) for run in list_runs(root)] + [_sweep_row(folder, root) for folder in list_sweeps(root)]
    rows.sort(key=lambda row: age_key(Path(row["path"])), reverse=True)
    if as_json:
        say(json.dumps(rows, indent=2))
    elif not rows:
        say(f"No runs in '{root}' yet; `plcourse fit -c NAME` makes one.")
    else:
        cells = [(row["name"], row["status"], _result(row), _when(row), duration(row["seconds"])) for row in rows]
        lines = fitted(("run", "status", "score", "when", "took"), cells, limit=width())
        if others := [line for row in rows for each in _others(row) for line in broken(each, width())]:
            lines += ["", "with other settings than the run's own", *others]
        say("\n".join(lines))


def _run_row(run: Run) -> Row:
    """A run in `ls runs --json`; missing fields are None."""
    record, found = {}, []
    with contextlib.suppress(UserError):  # a broken file must not hide the run
        record = run.record
        found = [_evaluated(each, record) for each in evaluations(run)]
    row = {"name": run.name, "path": str(run.path), "status": status_of(record, run.path)}
    row |= {key: record.get(key) for key in ("verb", "config", "best", "created", "seconds", "error")}
    return row | {"evaluations": found}


def _evaluated(evaluation: Evaluation, record: Mapping[str, object]) -> Row:
    """An evaluation in `ls runs --json`."""
    metric, value = score_of(evaluation, record) or (None, None)
    found = {"stage": evaluation.stage, "file": evaluation.file.name, "settings": evaluation.settings}
    return {**found, "variant": evaluation.is_variant, "metric": metric, "value": value}


def _others(row: Row) -> list[str]:
    """A line for each evaluation of a run with changed settings."""
    found = [each for each in row.get("evaluations", []) if each["variant"]]
    return [f"  {row['name']}  {_scored(each)}  {said(each['settings'])}" for each in found]


def _sweep_row(folder: Path, root: Path) -> Row:
    """A sweep in `ls runs --json`, with `cells`: their number, in total and by status."""
    record: Row = {}
    with contextlib.suppress(UserError):
        record = read_record(folder / "sweep.json")
    created, ended = (_moment(record.get(key)) for key in ("created", "ended"))
    row: Row = {"name": folder.relative_to(root).as_posix(), "path": str(folder), "status": status_of(record, folder)}
    row |= {"verb": "sweep", "config": None, "best": None, "created": record.get("created")}
    row |= {"seconds": (ended - created).total_seconds() if created and ended else None, "error": None}
    if record:
        statuses = [str(cell.get("status")) for cell in record.get("cells") or [] if isinstance(cell, dict)]
        row["cells"] = {"total": len(statuses)} | {status: statuses.count(status) for status in sorted(set(statuses))}
    return row


def _result(row: Row) -> str:
    """A run's test score, else its best score, or the number of finished cells of a sweep."""
    if "cells" in row:
        return f"{row['cells'].get('finished', 0)} of {row['cells']['total']} cells"
    tested = [each for each in row.get("evaluations", []) if each["stage"] == "test" and not each["variant"]]
    return _scored(tested[0] if tested and tested[0]["metric"] else row["best"])


def _scored(score: object) -> str:
    value = lookup(score, "value")
    return f"{lookup(score, 'metric')} {value:.4f}" if isinstance(value, int | float) else "-"


def _when(row: Row) -> str:
    moment = _moment(row["created"])
    return moment.strftime("%Y-%m-%d %H:%M") if moment else "-"


def _moment(text: object) -> datetime | None:
    """A time of a record in the local time zone; None if it is not a time."""
    try:
        return datetime.fromisoformat(str(text)).astimezone()
    except ValueError:
        return None


def _shelves() -> list[Row]:
    """The lessons with their configs, and the sweeps, as `ls --json` prints them."""
    lessons = [
        _shelf(each.number, each.key, each.title, each.summary, catalog.config_names(each.key))
        for each in catalog.LESSONS
    ]
    about = "Arms, seeds and a grid for `plcourse sweep`, whose result `plcourse compare` reads."
    return [*lessons, _shelf(None, SWEEPS, "Comparisons", about, catalog.sweep_names())]


def _shelf(number: int | None, key: str, title: str, summary: str, names: list[str]) -> Row:
    configs = [_config_row(name) for name in names]
    return {"number": number, "lesson": key, "title": title, "summary": summary, "configs": configs}


def _config_row(name: str) -> Row:
    header, problem = _header(find_config(str(catalog.config_path(name))))
    fields = {"command": None, "shows": None, "verbs": [], "needs": []}
    if header is not None:
        fields = {key: getattr(header, key) for key in fields}
    return {"name": name, **fields, "problem": problem}


def _shelf_text(shelf: Row) -> str:
    number = "    " if shelf["number"] is None else f"{shelf['number']}  "
    found = width()
    limit = found and min(found, _MOST_COLUMNS)
    lines = [f"{number}{shelf['lesson']}: {shelf['title']}", *broken(f"    {shelf['summary']}", limit, "    ")]
    indent = 6 + max((len(config["name"]) for config in shelf["configs"]), default=0)
    for config in shelf["configs"]:
        text = config["problem"] or config["shows"]
        if config["needs"]:
            text = f"[needs {', '.join(config['needs'])}] {text}"
        first = f"    {config['name']}".ljust(indent + 2)
        lines += broken(first + text, limit, " " * (len(first) if limit is None or 2 * len(first) < limit else 6))
    if not shelf["configs"]:
        lines.append("    (no configs in this version)")
    return "\n".join(lines)


def _header(source: ConfigSource) -> tuple[ConfigHeader | None, str]:
    """Reads a config's header, or returns what is wrong with it, so that one bad file does not hide the others."""
    try:
        return parse_header(source), ""
    except UserError as error:
        return None, str(error)
