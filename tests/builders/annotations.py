"""Annotation files of every program that is read, each with the same square and its hole."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

Points = Sequence[tuple[float, float]]

SQUARE: Points = [(100, 50), (300, 50), (300, 250), (100, 250)]
HOLE: Points = [(150, 100), (200, 100), (200, 150), (150, 150)]
AREA = 200 * 200 - 50 * 50


def feature(*rings: Points, name: str = "Tumour", **properties: object) -> dict[str, object]:
    """A feature of QuPath, with closed rings."""
    coordinates = [[*map(list, ring), list(ring[0])] for ring in rings]
    geometry = {"type": "Polygon", "coordinates": coordinates}
    classification = {"classification": {"name": name, "color": [200, 0, 0]}} if name else {}
    return {
        "type": "Feature",
        "geometry": geometry,
        "properties": {"objectType": "annotation", **classification, **properties},
    }


def geojson(*features: object) -> str:
    """A collection of features."""
    return json.dumps({"type": "FeatureCollection", "features": list(features)})


def layers(
    *regions: tuple[Points, str, int], vertex: str = "Vertex", name: str = 'Name="Tumour"', root: str = ""
) -> str:
    """A layer of ImageScope (or HALO, with other words): points, kind, and 1 for a hole."""
    text = "".join(
        f'<Region Type="{kind}" NegativeROA="{hole}"><Vertices>'
        + "".join(f'<{vertex} X="{x}" Y="{y}"/>' for x, y in points)
        + "</Vertices></Region>"
        for points, kind, hole in regions
    )
    return f"<Annotations {root}><Annotation Id='1' {name}><Regions>{text}</Regions></Annotation></Annotations>"


def asap(*regions: tuple[Points, str, str]) -> str:
    """A document of ASAP: points, kind and group."""
    text = "".join(
        f'<Annotation Name="a" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>'
        + "".join(f'<Coordinate Order="{order}" X="{x}" Y="{y}"/>' for order, (x, y) in enumerate(points))
        + "</Coordinates></Annotation>"
        for points, kind, group in regions
    )
    return f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{text}</Annotations></ASAP_Annotations>'


def sedeen(size: tuple[int, int], *graphics: tuple[Points, str, str]) -> str:
    """A session of Sedeen on a slide of this size: points, kind and description."""
    text = "".join(
        f'<graphic type="{kind}" name="Region" description="{name}"><point-list>'
        + "".join(f"<point>{x},{y}</point>" for x, y in points)
        + "</point-list></graphic>"
        for points, kind, name in graphics
    )
    dimensions = f"<dimensions>{size[0]},{size[1]}</dimensions>"
    return f"<session><image>{dimensions}<overlays>{text}</overlays></image></session>"


def girder() -> str:
    """A closed polyline with a hole."""
    flat = [[[x, y, 0] for x, y in ring] for ring in (SQUARE, HOLE)]
    element = {"type": "polyline", "closed": True, "points": flat[0], "holes": [flat[1]], "group": "Tumour"}
    return json.dumps({"name": "a", "description": "", "elements": [element]})


WITH_HOLE: dict[str, Callable[[], str]] = {
    "QuPath": lambda: geojson(feature(SQUARE, HOLE)),
    "ImageScope": lambda: layers((SQUARE, "0", 0), (HOLE, "0", 1)),
    "HALO": lambda: layers((SQUARE, "Polygon", 0), ([HOLE[0], HOLE[2]], "Rectangle", 1), vertex="V"),
    "Girder": girder,
}
"""By program, a file with a square of ``AREA`` and the class Tumour."""
