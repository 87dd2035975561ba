"""Writes regions as GeoJSON that QuPath opens by drag and drop, and reads polygons from such files.

The files count level-0 pixels from the corner of the slide's bounds, as QuPath does; everything else here counts from
the corner of the slide, as OpenSlide does. The two differ for MIRAX and Leica SCN, whose files state the scanned part
(bounds): QuPath cuts the empty margin around it off. So the corner of the bounds is subtracted from what is written for
QuPath, and added to what comes from there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import shapely
from shapely import Polygon
from shapely.affinity import translate
from shapely.geometry import mapping, shape

from medsoft.errors import InputError
from medsoft.slides.heatmaps.regions import Region
from medsoft.storage.files import replacing

COLOUR = (178, 24, 43)
"""The red of the heatmaps (RdBu of ColorBrewer)."""

WITHIN = {"FeatureCollection": "features", "Feature": "geometry", "GeometryCollection": "geometries"}
"""Kinds of GeoJSON that hold others, and where."""

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
    features = [
        _feature(number, region, translate(region.polygon, -x, -y), name, mpp, sums)
        for number, region in enumerate(regions, start=1)
    ]
    with replacing(path) as temporary:
        text = json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _feature(number: int, region: Region, outline: Polygon, name: str, mpp: float, sums: str) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": _plain(mapping(outline)["coordinates"])},
        "properties": {
            "objectType": "annotation",
            "name": f"{name} {number}",
            "classification": {"name": name, "color": list(COLOUR)},
            "measurements": {
                f"sum of {sums}": region.contribution,
                "part of positive mass": region.mass,
                "tiles": len(region.tiles),
                "area mm2": outline.area * (mpp / 1000) ** 2,
            },
        },
    }


def _plain(value: Any) -> Any:
    """Coordinates, nested in any way, with whole numbers as such."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    return [_plain(one) for one in value]


def read_polygons(path: Path, *, bounds_px0: Bounds | None) -> list[Polygon]:
    """All polygons of a GeoJSON file of QuPath, those of multipolygons one by one, counted from the slide's corner.

    Args:
        path: the file.
        bounds_px0: of the slide (``Slide.bounds_px0``, ``Provenance.bounds_px0``), whose corner QuPath counts from;
            None for a slide without a margin, and for files that count from the slide's corner.

    Raises:
        InputError: the file cannot be read, or holds something else than polygons.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no GeoJSON that can be read: {error}") from None
    try:
        return [translate(polygon, *_corner(bounds_px0)) for polygon in polygons_of(content)]
    except KeyError as error:
        raise InputError(f"{path}: no GeoJSON: {error} is missing") from None
    except (TypeError, ValueError, shapely.errors.ShapelyError) as error:
        raise InputError(f"{path}: regions must be polygons: {error}") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def polygons_of(content: Any) -> list[Polygon]:
    """Polygons of a FeatureCollection, a Feature, a list of features (as QuPath writes them too) or a geometry.

    Raises:
        ValueError: something else than polygons, or one whose sides cross or touch.
        KeyError, TypeError, shapely.errors.ShapelyError: no GeoJSON.
    """
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [polygon for feature in content for polygon in polygons_of(feature)]
    if not isinstance(content, Mapping):
        raise TypeError(f"{content!r} is no GeoJSON")
    kind = content["type"]
    if kind in WITHIN:
        return polygons_of(content[WITHIN[kind]])
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"a {kind}, no polygon")
    geometry = shapely.force_2d(shape(content))
    if not geometry.is_valid:
        raise ValueError(f"an invalid polygon ({shapely.is_valid_reason(geometry)}): mend it where it was drawn")
    return list(shapely.get_parts(geometry))


def _corner(bounds_px0: Bounds | None) -> tuple[int, int]:
    return bounds_px0[:2] if bounds_px0 else (0, 0)


def parts_inside(
    corners_N2: npt.NDArray[np.generic], side: float, polygons: Sequence[Polygon]
) -> npt.NDArray[np.float64]:
    """The part of each square's area that lies in the polygons; where they overlap, the area counts once.

    Args:
        corners_N2: top-left corners (x, y) of the squares.
        side: of a square.
        polygons: valid ones.

    Returns:
        (N,) in [0, 1].
    """
    low_N2 = np.asarray(corners_N2, dtype=np.float64)
    squares_N = shapely.box(*low_N2.T, *(low_N2 + side).T)
    region = shapely.union_all(polygons)
    shapely.prepare(region)
    parts_N: npt.NDArray[np.float64] = shapely.covers(region, squares_N).astype(np.float64)
    cut = np.flatnonzero((parts_N == 0) & shapely.intersects(region, squares_N))
    parts_N[cut] = shapely.area(shapely.intersection(squares_N[cut], region)) / side**2
    return np.minimum(parts_N, 1.0)


def mass_inside(
    coords_N2_px0: npt.NDArray[np.int64],
    tile_px0: float,
    contributions_N: npt.NDArray[np.floating],
    geojson: Path | Mapping[str, Any],
    *,
    bounds_px0: Bounds | None,
) -> float:
    """The part of a heatmap's positive mass that lies in given regions.

    A tile's contribution counts with the part of its area that lies inside, which is computed exactly. With
    contributions of 1 it is the part of the tiles' area that the regions cover: what a heatmap without any knowledge
    would reach.

    Args:
        coords_N2_px0: top-left corners (x, y) of the tiles.
        tile_px0: side of a tile in level-0 pixels.
        contributions_N: of the tiles; those that are not positive count nothing.
        geojson: polygons in level-0 pixels: a file, or what it holds.
        bounds_px0: as for ``read_polygons``.

    Returns:
        In [0, 1]; NaN where no contribution is positive.

    Raises:
        InputError: the file cannot be read or holds something else than polygons.
    """
    if isinstance(geojson, Path):
        polygons = read_polygons(geojson, bounds_px0=bounds_px0)
    else:
        polygons = [translate(polygon, *_corner(bounds_px0)) for polygon in polygons_of(geojson)]
    positive_N = np.where(contributions_N > 0, contributions_N, 0.0)
    total = float(positive_N.sum())
    if total == 0:
        return math.nan
    return float((positive_N * parts_inside(coords_N2_px0, tile_px0, polygons)).sum() / total)
