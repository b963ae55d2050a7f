"""Checks one answer in a separate process, since it may hang, crash or print.

python -m plcourse.exercises.runner LESSON/NAME FILE RESULT
"""

import importlib.util
import inspect
import json
import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType

SEED = 0


def main(exercise: str, file: str, result: str) -> None:
    """Writes a list of `{"says", "problem"}` into the file `result`; `problem` is None if the check passes."""
    lesson, _, name = exercise.partition("/")
    checks = import_module(f"{__package__}.{lesson}.{name}_check")
    found: list[dict[str, str | None]] = []
    answer, problem = _loaded(Path(file))
    if answer is None:
        found.append({"says": "The file can be imported.", "problem": problem})
    else:
        for check in [each for name, each in vars(checks).items() if name.startswith("check_")]:
            if torch := sys.modules.get("torch"):  # half of the exercises are faster because they do not import it
                torch.manual_seed(SEED)
            found.append(
                {"says": (inspect.getdoc(check) or check.__name__).split("\n\n")[0], "problem": _run(check, answer)}
            )
    Path(result).write_text(json.dumps(found), encoding="utf-8")


def _loaded(file: Path) -> tuple[ModuleType | None, str | None]:
    spec = importlib.util.spec_from_file_location("answer", file)
    if spec is None or spec.loader is None:
        return None, f"{file.name} is not a Python file; its name must end with .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules["answer"] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        return None, _said(error)
    return module, None


def _run(check: object, answer: ModuleType) -> str | None:
    assert callable(check)
    try:
        check(answer)
    except AssertionError as error:
        return str(error).partition("\n")[0] or "the check failed"
    except (Exception, SystemExit) as error:
        return _said(error)
    return None


def _said(error: BaseException) -> str:
    """Formats an error as one line, with the line of the learner's file that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if "plcourse" not in frame.filename and "site-packages" not in frame.filename]
    where = f" in line {own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{where}: {str(error).strip().partition(chr(10))[0]}"


if __name__ == "__main__":
    main(*sys.argv[1:])
