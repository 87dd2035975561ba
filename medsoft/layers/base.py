"""The contract that every attention module keeps, and what the modules share.

Every mechanism is called as ``y_BND = attention(x_BND, mask_BN=None, grid=None)``: ``mask_BN`` is True where a token is
real, ``grid`` the spatial shape of the tokens where they have one (a mechanism that has no use for it ignores it).
Real tokens come out the same with and without padding, whatever the padded rows contain, NaN and inf included.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsoft.ops.tensors import no_autocast

Grid = tuple[int, ...]


class Attention(Protocol):
    """What backbones and slide aggregators may rely on."""

    num_heads: int
    proj: nn.Linear

    def __call__(self, x_BND: Tensor, mask_BN: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        ...

    def contributions(
        self, x_BND: Tensor, query: int = 0, mask_BN: Tensor | None = None, grid: Grid | None = None
    ) -> tuple[Tensor, Tensor]:
        """Weights w (B, H, N) and values v (B, H, N, d): token ``query`` gets ``proj(concat_h Σ_n w_hn v_hn)``."""
        ...


def zero_padding(x_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
    """Replace padded rows by 0; multiplying would keep their NaN and inf."""
    return x_BND if mask_BN is None else torch.where(mask_BN.unsqueeze(-1), x_BND, 0)


def project(y_BND: Tensor, proj: nn.Linear) -> Tensor:
    """The output projection in the precision of ``y_BND``, autocast or not."""
    bias = None if proj.bias is None else proj.bias.to(y_BND.dtype)
    with no_autocast(y_BND):
        return F.linear(y_BND, proj.weight.to(y_BND.dtype), bias)


def check_heads(dim: int, num_heads: int) -> None:
    """Raise ValueError where the heads do not divide the width."""
    if dim % num_heads:
        raise ValueError(f"width {dim} is not divisible by {num_heads} heads")
