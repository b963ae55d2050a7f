"""Is an exported model the trained one?

`same` decides whether a file may be shipped, from the outputs of both models on the same samples. It lets files
through that it should not. Make it strict, and yet forgiving of rounding.
"""

import numpy as np


def same(trained_NK: np.ndarray, exported_NK: np.ndarray, tolerance: float = 1e-4) -> bool:
    """Whether two models' outputs are the same.

    Args:
        trained_NK: float32 [N, K].
        exported_NK: what the file gave for the same samples in the same order.
        tolerance: the largest difference that rounding can explain, relative to the largest output.
    """
    scale = np.abs(trained_NK).max()
    return not np.abs(trained_NK - exported_NK).mean() > tolerance * scale
