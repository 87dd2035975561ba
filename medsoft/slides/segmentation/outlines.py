"""Outlines of the classes of a map along the edges of its pixels: a polygon's area is that of its pixels, exactly.

Pixels that share an edge are one piece; pixels that share a corner alone are two, whose outlines touch there. So every
polygon is valid. A corner of an outline is a point around which the four pixels are not alike in pairs; along a row of
such points, in order, each two are the ends of a horizontal side, and along a column of a vertical one. Sides that are
followed with the class on their right hand are outlines, clockwise, and holes, against it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from shapely import Polygon

from medsoft.slides.segmentation.label_map import LabelMap

MOST_CORNERS = 20_000_000
"""Of the outlines of a class. More are no outlines that a program opens: 400 MB of GeoJSON."""

Corners = npt.NDArray[np.int32]


class TooManyCornersError(Exception):
    """Outlines so fine that nobody can open them."""


def outlines_of(labels: LabelMap, value: int, min_px: float = 0.0) -> list[Polygon]:
    """The pieces of a class with their holes, in pixels of the map, from the top.

    Args:
        labels: the map.
        value: of the class.
        min_px: smaller pieces are left out, and smaller holes filled.

    Raises:
        TooManyCornersError: there are more than ``MOST_CORNERS``.
    """
    corners_N2, forward_N, crossed_N = _corners(labels, value)
    if not len(corners_N2):
        return []
    rings = [ring for one in _rings(corners_N2, forward_N, crossed_N) for ring in _simple(one)]
    areas_R = np.array([_area(ring) for ring in rings])
    holes: dict[int, list[Corners]] = {}
    for hole, piece in _owners(rings, areas_R, labels.size_px[0]).items():
        if -areas_R[hole] >= min_px:
            holes.setdefault(piece, []).append(rings[hole])
    pieces = np.flatnonzero((areas_R > 0) & (areas_R >= min_px))
    if not len(pieces):
        return []
    tops = np.array([(rings[piece][:, 0].min(), rings[piece][:, 1].min()) for piece in pieces])
    in_order = pieces[np.lexsort(tops.T)].tolist()
    polygons = (Polygon(rings[piece], holes.get(piece, [])) for piece in in_order)
    return [polygon for polygon in polygons if polygon.area >= min_px]


def _corners(labels: LabelMap, value: int) -> tuple[Corners, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Corners (N, 2) as (x, y); whether the class lies right below each; whether two outlines touch there.

    Where they touch, the corner is there twice: for the outline to its left, then for that to its right.
    """
    width, height = labels.size_px
    above = np.zeros((1, width + 2), bool)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    number = 0
    for top, band in [*labels.bands(), (height, np.zeros((1, width), np.uint8))]:
        is_class = np.concatenate([above, np.pad(band == value, ((0, 0), (1, 1)))])
        above = is_class[-1:]
        a, b, c, d = is_class[:-1, :-1], is_class[:-1, 1:], is_class[1:, :-1], is_class[1:, 1:]
        touch = (a == d) & (b == c) & (a != b)
        y, x = np.nonzero((a ^ b ^ c ^ d) | touch)
        twice = touch[y, x]
        y, x, twice = (np.repeat(one, 1 + twice) for one in (y, x, twice))
        number += len(y)
        if number > MOST_CORNERS:
            raise TooManyCornersError
        found.append((np.stack([x, y + top], axis=1).astype(np.int32), d[y, x], twice))
    corners, below, touching = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return corners, below, touching


