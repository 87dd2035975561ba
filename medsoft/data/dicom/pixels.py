"""Pixel data to numbers: decoding, the modality's scale, and the window that the file itself names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing
from pydicom.pixels.utils import pixel_array

from medsoft.data.decode import ReadError
from medsoft.data.dicom import codecs
from medsoft.data.dicom.frames import count, read_frames
from medsoft.data.dicom.header import check_picture, items, numbers, word


def stored_frames(dataset: Dataset) -> np.ndarray:
    """Decode all frames.

    Returns:
        (F, H, W), or (F, H, W, 3) RGB of what is stored in colour (YBR is converted); numbers as stored.

    Raises:
        ReadError: there is no picture, or its data is damaged, cut short, or compressed in a way that is not read.
    """
    check_picture(dataset)
    shape = (count(dataset, "NumberOfFrames"), count(dataset, "Rows"), count(dataset, "Columns"))
    colours = (3,) if count(dataset, "SamplesPerPixel") == 3 else ()
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        pixels = pixel_array(dataset, decoding_plugin=codecs.PLUGIN if syntax in codecs.SYNTAXES else "")
        return pixels.reshape(*shape, *colours)
    except MemoryError:
        raise
    except NotImplementedError:
        raise ReadError(f"has pixel data of a kind that is not read here ({syntax.name})") from None
    except Exception as error:  # hostile bytes raise anything, in words that may quote the header
        raise ReadError(f"has pixel data that is damaged or cut short ({type(error).__name__})") from None


def real_frames(dataset: Dataset) -> np.ndarray:
    """Grey frames in the modality's own numbers, such as Hounsfield units: (F, H, W), float32.

    The modality LUT, or the slope and intercept of each frame, are applied. MONOCHROME1 is not inverted: it says how
    to show the numbers, not what they mean.

    Raises:
        ReadError: as ``stored_frames``; or the file is in colour.
    """
    check_picture(dataset)
    photometric = word(dataset, "PhotometricInterpretation")
    if not photometric.startswith("MONOCHROME"):
        raise ReadError("is in colour, not a volume of measurements: read it as an image")
    frames = stored_frames(dataset)
    for table in items(dataset, "ModalityLUTSequence"):
        return look_up(frames, table)[0]
    facts = read_frames(dataset, Path())
    slope, intercept = (
        np.array([getattr(frame, name) for frame in facts]).reshape(-1, 1, 1) for name in ("slope", "intercept")
    )
    real: np.ndarray = (frames * slope + intercept).astype(np.float32)
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
