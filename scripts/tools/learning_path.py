"""Writes the generated parts of `lessons/README.md`: the plan of the lessons and what the configs need.

python scripts/tools/learning_path.py
"""

import re
from pathlib import Path

from plcourse import catalog
from plcourse.runs.configs import find_config, parse_header
from plcourse.verbs.learn.syllabus import PLANS, TRACKS

README = Path(__file__).resolve().parents[2] / "lessons" / "README.md"


def plan_as_markdown() -> str:
    """Shows the lessons' plans and the tracks as tables."""
    lines = ["| lesson | builds on | about | hardware |", "|---|---|---|---|"]
    for lesson in catalog.LESSONS:
        plan = PLANS[lesson.number]
        guide = f"[{lesson.number} {lesson.title}](plcourse/{lesson.key}/README.md)"
        needs = ", ".join(map(str, plan.needs)) or "-"
        lines.append(f"| {guide}, `{lesson.key}` | {needs} | {plan.minutes} min | {plan.hardware} |")
    lines += ["", "| lesson | key concepts | afterwards you can |", "|---|---|---|"]
    for lesson in catalog.LESSONS:
        plan = PLANS[lesson.number]
        lines.append(f"| {lesson.number} | {', '.join(plan.concepts)} | {plan.outcome} |")
    lines += ["", "| track | lessons | about |", "|---|---|---|"]
    for track, numbers in TRACKS.items():
        hours = sum(PLANS[number].minutes for number in numbers) / 60
        lines.append(f"| {track} | {', '.join(map(str, numbers))} | {hours:.1f} hours |")
    return "\n".join(lines)


def needs_as_markdown() -> str:
    """Lists the configs that need something that is not installed, grouped by what they need."""
    found: dict[str, list[str]] = {}
    for name in catalog.config_names():
        needs = " and ".join(parse_header(find_config(name)).needs)
        if needs:
            found.setdefault(needs, []).append(f"`{name}`")
    return "\n".join(f"- {needs}: {', '.join(names)}" for needs, names in found.items())


def written(text: str) -> str:
    """Replaces the two generated parts of the README by the current plan and needs."""
    for part, content in (("plan", plan_as_markdown()), ("needs", needs_as_markdown())):
        block = re.compile(rf"(<!-- {part}: .*? -->\n).*?(<!-- end of {part} -->)", re.DOTALL)
        text = block.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
    return text


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
