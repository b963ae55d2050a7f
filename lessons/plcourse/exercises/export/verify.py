"""Is an exported model the trained one?

`same` decides whether a file may be shipped, by comparing the outputs of both models for the same samples. It accepts
files that it should reject. Make it strict, but let it forgive rounding.
"""

import numpy as np


def same(trained_NK: np.ndarray, exported_NK: np.ndarray, tolerance: float = 1e-4) -> bool:
    """Returns whether the outputs of two models are the same.

    Args:
        trained_NK: outputs of the trained model, float32 [N, K].
        exported_NK: outputs of the exported file for the same samples in the same order.
        tolerance: the largest difference that rounding can explain, relative to the largest output.
    """
    scale = np.abs(trained_NK).max()
    return not np.abs(trained_NK - exported_NK).mean() > tolerance * scale
