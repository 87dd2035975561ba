"""Regions as GeoJSON: level-0 pixels, as QuPath opens it by drag and drop, and polygons read back from such files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medsoft.errors import InputError
from medsoft.files import replacing
from medsoft.slides.polygons import Polygon, parts_inside
from medsoft.slides.regions import Region

COLOUR = (178, 24, 43)
"""The red of the heatmaps (RdBu of ColorBrewer)."""


def write_regions(path: Path, regions: Sequence[Region], name: str, mpp: float) -> None:
    """Write regions as annotations of a class: file of a whole, possibly empty, collection.

    Args:
        path: the file.
        regions: in the order in which they are numbered.
        name: of the class.
        mpp: µm per level-0 pixel, for areas.
    """
    features = [_feature(number, region, name, mpp) for number, region in enumerate(regions, start=1)]
    with replacing(path) as temporary:
        text = json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _feature(number: int, region: Region, name: str, mpp: float) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in _lists(region.polygon)]},
        "properties": {
            "objectType": "annotation",
            "name": f"{name} {number}",
            "classification": {"name": name, "color": list(COLOUR)},
            "measurements": {
                "sum of shares (logit)": region.share,
                "part of positive mass": region.mass,
                "tiles": len(region.tiles),
                "area mm2": region.area_px0 * (mpp / 1000) ** 2,
            },
        },
    }


def _lists(polygon: Polygon) -> list[list[list[float]]]:
    return [[[_plain(x), _plain(y)] for x, y in ring.tolist()] for ring in polygon]


def _plain(value: float) -> float:
    return int(value) if value.is_integer() else value


def read_polygons(path: Path) -> list[Polygon]:
    """All polygons of a GeoJSON file, those of multipolygons one by one.

    Raises:
        InputError: the file cannot be read, or holds something else than polygons.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no GeoJSON that can be read: {error}") from None
    try:
        return polygons_of(content)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: regions must be polygons: {error!r}") from None


def polygons_of(content: Any) -> list[Polygon]:
    """Polygons of a FeatureCollection, a Feature, a list of features (as QuPath writes them too) or a geometry.

    Raises:
        ValueError: something else than polygons, or a ring of less than three points.
        KeyError, TypeError: no GeoJSON.
    """
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [polygon for feature in content for polygon in polygons_of(feature)]
    if not isinstance(content, Mapping):
        raise TypeError(f"{content!r} is no GeoJSON")
    kind = content["type"]
    if kind == "FeatureCollection":
        return polygons_of(content["features"])
    if kind == "Feature":
        return polygons_of(content["geometry"])
    if kind == "GeometryCollection":
        return polygons_of(content["geometries"])
    if kind == "Polygon":
        return [[_ring(points) for points in content["coordinates"]]]
    if kind == "MultiPolygon":
        return [[_ring(points) for points in polygon] for polygon in content["coordinates"]]
    raise ValueError(f"a {kind}, no polygon")


def _ring(points: Any) -> npt.NDArray[np.float64]:
    ring = np.asarray(points, dtype=np.float64)
    if ring.ndim != 2 or ring.shape[1] < 2 or len(ring) < 4 or not np.isfinite(ring).all():
        raise ValueError("a ring has four points or more, the last equal to the first")
    return ring[:-1, :2]


def mass_inside(
    coords_N2_px0: npt.NDArray[np.int64],
    tile_px0: float,
    shares_N: npt.NDArray[np.floating],
    geojson: Path | Mapping[str, Any],
) -> float:
    """The part of a heatmap's positive mass that lies in given regions.

    A tile's share counts with the part of its area that lies inside, which is computed exactly. With shares of 1 it is
    the part of the tiles' area that the regions cover: what a heatmap without any knowledge would reach.

    Args:
        coords_N2_px0: top-left corners (x, y) of the tiles.
        tile_px0: side of a tile in level-0 pixels.
        shares_N: of the tiles; those that are not positive count nothing.
        geojson: polygons in level-0 pixels that do not overlap each other: a file, or what it holds.

    Returns:
        In [0, 1]; NaN where no share is positive.

    Raises:
        InputError: the file cannot be read or holds something else than polygons.
    """
    polygons = read_polygons(geojson) if isinstance(geojson, Path) else polygons_of(geojson)
    positive_N = np.where(shares_N > 0, shares_N, 0.0)
    total = float(positive_N.sum())
    if total == 0:
        return math.nan
    return float((positive_N * parts_inside(coords_N2_px0, tile_px0, polygons)).sum() / total)
