"""Checks `interval`."""

from types import ModuleType

from plcourse.stats.significance import corrected_resampled_t_test

_SCORES = [0.91, 0.94, 0.89, 0.93, 0.95, 0.90, 0.92, 0.96, 0.88, 0.93]


def check_corrected(answer: ModuleType) -> None:
    """The interval is the one that the lesson computes."""
    for n_train, n_test in ((900, 100), (800, 200)):
        wanted = corrected_resampled_t_test(_SCORES, [0.0] * len(_SCORES), n_test / n_train)
        low, high = answer.interval(_SCORES, n_train, n_test)
        assert wanted.low is not None
        assert wanted.high is not None
        ratio = (high - low) / (wanted.high - wanted.low)
        sizes = f"{n_train} training and {n_test} test samples"
        assert abs(ratio - 1) < 1e-9, f"{sizes}: its width is {ratio:.2f} times the right one"
        assert abs(low - wanted.low) < 1e-9, f"it is not centered on the mean: it starts at {low:.4f}"


def check_repeats(answer: ModuleType) -> None:
    """Repeating the same folds a hundred times does not add a hundred times the evidence."""
    ends = [answer.interval(_SCORES * times, 900, 100) for times in (10, 1000)]
    wide, narrow = (high - low for low, high in ends)
    assert narrow > 0.5 * wide, f"from 100 to 10,000 scores the interval shrinks to {narrow / wide:.2f} times its width"


def check_confidence(answer: ModuleType) -> None:
    """A higher confidence gives a wider interval."""
    widths = [high - low for low, high in (answer.interval(_SCORES, 900, 100, each) for each in (0.8, 0.99))]
    assert widths[0] < widths[1], f"80 % is {widths[0]:.4f} wide, 99 % is {widths[1]:.4f}"