def _rings(corners_N2: Corners, below_N: npt.NDArray[np.bool_], twice_N: npt.NDArray[np.bool_]) -> Iterator[Corners]:
    """Closed walks along the sides, with the class on the right hand; a walk may come through a point twice."""
    number = len(corners_N2)
    # The order of the corners is that of the rows already: each two are the ends of a horizontal side.
    left, right = np.arange(0, number, 2), np.arange(1, number, 2)
    runs_right = below_N[left]
    begin, end = np.where(runs_right, left, right), np.where(runs_right, right, left)
    # Down a column, of the two at a touching point the one that ends the side from above comes first. It belongs to
    # the left outline, where that one lies above: where the class is not to the lower left, and lies right below.
    second = np.zeros(number, np.int8)
    pairs = np.flatnonzero(twice_N)
    second[pairs[1::2]] = 1
    second[pairs] ^= ~below_N[pairs]
    column = np.lexsort((second, corners_N2[:, 1], corners_N2[:, 0]))
    partner = np.empty(number, np.int64)
    partner[column[0::2]], partner[column[1::2]] = column[1::2], column[0::2]
    side_of = np.empty(number, np.int64)
    side_of[begin] = side_of[end] = np.arange(len(begin))
    following = side_of[partner[end]].tolist()
    seen = bytearray(len(begin))
    for first in range(len(begin)):
        if seen[first]:
            continue
        walk, side = [], first
        while not seen[side]:
            seen[side] = 1
            walk.append(side)
            side = following[side]
        sides = np.array(walk)
        yield corners_N2[np.stack([begin[sides], end[sides]], axis=1).ravel()]


def _simple(ring: Corners) -> Iterator[Corners]:
    """A closed walk as rings that come through each point once."""
    if len(np.unique(ring[:, 0].astype(np.int64) << 32 | ring[:, 1])) == len(ring):
        yield ring
        return
    path: list[tuple[int, int]] = []
    at: dict[tuple[int, int], int] = {}
    for point in map(tuple, ring.tolist()):
        if point in at:
            yield np.array(path[at[point] :], np.int32)
            for gone in path[at[point] + 1 :]:
                del at[gone]
            del path[at[point] + 1 :]
            continue
        at[point] = len(path)
        path.append(point)
    yield np.array(path, np.int32)


def _area(ring: Corners) -> float:
    """Above 0 where it runs clockwise, as seen: around a piece."""
    x, y = ring.astype(np.int64).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _owners(rings: list[Corners], areas_R: np.ndarray, width: int) -> dict[int, int]:
    """The piece that each hole is in, both as numbers of rings.

    Straight up from the topmost corner of a hole, the first side is one of its piece: of the outline, or of a hole
    above, whose piece is known by then.
    """
    holes = np.flatnonzero(areas_R < 0)
    if not len(holes):
        return {}
    tops = np.array([rings[hole][np.lexsort(rings[hole].T)[0]] for hole in holes])
    order = np.lexsort(tops.T)
    sides = _horizontal_sides(rings)
    stops = np.searchsorted(sides[:, 0], tops[order, 1])
    above = np.empty(width + 1, np.int64)
    is_hole = areas_R < 0
    owner: dict[int, int] = {}
    done = 0
    for hole, x, stop in zip(holes[order].tolist(), tops[order, 0].tolist(), stops.tolist(), strict=True):
        for _, first, last, ring in sides[done:stop].tolist():
            above[first:last] = ring
        done = max(done, stop)
        found = int(above[x])
        owner[hole] = owner[found] if is_hole[found] else found
    return owner


def _horizontal_sides(rings: list[Corners]) -> npt.NDArray[np.int64]:
    """(S, 4): row, first and one past the last column, and ring of every horizontal side, from the top."""
    found = []
    for number, ring in enumerate(rings):
        following = np.roll(ring, -1, axis=0)
        level = ring[:, 1] == following[:, 1]
        x_s2 = np.sort(np.stack([ring[level, 0], following[level, 0]], axis=1), axis=1)
        found.append(np.column_stack([ring[level, 1], x_s2, np.full(len(x_s2), number)]))
    sides = np.concatenate(found).astype(np.int64)
    in_order: npt.NDArray[np.int64] = sides[np.argsort(sides[:, 0], kind="stable")]
    return in_order
