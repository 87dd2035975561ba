"""From a file to its levels and its resolution, by the quickest way that gives the right pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import openslide

from medsoft.slides import resolution
from medsoft.slides.errors import SlideError
from medsoft.slides.levels import Levels
from medsoft.slides.openslide_levels import OpenSlideLevels
from medsoft.slides.picture import PictureLevels, resolution_of_tiff
from medsoft.slides.resolution import Resolution
from medsoft.slides.spot_check import difference
from medsoft.slides.tiff_tiles import NotDirectError, TiffLevels


@dataclass(frozen=True)
class Opened:
    """What a slide is made of; see ``medsoft.slides.slide.Slide``."""

    levels: Levels
    resolution: Resolution
    reader: str
    bounds_px0: tuple[int, int, int, int] | None = None
    notes: tuple[str, ...] = ()


def open_levels(path: Path, mpp: float | None, mpp_origin: str) -> Opened:
    """Open a file; arguments and errors as for ``medsoft.slides.slide.open_slide``."""
    head = _head(path)
    if openslide.OpenSlide.detect_format(path) is not None:
        return _open_with_openslide(path, mpp, mpp_origin)
    if head[128:] == b"DICM":
        raise SlideError("is a DICOM file, but OpenSlide finds no whole slide in it")
    levels = PictureLevels(path)
    found = resolution.choose(mpp, mpp_origin, resolution_of_tiff(path), resolution.TIFF_TAGS)
    return Opened(levels, found, "picture")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except IsADirectoryError:
        raise SlideError("is a folder, not a slide") from None
    except OSError as error:
        raise SlideError(f"cannot be opened: {error.strerror}") from None
    if not head:
        raise SlideError("is empty (0 bytes)")
    return head


def _open_with_openslide(path: Path, mpp: float | None, mpp_origin: str) -> Opened:
    truth = OpenSlideLevels(path)
    try:
        found = resolution.choose(mpp, mpp_origin, *resolution.from_properties(truth.properties))
        levels, reader, notes = _quickest(path, truth)
        return Opened(levels, found, reader, _bounds(truth), notes)
    except BaseException:
        truth.close()
        raise


def _quickest(path: Path, truth: OpenSlideLevels) -> tuple[Levels, str, tuple[str, ...]]:
    """The direct way where it is known to give what OpenSlide gives, otherwise OpenSlide."""
    try:
        direct = TiffLevels(path, truth)
    except NotDirectError:
        return truth, "openslide", ()
    except Exception as error:  # tifffile answers hostile files with every kind of exception
        return truth, "openslide", (f"read through OpenSlide: tifffile cannot parse it ({type(error).__name__})",)
    different = difference(direct, truth)
    if different:
        direct.close_file()
        return truth, "openslide", (f"read through OpenSlide, as its tiles decoded directly {different}",)
    return direct, "tiff tiles", ()


def _bounds(truth: OpenSlideLevels) -> tuple[int, int, int, int] | None:
    """The part that holds the scan, as far as it lies in the slide; None where the file does not say, or nonsense."""
    try:
        x, y, width, height = (int(truth.properties[f"openslide.bounds-{k}"]) for k in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return None
    right, bottom = min(x + width, truth.sizes_px[0][0]), min(y + height, truth.sizes_px[0][1])
    x, y = max(0, x), max(0, y)
    return (x, y, right - x, bottom - y) if x < right and y < bottom else None
