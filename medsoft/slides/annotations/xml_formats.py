"""Reads the XML of ASAP, of ImageScope and HALO, and of Sedeen; all count pixels of level 0 from the slide's corner.

ASAP: the class is the group (``PartOfGroup``). A spline is the polygon through its points, as in ASAP's own masks
(``annotation/AnnotationToMask.cpp``).

ImageScope and HALO have layers of regions, of which ``NegativeROA="1"`` marks holes. The class is the layer. HALO names
kinds of regions, ImageScope numbers them. Rectangles and ellipses may be given by corners.

Sedeen: the class is the description of a graphic, or its name where it has none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from xml.etree.ElementTree import Element

from medsoft.slides.annotations.annotation import UNCLASSIFIED, Annotation, AnnotationFile
from medsoft.slides.annotations.shapes import Area, Point, ellipse, polygon, rectangle, without_holes_of

SHAPES: dict[str, Callable[[Sequence[Point]], Area]] = {
    "polygon": polygon, "spline": polygon, "rectangle": rectangle, "ellipse": ellipse,
    "0": polygon, "1": rectangle, "2": ellipse,
}  # fmt: skip
"""Kinds of regions with an area, in small letters; numbers are ImageScope's."""

WITHOUT_AREA = {
    "dot": "point", "pointset": "point", "measurement": "line", "none": "line",
    "pin": "point", "ruler": "line", "arrow": "line",
    "3": "line", "4": "line", "5": "point",
    "polyline": "line", "text": "text", "point": "point",
}  # fmt: skip


def read_asap(root: Element) -> AnnotationFile:
    """The regions of a document ``ASAP_Annotations``.

    Raises:
        ValueError, KeyError: a region cannot be used.
    """
    passed: Counter[str] = Counter()
    regions = []
    for one in root.iter("Annotation"):
        if (area := _area(one.get("Type", ""), _points(one.iter("Coordinate")), passed)) is not None:
            group = one.get("PartOfGroup", "None")
            regions.append(Annotation(UNCLASSIFIED if group == "None" else group, area))
    return AnnotationFile("ASAP", "slide", regions, passed)


def read_layers(root: Element) -> AnnotationFile:
    """The regions of a document ``Annotations`` of ImageScope or HALO.

    Raises:
        ValueError, KeyError: a region cannot be used.
    """
    passed: Counter[str] = Counter()
    regions: list[Annotation] = []
    halo = False
    for layer in root.iter("Annotation"):
        solid: list[Area] = []
        holes: list[Area] = []
        for region in layer.iter("Region"):
            kind = region.get("Type", "")
            halo |= not kind.isdigit()
            area = _area(kind, _points([*region.iter("V"), *region.iter("Vertex")]), passed)
            if area is not None:
                (holes if region.get("NegativeROA") == "1" else solid).append(area)
        regions += [Annotation(_layer_name(layer), area) for area in without_holes_of(solid, holes)]
    stated = root.get("MicronsPerPixel")
    mpp = float(stated) if stated else None
    return AnnotationFile("HALO" if halo else "ImageScope", "slide", regions, passed, mpp=mpp)


def _layer_name(layer: Element) -> str:
    """The layer's name, or what stands in its attributes: the description, or the name of another attribute."""
    if name := layer.get("Name"):
        return name
    attributes = {one.get("Name", ""): one.get("Value", "") for one in layer.findall("Attributes/Attribute")}
    others = [name for name in attributes if name and name != "Description"]
    return attributes.get("Description") or (others[0] if others else f"layer {layer.get('Id', '')}".strip())


def read_sedeen(root: Element) -> AnnotationFile:
    """The regions of a document ``session`` of Sedeen.

    Raises:
        ValueError, KeyError: a region cannot be used, or the session shows several slides.
    """
    images = root.findall("image")
    if len(images) != 1:
        raise ValueError(f"a session with {len(images)} slides: save one for each slide")
    passed: Counter[str] = Counter()
    regions = []
    for one in images[0].iter("graphic"):
        points = [_point(*(point.text or "").split(",", 1)) for point in one.iter("point")]
        if (area := _area(one.get("type", ""), points, passed)) is not None:
            regions.append(Annotation(one.get("description") or one.get("name") or UNCLASSIFIED, area))
    sides = [int(float(side)) for side in (images[0].findtext("dimensions") or "").split(",") if side.strip()]
    size_px = (sides[0], sides[1]) if len(sides) == 2 else None
    return AnnotationFile("Sedeen", "slide", regions, passed, size_px=size_px)


def _area(kind: str, points: list[Point], passed: Counter[str]) -> Area | None:
    """The area of a region; None where its kind has none, which is counted."""
    name = kind.lower()
    if name in SHAPES:
        return SHAPES[name](points)
    if name not in WITHOUT_AREA:
        raise ValueError(f"a region of the unknown kind {kind!r:.40}")
    passed[WITHOUT_AREA[name]] += 1
    return None


def _points(elements: Iterable[Element]) -> list[Point]:
    return [_point(one.attrib["X"], one.attrib["Y"]) for one in elements]


def _point(x: str, y: str = "") -> Point:
    return float(x), float(y)
