"""The verb `report`. No torch."""

from dataclasses import fields
from pathlib import Path

from plcourse.console import say
from plcourse.console.line_parser import LineParser
from plcourse.errors import UserError
from plcourse.files import write_text
from plcourse.runs.confinement import check_links
from plcourse.runs.run import Run, runs_root
from plcourse.verbs.compare.cells import find_sweep_folder
from plcourse.verbs.report.run_page import run_page

_FILE = "report.html"


def report_parser() -> LineParser:
    """Returns the parser of `plcourse report`."""
    parser = LineParser("report", "RUN_OR_SWEEP... [--output FILE.html] [flags]")
    add = parser.add_argument
    inputs = "one run, which gives its page; a sweep or several runs, which give a comparison"
    add("inputs", nargs="+", metavar="RUN_OR_SWEEP", help=inputs)
    add("--output", metavar="FILE.html", help="the file; default report.html in the folder of the run or sweep")
    add("--metric", metavar="NAME", help="the score to compare; default the metric of the sweep")
    add("--mode", metavar="max|min", help="which direction is better")
    add("--baseline", metavar="ARM", help="the arm with which the others are compared")
    add("--grid_by", metavar="KEY", help="make one comparison per value of a config key")
    add("--force", action="store_true", help="compare runs that differ otherwise; the page says so")
    parser.add_runs_root()
    return parser


def report(argv: list[str]) -> None:
    """Runs `plcourse report RUN_OR_SWEEP... [flags]`."""
    args = report_parser().parse(argv)
    root = runs_root(args.runs_root)
    sweep = find_sweep_folder(args.inputs[0], root)
    if len(args.inputs) == 1 and sweep is None:
        given = [flag for flag in ("metric", "mode", "baseline", "grid_by") if getattr(args, flag) is not None]
        if given or args.force:
            raise UserError(f"--{(given or ['force'])[0]} is for a comparison; give a sweep or several runs")
        run = Run.load(args.inputs[0], root)
        check_links(run.path)  # the page could otherwise show any picture of the user's
        content, folder = run_page(run), run.path
    else:
        from plcourse.verbs.compare.comparison import Options, compare_runs  # imports numpy and scipy
        from plcourse.verbs.report.comparison_page import comparison_page

        if args.mode not in (None, "max", "min"):
            raise UserError(f"--mode is {args.mode!r}; give max or min")
        names = {field.name for field in fields(Options)}
        options = Options(**{name: value for name, value in vars(args).items() if name in names})
        found = compare_runs(args.inputs, options, args.runs_root)
        command = ["plcourse", "compare", *args.inputs, "--metric", found.metric, "--mode", found.mode]
        for flag in ("baseline", "grid_by", "runs_root"):
            command += [f"--{flag}", getattr(args, flag)] if getattr(args, flag) is not None else []
        content = comparison_page(found, command + ["--force"] * args.force)
        folder = sweep if len(args.inputs) == 1 else None
    file = _file(args.output, folder)
    write_text(file, content)
    say(f"report in {file}")


def _file(output: str | None, folder: Path | None) -> Path:
    """The file to write: `--output`, or `report.html` in the folder of the run or sweep."""
    if output is None:
        if folder is None:
            raise UserError("a report on several runs needs --output FILE.html")
        return folder / _FILE
    file = Path(output) / _FILE if Path(output).is_dir() else Path(output)
    if file.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output is {output!r}; give a folder that exists, or a name that ends with .html")
    if not file.parent.is_dir():
        raise UserError(f"--output is {output!r}, but the folder '{file.parent}' does not exist; make it first")
    return file
