"""Writes the plan of the lessons into `lessons/README.md`, from the one table that `plcourse learn` reads too.

python scripts/learning_path.py
"""

from pathlib import Path

from plcourse.core.syllabus import as_markdown

README = Path(__file__).resolve().parents[1] / "lessons" / "README.md"
BEGIN, END = "<!-- plan: written by scripts/learning_path.py -->\n", "<!-- end of plan -->"


def written(text: str) -> str:
    """The README with the plan as the table has it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{as_markdown()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
