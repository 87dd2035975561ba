"""Plain geometry of polygons: tracing them around cells, their area, and how much of each square lies inside.

A polygon is a list of rings, the outer one first, then the holes. A ring is an array (P, 2) of points (x, y); its first
point is not repeated at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[np.float64]
Polygon = list[Ring]


def ring_area(ring: npt.NDArray[np.floating] | npt.NDArray[np.int64]) -> float:
    """Area of a ring; positive where x turns towards y along the way, else negative."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def polygon_area(polygon: Polygon) -> float:
    """Area of a polygon without its holes."""
    outer, *holes = (abs(ring_area(ring)) for ring in polygon)
    return outer - sum(holes)


def trace(cells_YX: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int64]]:
    """Outline of filled cells that hang together by their sides: the outer ring, of positive area, then the holes.

    Where two filled cells have only a corner in common, one of the two empty cells beside it is a hole. The way goes
    around that hole by itself, so that no ring meets itself.

    Args:
        cells_YX: one group of 4-connected cells.

    Returns:
        Rings of grid corners (x, y), with a point only where the way turns.
    """
    filled = np.pad(cells_YX, 1)
    ways: dict[tuple[int, int], list[tuple[int, int]]] = {}
    sides = (  # of a cell: where its neighbour lies, and the corners from which and to which the way goes
        ((0, -1), (0, 0), (1, 0)),
        ((1, 0), (1, 0), (1, 1)),
        ((0, 1), (1, 1), (0, 1)),
        ((-1, 0), (0, 1), (0, 0)),
    )
    for (dx, dy), (x0, y0), (x1, y1) in sides:
        neighbour = np.roll(filled, (-dy, -dx), axis=(0, 1))
        for y, x in (np.argwhere(filled & ~neighbour) - 1).tolist():
            ways.setdefault((x + x0, y + y0), []).append((x + x1, y + y1))
    rings = []
    while ways:
        rings.append(_walk(ways))
    return sorted(rings, key=lambda ring: -ring_area(ring))


def _walk(ways: dict[tuple[int, int], list[tuple[int, int]]]) -> npt.NDArray[np.int64]:
    """Follow the sides from any corner until back there, and take them out of ``ways``."""
    start = here = next(iter(ways))
    ring: list[tuple[int, int]] = []
    steps: list[tuple[int, int]] = []
    while not ring or here != start:
        options = ways[here]
        after = options[0]
        if len(options) == 2 and steps:
            dx, dy = steps[-1]
            away = (here[0] + dy, here[1] - dx)  # turning away from the filled cell
            after = away if away in options else after
        options.remove(after)
        if not options:
            del ways[here]
        ring.append(here)
        steps.append((after[0] - here[0], after[1] - here[1]))
        here = after
    turns = [corner for index, corner in enumerate(ring) if steps[index] != steps[index - 1]]
    return np.array(turns, dtype=np.int64)


def parts_inside(corners_N2: npt.NDArray[np.generic], side: float, polygons: Sequence[Polygon]) -> Ring:
    """The part of each square's area that lies in the polygons, exactly.

    Args:
        corners_N2: top-left corners (x, y) of the squares.
        side: of a square.
        polygons: they must not overlap each other.

    Returns:
        (N,) in [0, 1].
    """
    low_N2 = np.asarray(corners_N2, dtype=np.float64)
    area_N = np.zeros(len(low_N2))
    for polygon in polygons:
        outer = polygon[0]
        near = ((low_N2 < outer.max(axis=0)) & (low_N2 + side > outer.min(axis=0))).all(axis=1)
        if near.any():
            covered = [_ring_in_squares(low_N2[near], side, ring) for ring in polygon]
            area_N[near] += covered[0] - sum(covered[1:])
    return (area_N / side**2).clip(0, 1)


def _ring_in_squares(low_N2: Ring, side: float, ring: Ring) -> Ring:
    """Area (N,) of a ring in each square: the integral of y, cut to the square's, along the way of x, cut likewise."""
    area_N = np.zeros(len(low_N2))
    for begin, end in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if begin[0] == end[0]:
            continue
        # Both ends relative to the squares, so that large coordinates lose no digits.
        x0_N, y0_N = (begin - low_N2).T
        from_N, to_N = x0_N.clip(0, side), (end[0] - low_N2[:, 0]).clip(0, side)
        slope = (end[1] - begin[1]) / (end[0] - begin[0])
        from_y_N, to_y_N = y0_N + slope * (from_N - x0_N), y0_N + slope * (to_N - x0_N)
        height_N = _mean_of_positive(from_y_N, to_y_N) - _mean_of_positive(from_y_N - side, to_y_N - side)
        area_N += (to_N - from_N) * height_N
    return np.abs(area_N)


def _mean_of_positive(from_N: Ring, to_N: Ring) -> Ring:
    """Mean of max(v, 0) while v goes evenly from one value to the other."""
    high_N, low_N = np.maximum(from_N, to_N), np.minimum(from_N, to_N)
    crossing_N = high_N**2 / np.where(high_N > low_N, 2 * (high_N - low_N), 1)
    return np.where(low_N >= 0, (high_N + low_N) / 2, np.where(high_N <= 0, 0, crossing_N))
