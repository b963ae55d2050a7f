"""A solution of the exercise curriculum/pacing."""

import numpy as np


def admitted(difficulty_N: np.ndarray, step: int, ramp_steps: int, start: float = 0.2) -> np.ndarray:
    """Returns the indices of the samples that may be drawn at a step, easiest first.

    Args:
        difficulty_N: float64 [N]; larger is harder.
        step: 0 or more.
        ramp_steps: the first step at which all samples are admitted, 1 or more.
        start: the fraction at step 0, above 0 and at most 1.
    """
    fraction = start + (1 - start) * min(step / ramp_steps, 1)
    count = max(1, round(fraction * len(difficulty_N)))
    return np.argsort(difficulty_N, kind="stable")[:count]
