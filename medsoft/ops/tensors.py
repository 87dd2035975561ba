"""What operations on tokens share: heads as an axis of their own, and the precision in which sums are taken."""

from __future__ import annotations

import torch
from torch import Tensor


def split_heads(x_BND: Tensor, heads: int) -> Tensor:
    """(B, N, D) to (B, H, N, d)."""
    B, N, D = x_BND.shape
    return x_BND.reshape(B, N, heads, D // heads).transpose(1, 2)


def join_heads(x_BHNd: Tensor) -> Tensor:
    """(B, H, N, d) to (B, N, D)."""
    return x_BHNd.transpose(1, 2).flatten(-2)


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64 input, float32 for everything else (bfloat16 and float16 sums lose tokens)."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def no_autocast(x: Tensor) -> torch.autocast:
    """A context in which products keep the precision of their operands on ``x``'s device."""
    device = "cpu" if x.device.type == "meta" else x.device.type  # shapes alone are computed on "meta"
    return torch.autocast(device_type=device, enabled=False)
