"""Reads GeoJSON as QuPath writes it: a FeatureCollection, a Feature, a list of features, or a geometry.

Pixels of the full resolution, counted from the corner of the bounds ("Exporting annotations" of QuPath's documentation;
QuPath crops slides to their bounds). The class is ``properties.classification``: its ``name``, or its ``names`` joined
by ": " as QuPath shows them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import shapely
from shapely.geometry import shape

from medsoft.slides.annotations.annotation import UNCLASSIFIED, Annotation, AnnotationFile
from medsoft.slides.annotations.shapes import checked

WITHIN = {"FeatureCollection": "features", "Feature": "geometry", "GeometryCollection": "geometries"}
"""Kinds of GeoJSON that hold others, and where."""

AREAS = ("Polygon", "MultiPolygon")
WITHOUT_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")

OLD_KINDS = {"PathDetectionObject": "detection", "PathCellObject": "cell", "PathTileObject": "tile"}
"""What QuPath before 0.3 has as ``id``, and calls ``objectType`` now."""
NOT_DRAWN = ("detection", "cell", "tile", "tma_core", "root")
"""Objects of QuPath that a program found; regions are annotations."""


def read_geojson(content: Any) -> AnnotationFile:
    """The regions of parsed GeoJSON.

    Raises:
        ValueError, KeyError, TypeError, shapely.errors.ShapelyError: it is no GeoJSON, or a region cannot be used.
    """
    passed: Counter[str] = Counter()
    return AnnotationFile("QuPath", "bounds", list(_regions(content, {}, passed)), passed)


def _regions(content: Any, properties: Mapping[str, Any], passed: Counter[str]) -> Iterator[Annotation]:
    if isinstance(content, Sequence) and not isinstance(content, str):
        for one in content:
            yield from _regions(one, properties, passed)
        return
    if not isinstance(content, Mapping):
        raise TypeError(f"{content!r:.80} is no GeoJSON")
    kind = content["type"]
    if kind == "Feature":
        properties = content.get("properties") or {}
        found = properties.get("objectType") or OLD_KINDS.get(str(content.get("id")), "annotation")
        if found in NOT_DRAWN:
            passed[str(found)] += 1
            return
    if kind in WITHIN:
        yield from _regions(content[WITHIN[kind]], properties, passed)
    elif kind in AREAS:
        yield Annotation(_class_of(properties), checked(shapely.force_2d(shape(content))))
    elif kind in WITHOUT_AREA:
        passed[kind] += 1
    else:
        raise ValueError(f"a {kind!r:.40} is no GeoJSON")


def _class_of(properties: Mapping[str, Any]) -> str:
    classification = properties.get("classification")
    if isinstance(classification, Mapping):
        names = classification.get("names")
        return ": ".join(map(str, names)) if names else str(classification.get("name") or UNCLASSIFIED)
    return str(classification or UNCLASSIFIED)
