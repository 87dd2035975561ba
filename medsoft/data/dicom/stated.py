"""Checks what a header states about its pixel data for consistency, and against the bytes in the file.

It is looked at before memory is taken, of pictures, volumes and slides alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.encaps import parse_basic_offsets, parse_fragments
from pydicom.filebase import DicomBytesIO
from pydicom.uid import UID, VLWholeSlideMicroscopyImageStorage

from medsoft.data.dicom.header import PIXELS, count, is_dicom, items, number, open_dicom, word
from medsoft.errors import ReadError

MAX_FRAMES = 2**18
"""Most frames of a picture or volume; a functional MR of 1,000 volumes of 100 slices has 100,000."""

MAX_SLIDE_FRAME_PX = 2**27
"""Largest frame of a slide in pixels: OpenSlide ends the process where it gets no memory for one."""

_SHORTEST_FRAME = 8  # bytes of an empty fragment (PS3.5, A.4)
_FRAME_GROUPS = 0x5200  # functional groups, and the pixel data behind them
_DAMAGED = "has pixel data that is damaged or cut short"


@dataclass(frozen=True)
class StoredBits:
    """Where in each number the pixel is (PS3.5, 8.1.1).

    Attributes:
        allocated: bits a number takes.
        stored: bits that belong to the pixel; the others may hold anything, such as overlays.
        high: the highest of them, from 0.
        signed: whether the highest is a sign.
    """

    allocated: int
    stored: int
    high: int
    signed: bool


def stored_bits(dataset: Dataset) -> StoredBits:
    """Read which bits are the pixel; of floating-point pixels all.

    Raises:
        ReadError: BitsAllocated, BitsStored, HighBit and PixelRepresentation do not fit together.
    """
    allocated = count(dataset, "BitsAllocated")
    if any(keyword in dataset for keyword in PIXELS[1:]):
        return StoredBits(allocated, allocated, allocated - 1, True)
    stored = count(dataset, "BitsStored")
    high, signed = number(dataset, "HighBit"), number(dataset, "PixelRepresentation")
    high = stored - 1 if high is None else high
    if signed not in (0, 1):
        raise ReadError("does not say whether its pixels are signed (PixelRepresentation is neither 0 nor 1)")
    if not stored - 1 <= high < allocated:
        raise ReadError(
            f"has BitsAllocated {allocated}, BitsStored {stored} and HighBit {high:g}, which do not fit together: "
            "correct the header"
        )
    return StoredBits(allocated, stored, int(high), bool(signed))


def check_declared(header: Dataset, available: int) -> None:
    """Refuse a header that states more frames than the file can hold.

    Args:
        header: of the file; its pixel data need not have been read.
        available: bytes of the file, or of its pixel data.

    Raises:
        ReadError: there are fewer bytes, more frames than ``MAX_FRAMES``, or functional groups of fewer.
    """
    frames = count(header, "NumberOfFrames")
    _check_bytes(header, frames, available)
    if frames > MAX_FRAMES:
        raise ReadError(f"states {frames} frames, more than the limit of {MAX_FRAMES}")
    described = len(items(header, "PerFrameFunctionalGroupsSequence"))
    if 0 < described < frames:
        raise ReadError(f"states {frames} frames and describes only {described}: correct the header")


def check_pixel_data(dataset: Dataset) -> None:
    """As ``check_declared``, of a file that was read whole; also counts the fragments of compressed frames.

    Raises:
        ReadError: as there, or fewer fragments than frames, or another number of offsets.
    """
    data = next((dataset.get(keyword) for keyword in PIXELS if keyword in dataset), b"") or b""
    check_declared(dataset, len(data))
    if not _is_encapsulated(dataset):
        return
    frames = count(dataset, "NumberOfFrames")
    try:
        stream = DicomBytesIO(data)
        offsets = parse_basic_offsets(stream)
        fragments, _ = parse_fragments(stream)
    except Exception as error:  # hostile bytes raise anything
        raise ReadError(f"{_DAMAGED} ({type(error).__name__})") from None
    if fragments < frames:
        raise ReadError(f"{_DAMAGED}: its header states {frames} frames, and it holds {fragments} fragments")
    if offsets and len(offsets) != frames:
        raise ReadError(f"{_DAMAGED}: its header states {frames} frames, and its table of offsets {len(offsets)}")


def check_slide(path: Path) -> None:
    """Refuse a DICOM slide that OpenSlide must not be given; the other files of its series are looked at too.

    Raises:
        ReadError: more frames than the file can hold, frames too large for memory, or other pixels than 8 bits of 8.
        OSError: the file cannot be opened.
    """
    first = open_dicom(path, pixels=False, before=_FRAME_GROUPS)
    if word(first, "SOPClassUID") != VLWholeSlideMicroscopyImageStorage:
        return
    _check_slide_file(first, path.stat().st_size)
    series = word(first, "SeriesInstanceUID")
    for other in path.parent.iterdir():
        if other == path or not other.is_file():
            continue
        try:
            with other.open("rb") as file:
                if not is_dicom(file.read(132)):
                    continue
            header = open_dicom(other, pixels=False, before=_FRAME_GROUPS)
            of_slide = word(header, "SOPClassUID") == VLWholeSlideMicroscopyImageStorage
        except (ReadError, OSError):  # OpenSlide passes over it too
            continue
        if of_slide and word(header, "SeriesInstanceUID") == series:
            _check_slide_file(header, other.stat().st_size)


def _check_slide_file(header: Dataset, size: int) -> None:
    rows, columns = count(header, "Rows"), count(header, "Columns")
    if rows * columns > MAX_SLIDE_FRAME_PX:
        raise ReadError(f"has frames of {columns} x {rows} pixels, more than the limit of {MAX_SLIDE_FRAME_PX}")
    _check_bytes(header, count(header, "NumberOfFrames"), size)
    bits = stored_bits(header)
    if bits != StoredBits(8, 8, 7, False):
        raise ReadError(
            f"has pixels of {bits.stored} bits of {bits.allocated}{', signed' if bits.signed else ''}: slides are read "
            "with 8 of 8, unsigned"
        )


def _check_bytes(header: Dataset, frames: int, available: int) -> None:
    if _is_encapsulated(header):
        needed = frames * _SHORTEST_FRAME
    else:
        samples = count(header, "Rows") * count(header, "Columns") * count(header, "SamplesPerPixel")
        needed = math.ceil(frames * samples * count(header, "BitsAllocated") / 8)
        if word(header, "PhotometricInterpretation") == "YBR_FULL_422":  # two pixels share their colours
            needed = needed * 2 // 3
    if needed > available:
        raise ReadError(
            f"{_DAMAGED}: its header states {frames} frames of {word(header, 'Rows')} x {word(header, 'Columns')} "
            f"pixels, which take {needed} bytes or more, and there are {available}"
        )


def _is_encapsulated(header: Dataset) -> bool:
    """Whether frames are fragments; also of syntaxes that nobody knows, of which more cannot be said."""
    try:
        return UID(word(header.file_meta, "TransferSyntaxUID")).is_encapsulated
    except ValueError:
        return True
