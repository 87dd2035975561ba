"""Writes regions as GeoJSON that QuPath opens by drag and drop, and compares a heatmap with regions.

The files count level-0 pixels from the corner of the slide's bounds, as QuPath does; everything else here counts from
the corner of the slide, as OpenSlide does. The two differ for MIRAX and Leica SCN, whose files state the scanned part
(bounds): QuPath cuts the empty margin around it off. So the corner of the bounds is subtracted from what is written for
QuPath, and added to what comes from there (``medsoft.slides.annotations``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from shapely import Polygon
from shapely.affinity import translate
from shapely.geometry import mapping

from medsoft.slides.annotations.area import parts_inside
from medsoft.slides.annotations.shapes import Area
from medsoft.slides.heatmaps.regions import Region
from medsoft.storage.files import replacing

COLOUR = (178, 24, 43)
"""The red of the heatmaps (RdBu of ColorBrewer)."""

Bounds = tuple[int, int, int, int]
"""(x, y, width, height) of the scanned part of a slide, level-0 pixels from the slide's corner."""


def write_regions(
    path: Path,
    regions: Sequence[Region],
    name: str,
    mpp: float,
    *,
    bounds_px0: Bounds | None = None,
    sums: str = "contributions (logit)",
) -> None:
    """Write regions as annotations of a class: file of a whole, possibly empty, collection.

    Args:
        path: the file.
        regions: in the order in which they are numbered.
        name: of the class.
        mpp: µm per level-0 pixel, for areas.
        bounds_px0: of the slide (``Slide.bounds_px0``); None for a slide without a margin.
        sums: what the regions' contributions are sums of.
    """
    x, y = _corner(bounds_px0)
    write_features(
        path,
        (
            _feature(number, region, translate(region.polygon, -x, -y), name, mpp, sums)
            for number, region in enumerate(regions, start=1)
        ),
    )


def write_features(path: Path, features: Iterable[dict[str, Any]]) -> None:
    """Write a whole, possibly empty, collection; only one feature at a time is in memory.

    Args:
        path: the file.
        features: as ``annotation`` makes them.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for number, feature in enumerate(features):
            file.write(", " if number else "")
            file.write(json.dumps(feature, ensure_ascii=False, allow_nan=False))
        file.write("]}\n")


def annotation(
    outline: Polygon, name: str, of_class: str, colour: Sequence[int], measurements: dict[str, float]
) -> dict[str, Any]:
    """A feature that QuPath shows as an annotation.

    Args:
        outline: in level-0 pixels from the corner of the slide's bounds.
        name: of this one.
        of_class: its class.
        colour: of the class, red, green and blue.
        measurements: of this one, by name.
    """
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": _plain(mapping(outline)["coordinates"])},
        "properties": {
            "objectType": "annotation",
            "name": name,
            "classification": {"name": of_class, "color": list(colour)},
            "measurements": measurements,
        },
    }


def _feature(number: int, region: Region, outline: Polygon, name: str, mpp: float, sums: str) -> dict[str, Any]:
    measurements = {
        f"sum of {sums}": region.contribution,
        "part of positive mass": region.mass,
        "tiles": len(region.tiles),
        "area mm2": outline.area * (mpp / 1000) ** 2,
    }
    return annotation(outline, f"{name} {number}", name, COLOUR, measurements)


def _plain(value: Any) -> Any:
    """Coordinates, nested in any way, with whole numbers as such."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    return [_plain(one) for one in value]


def _corner(bounds_px0: Bounds | None) -> tuple[int, int]:
    return bounds_px0[:2] if bounds_px0 else (0, 0)


def mass_inside(
    coords_N2_px0: npt.NDArray[np.int64],
    tile_px0: float,
    contributions_N: npt.NDArray[np.floating],
    areas: Sequence[Area],
) -> float:
    """The part of a heatmap's positive mass that lies in given regions.

    A tile's contribution counts with the part of its area that lies inside, which is computed exactly. With
    contributions of 1 it is the part of the tiles' area that the regions cover: what a heatmap without any knowledge
    would reach.

    Args:
        coords_N2_px0: top-left corners (x, y) of the tiles.
        tile_px0: side of a tile in level-0 pixels.
        contributions_N: of the tiles; those that are not positive count nothing.
        areas: of the regions, in level-0 pixels from the slide's corner: ``SlideRegions.areas``. Where they overlap,
            they count once.

    Returns:
        In [0, 1]; NaN where no contribution is positive.
    """
    positive_N = np.where(contributions_N > 0, contributions_N, 0.0)
    total = float(positive_N.sum())
    if total == 0:
        return math.nan
    return float((positive_N * parts_inside(coords_N2_px0, tile_px0, areas)).sum() / total)
