"""`plcourse learn`: the path, the guides, and exercises that tell right from wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripts.tools.learning_path import README, written

from plcourse import catalog
from plcourse.__main__ import main
from plcourse.exercises import exercises_of
from plcourse.runs.run import Run
from plcourse.verbs.learn.syllabus import PLANS, TRACKS

SOLUTIONS = Path(__file__).parents[2] / "solutions"
ALL = [(lesson, each.name) for lesson in catalog.LESSONS for each in exercises_of(lesson.key)]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLCOURSE_RUNS", raising=False)


def refused(capsys, *words: str, status: int = 2) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["learn", *words])
    assert stopped.value.code == status
    return capsys.readouterr().err


class TestPath:
    def test_every_lesson_has_a_plan_and_builds_on_earlier_lessons(self):
        assert list(PLANS) == [lesson.number for lesson in catalog.LESSONS]
        for number, plan in PLANS.items():
            assert all(earlier < number for earlier in plan.needs)
            assert 30 <= plan.minutes <= 180
            assert len(plan.concepts) >= 3
            assert plan.outcome[0].islower()
            assert not plan.outcome.endswith(".")
        assert TRACKS["practitioner"] == tuple(PLANS)
        for track, numbers in TRACKS.items():
            missing = {need for number in numbers for need in PLANS[number].needs} - {*numbers}
            assert not missing, f"{track} leaves out {missing}, on which its lessons build"

    def test_the_readme_shows_the_same_table_and_every_need(self):
        text = README.read_text(encoding="utf-8")
        assert text == written(text), "run `python scripts/tools/learning_path.py`"
        assert PLANS[13].outcome in text
        assert "- gpu: `ddp/gpus`" in text

    def test_finished_lessons_are_listed_with_their_scores(self, capsys):
        run = Run.create("kfold/classifier", "runs", {"verb": "fit"})
        run.finish("finished", best={"metric": "val/accuracy", "value": 0.95898})
        Run.create("gan/r3gan", "runs", {"verb": "fit"}).finish("failed")
        main(["learn"])
        out = capsys.readouterr().out
        assert "- Done: `kfold/classifier`, val/accuracy 0.959" in out
        assert out.count("- Done:") == 1
        assert [int(number) for number in re.findall(r"^## (\d\d) ", out, re.M)] == list(range(12, 20))
        assert "researcher: 12, 13, 14, 15, 16, 18, 19" in out
        assert "    plcourse learn 12\n" in out
        main(["learn", "14"])
        assert "- finished: `kfold/classifier`, val/accuracy 0.959" in capsys.readouterr().out

    @pytest.mark.parametrize("word", ["14", "kfold"])
    def test_a_guide_is_printed_unchanged_and_ends_with_commands(self, word, capsys):
        main(["learn", word])
        out = capsys.readouterr().out
        assert out.startswith((catalog.PACKAGE / "kfold/README.md").read_text(encoding="utf-8").rstrip())
        assert "\x1b" not in out
        ending = out[out.rindex("## Next") :]
        assert "plcourse fit -c kfold/classifier" in ending
        assert "plcourse learn 14 --exercise" in ending

    @pytest.mark.parametrize("width", [40, 80])
    def test_on_a_terminal_it_is_rendered(self, width, monkeypatch, capsys):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(width))
        main(["learn", "14"])
        out = re.sub(r"\x1b\[[\d;]*m|\x1b\].*?\x1b\\\\", "", capsys.readouterr().out)
        assert "## Next" not in out
        assert "Next" in out
        assert max(map(len, out.splitlines())) <= 100
        assert "…" not in out  # in a narrow table words go on in the next line

    @pytest.mark.parametrize("lesson", catalog.LESSONS, ids=lambda lesson: lesson.key)
    def test_code_prints_the_file_of_the_package(self, lesson, capsys):
        main(["learn", str(lesson.number), "--code"])
        assert capsys.readouterr().out == (catalog.PACKAGE / lesson.key / "minimal.py").read_text(encoding="utf-8")

    def test_code_is_highlighted_on_a_terminal(self, monkeypatch, capsys):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", "100")
        main(["learn", "14", "--code"])
        plain = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
        assert "def corrected_interval(" in plain
        assert "import torch" in plain

    def test_mistakes(self, capsys):
        assert "did you mean 'kfold'?" in refused(capsys, "kfolds")
        assert "--hint needs a lesson" in refused(capsys, "--hint")
        assert "--code needs a lesson" in refused(capsys, "--code")
        assert "give one of them" in refused(capsys, "13", "--exercise", "x", "--check", "x")
        assert "--name goes with" in refused(capsys, "13", "--name", "turns")
        assert "did you mean 'turns'?" in refused(capsys, "13", "--hint", "--name", "turn")

    @pytest.mark.medium
    @pytest.mark.parametrize("words", [[], ["14"], ["14", "--code"], ["13", "--hint"], ["13", "--exercise", "x"]])
    def test_it_imports_nothing_heavy(self, words):
        code = (
            f"import sys; from plcourse.__main__ import main; main({['learn', *words]!r});"
            "sys.exit(' '.join({'torch', 'numpy', 'rich'} & set(sys.modules)) or None)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


class TestExercises:
    def test_each_lesson_has_two_or_three_and_each_a_solution(self):
        for lesson in catalog.LESSONS:
            assert 2 <= len(exercises_of(lesson.key)) <= 3
        known = {f"{lesson.key}/{name}" for lesson, name in ALL}
        there = {path.relative_to(SOLUTIONS).with_suffix("").as_posix() for path in SOLUTIONS.rglob("*.py")}
        assert there == known

    @pytest.mark.slow
    @pytest.mark.parametrize(("lesson", "name"), ALL, ids=lambda each: getattr(each, "key", each))
    def test_the_starting_file_fails_and_the_solution_passes(self, lesson, name, capsys):
        main(["learn", lesson.key, "--exercise", "mine.py", "--name", name])
        capsys.readouterr()
        assert "1 of 1 exercises is not right yet" in refused(capsys, "--check", "mine.py", status=1)
        first = Path("mine.py").read_text().partition("\n")[0]
        Path("mine.py").write_text(f"{first}\n{(SOLUTIONS / lesson.key / f'{name}.py').read_text()}")
        main(["learn", "--check", "mine.py"])
        out = capsys.readouterr().out
        assert out.endswith("all right\n")
        assert "WRONG" not in out

    @pytest.mark.medium
    def test_a_folder_of_exercises_with_hints_is_not_overwritten(self, capsys):
        main(["learn", "12", "--exercise", "mine"])
        assert sorted(path.name for path in Path("mine").iterdir()) == ["ddp_shares.py", "ddp_weights.py"]
        capsys.readouterr()
        assert "'mine/ddp_shares.py' exists" in refused(capsys, "12", "--exercise", "mine")
        with pytest.raises(SystemExit):
            main(["learn", "12", "--check", "mine", "--hint"])
        out, err = capsys.readouterr()
        assert "2 of 2 exercises are not right yet" in err
        assert exercises_of("ddp")[0].hint in out
        assert "65 samples on 2 processes: 66 scored" in out
        assert "found no exercise of lesson 13" in refused(capsys, "13", "--check", "mine")

    @pytest.mark.medium
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("raise SystemExit(0)", "SystemExit in line 2"),
            ("def shares(n, rank, world_size): return 1 / 0", "ZeroDivisionError in line 2"),
            ("print('shares'", "SyntaxError"),
            ("import os; os._exit(3)", "the process ended without a message"),
            ("x = 1", "has no attribute 'shares'"),
        ],
    )
    def test_answers_that_raise_or_exit(self, text, said, capsys):
        Path("mine.py").write_text(f"# plcourse exercise ddp/shares\n{text}\n")
        with pytest.raises(SystemExit) as stopped:
            main(["learn", "--check", "mine.py"])
        assert stopped.value.code == 1
        assert said in capsys.readouterr().out

    @pytest.mark.medium
    def test_an_answer_that_hangs(self, monkeypatch, capsys):
        monkeypatch.setattr("plcourse.verbs.learn.exercise_files._CHECK_SECONDS", 3)
        Path("mine.py").write_text("# plcourse exercise ddp/shares\nwhile True: pass\n")
        with pytest.raises(SystemExit):
            main(["learn", "--check", "mine.py"])
        assert "did not finish within 3 s" in capsys.readouterr().out

    def test_mistakes(self, capsys):
        assert "no such file or folder" in refused(capsys, "--check", "x.py")
        Path("x.py").write_text("# plcourse exercise os/system\n")
        assert "found no exercise;" in refused(capsys, "--check", "x.py")
        assert "choose an exercise by --name" in refused(capsys, "12", "--exercise", "y.py")
        assert "does not exist" in refused(capsys, "12", "--exercise", "new/y.py", "--name", "shares")
        assert "give a folder" in refused(capsys, "12", "--exercise", "new/deep")
