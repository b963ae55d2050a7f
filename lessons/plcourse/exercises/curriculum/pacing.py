"""Which samples are admitted at a step?

The ramp is linear, from `start` to everything. Some samples never come. Find out which, and why, and mend it.
"""

import numpy as np


def admitted(difficulty_N: np.ndarray, step: int, ramp_steps: int, start: float = 0.2) -> np.ndarray:
    """The numbers of the samples that may be drawn at a step, easiest first.

    Args:
        difficulty_N: float64 [N]; larger is harder.
        step: from 0.
        ramp_steps: the step from which on everything is admitted, 1 or more.
        start: the share at step 0, above 0, at most 1.
    """
    share = start + (1 - start) * step / (ramp_steps + 1)
    count = int(share * len(difficulty_N))
    return np.argsort(difficulty_N, kind="stable")[:count]
