"""Outlines of pictures: labelme, of one picture, and COCO, of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medsoft.slides.annotations.annotation import Annotation, AnnotationFile
from medsoft.slides.annotations.shapes import Area, Point, as_area, ellipse_around, polygon, rectangle


def is_coco(content: Any) -> bool:
    """Whether JSON holds the outlines of many pictures, as COCO has them."""
    return isinstance(content, Mapping) and {"images", "annotations", "categories"} <= content.keys()


def read_labelme(content: Mapping[str, Any]) -> AnnotationFile:
    """The shapes of a labelme file; points and lines have no area and are passed over.

    Raises:
        ValueError: an outline that cannot be used.
        KeyError: something is missing that such a file has.
    """
    regions, passed = [], Counter[str]()
    for shape in content["shapes"]:
        kind, points = shape.get("shape_type") or "polygon", [_point(one) for one in shape["points"]]
        area: Area | None = None
        if kind == "polygon":
            area = polygon(points)
        elif kind == "rectangle":
            area = rectangle(points)
        elif kind == "circle":  # its centre and a point on it
            (x, y), (other_x, other_y) = points
            across = 2 * ((other_x - x) ** 2 + (other_y - y) ** 2) ** 0.5
            area = ellipse_around((x, y), across, across)
        if area is None:
            passed[kind] += 1
        else:
            regions.append(Annotation(str(shape["label"]), area))
    width, height = content.get("imageWidth"), content.get("imageHeight")
    size = (int(width), int(height)) if width and height else None
    return AnnotationFile("labelme", "slide", regions, passed, size_px=size)


def read_coco(content: Mapping[str, Any]) -> dict[str, AnnotationFile]:
    """The polygons of a COCO file, by the name of the picture's file; annotations without polygons are passed over.

    Raises:
        ValueError: an outline that cannot be used, or two pictures of one name.
        KeyError: something is missing that such a file has.
    """
    names = {one["id"]: str(one["name"]) for one in content["categories"]}
    images = {one["id"]: one for one in content["images"]}
    regions: dict[Any, list[Annotation]] = {id: [] for id in images}
    passed: dict[Any, Counter[str]] = {id: Counter() for id in images}
    for number, one in enumerate(content["annotations"], start=1):
        if one["image_id"] not in images or one["category_id"] not in names:
            raise ValueError(f"annotation {number} of a picture or category that is not there")
        parts = one.get("segmentation")
        if not isinstance(parts, Sequence) or not parts:
            passed[one["image_id"]]["run lengths" if isinstance(parts, Mapping) else "box"] += 1
            continue
        area = as_area([polygon(list(_pairs(part))) for part in parts])
        regions[one["image_id"]].append(Annotation(names[one["category_id"]], area))
    found = {}
    for id, image in images.items():
        name = str(image["file_name"])
        if name in found:
            raise ValueError(f"two pictures of the name {name!r}")
        size = (int(image["width"]), int(image["height"])) if {"width", "height"} <= image.keys() else None
        found[name] = AnnotationFile("COCO", "slide", regions[id], passed[id], size_px=size)
    return found


def _point(values: Sequence[float]) -> Point:
    x, y = values
    return float(x), float(y)


def _pairs(flat: Sequence[float]) -> Iterator[Point]:
    if len(flat) % 2:
        raise ValueError("an outline with an odd number of coordinates")
    return zip(map(float, flat[::2]), map(float, flat[1::2]), strict=True)
