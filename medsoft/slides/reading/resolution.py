"""µm per pixel, and where the number comes from. It is never guessed, neither from a name nor from a magnification."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from medsoft.errors import SlideError

if TYPE_CHECKING:
    from tifffile import TiffPage

SQUARE = 0.01
"""Pixels whose sides differ by less count as square."""

LIMITS = (0.05, 50.0)
"""µm/px of a slide's finest level, as scanners write it: from a 200× objective to single coarse levels in DICOM."""

TAG_LIMITS = (0.05, 20.0)
"""µm/px in the tags of a TIFF. The 72, 96, 300 or 1200 dots per inch that programs write for printing lie above."""

STATED_LIMITS = (0.05, 1000.0)
"""µm/px that a user may state: plain pictures, such as overviews and fundus photographs, are coarser than slides."""

OPENSLIDE, TIFF_TAGS, OME_XML = "openslide.mpp-x", "tiff resolution", "ome-xml"
"""Origins: what a scanner wrote, as OpenSlide finds it in any of its formats; the tags for printing of a TIFF; the
PhysicalSizeX of OME-XML."""

HOW_TO_STATE = "state it with --slide-mpp, or in a column mpp of the table"

_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}  # TIFF 6.0, tag 296 ResolutionUnit: inch, centimetre

_UM_PER_WORD = {"micron": 1.0, "µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "inch": 25_400.0}
"""Units that ImageJ names in the description, the tag 296 being 1 (none)."""


@dataclass(frozen=True)
class Resolution:
    """A resolution and its origin.

    Attributes:
        mpp: µm per level-0 pixel.
        origin: who or what says so.
        notes: what the user should know of it.
    """

    mpp: float
    origin: str
    notes: tuple[str, ...] = ()


def choose(
    stated: float | None,
    stated_origin: str,
    from_file: tuple[float, float] | None,
    origin: str,
    other: tuple[tuple[float, float] | None, str] = (None, ""),
) -> Resolution:
    """What the user states, otherwise what the file says.

    Args:
        stated: µm/px, or None.
        stated_origin: who stated it: ``option`` or ``table``.
        from_file: µm/px along x and y as the file says them, or None.
        origin: of the file's numbers.
        other: what another part of the file says, and which; it is not used, but told where it differs.

    Raises:
        SlideError: no resolution is known, or an absurd one, or the pixels are not square.
    """
    if stated is not None:
        low, high = STATED_LIMITS
        if not low <= stated <= high:
            raise SlideError(
                f"the stated resolution ({stated_origin}), {stated:g} µm/px, is not within {low:g} to {high:g}"
            )
        return Resolution(float(stated), stated_origin, _conflict(stated, stated_origin, from_file, origin))
    if from_file is None:
        raise SlideError(f"does not say its resolution: {HOW_TO_STATE}")
    x, y = from_file
    if not _credible(from_file, origin):
        low, high = _limits(origin)
        raise SlideError(
            f"says that its resolution is {x:.4g} × {y:.4g} µm/px ({origin}), which is none of a slide "
            f"({low:g} to {high:g}): {HOW_TO_STATE}"
        )
    if abs(x / y - 1) > SQUARE:
        raise SlideError(
            f"has pixels that are not square ({x:.4g} × {y:.4g} µm, {origin}): resample it, or {HOW_TO_STATE}"
        )
    found = math.sqrt(x * y)
    return Resolution(found, origin, _conflict(found, origin, *other))


def from_properties(properties: Mapping[str, str]) -> tuple[tuple[float, float] | None, str]:
    """µm/px along x and y among OpenSlide's properties, and their origin; None where there are none.

    For generic TIFF files OpenSlide takes them from the tags for printing, which say less than a scanner's metadata.
    """
    origin = TIFF_TAGS if properties.get("openslide.vendor") == "generic-tiff" else OPENSLIDE
    try:
        return (float(properties["openslide.mpp-x"]), float(properties["openslide.mpp-y"])), origin
    except (KeyError, ValueError):
        return None, origin


def from_tiff_tags(
    x_resolution: tuple[int, int] | None, y_resolution: tuple[int, int] | None, unit: int | None
) -> tuple[float, float] | None:
    """µm/px from the TIFF tags 282, 283 (fractions: pixels a unit) and 296; None where they say nothing."""
    um = _UM_PER_UNIT.get(unit or 0)
    if um is None or not x_resolution or not y_resolution:
        return None
    if 0 in x_resolution or 0 in y_resolution:
        return None
    return um * x_resolution[1] / x_resolution[0], um * y_resolution[1] / y_resolution[0]


def from_page(page: TiffPage) -> tuple[float, float] | None:
    """µm/px from the tags of a page, and from ImageJ's description where the tags have no unit."""
    x, y, unit = page.tags.valueof(282), page.tags.valueof(283), page.tags.valueof(296, 2)
    if unit == 1 and page.description.startswith("ImageJ="):
        named = dict(line.split("=", 1) for line in page.description.splitlines() if "=" in line).get("unit", "")
        um = _UM_PER_WORD.get(named.replace("\\u00B5", "µ").replace("\u03bc", "µ").strip())
        if um is None or not _is_fraction(x) or not _is_fraction(y):
            return None
        return um * x[1] / x[0], um * y[1] / y[0]
    return from_tiff_tags(x, y, unit) if _is_fraction(x) and _is_fraction(y) else None


def _is_fraction(value: object) -> TypeGuard[tuple[int, int]]:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, int) and part > 0 for part in value)


def _limits(origin: str) -> tuple[float, float]:
    return TAG_LIMITS if origin == TIFF_TAGS else LIMITS


def _credible(from_file: tuple[float, float], origin: str) -> bool:
    low, high = _limits(origin)
    return all(low <= side <= high for side in from_file)


def _conflict(stated: float, stated_origin: str, from_file: tuple[float, float] | None, origin: str) -> tuple[str, ...]:
    """A note where a credible resolution of the file is another than the stated one."""
    if from_file is None or not _credible(from_file, origin) or abs(from_file[0] / stated - 1) <= SQUARE:
        return ()
    return (f"{stated:.4g} µm/px is used ({stated_origin}), though the file says {from_file[0]:.4g} ({origin})",)
