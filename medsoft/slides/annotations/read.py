"""The one reader of annotation files: recognises the program by the content, and refuses what it does not know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from xml.etree.ElementTree import Element

import shapely

from medsoft.errors import SlideError
from medsoft.slides.annotations.annotation import AnnotationFile
from medsoft.slides.annotations.geojson import AREAS, WITHIN, WITHOUT_AREA, read_geojson
from medsoft.slides.annotations.json_formats import read_camelyon, read_girder
from medsoft.slides.annotations.pictures import read_labelme
from medsoft.slides.annotations.xml_formats import read_asap, read_layers, read_sedeen
from medsoft.storage.files import open_regular_file
from medsoft.text.xml_text import parse_xml

SUFFIXES = (".geojson", ".json", ".xml", ".annotations")
"""Of annotation files."""

MOST_BYTES = 64 * 2**20
"""Largest file: once parsed it takes about ten times as much memory. The outlines of one person are rarely 10 MB."""

READABLE = "QuPath's GeoJSON, XML of ASAP, ImageScope, HALO or Sedeen, and JSON of Girder, labelme or CAMELYON are read"

_XML: dict[str, Callable[[Element], AnnotationFile]] = {
    "ASAP_Annotations": read_asap,
    "Annotations": read_layers,
    "session": read_sedeen,
}
_OTHER_XML = {"annotation": "Pascal VOC (boxes in pictures)", "annotations": "NDP.view (nm from the slide's centre)"}
_OTHER_JSON = {
    "images": "COCO (of many pictures; medsoft data masks reads it)",
    "slideId": "Sectra (fractions of the slide)",
}
"""By a key that only they have, formats that are known but not read."""


def read_annotations(path: Path) -> AnnotationFile:
    """Read an annotation file.

    Raises:
        SlideError: it cannot be read, is too large, is none of the formats, or one of its regions cannot be used.
    """
    try:
        with open_regular_file(path) as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror or error}") from None
    if len(content) > MOST_BYTES:
        raise _refused(
            path,
            f"is larger than {MOST_BYTES >> 20} MiB: export the regions alone, without the cells and detections that a "
            "program found",
        )
    if not content.strip():
        raise _refused(path, "is empty")
    if content.startswith(b"SQLite format 3"):
        raise _refused(path, f"is a database, such as SlideRunner's. {READABLE}: export it as one of these")
    try:
        read = read_xml if _is_xml(content) else read_json
        return read(content)
    except KeyError as error:
        raise _refused(path, f"lacks {error} where such a file has it") from None
    except (ValueError, TypeError, AttributeError, shapely.errors.ShapelyError) as error:
        raise _refused(path, f"holds {error}") from None
    except RecursionError:
        raise _refused(path, "is nested too deeply") from None


def _refused(path: Path, why: str) -> SlideError:
    return SlideError(f"its annotation file {path.name} {why}")


def _is_xml(content: bytes) -> bool:
    """Whether content begins with a tag, in any encoding that XML may have."""
    return content[:64].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").startswith(b"<")


def read_xml(content: bytes) -> AnnotationFile:
    """The regions of XML; raises as ``read_annotations`` catches."""
    root = parse_xml(content)
    if root.tag in _XML:
        return _XML[root.tag](root)
    other = _OTHER_XML.get(root.tag)
    raise ValueError(f"{f'annotations of {other}' if other else f'XML of the kind {root.tag!r:.40}'}. {READABLE}")


def read_json(content: bytes) -> AnnotationFile:
    """The regions of JSON; raises as ``read_annotations`` catches."""
    try:
        return parsed_json(json.loads(content.decode("utf-8-sig"), parse_constant=_refuse))
    except UnicodeDecodeError:
        raise ValueError(f"no text. {READABLE}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON that can be read ({error})") from None


def parsed_json(content: Any) -> AnnotationFile:
    """The regions of what JSON holds; raises as ``read_annotations`` catches."""
    if isinstance(content, Mapping) and content.get("type") not in (*WITHIN, *AREAS, *WITHOUT_AREA):
        inner = content.get("annotation", content)
        if isinstance(inner, Mapping) and "elements" in inner:
            return read_girder(content)
        if "shapes" in content:
            return read_labelme(content)
        if {"positive", "negative"} <= content.keys():
            return read_camelyon(content)
        if other := next((_OTHER_JSON[key] for key in _OTHER_JSON if key in content), ""):
            raise ValueError(f"annotations of {other}. {READABLE}")
        if "type" not in content:
            raise ValueError(f"no annotations that are known. {READABLE}")
    if not isinstance(content, Mapping | Sequence) or isinstance(content, str):
        raise TypeError(f"no annotations that are known. {READABLE}")
    return read_geojson(content)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant}, which is no JSON")
