"""The help pages as static text, printed without torch; `scripts/tools/write_help.py` writes them from the parsers."""

from collections.abc import Sequence
from pathlib import Path

from plcourse import catalog

FOLDER = Path(__file__).with_name("help_pages")


def root_help() -> str:
    """Returns what `plcourse -h` prints."""
    return _page("plcourse")


def verb_help(verb: str, words: Sequence[str] = ()) -> str:
    """Returns what `plcourse VERB -h` prints; after `benchmark`, `words` can begin with the name of a benchmark."""
    is_benchmark = verb == "benchmark" and words and words[0] in catalog.BENCHMARKS
    return _page(f"benchmark_{words[0]}" if is_benchmark else verb)


def _page(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
