"""The floor: two N × D × D matrix products, in the same precision and on the same device as the mechanisms.

A linear mechanism gathers a small matrix from all tokens before it can give any token its output. The floor gathers
D × D numbers and applies them once, ``y = x (xᵀx)``, and has no projections. Backward it takes three products more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Floor(nn.Module):
    """``y = x T`` with ``T = xᵀx``, for each sequence of a batch."""

    def forward(self, x_BND: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """(B, N, D) to (B, N, D); ``grid`` changes nothing."""
        out: Tensor = _Floor.apply(x_BND)
        return out


class _Floor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BND: Tensor) -> Tensor:
        T_BDD = x_BND.mT @ x_BND
        ctx.save_for_backward(x_BND, T_BDD)
        return x_BND @ T_BDD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient_BND,) = gradients
        x_BND, T_BDD = ctx.saved_tensors
        gradient_T_BDD = x_BND.mT @ gradient_BND
        # T is symmetric and x enters it twice, so that autograd's own four products can be three.
        gradient_x_BND: Tensor = gradient_BND @ T_BDD
        return gradient_x_BND.baddbmm_(x_BND, gradient_T_BDD + gradient_T_BDD.mT)
