"""Reads a DICOM file with one image, such as a radiograph: greyscale from black to white, or RGB."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from medsoft.data.dicom.frames import read_frames
from medsoft.data.dicom.header import check_picture, count, items, number, numbers, open_dicom, word
from medsoft.data.dicom.pixels import real_frames, show_by_voi, stored_frames
from medsoft.data.dicom.stated import check_pixel_data, stored_bits
from medsoft.data.images.square_pixels import SQUARE, square_size, to_square_pixels
from medsoft.errors import ReadError

_SIDES = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
"""What may say how high and wide a pixel is, the first number of each its height; PS3.3, 10.7.1.3 and C.7.6.3.1.7."""
_NAMED_SIDES = f"{', '.join(_SIDES[:-1])} or {_SIDES[-1]}"


def decode_picture(
    stream: IO[bytes],
    check_size: Callable[[int, int], None],
    *,
    voi: bool = False,
    note: Callable[[str], object] | None = None,
) -> np.ndarray:
    """Decode a file of one frame; pixels that are not square are resampled to square ones.

    Args:
        stream: the file.
        check_size: called with width and height as the header states them, and as they will be.
        voi: show grey as the file's VOI LUT or first window says, black to white over the whole range of uint16.
        note: called with what was done to the picture that its user should know.

    Returns:
        (H, W, 3) uint8 or uint16 of colour. Of grey (H, W): uint16 with ``voi``; uint8 as it is where 8 bits without
        a scale are stored; else float32 in the modality's numbers, whose black and white a window must find. What
        is stored with white as its lowest value (MONOCHROME1) is inverted.

    Raises:
        ReadError: several frames, sizes of pixels that contradict each other, or as ``real_frames`` and
            ``show_by_voi``; no VOI window where one is wanted.
    """
    dataset = open_dicom(stream)
    check_picture(dataset)
    height, width = count(dataset, "Rows"), count(dataset, "Columns")
    check_size(width, height)
    check_pixel_data(dataset)
    if (frames := count(dataset, "NumberOfFrames")) > 1:
        raise ReadError(f"holds {frames} pictures: read it as a volume, or save the wanted one by itself")
    sides = _sides_of_pixels(dataset)
    try:
        high, wide = square_size(height, width, *sides)
    except ValueError as error:
        raise ReadError(f"has a size of pixels that makes no sense ({error}): correct {_NAMED_SIDES}") from None
    if (high, wide) == (height, width):
        return _decoded(dataset, voi)
    check_size(wide, high)
    if note:
        note("pixels that are not square, resampled so that they are")
    return to_square_pixels(_decoded(dataset, voi), *sides)


def _sides_of_pixels(dataset: Dataset) -> tuple[float, float]:
    """Distance of rows and of columns, or their ratio; (1, 1) where the file says neither.

    Raises:
        ReadError: two elements say different shapes.
    """
    groups = items(dataset, "PerFrameFunctionalGroupsSequence")[:1] + items(dataset, "SharedFunctionalGroupsSequence")
    measures = [item for group in groups for item in items(group, "PixelMeasuresSequence")]
    found: dict[str, tuple[float, float]] = {}
    for place in (*measures, dataset):
        for keyword in _SIDES:
            if (pair := numbers(place, keyword, 2)) is not None:
                found.setdefault(keyword, (pair[0], pair[1]))
    if any(min(pair) <= 0 for pair in found.values()):
        raise ReadError(f"has a size of pixels of zero or below: correct {_NAMED_SIDES}")
    ratios = [rows / columns for rows, columns in found.values()]
    if ratios and max(ratios) > (1 + SQUARE) * min(ratios):
        raise ReadError(f"states different shapes of its pixels ({' and '.join(found)}): correct one of them")
    return next(iter(found.values()), (1.0, 1.0))


def _decoded(dataset: Dataset, voi: bool) -> np.ndarray:
    if not word(dataset, "PhotometricInterpretation").startswith("MONOCHROME"):
        return _colour(dataset)
    grey: np.ndarray = real_frames(dataset)[0]
    inverted = word(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    if voi and (shown := show_by_voi(grey, dataset)) is not None:
        shown = np.clip(1 - shown if inverted else shown, 0, 1)
        white_65535: np.ndarray = np.rint(shown * np.float32(65535)).astype(np.uint16)
        return white_65535
    if inverted:
        grey = _inverted(grey, dataset)
    if _is_plain(dataset):
        plain: np.ndarray = grey.astype(np.uint8)
        return plain * np.uint8(255) if number(dataset, "BitsStored") == 1 else plain
    if voi:
        raise ReadError("names no window (WindowCenter, or VOI LUT): leave voi off, and window by percentiles")
    return grey


def _colour(dataset: Dataset) -> np.ndarray:
    pixels: np.ndarray = stored_frames(dataset)[0]
    if word(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
        try:
            pixels = apply_color_lut(pixels, dataset)[..., :3]
        except Exception:  # pydicom expects a whole palette
            raise ReadError("has a palette that is damaged") from None
    elif pixels.dtype in (np.uint8, np.uint16):
        pixels = pixels << (8 * pixels.dtype.itemsize - stored_bits(dataset).stored)
    if pixels.ndim != 3 or pixels.dtype not in (np.uint8, np.uint16):
        raise ReadError("has colours that are not read here")
    return pixels


def _is_plain(dataset: Dataset) -> bool:
    """Whether its numbers are those of a plain 8-bit picture (or a mask of 1 bit)."""
    (frame,) = read_frames(dataset, Path())
    scaled = (frame.slope, frame.intercept) != (1, 0)
    plain = count(dataset, "BitsAllocated") <= 8 and number(dataset, "BitsStored") in (1, 8)
    return plain and not scaled and not number(dataset, "PixelRepresentation") and not _has_lut(dataset)


def _has_lut(dataset: Dataset) -> bool:
    return bool(items(dataset, "ModalityLUTSequence"))


def _inverted(grey: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Exchange black and white within the range that the stored bits can hold."""
    for table in items(dataset, "ModalityLUTSequence"):
        bits = int((table.get("LUTDescriptor") or (0, 0, 16))[2])
        return np.float32(2**bits - 1) - grey
    stored = stored_bits(dataset)
    lowest = -(2 ** (stored.stored - 1)) if stored.signed else 0
    (frame,) = read_frames(dataset, Path())
    return np.float32(frame.slope * (2 * lowest + 2**stored.stored - 1) + 2 * frame.intercept) - grey
