"""Reads the OME-XML of a TIFF's first image: planes, channels, bits and µm per pixel (OME schema 2016-06)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from xml.etree import ElementTree

from medsoft.errors import ReadError
from medsoft.text.xml_text import DoctypeError, parse_xml

UM_PER_UNIT = {
    "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "µm": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4,
    "in": 25_400.0, "ft": 304_800.0, "yd": 914_400.0, "thou": 25.4, "li": 25_400 / 12, "pt": 25_400 / 72, "km": 1e9,
}  # fmt: skip
"""UnitsLength of the schema, as far as a microscope may have them. "pixel" and "reference frame" are no lengths."""

NO_LENGTH = ("pixel", "reference frame")

COLOURS = {0xFF0000: "red", 0x00FF00: "green", 0x0000FF: "blue"}
NAMES = {"r": "red", "red": "red", "g": "green", "green": "green", "b": "blue", "blue": "blue"}

BESIDE = re.compile(r"label|macro|thumbnail|overview|map", re.IGNORECASE)
"""Names of images that belong to a slide without being it."""


@dataclass(frozen=True)
class OmeImage:
    """The first image of a file.

    Attributes:
        size_px: (width, height).
        samples: samples a pixel of each channel: (3,) is RGB in one, (1, 1, 1) three grey planes.
        colours: of each channel "red", "green", "blue", or "" where the file does not say.
        planes: page of the file (counted from 0) that holds each channel.
        bits: how many bits of a sample are used (SignificantBits); None where the file does not say.
        sides: PhysicalSizeX and PhysicalSizeY with their units, as they stand there.
    """

    size_px: tuple[int, int]
    samples: tuple[int, ...]
    colours: tuple[str, ...]
    planes: tuple[int, ...]
    bits: int | None
    sides: tuple[tuple[str | None, str], ...] = ()

    def um_per_px(self) -> tuple[float, float] | None:
        """µm per pixel along x and y; None where the file does not say.

        Raises:
            ReadError: no positive numbers, or a unit that is not known here.
        """
        found = [_um(text, unit, axis) for (text, unit), axis in zip(self.sides, "XY", strict=False)]
        if len(found) < 2 or found[0] is None or found[1] is None:
            return None
        return found[0], found[1]


def is_ome(description: str) -> bool:
    """Whether the description of a file's first page is OME-XML."""
    return description.rstrip().endswith("OME>") and "<OME" in description


def parse_ome(description: str) -> OmeImage:
    """Read the first image of OME-XML.

    Raises:
        ReadError: it is damaged, speaks of other files, or of several planes in depth or time, or of several images.
    """
    try:
        root = parse_xml(description.strip())
    except DoctypeError:
        raise ReadError("has OME-XML with a DOCTYPE, which OME-XML does not have") from None
    except ValueError as error:
        raise ReadError(f"has damaged OME-XML ({error})") from None
    if _all(root, "BinaryOnly"):
        raise ReadError("is one part of a picture in several files, whose OME-XML lies elsewhere: save it as one file")
    images = [(image, _all(image, "Pixels")) for image in _all(root, "Image")]
    if not images or not images[0][1]:
        raise ReadError("has OME-XML without an image")
    pixels = images[0][1][0]
    width, height = _whole(pixels, "SizeX"), _whole(pixels, "SizeY")
    for image, others in images[1:]:
        is_beside = BESIDE.search(image.get("Name", ""))
        if not is_beside and any(_whole(p, "SizeX") * _whole(p, "SizeY") >= width * height for p in others):
            raise ReadError(f"holds {len(images)} images (OME-XML): save the wanted one by itself")
    for axis, what in (("SizeZ", "focal planes"), ("SizeT", "time points")):
        if (number := _whole(pixels, axis, 1)) > 1:
            raise ReadError(f"holds {number} {what} (OME-XML {axis}): save the wanted one by itself")
    channels = _all(pixels, "Channel")
    samples = tuple(_whole(channel, "SamplesPerPixel", 1) for channel in channels) or (_whole(pixels, "SizeC", 1),)
    if sum(samples) != _whole(pixels, "SizeC", 1):
        raise ReadError(f"has OME-XML that contradicts itself: SizeC is not the sum of SamplesPerPixel {samples}")
    return OmeImage(
        size_px=(width, height),
        samples=samples,
        colours=tuple(map(_colour, channels)) or ("",),
        planes=_planes(pixels, len(samples), root.get("UUID")),
        bits=_whole(pixels, "SignificantBits", 0) or None,
        sides=tuple((pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"),
    )


def _planes(pixels: ElementTree.Element, channels: int, uuid: str | None) -> tuple[int, ...]:
    """The page of each channel. Without IFD, a TiffData stands for the pages from the first on."""
    pages: dict[int, int] = {}
    for data in _all(pixels, "TiffData"):
        if any(uuid is not None and other.text and other.text.strip() != uuid for other in _all(data, "UUID")):
            raise ReadError("is one part of a picture in several files (OME-XML): save it as one file")
        first, page = _whole(data, "FirstC", 0), _whole(data, "IFD", 0)
        number = _whole(data, "PlaneCount", 1 if data.get("IFD") else channels)
        pages |= {first + k: page + k for k in range(min(number, channels))}
    pages = pages or {k: k for k in range(channels)}
    if sorted(pages) != list(range(channels)) or len(set(pages.values())) != channels:
        raise ReadError("has OME-XML that does not name a page for each channel")
    return tuple(pages[k] for k in range(channels))


def _colour(channel: ElementTree.Element) -> str:
    """Red, green or blue, by the channel's name or else its colour; "" where it is neither."""
    named = NAMES.get(channel.get("Name", "").strip().lower())
    if named:
        return named
    try:
        rgba = int(channel.get("Color", "")) % 2**32  # signed, red in the highest byte
    except ValueError:
        return ""
    return COLOURS.get(rgba >> 8, "")


def _um(text: str | None, unit: str, axis: str) -> float | None:
    if text is None or unit in NO_LENGTH:
        return None
    um = UM_PER_UNIT.get(unit.replace("\u03bc", "µ").replace("um", "µm"))
    if um is None:
        raise ReadError(f"has a resolution in an unknown unit (OME-XML PhysicalSize{axis}Unit)")
    try:
        side = float(text) * um
    except ValueError:
        side = math.nan
    if not (math.isfinite(side) and side > 0):
        raise ReadError(f"has a resolution that is not a positive number (OME-XML PhysicalSize{axis})")
    return side


def _all(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """Children, and theirs, of a name, in whatever version of the schema's namespace."""
    return [one for one in element.iter() if one is not element and one.tag.rpartition("}")[2] == name]


def _whole(element: ElementTree.Element, name: str, otherwise: int | None = None) -> int:
    text = element.get(name)
    if text is None and otherwise is not None:
        return otherwise
    try:
        value = int(text or "")
    except ValueError:
        value = -1
    if not 0 <= value < 2**31:
        raise ReadError(f"has OME-XML without a usable {name}")
    return value
