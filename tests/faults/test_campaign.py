"""The table of tests/faults/README.md and the tests are about each other."""

import re
from pathlib import Path

from scripts.tools.faults import ROOT, table_rows

HERE = Path(__file__).parent


def _exists(node: str) -> bool:
    file, *names = node.split("::")
    text = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).is_file() else ""
    kinds = ["class" if name.startswith("Test") else "def" for name in names]
    return bool(text) and all(
        re.search(rf"^\s*{kind} {re.escape(name)}\b", text, re.MULTILINE)
        for kind, name in zip(kinds, names, strict=True)
    )


def test_every_row_names_tests_that_exist() -> None:
    rows = table_rows()
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert [row.fault for row in rows if not row.tests] == []
    assert [node for row in rows for node in row.tests if not _exists(node)] == []


def test_every_test_of_the_folder_stands_in_a_row() -> None:
    named = {node for row in table_rows() for node in row.tests}
    for file in sorted(HERE.glob("test_*.py")):
        if file.name == Path(__file__).name:
            continue
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
            assert f"tests/faults/{file.name}::{name}" in named
