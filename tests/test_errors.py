"""An error in a user's module is found by its file and line."""

from pathlib import Path
from types import ModuleType

import pytest

from plcourse import errors
from plcourse.errors import UserError, first_line, place


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the user, which is trusted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(errors, "_own_modules", ("mine",))
    Path("mine.py").write_text(
        "import json\n"
        "from plcourse.errors import nearest\n\n\n"
        "def fails(call):\n"
        "    try:\n"
        "        return call()\n"
        "    except KeyError as error:\n"
        "        raise ValueError('no') from error\n"
    )
    monkeypatch.delitem(__import__("sys").modules, "mine", raising=False)
    return __import__("mine")


def raised(call: object, module: ModuleType) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        module.fails(call)
    return caught.value


def test_the_line_of_the_user_that_called_a_library(mine: ModuleType) -> None:
    error = raised(lambda: mine.json.loads("{"), mine)
    assert place(error) == "mine.py:7: "
    assert first_line(error).startswith("mine.py:7: Expecting property name")


def test_the_error_that_the_user_raised_and_not_its_cause(mine: ModuleType) -> None:
    assert place(raised(lambda: {}["a"], mine)) == "mine.py:9: "


def test_none_for_an_error_of_the_suite_that_the_user_s_code_runs(mine: ModuleType) -> None:
    assert place(raised(lambda: mine.nearest(1, ["a"]), mine)) == ""
    assert place(raised(lambda: (_ for _ in ()).throw(UserError("x")), mine)) == ""


def test_a_syntax_error_says_where(mine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("broken.py").write_text("x = 1\ny = (\n")
    assert place(raised(lambda: __import__("broken"), mine)) == "broken.py:2: "
