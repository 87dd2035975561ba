"""Outlines the regions of tiles that contribute most to a class.

Rule: the fewest tiles that together hold half of the positive mass (the sum of all positive contributions). Of these,
tiles that overlap or have a part of an edge in common are one region; its outline is the exact union of their
rectangles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from shapely import Polygon

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Region:
    """Tiles that hang together, and their outline.

    Attributes:
        tiles: (n,) indices of the tiles.
        polygon: outline and holes, in level-0 pixels; always valid.
        contribution: sum of the tiles' contributions, in logits.
        mass: ``contribution`` as a part of the slide's positive mass.
    """

    tiles: Ints
    polygon: Polygon
    contribution: float
    mass: float


def top_regions(coords_N2_px0: Ints, tile_px0: float, contributions_N: Floats, mass: float = 0.5) -> list[Region]:
    """Regions of the fewest tiles that hold a part of the positive mass, the largest sum of contributions first.

    Args:
        coords_N2_px0: top-left corners of the tiles.
        tile_px0: side of a tile.
        contributions_N: of the tiles; NaN for a tile without one.
        mass: part of the sum of positive contributions that the chosen tiles hold.

    Returns:
        No region where no contribution is positive.
    """
    positive_N = np.where(contributions_N > 0, contributions_N, 0.0).astype(np.float64)
    total = float(positive_N.sum())
    if total == 0:
        return []
    order_N = np.argsort(-positive_N, kind="stable")
    held_N = positive_N[order_N].cumsum()
    # Rounding can leave the sum of all a hair below the total.
    number = min(int(np.searchsorted(held_N, mass * total)) + 1, int((positive_N > 0).sum()))
    chosen = np.sort(order_N[:number])
    regions = []
    for group, polygon in unions(coords_N2_px0[chosen], tile_px0):
        contribution = float(positive_N[chosen[group]].sum())
        regions.append(Region(chosen[group], polygon, contribution, contribution / total))
    return sorted(regions, key=lambda region: -region.contribution)


def unions(coords_N2_px0: Ints, tile_px0: float) -> list[tuple[Ints, Polygon]]:
    """Groups of connected tiles (indices), each with the union of its rectangles.

    A shared corner connects nothing. Where two tiles that share only a corner are connected elsewhere, the gap beside
    the corner is a hole. So every polygon is valid: its rings touch each other in single points at most.
    """
    side = round(tile_px0)
    # Where a tile's side is no whole number of level-0 pixels, the grid rounds places, and neighbours are off by one.
    snap = 0 if float(tile_px0).is_integer() else 1
    found = []
    for near in _groups(coords_N2_px0, side + snap):
        x_N2, y_N2 = (_edges(coords_N2_px0[near, axis], side, snap) for axis in (0, 1))
        union = shapely.union_all(shapely.box(x_N2[:, 0], y_N2[:, 0], x_N2[:, 1], y_N2[:, 1]))
        polygons = shapely.get_parts(shapely.orient_polygons(union))
        middles = shapely.points(x_N2.mean(axis=1), y_N2.mean(axis=1))
        tile, owner = shapely.STRtree(polygons).query(middles, predicate="within")
        groups = [near[np.sort(tile[owner == index])] for index in range(len(polygons))]
        found += sorted(zip(groups, map(_tidied, polygons), strict=True), key=lambda one: int(one[0][0]))
    return found


def _tidied(polygon: Polygon) -> Polygon:
    """The same polygon without points on straight sides; its rings and their points in a fixed order."""
    outer, *holes = map(_from_first_side, (polygon.exterior, *polygon.interiors))
    return Polygon(outer, sorted(holes, key=lambda ring: (Polygon(ring).area, ring[0, 1], ring[0, 0])))


def _from_first_side(ring: shapely.LinearRing) -> npt.NDArray[np.float64]:
    """Corners (P, 2) of a ring whose sides run along the axes, from the topmost, then leftmost side that runs right."""
    points = shapely.get_coordinates(ring)[:-1]
    steps = np.roll(points, -1, axis=0) - points
    points = points[(np.sign(steps) != np.sign(np.roll(steps, 1, axis=0))).any(axis=1)]
    right = np.flatnonzero(np.roll(points[:, 0], -1) > points[:, 0])
    first = right[np.lexsort(points[right].T)[0]]
    return np.roll(points, -first, axis=0)


def _groups(coords_N2_px0: Ints, reach_px0: int) -> list[Ints]:
    """Tiles (indices) that touch, if only by a corner: a first, cheap division."""
    pairs_P2 = KDTree(coords_N2_px0).query_pairs(reach_px0, p=np.inf, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs_P2), dtype=bool), pairs_P2.T), shape=(len(coords_N2_px0),) * 2)
    _, group_N = connected_components(graph, directed=False)
    order_N = np.argsort(group_N, kind="stable")
    return np.split(order_N, np.flatnonzero(np.diff(group_N[order_N])) + 1)


def _edges(starts_N: Ints, side: int, snap: int) -> npt.NDArray[np.float64]:
    """(N, 2) first and last edge of each tile along one axis; edges at most ``snap`` apart are made one."""
    values, inverse = np.unique(np.stack([starts_N, starts_N + side], axis=1), return_inverse=True)
    edges: list[int] = []
    for value in values.tolist():
        edges.append(edges[-1] if edges and value - edges[-1] <= snap else value)
    return np.array(edges, dtype=np.float64)[inverse.reshape(-1, 2)]
