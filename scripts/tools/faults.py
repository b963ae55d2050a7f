"""Runs the fault campaign: injects every fault of tests/faults/README.md and counts how many hold.

    python scripts/tools/faults.py                      # all rows with their slow tests
    python scripts/tools/faults.py --rows 3 17          # these rows
    python scripts/tools/faults.py --mutations 100000   # mutated files through every reader
    python scripts/tools/faults.py --hashes             # which runs end with equal hashes, and why others do not

A fault counts as injected for each test case of its row that ran, and as held for each that passed. A mutated file must
be read, or refused with the reader's own error. Anything else has escaped and is printed with the seed that makes the
file again.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from equal_runs import print_hashes
from mutations import print_mutations

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests" / "faults" / "README.md"


class Row(NamedTuple):
    """One row of the table: its number, the fault, what must hold, and the tests that inject it."""

    number: int
    fault: str
    holds: str
    tests: tuple[str, ...]


def table_rows() -> list[Row]:
    """Reads the rows of the table in tests/faults/README.md."""
    rows = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].isdecimal():
            rows.append(Row(int(cells[0]), cells[1], cells[2], tuple(re.findall(r"`([^`]+)`", cells[3]))))
    return rows


def run_row(row: Row) -> tuple[int, int, float]:
    """Runs the tests of a row with the slow ones; returns how many cases ran, how many passed, and the seconds."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "", f"--junit-xml={report}", *row.tests]
        subprocess.run(command, cwd=ROOT, capture_output=True)
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    ran = [case for case in cases if case.find("skipped") is None]
    held = [case for case in ran if case.find("failure") is None and case.find("error") is None]
    return len(ran), len(held), time.monotonic() - begun


def main() -> int:
    """Runs the campaign; returns 1 if a fault was not injected or did not hold, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", help="numbers of rows; default all")
    parser.add_argument("--mutations", type=int, help="read this many mutated files instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hashes", action="store_true", help="compare runs that must end alike instead")
    args = parser.parse_args()
    if args.hashes:
        return print_hashes()
    if args.mutations is not None:
        return print_mutations(args.mutations, args.seed)
    failed = False
    print("row  injected  held  seconds  fault")
    for row in table_rows():
        if args.rows is None or row.number in args.rows:
            injected, held, seconds = run_row(row)
            failed |= held < max(1, injected)
            print(f"{row.number:3}  {injected:8}  {held:4}  {seconds:7.1f}  {row.fault}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
