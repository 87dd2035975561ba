"""Heads as an axis of their own, and back."""

from __future__ import annotations

from torch import Tensor


def split_heads(x_BND: Tensor, heads: int) -> Tensor:
    """(B, N, D) to (B, H, N, d)."""
    B, N, D = x_BND.shape
    return x_BND.reshape(B, N, heads, D // heads).transpose(1, 2)


def join_heads(x_BHNd: Tensor) -> Tensor:
    """(B, H, N, d) to (B, N, D)."""
    return x_BHNd.transpose(1, 2).flatten(-2)
