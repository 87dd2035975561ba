"""Turns pixel data into numbers: decoding, the modality's scale, and the window that the file states."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_windowing, convert_color_space
from pydicom.uid import RLELossless

from medsoft.data.dicom import codecs
from medsoft.data.dicom.frames import read_frames
from medsoft.data.dicom.header import check_picture, count, items, numbers, word
from medsoft.data.dicom.stated import StoredBits, check_pixel_data, stored_bits
from medsoft.errors import ReadError


def stored_values(pixels: np.ndarray, bits: StoredBits) -> np.ndarray:
    """The stored bits alone, with their sign, whatever lies in the others.

    Args:
        pixels: whole numbers as wide as ``bits.allocated`` (8 of one bit), as a decoder left them.
        bits: which of them count.

    Returns:
        The same shape; of the same width, signed where the pixels are.
    """
    if pixels.dtype.kind == "f":
        return pixels
    width = 8 * pixels.dtype.itemsize
    up, down = width - 1 - bits.high, width - bits.stored
    numbers_of_width = pixels.astype(f"u{pixels.dtype.itemsize}", copy=False)
    kept = (numbers_of_width << up).astype(f"{'ui'[bits.signed]}{pixels.dtype.itemsize}", copy=False)
    values: np.ndarray = kept >> down  # of a signed number the sign moves in
    return values


def stored_frames(dataset: Dataset, wanted: Collection[int] | None = None) -> np.ndarray:
    """Decode frames, one at a time.

    Args:
        dataset: the file.
        wanted: numbers of the frames, from 0; all if not given.

    Returns:
        (F, H, W), or (F, H, W, 3) RGB of what is stored in colour (YBR is converted); numbers as stored, in the order
        of the file.

    Raises:
        ReadError: there is no picture, or its data is damaged, cut short, or compressed in a way that is not read; or
            its header contradicts itself or the data.
    """
    check_picture(dataset)
    bits = stored_bits(dataset)
    check_pixel_data(dataset)
    n, rows, columns = (count(dataset, keyword) for keyword in ("NumberOfFrames", "Rows", "Columns"))
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == RLELossless and bits.allocated == 1:
        raise ReadError("has pixel data of a kind that is not read here (RLE of 1 bit): save it uncompressed")
    reasons: list[str] = []
    found = []
    decoded = 0
    try:
        frames = get_decoder(syntax).iter_array(
            dataset,
            raw=True,
            decoding_plugin=codecs.PLUGIN if syntax in codecs.SYNTAXES else "",
            **_options(bits, reasons),
        )
        for frame, properties in frames:
            if wanted is None or decoded in wanted:
                found.append(_in_rgb(stored_values(frame, bits), str(properties["photometric_interpretation"]), bits))
            decoded += 1
            if decoded > n:
                break
    except (MemoryError, ReadError):
        raise
    except NotImplementedError:
        raise ReadError(f"has pixel data of a kind that is not read here ({syntax.name})") from None
    except Exception as error:  # hostile bytes raise anything, in words that may quote the header
        why = reasons[0] if reasons else type(error).__name__
        raise ReadError(f"has pixel data that is damaged or cut short ({why})") from None
    if decoded != n:
        raise ReadError(f"has pixel data that is damaged or cut short: {decoded} frames are in it, its header says {n}")
    pixels = np.stack(found)
    return pixels.reshape(len(found), rows, columns, *((3,) if count(dataset, "SamplesPerPixel") == 3 else ()))


def _options(bits: StoredBits, reasons: list[str]) -> dict[str, Any]:
    """For pydicom: none of its own corrections, which differ from codec to codec; and what ``codecs`` asks for."""
    corrections = ("correct_unused_bits", "apply_j2k_sign_correction", "apply_jls_sign_correction")
    return dict.fromkeys(corrections, False) | {"high_bit": bits.high, "reasons": reasons}


def _in_rgb(frame: np.ndarray, photometric: str, bits: StoredBits) -> np.ndarray:
    if photometric not in ("YBR_FULL", "YBR_FULL_422"):
        return frame
    if bits.stored != 8 or bits.signed:
        raise ReadError(f"has colours ({photometric}) of other than 8 bits, which are not read here")
    return convert_color_space(frame, photometric, "RGB")


def real_frames(dataset: Dataset, wanted: Collection[int] | None = None) -> np.ndarray:
    """Grey frames in the modality's own numbers, such as Hounsfield units: (F, H, W), float32.

    The modality LUT, or the slope and intercept of each frame, are applied. MONOCHROME1 is not inverted: it says how
    to show the numbers, not what they mean.

    Args:
        dataset: the file.
        wanted: as for ``stored_frames``.

    Raises:
        ReadError: as ``stored_frames`` and ``read_frames``; or the file is in colour.
    """
    check_picture(dataset)
    photometric = word(dataset, "PhotometricInterpretation")
    if not photometric.startswith("MONOCHROME"):
        raise ReadError("is in colour, not a volume of measurements: read it as an image")
    check_pixel_data(dataset)  # before anything is made for each frame
    facts = [frame for frame in read_frames(dataset, Path()) if wanted is None or frame.index in wanted]
    frames = stored_frames(dataset, wanted)
    for table in items(dataset, "ModalityLUTSequence"):
        return look_up(frames, table)[0]
    real = np.empty(frames.shape, np.float32)
    with np.errstate(over="ignore"):  # what becomes infinite is refused by all who ask for numbers
        for index, frame in enumerate(facts):
            real[index] = frames[index] * frame.slope + frame.intercept
    return real


def show_by_voi(real: np.ndarray, dataset: Dataset) -> np.ndarray | None:
    """Apply the file's VOI LUT, else its first window (PS3.3, C.11.2): 0 is black and 1 white before MONOCHROME1.

    Args:
        real: numbers of the modality, of any shape.
        dataset: the file.

    Returns:
        float32 of the same shape, or None where the file names neither.

    Raises:
        ReadError: its window makes no sense.
    """
    for table in items(dataset, "VOILUTSequence"):
        looked_up, highest = look_up(real, table)
        return looked_up / np.float32(highest)
    if not numbers(dataset, "WindowCenter") or not numbers(dataset, "WindowWidth"):
        return None
    try:
        with np.errstate(over="ignore"):  # of a sigmoid far from its centre
            black, white = apply_windowing(np.array([-1e12, 1e12]), dataset)
            shown = apply_windowing(real, dataset)
        scaled: np.ndarray = ((shown - black) / (white - black)).astype(np.float32)
        return scaled
    except Exception:  # a width of zero, no BitsStored
        raise ReadError("has a window (WindowCenter, WindowWidth) that makes no sense") from None


def look_up(values: np.ndarray, table: Dataset) -> tuple[np.ndarray, int]:
    """Replace values by those of a LUT (PS3.3, C.11.1.1).

    Not pydicom's apply_voi: in a table of 8 bits it takes the index modulo 256 (pydicom 3.0.2).

    Returns:
        float32 of the same shape, and the largest value that the table's bits can hold.

    Raises:
        ReadError: the table is not of the length that it states.
    """
    n, first, bits = map(int, numbers(table, "LUTDescriptor", 3) or (0, 0, 0))
    data = table.get("LUTData")
    entries = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.asarray(data)
    n = n or 2**16
    if entries.size < n or not 1 <= bits <= 16:
        raise ReadError("has a table of values (LUT) that is damaged")
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, n - 1)
    return entries[:n][index].astype(np.float32), 2**bits - 1
