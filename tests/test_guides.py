"""The guides hold to the code: sections, files, configs, scripts, tables and commands that exist."""

import re
from pathlib import Path

import pytest
from scripts.tools import measure, measure_tips

import guides
from plcourse import catalog

ROOT = Path(__file__).parent.parent
KEYS = [lesson.key for lesson in catalog.LESSONS]
PAGES = measure.pages()
SECTIONS = (
    "The idea",
    "Map",
    "The mechanism",
    "What is logged",
    "Five things to change",
    "Your own",
    "Pitfalls",
    "Limits",
)


@pytest.mark.parametrize("lesson", KEYS)
def test_every_part_of_a_guide_is_there(lesson: str) -> None:
    text = guides.text_of(lesson)
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert not [part for part in SECTIONS if not any(title.startswith(part) for title in titles)]
    assert titles[:2] == ["The idea", "Read this first"]
    assert titles[-1] == "References"
    assert f"python -m plcourse.{lesson}.minimal" in text
    assert "**The question.**" in text
    assert text.count("    plcourse ") >= 5
    changes = re.search(r"^## Five things to change\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert changes is not None
    assert re.findall(r"^\*\*(\d)\. ", changes[1], re.MULTILINE) == list("12345")


@pytest.mark.parametrize("lesson", KEYS)
def test_code_fits_on_a_terminal_of_80_columns(lesson: str) -> None:
    code = [line[4:] for line in guides.text_of(lesson).splitlines() if line.startswith("    ")]
    assert not [line for line in code if len(line) > 78]  # rich leaves a column free on each side


@pytest.mark.parametrize("lesson", KEYS)
def test_the_map_names_every_file(lesson: str) -> None:
    text = guides.text_of(lesson)
    folder = catalog.PACKAGE / lesson
    files = {path.name for path in folder.iterdir() if path.suffix in (".py", ".html")} - {"__init__.py"}
    assert not [name for name in files if f"`{name}`" not in text]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"@[A-Z]+@", text), "a place that was never filled"
    named = re.findall(r"(?<![\w/.])((?:scripts|tests)/[\w/]+\.(?:py|txt))", text)
    assert not [path for path in named if not (ROOT / path).exists()]
    known = {*catalog.config_names(), *catalog.sweep_names()}
    of_a_run = re.findall(rf"(?:-c |--arms |`)((?:{'|'.join(KEYS)}|sweeps)/\w+)(?=[`\s])", text)
    assert not [name for name in of_a_run if name not in known]
    for key, number in re.findall(r"plcourse learn (\d+)( --exercise)?", text):
        assert int(key) in [lesson.number for lesson in catalog.LESSONS], number


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([\w./-]*\.md)?(?:#([\w-]+))?\)", page.read_text(encoding="utf-8")):
        found = page.parent / target if target else page
        assert found.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_tips_show_what_was_measured_and_nothing_else() -> None:
    text = measure_tips.PAGE.read_text(encoding="utf-8")
    assert text == measure_tips.written(text), "run `python scripts/tools/measure_tips.py --table`"
    assert [block[2] for block in measure_tips._BLOCK.finditer(text)] == list(measure_tips.BENCHES)
    records = {path.stem for path in measure_tips.RECORDS.glob("*.json")}
    assert records <= set(measure_tips.BENCHES)


def test_a_table_of_tips_takes_ratios_within_a_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_tips, "RECORDS", tmp_path)
    bench = measure_tips.BENCHES["export"]
    assert measure_tips.table("export").startswith("Not measured yet")

    def once(flags: str, whole: bool) -> dict[str, float]:
        return {"seconds": 3.0 if bench.changes[0] in flags else 2.0, "mib": 600.0}

    monkeypatch.setattr(measure_tips, "once", once)
    record = measure_tips.measure("export", rounds=2)
    (tmp_path / "export.json").write_text(measure_tips.json.dumps(record))
    table = measure_tips.table("export")
    assert "| nothing else | 2.0 s | 600 MiB |" in table
    assert f"| `{bench.changes[0]}` | 1.50 x (1.50 to 1.50) | 1.00 x (1.00 to 1.00) |" in table
    assert "| `--trainer.fast_dev_run true` | the whole command: 2.0 s | |" in table
    assert "times are rough" not in table or record["others"] > 0.1 * record["cores"]
    record["others"] = record["cores"]
    (tmp_path / "export.json").write_text(measure_tips.json.dumps(record))
    assert "busy meanwhile: times are rough" in measure_tips.table("export")
    record["limits"] = "--trainer.max_steps 1"
    (tmp_path / "export.json").write_text(measure_tips.json.dumps(record))
    assert measure_tips.table("export").startswith("Not measured yet")
