"""Finds the frames of a DICOM whole slide, as they are decoded directly.

Each level is a file of the series beside the one that was named. Read here are levels whose frames lie row by row
(TILED_FULL), one fragment each, as JPEG, JPEG 2000 or uncompressed RGB; the rest is OpenSlide's.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    VLWholeSlideMicroscopyImageStorage,
)

from medsoft.data.dicom.header import count, is_dicom, number, open_dicom, word
from medsoft.data.formats.jpeg import decode_jpeg_strict
from medsoft.errors import ReadError
from medsoft.slides.reading.direct.levels import Decoder, NotDirectError, TiledLevel, jpeg2000_decoder
from medsoft.slides.reading.openslide_reader import OpenSlideLevels

_PER_FRAME, _PIXEL_DATA = 0x5200_9230, 0x7FE0_0010
_OFFSET_TABLE, _OFFSET_LENGTHS = 0x7FE0_0001, 0x7FE0_0002
_ITEM, _END = 0xFFFE_E000, 0xFFFE_E0DD
_UNDEFINED = 0xFFFF_FFFF
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""Value representations with four bytes of length (PS3.5, 7.1.2)."""
_READ_BEFORE = 0x5200
"""Group of the functional groups, which may hold an entry a frame; the pixel data lie behind."""


def dicom_levels(path: Path, truth: OpenSlideLevels) -> tuple[TiledLevel, ...]:
    """The levels of a series.

    Args:
        path: one of its files.
        truth: the same through OpenSlide.

    Raises:
        NotDirectError: its frames are arranged or compressed in another way.
        ReadError: a file is damaged.
        OSError: a file cannot be read.
    """
    files: dict[tuple[int, int], tuple[Path, Dataset]] = {}
    for other, header in _series(path):
        size_px = count(header, "TotalPixelMatrixColumns"), count(header, "TotalPixelMatrixRows")
        if size_px in files:
            raise NotDirectError("several of its files have one size")
        files[size_px] = other, header
    found = []
    for size_px in truth.sizes_px:
        if size_px not in files:
            raise NotDirectError(f"no file has the size of OpenSlide's level {size_px}")
        found.append(_tiled_level(*files[size_px], size_px))
    return tuple(found)


def _series(path: Path) -> Iterator[tuple[Path, Dataset]]:
    """The files of a slide's levels; label and overview are not among them."""
    series = word(open_dicom(path, pixels=False, before=_READ_BEFORE), "SeriesInstanceUID")
    for other in sorted(path.parent.iterdir()):
        if not other.is_file():
            continue
        try:
            with other.open("rb") as file:
                if not is_dicom(file.read(132)):
                    continue
            header = open_dicom(other, pixels=False, before=_READ_BEFORE)
        except (ReadError, OSError):  # OpenSlide passes over it too
            continue
        is_level = "VOLUME" in list(header.get("ImageType") or [])
        of_slide = word(header, "SOPClassUID") == VLWholeSlideMicroscopyImageStorage
        if is_level and of_slide and word(header, "SeriesInstanceUID") == series:
            yield other, header


