"""The help on one class shows what a person sets."""

import pytest

from plcourse.__main__ import main


def test_the_settings_of_a_class_and_of_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--model.help", "ImageClassifier"])
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0].startswith("ImageClassifier: Classifies images with any network")
    assert "  --model.network (Module; required)" in lines
    assert "  --model.label_smoothing (float; default 0.0)" in lines
    assert "probability mass moved from the label" in printed
    assert "--model.network.help" in lines[-1]
    assert len(lines) < 40


def test_the_help_on_a_class_inside_another(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--model", "ImageClassifier", "--model.network.help", "MLP"])
    assert capsys.readouterr().out.startswith("MLP: ")
