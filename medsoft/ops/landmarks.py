"""A fixed number of landmarks from any number of tokens: exact adaptive averaging.

Landmark j of m averages the tokens from ⌊j n / m⌋ to ⌈(j + 1) n / m⌉, of n tokens in their order: segments of equal
length but for rounding. Neighbours share a token where m does not divide n, and tokens are repeated where n < m.

It is done by a matrix product, so that padding only changes the matrix, and the backward is deterministic on a GPU,
which that of PyTorch's adaptive pooling is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def segment_means(x_BNc: Tensor, m: int, mask_BN: Tensor | None = None) -> Tensor:
    """Landmarks of a bag: means over segments of its real tokens, which count by rank, wherever padding lies.

    Args:
        x_BNc: tokens (B, N, c), finite at padded tokens too.
        m: number of landmarks.
        mask_BN: True where a token is real.

    Returns:
        (B, m, c); 0 for a bag without real tokens.
    """
    if mask_BN is None:
        return _averaging(x_BNc.shape[1], m, x_BNc) @ x_BNc
    count_B1 = mask_BN.sum(dim=1, keepdim=True)
    rank_BN = torch.where(mask_BN, mask_BN.cumsum(dim=1) - 1, -1)  # −1 lies in no segment
    return _weights(rank_BN, count_B1, m, x_BNc.dtype) @ x_BNc


def grid_means(x_BcG: Tensor, shape: Sequence[int]) -> Tensor:
    """Landmarks of a grid: (B, c, *grid) to (B, c, *shape), each axis averaged in turn."""
    for axis, m in enumerate(shape, start=2):
        x = x_BcG.movedim(axis, -1)
        x_BcG = (x @ _averaging(x.shape[-1], m, x).mT).movedim(-1, axis)
    return x_BcG


def _averaging(n: int, m: int, like: Tensor) -> Tensor:
    """(m, n) weights for n tokens, all real."""
    return _weights(torch.arange(n, device=like.device), torch.full((1,), n, device=like.device), m, like.dtype)


def _weights(rank: Tensor, count: Tensor, m: int, dtype: torch.dtype) -> Tensor:
    """Ranks (..., N) among ``count`` (..., 1) tokens to the weights (..., m, N) of each landmark's mean."""
    j = torch.arange(m, device=rank.device)
    first = (j * count // m)[..., None]
    end = ((j + 1) * count + m - 1).floor_divide(m)[..., None]
    inside = (first <= rank[..., None, :]) & (rank[..., None, :] < end)
    return inside.to(dtype) / (end - first).clamp(min=1)
