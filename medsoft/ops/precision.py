"""The precision in which sums over tokens are taken, whatever the tokens' own."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64 input, float32 for everything else (bfloat16 and float16 sums lose tokens)."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def no_autocast(x: Tensor) -> torch.autocast:
    """A context in which products keep the precision of their operands on ``x``'s device."""
    device = "cpu" if x.device.type == "meta" else x.device.type  # shapes alone are computed on "meta"
    return torch.autocast(device_type=device, enabled=False)
