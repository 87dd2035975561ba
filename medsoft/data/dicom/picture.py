"""A DICOM file of one picture, such as a radiograph: grey from black to white, or RGB."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from medsoft.data.decode import ReadError
from medsoft.data.dicom.frames import count
from medsoft.data.dicom.header import check_picture, items, number, open_dicom, word
from medsoft.data.dicom.pixels import real_frames, show_by_voi, stored_frames


def decode_picture(stream: IO[bytes], check_size: Callable[[int, int], None], *, voi: bool = False) -> np.ndarray:
    """Decode a file of one frame.

    Args:
        stream: the file.
        check_size: called with width and height as the header states them.
        voi: show grey as the file's VOI LUT or first window says, black to white over the whole range of uint16.

    Returns:
        (H, W, 3) uint8 or uint16 of colour. Of grey (H, W): uint16 with ``voi``; uint8 as it is where 8 bits without
        a scale are stored; else float32 in the modality's numbers, whose black and white a window must find. What
        is stored with white as its lowest value (MONOCHROME1) is inverted.

    Raises:
        ReadError: several frames, or as ``real_frames`` and ``show_by_voi``; no VOI window where one is wanted.
    """
    dataset = open_dicom(stream)
    check_picture(dataset)
    check_size(count(dataset, "Columns"), count(dataset, "Rows"))
    if (frames := count(dataset, "NumberOfFrames")) > 1:
        raise ReadError(f"holds {frames} pictures: read it as a volume, or save the wanted one by itself")
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
    elif pixels.dtype == np.uint16:
        pixels = pixels << (16 - int(number(dataset, "BitsStored") or 16))
    if pixels.ndim != 3 or pixels.dtype not in (np.uint8, np.uint16):
        raise ReadError("has colours that are not read here")
    return pixels


def _is_plain(dataset: Dataset) -> bool:
    """Whether its numbers are those of a plain 8-bit picture (or a mask of 1 bit)."""
    scaled = number(dataset, "RescaleSlope") not in (None, 1) or number(dataset, "RescaleIntercept") not in (None, 0)
    plain = count(dataset, "BitsAllocated") <= 8 and number(dataset, "BitsStored") in (1, 8)
    return plain and not scaled and not number(dataset, "PixelRepresentation") and not _has_lut(dataset)


def _has_lut(dataset: Dataset) -> bool:
    return bool(items(dataset, "ModalityLUTSequence"))


def _inverted(grey: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Exchange black and white within the range that the stored bits can hold."""
    for table in items(dataset, "ModalityLUTSequence"):
        bits = int((table.get("LUTDescriptor") or (0, 0, 16))[2])
        return np.float32(2**bits - 1) - grey
    bits = int(number(dataset, "BitsStored") or count(dataset, "BitsAllocated"))
    lowest = -(2 ** (bits - 1)) if number(dataset, "PixelRepresentation") else 0
    slope, intercept = number(dataset, "RescaleSlope") or 1.0, number(dataset, "RescaleIntercept") or 0.0
    return np.float32(slope * (2 * lowest + 2**bits - 1) + 2 * intercept) - grey
