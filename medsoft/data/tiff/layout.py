"""Interprets the pages of a TIFF: one rule for tiled and untiled files, images and slides.

One picture, grey or in colour, with smaller copies of itself behind it; or three grey planes that OME-XML calls red,
green and blue. Everything else is refused with the way out: nobody can tell from the pixels which of several pages,
planes or channels is meant.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, TiffFile, TiffPage

from medsoft.data.tiff.ome import OmeImage, is_ome, parse_ome
from medsoft.errors import ReadError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

RGB = ("red", "green", "blue")
SAVE_AS_RGB = "save it as RGB with 8 bits per channel"
NAME_CHANNELS = "name them Red, Green and Blue in the OME-XML if they are, or " + SAVE_AS_RGB

MOST_PAGES = 10_000
"""More directories than any slide has."""

SHAPE = 0.05
"""How far the sides of a smaller copy may differ in ratio from those of the picture: small ones are rounded."""

# For a damaged file tifffile would print a line a tag; ReadError says it in one.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Level:
    """A picture of one size: its planes, of equal tiles or strips.

    Attributes:
        planes: page and first segment of each plane: one with all samples, or three (red, green, blue).
    """

    planes: tuple[tuple[TiffPage, int], ...]

    @property
    def page(self) -> TiffPage:
        """The first plane's page."""
        return self.planes[0][0]

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height)."""
        return self.page.imagewidth, self.page.imagelength

    @property
    def segment_px(self) -> tuple[int, int]:
        """(width, height) of a tile, or of a strip."""
        page = self.page
        if page.is_tiled:
            return page.tilewidth, page.tilelength
        return page.imagewidth, max(1, min(page.rowsperstrip, page.imagelength))

    @property
    def columns(self) -> int:
        """Segments in a row."""
        return -(-self.size_px[0] // self.segment_px[0])

    @property
    def rows(self) -> int:
        """Rows of segments."""
        return -(-self.size_px[1] // self.segment_px[1])


@dataclass(frozen=True)
class Layout:
    """What a file holds.

    Attributes:
        levels: the picture, and its smaller copies, largest first.
        bits: bits of a sample that are used, as the file says; None of 16-bit samples where it does not.
        orientation: of the tag, 1 to 8; 1 where there is none.
        ome: the OME-XML, where there is any.
    """

    levels: tuple[Level, ...]
    bits: int | None
    orientation: int
    ome: OmeImage | None

    @property
    def is_plain(self) -> bool:
        """Whether every reader of TIFF takes the pixels for the same: 8-bit RGB in one page."""
        page = self.levels[0].page
        colours = page.photometric == PHOTOMETRIC.RGB or (
            page.photometric == PHOTOMETRIC.YCBCR and page.compression == COMPRESSION.JPEG
        )
        one = len(self.levels[0].planes) == 1 and page.planarconfig == 1 and not page.extrasamples
        whole = page.samplesperpixel == 3 and page.bitspersample == 8 and page.sampleformat in (1, None)
        return bool(one and whole and colours and self.ome is None and self.orientation == 1)


def layout_of(tiff: TiffFile) -> Layout:
    """What the pages of an open file are.

    Raises:
        ReadError: not one picture, not grey, RGB or CMYK, or a header that contradicts itself.
    """
    if len(tiff.pages) > MOST_PAGES:
        raise ReadError(f"holds {len(tiff.pages)} pages, more than {MOST_PAGES}")
    pages = [page for page in tiff.pages if isinstance(page, TiffPage)]
    if len(pages) != len(tiff.pages) or not pages:
        raise ReadError("is damaged or cut short (its pages cannot be read)")
    first = pages[0]
    ome = parse_ome(first.description) if is_ome(first.description) else None
    top = _plain_level(pages) if ome is None else _ome_level(pages, ome)
    _check_samples(top)
    levels = (top, *_smaller(top, pages))
    orientation = top.page.tags.valueof(274, 1)
    orientation = int(orientation) if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    return Layout(levels, _bits(top.page, ome), orientation, ome)


def open_tiff(file: Any) -> TiffFile:
    """Open a file or stream with tifffile.

    Raises:
        ReadError: it is no TIFF, or its directories cannot be read.
    """
    try:
        # Other files that OME-XML names are never opened: the pages are sorted here.
        return TiffFile(file, is_ome=False, is_shaped=False)
    except MemoryError:
        raise
    except Exception as error:  # tifffile answers hostile files with every kind of exception
        raise ReadError(f"is damaged or cut short ({type(error).__name__}: {error})") from None


def _plain_level(pages: Sequence[TiffPage]) -> Level:
    first = pages[0]
    if first.axes not in ("YX", "YXS", "SYX") or first.imagedepth != 1:
        raise ReadError(f"is a TIFF of shape {first.shape} ({first.axes}), not one picture")
    alike = [page for page in pages[1:] if _size(page) == _size(first) and not page.is_reduced and not page.is_mask]
    if alike:
        grey = first.samplesperpixel == 1
        advice = f"planes of a colour picture or channels? {SAVE_AS_RGB}" if grey else "save the wanted one by itself"
        raise ReadError(f"holds {1 + len(alike)} pictures of one size: {advice}")
    return _level([first])


def _ome_level(pages: Sequence[TiffPage], ome: OmeImage) -> Level:
    if max(ome.planes) >= len(pages):
        raise ReadError(f"has OME-XML that names page {max(ome.planes)}, but {len(pages)} pages")
    planes = [pages[number] for number in ome.planes]
    if any(_size(page) != ome.size_px for page in planes):
        raise ReadError("has OME-XML whose SizeX and SizeY are not those of its pages")
    if any(page.axes not in ("YX", "YXS", "SYX") or page.imagedepth != 1 for page in planes):
        raise ReadError(f"is a TIFF of shape {planes[0].shape} ({planes[0].axes}), not one picture")
    if len(planes) == 1:
        # RGB with alpha is one channel of 4 samples; whether its colours are RGB, the page says.
        if planes[0].samplesperpixel != ome.samples[0]:
            raise ReadError("has OME-XML whose SamplesPerPixel is not that of its page")
        return _level(planes)
    if any(samples != 1 for samples in ome.samples) or any(page.samplesperpixel != 1 for page in planes):
        raise ReadError(f"holds {len(planes)} channels of several samples (OME-XML): {SAVE_AS_RGB}")
    if sorted(ome.colours) != sorted(RGB):
        if len(planes) == 3:
            raise ReadError(f"holds 3 channels of which OME-XML does not say that they are RGB: {NAME_CHANNELS}")
        raise ReadError(
            f"holds {len(planes)} channels (fluorescence?), and pictures here are grey or RGB: {SAVE_AS_RGB}, "
            "or one channel by itself"
        )
    return _level([planes[ome.colours.index(colour)] for colour in RGB])


def _level(pages: Sequence[TiffPage]) -> Level:
    if len({_form(page) for page in pages}) > 1:
        raise ReadError("has planes of different sizes, types or compressions")
    first = pages[0]
    if len(pages) > 1 or first.planarconfig != 2 or first.samplesperpixel == 1:
        return Level(tuple((page, 0) for page in pages))
    each = len(first.dataoffsets) // first.samplesperpixel  # separate planes lie one behind the other
    return Level(tuple((first, sample * each) for sample in range(first.samplesperpixel)))


def _form(page: TiffPage) -> tuple[object, ...]:
    tile = (page.tilewidth, page.tilelength) if page.is_tiled else page.rowsperstrip
    return *_kind(page), _size(page), page.is_tiled, tile


def _kind(page: TiffPage) -> tuple[object, ...]:
    sample = (page.samplesperpixel, page.bitspersample, page.sampleformat, page.planarconfig)
    return *sample, page.photometric, page.extrasamples


def _size(page: TiffPage) -> tuple[int, int]:
    return page.imagewidth, page.imagelength


def _smaller(top: Level, pages: Sequence[TiffPage]) -> list[Level]:
    """Smaller copies, alike in kind and shape: pages of reduced resolution behind the picture, or SubIFDs below it."""
    found: dict[tuple[int, int], Level] = {}
    of_planes = list({id(page): page for page, _ in top.planes}.values())
    below = [_below(page) for page in of_planes]
    groups: list[list[TiffPage]] = []
    if len({len(copies) for copies in below}) == 1:
        groups += [list(group) for group in zip(*below, strict=True)]
    if len(of_planes) == 1:
        groups += [[page] for page in pages if page.is_reduced]
    width, height = top.size_px
    for group in groups:
        page = group[0]
        if not page.imagewidth or not page.imagelength or page.is_tiled != top.page.is_tiled:
            continue
        ratio_x, ratio_y = width / page.imagewidth, height / page.imagelength
        alike = all(_kind(one) == _kind(top.page) for one in group) and ratio_x > 1 and ratio_y > 1
        if alike and abs(ratio_x / ratio_y - 1) <= SHAPE:
            found.setdefault(_size(page), _level(group))
    return [found[size] for size in sorted(found, reverse=True)]


def _below(page: TiffPage) -> list[TiffPage]:
    if not page.subifds:
        return []
    return [one for one in page.pages or () if isinstance(one, TiffPage)]


def _bits(page: TiffPage, ome: OmeImage | None) -> int | None:
    """Used bits of unsigned samples. MaxSampleValue is not asked: TIFF 6.0 keeps it from how a picture looks."""
    stored = page.bitspersample
    if ome is not None and ome.bits is not None and ome.bits <= stored:
        return ome.bits
    return None if stored == 16 else stored


def _check_samples(level: Level) -> None:
    """Refuse colours that are not read here, before anything is decoded."""
    page = level.page
    if not page.imagewidth or not page.imagelength:
        raise ReadError(f"has {page.imagewidth} x {page.imagelength} pixels")
    if page.dtype is None:
        raise ReadError(f"has samples of {page.bitspersample} bits, which are not read here")
    samples, colours, extra = page.samplesperpixel, page.photometric, page.extrasamples
    alpha = extra in ((EXTRASAMPLE.UNASSALPHA,), (EXTRASAMPLE.ASSOCALPHA,)) and page.dtype.kind == "u"
    in_jpeg = page.compression in (COMPRESSION.OJPEG, COMPRESSION.JPEG)  # its decoder returns RGB
    fits: dict[int, bool] = {
        PHOTOMETRIC.PALETTE: samples == 1 and not extra,
        PHOTOMETRIC.MINISWHITE: samples == 1 and not extra,
        PHOTOMETRIC.MINISBLACK: (samples == 1 and not extra) or (samples == 2 and alpha),
        PHOTOMETRIC.RGB: (samples == 3 and not extra) or (samples == 4 and alpha),
        PHOTOMETRIC.YCBCR: samples == 3 and not extra and in_jpeg,
        PHOTOMETRIC.SEPARATED: samples == 4 and not extra and page.dtype == "uint8",
    }
    if not fits.get(colours, False):
        name = getattr(colours, "name", colours)
        raise ReadError(
            f"is a TIFF with {samples} channels of {page.dtype} ({name}), neither grey, RGB nor CMYK: {SAVE_AS_RGB}"
        )
