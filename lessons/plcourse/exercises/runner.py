"""Checks one answer in a separate process, since it may hang, crash or print.

python -m plcourse.exercises.runner LESSON/NAME FILE RESULT
"""

import inspect
import json
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType


def main(exercise: str, file: str, result: str) -> None:
    """Writes a list of `{"says", "problem"}` into the file `result`; `problem` is None if the check passes."""
    lesson, _, name = exercise.partition("/")
    checks = dict(vars(import_module(f"{__package__}.{lesson}.{name}_check")))  # a warning adds an entry while they run
    loader = SourceFileLoader("answer", file)
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    sys.modules["answer"] = answer = module_from_spec(spec)
    if problem := _problem(loader.exec_module, answer):
        found = [{"says": "The file can be imported.", "problem": problem}]
    else:
        found = [
            {"says": inspect.getdoc(check), "problem": _problem(check, answer)}
            for name, check in checks.items()
            if name.startswith("check_")
        ]
    Path(result).write_text(json.dumps(found), encoding="utf-8")


def _problem(action: Callable[[ModuleType], object], answer: ModuleType) -> str | None:
    """What an import or a check raises, as one line with the line of the learner's file; None if it raises nothing."""
    if torch := sys.modules.get("torch"):  # half of the exercises are faster because they do not import it
        torch.manual_seed(0)
    try:
        action(answer)
    except AssertionError as error:
        return str(error).partition("\n")[0] or "an assertion failed"
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
        own = [frame for frame in frames if "plcourse" not in frame.filename and "site-packages" not in frame.filename]
        where = f" in line {own[-1].lineno}" if own else ""
        return f"{type(error).__name__}{where}: {str(error).strip().partition(chr(10))[0]}"
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
