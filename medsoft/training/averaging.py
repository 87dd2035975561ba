"""The moving average of the weights, which is what validation sees and checkpoints hold."""

from __future__ import annotations

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class MovingAverage(WeightAveraging):
    """Lightning's averaging of weights and buffers, exponential, with a decay that rises to its value.

    After n steps the decay is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ``ExponentialMovingAverage`` and
    timm's: with a constant one of 0.999 the average of a training of a few hundred steps is mostly the weights that it
    began with, which is what few images come to.

    Checkpoints hold the average as ``state_dict`` and the current weights beside it, so that a resumed run goes on
    exactly. Several processes average the same weights, and so have the same average.

    Args:
        decay: share of the average that is kept at each step, such as 0.999.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, n: Tensor | int) -> Tensor:
            kept = min(decay, (1 + int(n)) / (10 + int(n)))
            return averaged * kept + current * (1 - kept)

        super().__init__(avg_fn=average)
        self.decay = decay