def _tiled_level(path: Path, header: Dataset, size_px: tuple[int, int]) -> TiledLevel:
    if word(header, "DimensionOrganizationType") != "TILED_FULL":
        raise NotDirectError("its frames do not lie row by row (TILED_FULL)")
    several = ("NumberOfOpticalPaths", "TotalPixelMatrixFocalPlanes")
    if any((number(header, keyword) or 1) != 1 for keyword in several) or "ConcatenationUID" in header:
        raise NotDirectError("it has several optical paths, focal planes or parts of a level")
    if count(header, "SamplesPerPixel") != 3 or number(header, "PlanarConfiguration") not in (0, None):
        raise NotDirectError("its pixels are not 8-bit RGB")
    tile_size_px = count(header, "Columns"), count(header, "Rows")
    columns, rows = (-(-side // tile) for side, tile in zip(size_px, tile_size_px, strict=True))
    frames = count(header, "NumberOfFrames")
    if frames != columns * rows:
        raise NotDirectError("its frames are not those of one level")
    syntax = word(header.file_meta, "TransferSyntaxUID")
    decode = _decoder(syntax, word(header, "PhotometricInterpretation"), *tile_size_px)
    with path.open("rb") as file:
        tables, start, length = _pixel_data(file)
        if syntax == ExplicitVRLittleEndian:
            size = 3 * tile_size_px[0] * tile_size_px[1]
            if length == _UNDEFINED or length < size * frames:
                raise NotDirectError("its pixel data is shorter than its frames")
            offsets, byte_counts = start + size * np.arange(frames), np.full(frames, size)
        else:
            offsets, byte_counts = _encapsulated(file, start, frames, tables)
    return TiledLevel(path, size_px, tile_size_px, offsets.astype(np.int64), byte_counts.astype(np.int64), decode)


def _decoder(syntax: str, colours: str, width: int, height: int) -> Decoder:
    def jpeg(data: bytes) -> np.ndarray:
        # The frame's own markers say its colours, as OpenSlide has it. A buffer: no frame may claim to be larger.
        return decode_jpeg_strict(data, "RGB", np.empty((height, width, 3), np.uint8))

    def plain(data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)

    if syntax == JPEGBaseline8Bit:
        return jpeg
    if syntax in (JPEG2000, JPEG2000Lossless) and colours in ("RGB", "YBR_ICT", "YBR_RCT"):
        return jpeg2000_decoder(width, height)
    if syntax == ExplicitVRLittleEndian and colours == "RGB":
        return plain
    raise NotDirectError("its transfer syntax or colours are not decoded here")


def _pixel_data(file: IO[bytes]) -> tuple[dict[int, bytes], int, int]:
    """Extended offset tables by tag, the place of the pixel data's value, and its length.

    The elements before it are walked over by their lengths: those of each frame are many, and not needed.
    """
    read_partial(file, lambda tag, vr, length: tag >= _PER_FRAME)  # type: ignore[arg-type]
    tables: dict[int, bytes] = {}
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise NotDirectError("it has no pixel data")
        group, element, kind, short = struct.unpack("<HH2sH", head)
        tag = group << 16 | element
        length = struct.unpack("<I", file.read(4))[0] if kind in _LONG else short
        if tag == _PIXEL_DATA:
            return tables, file.tell(), length
        if length == _UNDEFINED:
            raise NotDirectError("it describes each frame in sequences of undefined length")
        if tag in (_OFFSET_TABLE, _OFFSET_LENGTHS):
            tables[tag] = file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)


def _encapsulated(file: IO[bytes], start: int, frames: int, tables: dict[int, bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Where the frames lie, and how long they are (PS3.5, A.4).

    From the extended table, else from the basic one, else from the fragments' own headers, one after the other.
    """
    tag, length = _item(file, start)
    if tag != _ITEM:
        raise NotDirectError("its pixel data does not begin with an item")
    first = start + 8 + length
    if tables:
        offsets, byte_counts = (
            np.frombuffer(tables.get(name, b""), "<u8") for name in (_OFFSET_TABLE, _OFFSET_LENGTHS)
        )
        if not len(offsets) == len(byte_counts) == frames:
            raise NotDirectError("its extended offset table is not that of its frames")
        return first + 8 + offsets.astype(np.int64), byte_counts.astype(np.int64)
    if length:
        offsets = np.frombuffer(file.read(length), "<u4").astype(np.int64)
        if len(offsets) != frames or (np.diff(offsets) <= 8).any():
            raise NotDirectError("its basic offset table is not that of its frames")
        _, last = _item(file, first + int(offsets[-1]))
        return first + 8 + offsets, np.append(np.diff(offsets) - 8, last)
    places = []
    place = first
    while True:
        tag, length = _item(file, place)
        if tag != _ITEM:
            break
        places.append((place + 8, length))
        if len(places) > frames:
            raise NotDirectError("its frames have several fragments")
        place += 8 + length
    if tag != _END or len(places) != frames:
        raise NotDirectError("its fragments are not one a frame")
    found = np.array(places, np.int64)
    return found[:, 0], found[:, 1]


def _item(file: IO[bytes], place: int) -> tuple[int, int]:
    """Tag and length of an item."""
    file.seek(place)
    head = file.read(8)
    if len(head) < 8:
        raise NotDirectError("its pixel data is cut short")
    group, element, length = struct.unpack("<HHI", head)
    return group << 16 | element, length
