r"""Averages of the weights during training, as callbacks for any model: SWA and EMA.

Stochastic weight averaging (Izmailov et al. 2018, algorithm 1, arXiv 1803.05407) takes the mean of the weights at the
end of each epoch. An exponential moving average (Polyak and Juditsky 1992; decay as in Tarvainen and Valpola 2017)
gives older weights less influence:

.. math:: \bar w_n = \bar w_{n-1} + \frac{w - \bar w_{n-1}}{n + 1}, \qquad \bar w = d\,\bar w + (1 - d)\,w

`torch.optim.swa_utils` does the arithmetic. `Averaging` decides which weights are validated, saved and loaded, and
recomputes the statistics of the average's batch norms.
"""

from torch.optim.swa_utils import get_ema_multi_avg_fn

from plcourse.vision.averaged_weights import Averaging, Weights


class SWA(Averaging):
    """Stochastic weight averaging: the mean of the weights at the end of each epoch, or every few steps.

    Keep the learning rate high while averaging (`WarmupHoldDecay` with ``hold`` 1): the average replaces the decay.

    Args:
        start: when averaging begins, as a fraction of all optimizer steps, 0 to 1.
        every_n_steps: optimizer steps between two updates of the average; None to update at the end of each epoch.
        refresh: see `Averaging`.
        refresh_batches: see `Averaging`.
        weights: see `Averaging`.
    """

    def __init__(
        self,
        start: float = 0.6,
        every_n_steps: int | None = None,
        refresh: bool = True,
        refresh_batches: int | None = 16,
        weights: Weights = "averaged",
    ) -> None:
        super().__init__(start, every_n_steps, refresh, refresh_batches, weights)


class EMA(Averaging):
    """An exponential moving average of the weights.

    Args:
        decay: the weight of the old average in an update, above 0 and below 1; the average spans about
            1 / (1 - decay) updates.
        start: when averaging begins, as a fraction of all optimizer steps, 0 to 1.
        every_n_steps: optimizer steps between two updates of the average.
        refresh: see `Averaging`.
        refresh_batches: see `Averaging`.
        weights: see `Averaging`.
    """

    def __init__(
        self,
        decay: float = 0.99,
        start: float = 0.6,
        every_n_steps: int = 1,
        refresh: bool = True,
        refresh_batches: int | None = 16,
        weights: Weights = "averaged",
    ) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay={decay} is not above 0 and below 1")
        super().__init__(start, every_n_steps, refresh, refresh_batches, weights, get_ema_multi_avg_fn(decay))
