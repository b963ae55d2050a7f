"""The verb `compare`: reads its flags, and writes the table, the JSON file and the plot. No torch."""

import argparse
import contextlib
import json
import math
import sys
from dataclasses import fields
from pathlib import Path

from plcourse.console.line_parser import LineParser
from plcourse.errors import UserError, printable
from plcourse.files import write_json
from plcourse.runs.record import read_record
from plcourse.verbs.compare.comparison import Options, compare_runs
from plcourse.verbs.compare.show import as_text, draw


def compare(argv: list[str]) -> None:
    """Runs `plcourse compare RUN_OR_SWEEP... --metric NAME [flags]`."""
    args = compare_parser().parse(argv)
    _check(args)
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    result = compare_runs(args.inputs, options, args.runs_root)
    if args.json == "-":
        sys.stdout.write(json.dumps(result.as_json(), indent=2, allow_nan=False, default=str) + "\n")
    else:
        sys.stdout.write(printable(as_text(result)))
        if args.json is not None:
            write_json(Path(args.json), result.as_json())
            sys.stdout.write(f"\nJSON in {args.json}\n")
    if args.plot is not None:
        draw(result, Path(args.plot))
        if args.json != "-":
            sys.stdout.write(f"plot in {args.plot}\n")


def compare_parser() -> LineParser:
    """Returns the parser of `plcourse compare`."""
    parser = LineParser("compare", "RUN_OR_SWEEP... --metric NAME [flags]")
    add = parser.add_argument
    inputs = "folders or names; runs are grouped into arms by config and paired by seed, fold and split"
    add("inputs", nargs="+", metavar="RUN_OR_SWEEP", help=inputs)
    add("--metric", metavar="NAME", help="the score, for example test/accuracy; default the metric of the sweep")
    mode = "which direction is better; by default that in which the runs watch the score, or its name decides"
    add("--mode", choices=("max", "min"), help=mode)
    add("--baseline", metavar="ARM", help="the arm with which the others are compared; default the first")
    grid_by = "make one comparison per value of a config key; with one config the values are the arms"
    add("--grid_by", metavar="KEY", help=grid_by)
    alpha = "level of the tests; intervals have the level 1 - P; default 0.05"
    add("--alpha", type=float, default=Options.alpha, metavar="P", help=alpha)
    difference = "the difference that matters: gives the seeds needed, and decides whether arms are equivalent"
    add("--difference", type=float, metavar="D", help=difference)
    n_train = "training samples of one split, for folds or repeated splits that do not record them"
    add("--n_train", type=int, metavar="N", help=n_train)
    add("--n_test", type=int, metavar="N", help="test samples of one split; goes with --n_train")
    force = "compare runs that differ otherwise and skip unfinished ones; the output says so"
    add("--force", action="store_true", help=force)
    add("--json", metavar="FILE|-", help="write all results as JSON; - prints them instead of the table")
    add("--plot", metavar="FILE.png", help="draw the scores and the intervals of the differences")
    parser.add_runs_root()
    return parser


def _check(args: argparse.Namespace) -> None:
    if not 0 < args.alpha < 1:
        raise UserError(f"--alpha is {args.alpha:g}; give a level between 0 and 1, such as 0.05")
    if args.difference is not None and not (args.difference > 0 and math.isfinite(args.difference)):
        raise UserError(f"--difference is {args.difference:g}; give the difference to detect, above 0")
    if (args.n_train is None) != (args.n_test is None):
        raise UserError("--n_train and --n_test go together: the samples of one split's training and test part")
    for flag, number in (("--n_train", args.n_train), ("--n_test", args.n_test)):
        if number is not None and number < 1:
            raise UserError(f"{flag} is {number}; give the number of samples, 1 or more")
    # Before the work begins, so that no result is lost to a missing folder.
    for flag, name, suffix in (("--json", args.json, ".json"), ("--plot", args.plot, ".png")):
        if name is None or (flag, name) == ("--json", "-"):
            continue
        file = Path(name)
        if file.suffix.lower() != suffix:
            raise UserError(f"{flag} {name!r}: the file's name must end with {suffix}")
        if not file.parent.is_dir() or file.is_dir():
            raise UserError(f"{flag} {name!r}: the folder '{file.parent}' does not exist; make it first")
        if suffix == ".json" and file.is_file() and not _is_comparison(file):
            raise UserError(f"--json {name!r} exists and is not a comparison; name another file")


def _is_comparison(file: Path) -> bool:
    with contextlib.suppress(UserError):
        return "comparisons" in read_record(file)
    return False
