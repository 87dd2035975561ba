"""Writes pyramidal tiled TIFF files block by block, so that an image of any size needs little memory.

The first page holds the full size; every smaller level is a further page of the file, marked as one of reduced
resolution (NewSubfileType 1). OpenSlide reads such pages as levels, and QuPath opens the file through OpenSlide. In an
OME-TIFF (https://docs.openmicroscopy.org/ome-model/latest/ome-tiff/) the smaller levels are SubIFDs of the first page,
which Bio-Formats and its relatives read, and OpenSlide passes over.
Pixels of a smaller level are means of the level above, so that each covers a square of ``downsample`` pixels of the
full size; of a map of labels, which has no means, they are the pixel in the middle of that square. A page has whole
pixels: where the size is no multiple of the downsample, its last row or column repeats the edge of the picture, and
the ratio that OpenSlide works out from the sizes differs from the downsample by up to a pixel.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Literal
from xml.sax.saxutils import escape

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from medsoft.storage.files import replacing

Pixels = NDArray[np.uint8]
ReadBlock = Callable[[int, int, int, int], Pixels]
Shrink = Callable[[Pixels, int], Pixels]
Encode = Callable[[Pixels], bytes]
Compression = Literal["jpeg", "deflate"]

UM_PER_CM = 10_000
CLASSIC_LIMIT_BYTES = 2**31  # a TIFF addresses 4 GiB; above this many bytes before compression BigTIFF is written


def write_pyramid(
    path: Path,
    size_px: tuple[int, int],
    read_block: ReadBlock,
    mpp: float,
    *,
    downsamples: Sequence[int] = (1, 4, 16, 64),
    tile_px: int = 256,
    block_px: int = 1024,
    compression: Compression = "jpeg",
    quality: int = 80,
    description: str = "",
    ome: bool = False,
    labels: bool = False,
) -> None:
    """Write a picture as a pyramidal tiled TIFF, which appears when it is complete; same pixels, same bytes.

    Memory holds one block and, for each level, a row of tiles: about 0.1 GB for a picture 100,000 pixels wide.

    Args:
        path: File to write; an older one is replaced.
        size_px: Width and height of the picture.
        read_block: ``(x, y, width, height)`` in pixels of the full size to uint8 (height, width, 3), RGB; of labels
            (height, width). Called once for each block, row by row from the top left.
        mpp: µm per pixel of the full size; written as the resolution of each page.
        downsamples: Pixels of the full size along the side of one pixel, level by level: 1, then multiples of the one
            before.
        tile_px: Side of the file's tiles, a multiple of 16.
        block_px: Side of the blocks that are asked for (less at the right and lower edge), a multiple of ``tile_px``.
        compression: ``jpeg`` (lossy, chroma at half the resolution) or ``deflate`` (lossless).
        quality: Of the JPEG tiles, 1 to 100.
        description: ImageDescription of the first page, ASCII; of an OME-TIFF, the image's description.
        ome: Write an OME-TIFF, whose OME-XML also says the µm per pixel. Name it ``….ome.tif``.
        labels: The picture is a map of labels, one channel, whose values are never mixed; without loss only.

    Raises:
        ValueError: an argument is out of range, or ``read_block`` gave another shape or type.
        OSError: the file cannot be written.
    """
    width, height = size_px
    factors = _factors(downsamples, tile_px)
    if min(width, height) < 1 or not (math.isfinite(mpp) and mpp > 0):
        raise ValueError(f"a picture of {width} x {height} pixels at {mpp} µm per pixel cannot be written")
    if tile_px % 16 or tile_px < 16 or block_px % tile_px or block_px < tile_px:
        raise ValueError(f"tiles of {tile_px} pixels must be a multiple of 16, and blocks of {block_px} one of tiles")
    sizes = [(-(-width // step), -(-height // step)) for step in downsamples]
    channels = () if labels else (3,)
    big = (1 if labels else 3) * sum(w * h for w, h in sizes) > CLASSIC_LIMIT_BYTES
    encode, form = _coding(compression, quality)
    if labels:
        if compression != "deflate":
            raise ValueError(f"labels are written without loss, not as {compression}")
        form = {**form, "photometric": "minisblack"}
    shrink = _middles if labels else _shrunk

    if ome:
        description = _ome_xml(size_px, mpp, description, 1 if labels else 3)

    def page(level: int) -> dict[str, Any]:
        w, h = sizes[level]
        per_cm = UM_PER_CM / (mpp * downsamples[level])
        resolution = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
        words = {"description": (description or None) if level == 0 else None, "software": "medsoft", "metadata": None}
        return {
            "shape": (h, w, *channels),
            "dtype": np.uint8,
            "tile": (tile_px, tile_px),
            **form,
            **resolution,
            **words,
        }

    with replacing(path) as temporary, ExitStack() as open_files:
        below: _Level | None = None
        levels: list[_Level] = []
        for factor in reversed(factors):
            # Beside the file, not in /tmp, which may be small; without a name, so that nothing is left behind.
            spool = open_files.enter_context(tempfile.TemporaryFile(dir=path.parent))
            below = _Level(encode, tile_px, spool, below, factor, shrink)
            levels.insert(0, below)
        with tifffile.TiffWriter(temporary, bigtiff=big) as tiff:
            full_size = _full_size(size_px, read_block, block_px, tile_px, encode, below, channels)
            tiff.write(full_size, subfiletype=0, subifds=len(levels) if ome else None, **page(0))
            for number, level in enumerate(levels, start=1):
                tiff.write(level.encoded(), subfiletype=1, **page(number))


def _ome_xml(size_px: tuple[int, int], mpp: float, description: str, samples: int) -> str:
    """OME-XML (2016-06) of one image, in ASCII, as TIFF has it."""
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    sizes = f'SizeX="{size_px[0]}" SizeY="{size_px[1]}" SizeZ="1" SizeC="{samples}" SizeT="1"'
    physical = " ".join(f'PhysicalSize{axis}="{mpp!r}" PhysicalSize{axis}Unit="&#181;m"' for axis in "XY")
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{schema}" Creator="medsoft" '
        f'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="{schema} {schema}/ome.xsd">'
        '<Image ID="Image:0">'
        f"<Description>{escape(description)}</Description>"
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" Interleaved="true" {sizes} {physical}>'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="{samples}"/><TiffData IFD="0" PlaneCount="1"/></Pixels>'
        "</Image></OME>"
    )


class _Level:
    """A smaller level: takes rows of the level above, keeps their means as encoded tiles, and hands rows further down.

    It takes rows of the level above in the picture's full width; only what does not fill a row of tiles is kept as
    pixels.
    """

    def __init__(
        self, encode: Encode, tile_px: int, spool: IO[bytes], below: _Level | None, factor: int, shrink: Shrink
    ) -> None:
        self.factor, self.shrink = factor, shrink
        self._encode, self._tile_px, self._spool, self._below = encode, tile_px, spool, below
        self._rows: list[Pixels] = []
        self._lengths: list[int] = []

    def add(self, rows: Pixels) -> None:
        """Take rows (H, W, …) of this level, in order from the top."""
        self._rows.append(rows)
        while sum(len(part) for part in self._rows) >= self._tile_px:
            joined = np.concatenate(self._rows)
            self._rows = [joined[self._tile_px :]]
            self._write(joined[: self._tile_px])

    def finish(self) -> None:
        """Write what does not fill a row of tiles: no rows follow."""
        rest = np.concatenate(self._rows)
        if len(rest):
            self._write(rest)
        if self._below:
            self._below.finish()

    def encoded(self) -> Iterator[bytes]:
        """The level's tiles, row by row."""
        self._spool.seek(0)
        for length in self._lengths:
            yield self._spool.read(length)

    def _write(self, rows: Pixels) -> None:
        for tile in _tiles(rows, self._tile_px):
            data = self._encode(tile)
            self._spool.write(data)
            self._lengths.append(len(data))
        if self._below:
            self._below.add(self.shrink(rows, self._below.factor))


