"""Where a token lies in its slide, as sines and cosines of its coordinates in µm."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from medsoft.ops.precision import accumulation_dtype


class CoordinateEmbedding(nn.Module):
    """Coordinates in µm to vectors of width D: sin, cos of x, then of y, at D / 4 wavelengths each. No weights.

    The wavelengths grow geometrically from ``shortest_um`` to ``longest_um``. Defaults: 500 µm, so that tiles of about
    100 µm beside each other differ by less than a quarter turn, and 100 mm, more than the length of a slide, so that no
    two places look the same. Being in µm, they mean the same at every magnification.

    Source: the sines and cosines of Vaswani et al. 2017 (arXiv 1706.03762), in two dimensions and true units.

    Args:
        dim: width D, divisible by 4.
        shortest_um: shortest wavelength in µm.
        longest_um: longest wavelength in µm.

    Raises:
        ValueError: ``dim`` not divisible by 4, or wavelengths that are not 0 < shortest < longest.
    """

    angular_per_um: Tensor

    def __init__(self, dim: int, shortest_um: float = 500.0, longest_um: float = 100_000.0) -> None:
        super().__init__()
        if dim % 4:
            raise ValueError(f"width {dim} is not divisible by 4: sine and cosine of two coordinates")
        if not 0 < shortest_um < longest_um:
            raise ValueError(f"wavelengths must be 0 < shortest < longest, not {shortest_um:g} and {longest_um:g} µm")
        wavelengths_um = torch.logspace(math.log10(shortest_um), math.log10(longest_um), dim // 4, dtype=torch.float64)
        self.register_buffer("angular_per_um", 2 * math.pi / wavelengths_um, persistent=False)

    def forward(self, coords_BN2_um: Tensor) -> Tensor:
        """(B, N, 2) in µm, integers too, to (B, N, D) with entries in [−1, 1], in float32 (float64 for float64)."""
        # Half precision cannot tell neighbouring tiles apart at 100,000 µm.
        dtype = accumulation_dtype(coords_BN2_um)
        angles = coords_BN2_um.to(dtype).unsqueeze(-1) * self.angular_per_um.to(dtype)  # (B, N, 2, D / 4)
        return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
