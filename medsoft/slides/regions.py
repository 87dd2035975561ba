"""The tiles that speak most for a class, as regions with an outline.

Rule: the fewest tiles that together hold half of the positive mass (the sum of all positive shares). Of these, tiles
that overlap or have a part of an edge in common are one region; its outline is the exact union of their rectangles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from medsoft.slides.polygons import Polygon, polygon_area, trace

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Region:
    """Tiles that hang together, and their outline.

    Attributes:
        tiles: (n,) indices of the tiles.
        polygon: outline and holes, in level-0 pixels.
        share: sum of the tiles' shares, in logits.
        mass: ``share`` as a part of the slide's positive mass.
        area_px0: area of the polygon in square level-0 pixels.
    """

    tiles: Ints
    polygon: Polygon
    share: float
    mass: float
    area_px0: float


def top_regions(coords_N2_px0: Ints, tile_px0: float, shares_N: Floats, mass: float = 0.5) -> list[Region]:
    """Regions of the fewest tiles that hold a part of the positive mass, the largest sum of shares first.

    Args:
        coords_N2_px0: top-left corners of the tiles.
        tile_px0: side of a tile.
        shares_N: of the tiles; NaN for a tile without one.
        mass: part of the sum of positive shares that the chosen tiles hold.

    Returns:
        No region where no share is positive.
    """
    positive_N = np.where(shares_N > 0, shares_N, 0.0).astype(np.float64)
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
        share = float(positive_N[chosen[group]].sum())
        regions.append(Region(chosen[group], polygon, share, share / total, polygon_area(polygon)))
    return sorted(regions, key=lambda region: -region.share)


def unions(coords_N2_px0: Ints, tile_px0: float) -> list[tuple[Ints, Polygon]]:
    """Groups of tiles (indices) that hang together, each with the union of its rectangles."""
    side = round(tile_px0)
    # Where a tile's side is no whole number of level-0 pixels, the grid rounds places, and neighbours are off by one.
    snap = 0 if float(tile_px0).is_integer() else 1
    found = []
    for near in _groups(coords_N2_px0, side + snap):
        x_edges, x_N2 = _edges(coords_N2_px0[near, 0], side, snap)
        y_edges, y_N2 = _edges(coords_N2_px0[near, 1], side, snap)
        # Between edges nothing changes: a cell of this uneven grid lies wholly inside the union or wholly outside.
        cells_YX = np.zeros((len(y_edges) - 1, len(x_edges) - 1), dtype=bool)
        for (left, right), (top, bottom) in zip(x_N2, y_N2, strict=True):
            cells_YX[top:bottom, left:right] = True
        labels_YX, number = label(cells_YX)
        label_N = labels_YX[y_N2[:, 0], x_N2[:, 0]]
        for index in range(1, number + 1):
            rings = [np.stack([x_edges[ring[:, 0]], y_edges[ring[:, 1]]], axis=1) for ring in trace(labels_YX == index)]
            found.append((near[label_N == index], rings))
    return found


def _groups(coords_N2_px0: Ints, reach_px0: int) -> list[Ints]:
    """Tiles (indices) that touch, if only by a corner: a first, cheap division."""
    pairs_P2 = KDTree(coords_N2_px0).query_pairs(reach_px0, p=np.inf, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs_P2), dtype=bool), pairs_P2.T), shape=(len(coords_N2_px0),) * 2)
    _, group_N = connected_components(graph, directed=False)
    order_N = np.argsort(group_N, kind="stable")
    return np.split(order_N, np.flatnonzero(np.diff(group_N[order_N])) + 1)


def _edges(starts_N: Ints, side: int, snap: int) -> tuple[npt.NDArray[np.float64], Ints]:
    """Edges of tiles along one axis, those at most ``snap`` apart made one, and each tile's (first, last) edge."""
    values, inverse = np.unique(np.stack([starts_N, starts_N + side], axis=1), return_inverse=True)
    edges: list[int] = []
    index = []
    for value in values.tolist():
        if not edges or value - edges[-1] > snap:
            edges.append(value)
        index.append(len(edges) - 1)
    return np.array(edges, dtype=np.float64), np.array(index, dtype=np.int64)[inverse.reshape(-1, 2)]