def _full_size(
    size_px: tuple[int, int],
    read_block: ReadBlock,
    block_px: int,
    tile_px: int,
    encode: Encode,
    below: _Level | None,
    channels: tuple[int, ...],
) -> Iterator[bytes]:
    """Encoded tiles of the full size, row by row; each row of blocks is handed to the level ``below``."""
    width, height = size_px
    for y in range(0, height, block_px):
        h = min(block_px, height - y)
        rows: list[list[bytes]] = [[] for _ in range(0, h, tile_px)]
        shrunk = []
        for x in range(0, width, block_px):
            w = min(block_px, width - x)
            block = read_block(x, y, w, h)
            wanted = (h, w, *channels)
            if block.shape != wanted or block.dtype != np.uint8:
                raise ValueError(f"the block at {x}, {y} is {block.dtype} {block.shape}, not uint8 {wanted}")
            for row, top in zip(rows, range(0, h, tile_px), strict=True):
                row += [encode(tile) for tile in _tiles(block[top : top + tile_px], tile_px)]
            if below:
                shrunk.append(below.shrink(block, below.factor))
        if below:  # before the tiles are given away: nobody asks this generator again after the last one
            below.add(np.concatenate(shrunk, axis=1))
            if y + h == height:
                below.finish()
        for row in rows:
            yield from row


