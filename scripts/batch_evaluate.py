"""Scores many checkpoints on many data sets and writes one table, as CSV, Parquet and Markdown.

    python scripts/batch_evaluate.py ddp/one_process export/classifier --data plain --data other root=photos \
      --output evaluations

Each ``--data`` is a name followed by settings of the data module or dotted keys of the config. The runs stay unchanged.
A cell fails if its data contain samples that its run was trained on. If the script was stopped, the same command
continues it. The exit status is 1 if a cell failed; its row gives the reason.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from plcourse import Run
from plcourse.cli.batch import Cell, carry_out
from plcourse.errors import UserError
from plcourse.runs.variants import evaluations


def evaluate(view: Run, overrides: dict[str, Any]) -> dict[str, Any]:
    """Returns the test metrics of a run's best checkpoint and the number of samples scored."""
    metrics = view.test(overrides)
    (found,) = evaluations(view)  # a view has no other
    return {**metrics, "samples": (found.content["coverage"] or {}).get("seen")}


def read_data(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Splits ``NAME KEY=VALUE ...`` into a name and overrides.

    Raises:
        UserError: a word that is no setting.
    """
    overrides = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UserError(f"--data {words[0]}: '{word}' is no setting; write KEY=VALUE, as in root=photos")
        overrides[key if "." in key else f"data.init_args.{key}"] = _value(value)
    return words[0], overrides


def _value(text: str) -> object:
    """Parses a setting like a flag; the name of a folder such as 0017 or 2024-01-05 stays text."""
    value = yaml.safe_load(text)
    if isinstance(value, bool | float | list | dict | None) or (str(value) == text and isinstance(value, int)):
        return value
    return text


def plan(runs: list[str], data: list[tuple[str, dict[str, Any]]], output: Path) -> list[Cell]:
    """Lists one cell per run and data set."""
    return [
        Cell(output / "cells" / f"{number:04d}-{name}", run, {"run": run, "data": name}, overrides)
        for number, run in enumerate(runs)
        for name, overrides in data
    ]


def write_table(cells: list[Cell], output: Path) -> pd.DataFrame:
    """Writes ``table.csv``, ``table.parquet`` and ``table.md``."""
    table = pd.DataFrame([{**cell.labels, **cell.result} for cell in cells])
    table.to_csv(output / "table.csv", index=False)
    table.to_parquet(output / "table.parquet", index=False)
    rows = [list(table.columns), ["---"] * len(table.columns)]
    rows += [[_text(value) for value in row] for row in table.itertuples(index=False)]
    (output / "table.md").write_text("".join(f"| {' | '.join(row)} |\n" for row in rows))
    return table


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.6g}"
    return "" if value is None else str(value).replace("|", r"\|")


def main(arguments: list[str] | None = None) -> None:
    """Scores the cells, writes the table, and exits with status 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", help="folders or names of runs")
    parser.add_argument("--data", nargs="+", action="append", metavar="NAME KEY=VALUE", help="a data set; repeatable")
    parser.add_argument("--output", type=Path, default=Path("evaluations"), help="folder of the table and the cells")
    parser.add_argument("--jobs", type=int, default=1, help="number of cells scored at a time")
    options = parser.parse_args(arguments)
    try:
        data = [read_data(words) for words in options.data or [["as trained"]]]
        if len({name for name, _ in data}) < len(data):
            raise UserError("two --data have one name")
    except UserError as error:
        parser.error(str(error))
    cells = plan(options.runs, data, options.output)
    complete = carry_out(cells, evaluate, max(1, options.jobs))
    print(write_table(cells, options.output).to_string(index=False))
    print(f"table: {options.output / 'table.csv'}, .parquet, .md")
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
