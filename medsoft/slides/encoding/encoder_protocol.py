"""The interface of an encoder: any function from tiles to features that can describe itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np


class TileEncoder(Protocol):
    """A function from prepared tiles to features.

    Attributes:
        name: of the encoder.
        sha256: of its weights; "" where they are random.
        init: ``weights`` or ``random``.
        precision: of its arithmetic, such as ``float32``.
        num_features: length of a tile's features.
    """

    name: str
    sha256: str
    init: str
    precision: str
    num_features: int

    @property
    def settings(self) -> Mapping[str, Any]:
        """What else decides the features; plain values, ready for JSON."""

    @property
    def engine(self) -> str:
        """What computes it, such as ``torch``: the last tiles, or after ``expect`` the next."""

    def expect(self, images: int, /) -> None:
        """So many more tiles are to come; called before the first of each slide."""

    def prepare(self, tile_HWC: np.ndarray, /) -> np.ndarray:
        """A tile (S, S, 3) uint8 as the input (P, P, 3) uint8; called from several threads at once."""

    def __call__(self, images_BHWC: np.ndarray, /) -> np.ndarray:
        """Prepared tiles (B, P, P, 3) uint8 to features (B, F) float32, each on its own; called from one thread."""
