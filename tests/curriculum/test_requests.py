"""A wrong argument gives one line that says what would be right."""

import pytest

from support import Command

LOOP = "--trainer.fit_loop.init_args"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([f"{LOOP}.pacing.init_args.start", "-0.2"], "start is -0.2; it must be above 0 and at most 1"),
        (["--data.init_args.label_noise", "2"], "label_noise is 2.0; it must be a fraction from 0 to below 1"),
        ([f"{LOOP}.scorer", "null"], "order is easy_first, which needs to know how hard samples are"),
    ],
)
def test_an_impossible_curriculum_is_refused(forked: Command, flags: list[str], message: str) -> None:
    error = forked("fit", "-c", "curriculum/easy_first", *flags, status=2).stderr
    assert f"plcourse: error: {message}" in error
    assert error.count("\n") == 1
