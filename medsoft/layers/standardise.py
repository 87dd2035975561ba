"""Standardisation of features by what the training part is like, which the weights then bring along."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standardise(nn.Module):
    """(x − mean) · scale of each feature, the last axis; as it is made, x itself.

    Args:
        num_features: features F.
    """

    mean_F: Tensor
    scale_F: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean_F", torch.zeros(num_features))
        self.register_buffer("scale_F", torch.ones(num_features))

    def learn(self, mean_F: Tensor, sd_F: Tensor) -> None:
        """Take these means and standard deviations; features of infinite deviation become 0."""
        self.mean_F.copy_(mean_F)
        self.scale_F.copy_(1 / sd_F)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean_F) * self.scale_F
