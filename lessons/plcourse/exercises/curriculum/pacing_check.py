"""Checks `pacing`."""

from types import ModuleType

import numpy as np

_DIFFICULTY = np.random.default_rng(0).random(37)


def check_everything_at_the_end(answer: ModuleType) -> None:
    """Every sample is admitted from the end of the ramp on."""
    for ramp in (1, 7, 10, 100):
        for step in (ramp, ramp + 1, 50 * ramp):
            found = answer.admitted(_DIFFICULTY, step, ramp)
            assert sorted(found) == list(range(37)), f"ramp of {ramp} steps, step {step}: {len(found)} of 37 admitted"


def check_something_at_once(answer: ModuleType) -> None:
    """Step 0 admits at least one sample, even if `start` is tiny, and no more than the fraction `start`."""
    assert len(answer.admitted(_DIFFICULTY, 0, 10, start=0.01)) >= 1, "step 0 admits no sample for start=0.01"
    assert len(answer.admitted(_DIFFICULTY, 0, 10, start=0.5)) <= 19, "step 0 admits more than half for start=0.5"


def check_it_grows_evenly(answer: ModuleType) -> None:
    """The admitted fraction never shrinks and stays within one sample of the straight line."""
    counts = [len(answer.admitted(_DIFFICULTY, step, 20)) for step in range(21)]
    assert counts == sorted(counts), f"the number of admitted samples shrinks: {counts}"
    line = [37 * (0.2 + 0.8 * step / 20) for step in range(21)]
    off = max(abs(count - right) for count, right in zip(counts, line, strict=True))
    assert off <= 1 + 1e-9, f"the number of admitted samples is up to {off:.1f} off the line"


def check_easiest_first(answer: ModuleType) -> None:
    """No excluded sample is easier than an admitted one."""
    found = answer.admitted(_DIFFICULTY, 5, 20)
    excluded = np.setdiff1d(np.arange(37), found)
    assert _DIFFICULTY[found].max() < _DIFFICULTY[excluded].min(), "an excluded sample is easier than an admitted one"
