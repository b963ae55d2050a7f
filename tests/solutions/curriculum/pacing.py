"""A solution of the exercise curriculum/pacing."""

import numpy as np


def admitted(difficulty_N: np.ndarray, step: int, ramp_steps: int, start: float = 0.2) -> np.ndarray:
    """The numbers of the samples that may be drawn at a step, easiest first.

    Args:
        difficulty_N: float64 [N]; larger is harder.
        step: from 0.
        ramp_steps: the step from which on everything is admitted, 1 or more.
        start: the share at step 0, above 0, at most 1.
    """
    share = start + (1 - start) * min(step / ramp_steps, 1)
    count = max(1, round(share * len(difficulty_N)))
    return np.argsort(difficulty_N, kind="stable")[:count]
