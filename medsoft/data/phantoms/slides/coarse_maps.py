"""Coarse maps of a slide, from which a finer picture of any part is made."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Points = NDArray[np.int64]

PAD = 4  # cells around the slide: a block at its edge is painted with a margin as wide as half a nucleus


@dataclass(frozen=True)
class Rectangle:
    """A part of the slide, in level-0 pixels."""

    x: int
    y: int
    width: int
    height: int

    def grown(self, by: int) -> Rectangle:
        """The rectangle with a margin on all sides."""
        return Rectangle(self.x - by, self.y - by, self.width + 2 * by, self.height + 2 * by)


@dataclass(frozen=True)
class CoarseMaps:
    """Maps on one grid.

    Attributes:
        cell_px0: side of a cell.
        values: uint8 (H, W, C), with ``PAD`` cells around the slide.
    """

    cell_px0: int
    values: Pixels

    def cells(self, part: Rectangle) -> Pixels:
        """The cells (h, w, C) in and next to a part of the slide."""
        rows, columns = self._span(part.y, part.height), self._span(part.x, part.width)
        return self.values[rows[0] : rows[1], columns[0] : columns[1]]

    def enlarged(self, part: Rectangle) -> Pixels:
        """The maps at full size, (height, width, C), interpolated between the centres of cells."""
        cell = self.cell_px0
        fine = cv2.resize(self.cells(part), None, fx=cell, fy=cell, interpolation=cv2.INTER_LINEAR)
        top = part.y - (self._span(part.y, part.height)[0] - PAD) * cell
        left = part.x - (self._span(part.x, part.width)[0] - PAD) * cell
        fine = fine[top : top + part.height, left : left + part.width]
        return np.asarray(fine.reshape(part.height, part.width, -1), np.uint8)

    def at(self, points_N2_px0: Points) -> Pixels:
        """The values (N, C) of the cells in which points lie."""
        cells = np.clip(points_N2_px0 // self.cell_px0 + PAD, 0, len(self.values) - 1)
        return np.asarray(self.values[cells[:, 1], cells[:, 0]])

    def _span(self, start: int, length: int) -> tuple[int, int]:
        """First cell, and the one after the last, with one more on each side."""
        return start // self.cell_px0 - 1 + PAD, (start + length - 1) // self.cell_px0 + 2 + PAD
