"""Where a token lies in its slide, image or volume, as sines and cosines of its coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medsoft.ops.tensors import accumulation_dtype


@dataclass(frozen=True)
class Frame:
    """What coordinates are counted in.

    Attributes:
        axes: numbers of a place.
        shortest: wavelength in this unit, at which neighbours still differ by no more than about a quarter turn.
        longest: wavelength that is longer than anything, so that no two places look the same.
        unit: as messages call it.
    """

    axes: int
    shortest: float
    longest: float
    unit: str


FRAMES = {
    "um": Frame(2, 500.0, 100_000.0, "µm"),  # tiles of about 100 µm; the length of a slide
    "mm": Frame(3, 20.0, 2_000.0, "mm"),  # slices and cells of some mm; a body
    "cells": Frame(2, 5.0, 1_000.0, "cells"),  # of an encoder's map: a photograph of 4288 px has 306 of 14 px
    "cells_3d": Frame(3, 5.0, 1_000.0, "cells"),
}
"""By name. A pixel has no size: places in pictures are counted in the cells that the encoder saw."""


class CoordinateEmbedding(nn.Module):
    """Coordinates to vectors of width D: sin, cos of x, then of y (then of z), at equally many wavelengths. No weights.

    The wavelengths grow geometrically. In µm from 500 µm, so that tiles of about 100 µm beside each other differ by
    less than a quarter turn, to 100 mm, more than the length of a slide, so that no two places look the same. Being in
    µm or mm, they mean the same at every resolution. Where D has no equal share for all axes, the last entries are 0.

    Source: the sines and cosines of Vaswani et al. 2017 (arXiv 1706.03762), in two or three dimensions and true units.

    Args:
        dim: width D; of two axes divisible by 4.
        frame: what coordinates are counted in, a key of ``FRAMES``.
        shortest: shortest wavelength, in place of the frame's.
        longest: longest wavelength, in place of the frame's.

    Raises:
        ValueError: no such frame, ``dim`` not divisible by 4, or wavelengths that are not 0 < shortest < longest.
    """

    angular: Tensor

    def __init__(
        self, dim: int, frame: str = "um", shortest: float | None = None, longest: float | None = None
    ) -> None:
        super().__init__()
        if frame not in FRAMES:
            raise ValueError(f"coordinates {frame!r}: one of {', '.join(FRAMES)}")
        self.frame = FRAMES[frame]
        shortest = self.frame.shortest if shortest is None else shortest
        longest = self.frame.longest if longest is None else longest
        if dim % 4:
            raise ValueError(f"width {dim} is not divisible by 4: sine and cosine of two coordinates")
        if not 0 < shortest < longest:
            unit = self.frame.unit
            raise ValueError(f"wavelengths must be 0 < shortest < longest, not {shortest:g} and {longest:g} {unit}")
        waves = dim // (2 * self.frame.axes)
        self.rest = dim - 2 * self.frame.axes * waves
        wavelengths = torch.logspace(math.log10(shortest), math.log10(longest), waves, dtype=torch.float64)
        self.register_buffer("angular", 2 * math.pi / wavelengths, persistent=False)

    def forward(self, coords_BNA: Tensor) -> Tensor:
        """(B, N, axes), integers too, to (B, N, D) with entries in [−1, 1], in float32 (float64 for float64)."""
        # Half precision cannot tell neighbouring tiles apart at 100,000 µm.
        dtype = accumulation_dtype(coords_BNA)
        angles = coords_BNA.to(dtype).unsqueeze(-1) * self.angular.to(dtype)  # (B, N, axes, waves)
        places_BND = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        return nn.functional.pad(places_BND, (0, self.rest)) if self.rest else places_BND
