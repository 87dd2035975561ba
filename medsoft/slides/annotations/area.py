"""How much of a tile lies within regions, and which class has the larger part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import shapely

from medsoft.slides.annotations.shapes import Area

MAJORITY = 0.5
"""A class has a tile if more than this part of its area lies within the class's regions."""

AMBIGUOUS = 1e-9
"""Parts of a tile's area that differ by less are equal."""


def parts_inside(corners_N2: npt.NDArray[np.generic], side: float, areas: Sequence[Area]) -> npt.NDArray[np.float64]:
    """The part of each square's area that lies in the areas; where these overlap, it counts once.

    Args:
        corners_N2: top-left corners (x, y) of the squares.
        side: of a square.
        areas: valid ones.

    Returns:
        (N,) in [0, 1].
    """
    low_N2 = np.asarray(corners_N2, dtype=np.float64).reshape(-1, 2)
    squares_N = shapely.box(*low_N2.T, *(low_N2 + side).T)
    region = shapely.union_all(list(areas))
    shapely.prepare(region)
    parts_N: npt.NDArray[np.float64] = shapely.covers(region, squares_N).astype(np.float64)
    cut = np.flatnonzero((parts_N == 0) & shapely.intersects(region, squares_N))
    parts_N[cut] = shapely.area(shapely.intersection(squares_N[cut], region)) / side**2
    return np.minimum(parts_N, 1.0)


def majority_labels(
    parts: Mapping[str, npt.NDArray[np.float64]], inside_N: npt.NDArray[np.float64], other: str | None
) -> list[str]:
    """The class that has the majority of each tile's area; "" where none has, or two have the same.

    Args:
        parts: by class, the part of each tile that lies in its regions.
        inside_N: the part that lies in the regions of any class.
        other: label of tiles of which more than half lies in no region; None: they have none.
    """
    names = list(parts)
    parts_NK = np.stack([parts[name] for name in names], axis=1) if names else np.zeros((len(inside_N), 0))
    labels = []
    for inside, parts_K in zip(inside_N, parts_NK, strict=True):
        order = np.argsort(-parts_K, kind="stable")
        most = parts_K[order[0]] if len(order) else 0.0
        if most > MAJORITY:
            equal = len(order) > 1 and most - parts_K[order[1]] < AMBIGUOUS
            labels.append("" if equal else names[order[0]])
        else:
            labels.append(other or "" if 1 - inside > MAJORITY else "")
    return labels
