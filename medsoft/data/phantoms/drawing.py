"""A canvas of pixels with coordinates in field radii.

The round field of view has radius 1 and its centre is the origin, x to the right, y down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Points = NDArray[np.float64]

SUPERSAMPLING = 3  # shapes are filled on a grid this much finer, then averaged: thin vessels keep their width


class Canvas:
    """The grid of one photograph.

    Attributes:
        height, width: of the photograph, in pixels.
        radius_px: of the field of view.
        x, y: float32 (H, W), where each pixel lies, in field radii.
    """

    def __init__(self, height: int, width: int, centre_px: tuple[float, float], radius_px: float) -> None:
        """Lay the field of view on the grid; ``centre_px`` is (x, y)."""
        self.height, self.width, self.radius_px = height, width, radius_px
        self._centre_px = np.asarray(centre_px)
        rows, columns = np.indices((height, width), dtype=np.float32)
        self.x = (columns + np.float32(0.5 - centre_px[0])) / np.float32(radius_px)
        self.y = (rows + np.float32(0.5 - centre_px[1])) / np.float32(radius_px)

    def field(self) -> Floats:
        """Share of each pixel inside the field of view, (H, W)."""
        inside: Floats = np.clip((1 - np.hypot(self.x, self.y)) * self.radius_px + 0.5, 0, 1)
        return inside

    def spot(self, centre: Points, sigma: float, stretch: float = 1.0, angle: float = 0.0) -> Floats:
        """A soft spot that is 1 at its centre, (H, W): a Gaussian, ``stretch`` times as long along ``angle``."""
        dx, dy = self.x - np.float32(centre[0]), self.y - np.float32(centre[1])
        along = (dx * math.cos(angle) + dy * math.sin(angle)) / (sigma * stretch)
        across = (dy * math.cos(angle) - dx * math.sin(angle)) / sigma
        value: Floats = np.exp(-0.5 * (along**2 + across**2)).astype(np.float32)
        return value

    def lines(self, paths: Sequence[Points], widths: Sequence[float]) -> Floats:
        """Share of each pixel that the lines cover, (H, W); ``paths`` are (K, 2) each."""
        fine = self._fine_grid()
        for path, width in zip(paths, widths, strict=True):
            thickness = max(1, round(width * self.radius_px * SUPERSAMPLING))
            cv2.polylines(fine, [self._fine_px(path)], isClosed=False, color=255, thickness=thickness)
        return self._averaged(fine)

    def polygons(self, outlines: Sequence[Points]) -> Floats:
        """Share of each pixel that the filled outlines cover, (H, W); ``outlines`` are (K, 2) each."""
        fine = self._fine_grid()
        for outline in outlines:
            cv2.fillPoly(fine, [self._fine_px(outline)], color=255)
        return self._averaged(fine)

    def clouds(self, rng: np.random.Generator, cells: int) -> Floats:
        """Smooth noise of mean 0 and deviation 1, (H, W), with about ``cells`` bumps over the height."""
        coarse = rng.normal(size=(cells, round(cells * self.width / self.height)))
        smooth = cv2.resize(coarse.astype(np.float32), (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        value: Floats = ((smooth - smooth.mean()) / smooth.std()).astype(np.float32)
        return value

    def _fine_grid(self) -> NDArray[np.uint8]:
        return np.zeros((self.height * SUPERSAMPLING, self.width * SUPERSAMPLING), np.uint8)

    def _fine_px(self, points: Points) -> NDArray[np.int32]:
        fine: NDArray[np.int32] = np.rint((points * self.radius_px + self._centre_px) * SUPERSAMPLING - 0.5).astype(
            np.int32
        )
        return fine

    def _averaged(self, fine: NDArray[np.uint8]) -> Floats:
        averaged = cv2.resize(fine, (self.width, self.height), interpolation=cv2.INTER_AREA)
        share: Floats = averaged.astype(np.float32) / np.float32(255)
        return share
