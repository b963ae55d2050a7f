"""The relations of `pacing`."""

from typing import Any

import numpy as np

_DIFFICULTY = np.random.default_rng(0).random(37)


def check_everything_in_the_end(answer: Any) -> None:
    """From the end of the ramp on every sample is admitted."""
    for ramp in (1, 7, 10, 100):
        for step in (ramp, ramp + 1, 50 * ramp):
            found = answer.admitted(_DIFFICULTY, step, ramp)
            assert sorted(found) == list(range(37)), f"step {step} of a ramp of {ramp}: {len(found)} of 37"


def check_something_at_once(answer: Any) -> None:
    """At step 0 there is a sample to train on, even if the start is tiny."""
    assert len(answer.admitted(_DIFFICULTY, 0, 10, start=0.01)) >= 1, "no sample at step 0"
    assert len(answer.admitted(_DIFFICULTY, 0, 10, start=0.5)) <= 19, "more than half of the samples at step 0"


def check_it_grows_evenly(answer: Any) -> None:
    """The share never shrinks, and is never more than one sample from the straight line."""
    counts = [len(answer.admitted(_DIFFICULTY, step, 20)) for step in range(21)]
    assert counts == sorted(counts), f"it shrinks: {counts}"
    line = [37 * (0.2 + 0.8 * step / 20) for step in range(21)]
    off = max(abs(count - right) for count, right in zip(counts, line, strict=True))
    assert off <= 1 + 1e-9, f"it is {off:.1f} samples from the line"


def check_easiest_first(answer: Any) -> None:
    """No sample that waits is easier than one that is admitted."""
    found = answer.admitted(_DIFFICULTY, 5, 20)
    waiting = np.setdiff1d(np.arange(37), found)
    assert _DIFFICULTY[found].max() < _DIFFICULTY[waiting].min(), "an easier sample waits"
