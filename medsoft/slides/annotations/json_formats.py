"""Reads the JSON of Girder (the Digital Slide Archive) and polygons of CAMELYON16 as JSON.

Girder: ``elements`` with a ``type``; pixels of level 0 from the slide's corner, angles in radians. The class is the
group, or else the label (large_image, "Annotation Schema").

CAMELYON: ``positive`` and ``negative`` lists of polygons, which are the two classes (Li and Ping, NCRF, 2018).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from medsoft.slides.annotations.annotation import UNCLASSIFIED, Annotation, AnnotationFile
from medsoft.slides.annotations.shapes import Area, ellipse_around, polygon, rectangle_around

WITHOUT_AREA = ("point", "arrow", "heatmap", "griddata", "image", "pixelmap")


def read_girder(content: Mapping[str, Any]) -> AnnotationFile:
    """The regions of an annotation document of Girder.

    Raises:
        ValueError, KeyError, TypeError: a region cannot be used.
    """
    passed: Counter[str] = Counter()
    content = content.get("annotation", content)  # as its interface of the web gives it
    regions = []
    for element in content["elements"]:
        if (area := _girder_area(element, passed)) is not None:
            label = element.get("label") or {}
            regions.append(Annotation(str(element.get("group") or label.get("value") or UNCLASSIFIED), area))
    return AnnotationFile("Girder", "slide", regions, passed)


def _girder_area(element: Mapping[str, Any], passed: Counter[str]) -> Area | None:
    kind = element["type"]
    if kind == "polyline" and element.get("closed"):
        return polygon(_flat(element["points"]), [_flat(hole) for hole in element.get("holes") or []])
    if kind in ("rectangle", "rectanglegrid", "ellipse"):
        make = ellipse_around if kind == "ellipse" else rectangle_around
        x, y = map(float, element["center"][:2])
        return make((x, y), float(element["width"]), float(element["height"]), float(element.get("rotation") or 0))
    if kind == "circle":
        x, y = map(float, element["center"][:2])
        return ellipse_around((x, y), 2 * float(element["radius"]), 2 * float(element["radius"]))
    if kind != "polyline" and kind not in WITHOUT_AREA:
        raise ValueError(f"an element of the unknown type {kind!r:.40}")
    passed["line" if kind == "polyline" else str(kind)] += 1
    return None


def _flat(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    return [(float(point[0]), float(point[1])) for point in points]


def read_camelyon(content: Mapping[str, Any]) -> AnnotationFile:
    """The regions of CAMELYON16's polygons in JSON; their classes are ``positive`` and ``negative``.

    Raises:
        ValueError, KeyError, TypeError: a region cannot be used.
    """
    regions = [
        Annotation(name, polygon(_flat(one["vertices"]))) for name in ("positive", "negative") for one in content[name]
    ]
    return AnnotationFile("CAMELYON", "slide", regions)
