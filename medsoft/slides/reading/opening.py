"""Opens a slide with the fastest reader that gives the right pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import openslide
from tifffile import COMPRESSION

from medsoft.data.tiff.layout import MAGIC
from medsoft.errors import ReadError, SlideError
from medsoft.slides.reading import resolution
from medsoft.slides.reading.direct.levels import DirectLevels, NotDirectError
from medsoft.slides.reading.direct.spot_check import difference
from medsoft.slides.reading.direct.tiff import tiff_levels
from medsoft.slides.reading.image_reader import PictureLevels
from medsoft.slides.reading.levels import Levels
from medsoft.slides.reading.openslide_reader import OpenSlideLevels
from medsoft.slides.reading.resolution import Resolution
from medsoft.slides.reading.tiff_slide import TiffSlide, check_depth_of_tiles
from medsoft.storage.files import open_regular_file
from medsoft.storage.walk import special_kind

CONTAINERS = (".vsi", ".lsm", ".stk")
"""TIFF files of microscopes whose first page is not the slide: an overview, or a stack of channels."""

CONVERT = "save it as OME-TIFF or DICOM with the scanner's program, QuPath or Bio-Formats"


@dataclass(frozen=True)
class Opened:
    """What a slide is made of; see ``medsoft.slides.reading.slide.Slide``."""

    levels: Levels
    resolution: Resolution
    reader: str
    bounds_px0: tuple[int, int, int, int] | None = None
    notes: tuple[str, ...] = ()


def open_levels(path: Path, mpp: float | None, mpp_origin: str) -> Opened:
    """Open a file; arguments and errors as for ``medsoft.slides.reading.slide.open_slide``."""
    head = _head(path)
    if head[128:] == b"DICM":
        check_dicom(path)
    vendor = openslide.OpenSlide.detect_format(path)
    if vendor in (None, "generic-tiff") and head.startswith(MAGIC):
        if path.suffix.lower() in CONTAINERS:
            raise SlideError(f"is a {path.suffix[1:].upper()} file, whose slide is not read here: {CONVERT}")
        with TiffSlide(path) as slide:
            # OpenSlide refuses some tiles that are not compressed, and compares no checksum of deflate.
            plain = slide.layout.is_plain and slide.layout.levels[0].page.compression == COMPRESSION.JPEG
            if vendor is None or not plain:
                found = slide.resolution(mpp, mpp_origin)
                return Opened(slide.keep(), found, "tiff" if slide.is_tiled else "picture")
    if vendor is not None:
        try:
            return _open_with_openslide(path, mpp, mpp_origin)
        except SlideError as error:
            if vendor in ("zeiss", "dicom") and error.reason.startswith("OpenSlide cannot open it"):
                raise SlideError(f"{error.reason}: {CONVERT}") from None
            raise
    if head[128:] == b"DICM":
        raise SlideError("is a DICOM file, but OpenSlide finds no whole slide in it")
    return Opened(PictureLevels(path), resolution.choose(mpp, mpp_origin, None, ""), "picture")


def check_dicom(path: Path) -> None:
    """Refuse a DICOM file that OpenSlide must not be given, as one whose frames would end the process.

    Raises:
        SlideError: see ``medsoft.data.dicom.stated.check_slide``.
    """
    from medsoft.data.dicom.stated import check_slide  # pydicom waits until there is a DICOM file

    try:
        check_slide(path)
    except ReadError as error:
        raise SlideError(error.reason) from None
    except OSError as error:
        raise SlideError(f"cannot be opened: {error.strerror}") from None


def _head(path: Path) -> bytes:
    if kind := special_kind(path):
        raise SlideError(f"is {kind}, not a file")
    try:
        with open_regular_file(path) as file:
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
        check_depth_of_tiles(path)
        found = resolution.choose(mpp, mpp_origin, *resolution.from_properties(truth.properties))
        levels, reader, notes = _quickest(path, truth)
        return Opened(levels, found, reader, _bounds(truth), notes)
    except BaseException:
        truth.close()
        raise


def _quickest(path: Path, truth: OpenSlideLevels) -> tuple[Levels, str, tuple[str, ...]]:
    """The direct way where it is known to give what OpenSlide gives, otherwise OpenSlide."""
    is_dicom = truth.properties.get("openslide.vendor") == "dicom"
    try:
        if is_dicom:
            from medsoft.slides.reading.direct.dicom import dicom_levels  # pydicom waits, as above

            tiled = dicom_levels(path, truth)
        else:
            tiled = tiff_levels(path, truth)
        direct = DirectLevels(tiled, truth)
    except NotDirectError:
        return truth, "openslide", ()
    except Exception as error:  # tifffile and pydicom answer hostile files with every kind of exception
        parser = "pydicom" if is_dicom else "tifffile"
        return truth, "openslide", (f"read through OpenSlide: {parser} cannot parse it ({type(error).__name__})",)
    different = difference(direct, truth)
    if different:
        direct.close_file()
        return truth, "openslide", (f"read through OpenSlide, as its tiles decoded directly {different}",)
    return direct, "dicom frames" if is_dicom else "tiff tiles", ()


def _bounds(truth: OpenSlideLevels) -> tuple[int, int, int, int] | None:
    """The part that holds the scan, as far as it lies in the slide; None where the file does not say, or nonsense."""
    try:
        x, y, width, height = (int(truth.properties[f"openslide.bounds-{k}"]) for k in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return None
    right, bottom = min(x + width, truth.sizes_px[0][0]), min(y + height, truth.sizes_px[0][1])
    x, y = max(0, x), max(0, y)
    return (x, y, right - x, bottom - y) if x < right and y < bottom else None