def _tiles(rows: Pixels, tile_px: int) -> Iterator[Pixels]:
    """One row of tiles, whole: those at the edge of the picture repeat its last pixels."""
    for x in range(0, rows.shape[1], tile_px):
        yield _filled(rows[:, x : x + tile_px], tile_px)


def _shrunk(pixels: Pixels, factor: int) -> Pixels:
    """Means over squares of ``factor`` pixels."""
    filled = _filled(pixels, factor)
    size = (filled.shape[1] // factor, filled.shape[0] // factor)
    return np.asarray(cv2.resize(filled, size, interpolation=cv2.INTER_AREA), np.uint8)


def _middles(labels: Pixels, factor: int) -> Pixels:
    """Of each square of ``factor`` pixels the one in the middle."""
    middles: Pixels = _filled(labels, factor)[factor // 2 :: factor, factor // 2 :: factor]
    return middles


def _filled(pixels: Pixels, multiple: int) -> Pixels:
    """The pixels, with the last ones repeated up to the next multiple."""
    down, right = -pixels.shape[0] % multiple, -pixels.shape[1] % multiple
    if not (down or right):
        return np.ascontiguousarray(pixels)
    return np.asarray(cv2.copyMakeBorder(pixels, 0, down, 0, right, cv2.BORDER_REPLICATE), np.uint8)


def _coding(compression: Compression, quality: int) -> tuple[Encode, dict[str, Any]]:
    """What turns a tile into bytes, and what the page says about it."""
    if compression == "deflate":

        def deflate(tile: Pixels) -> bytes:
            return bytes(imagecodecs.zlib_encode(imagecodecs.delta_encode(tile, axis=1).tobytes(), level=6))

        return deflate, {"compression": "adobe_deflate", "photometric": "rgb", "predictor": "horizontal"}
    if compression != "jpeg" or not 1 <= quality <= 100:
        raise ValueError(f"compression {compression} of quality {quality}: jpeg takes 1 to 100, or choose deflate")

    def jpeg(tile: Pixels) -> bytes:
        return bytes(
            imagecodecs.jpeg8_encode(tile, level=quality, colorspace="RGB", outcolorspace="YCBCR", subsampling="420")
        )

    return jpeg, {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)}


def _factors(downsamples: Sequence[int], tile_px: int) -> list[int]:
    """Pixels of a level along the side of a pixel of the next."""
    factors = [low // high for high, low in pairwise(downsamples)]
    whole = all(low % high == 0 for high, low in pairwise(downsamples))
    if list(downsamples[:1]) != [1] or not whole or any(f < 2 or tile_px % f for f in factors):
        raise ValueError(
            f"downsamples {tuple(downsamples)}: they begin with 1 and each is a multiple of the one before, "
            f"by a factor that divides the tiles of {tile_px} pixels"
        )
    return factors
