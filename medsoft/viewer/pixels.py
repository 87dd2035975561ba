"""Pictures as the numbers that were read, for windowing in the browser; volumes as NIfTI, for NiiVue."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from medsoft.data.images.read import read_image
from medsoft.data.volumes.read import read_volume
from medsoft.errors import ReadError

MOST_PIXELS = 2**24
"""Of a picture in the browser; larger ones are sent at a half, a third, … of their size."""
PERCENTILES = (0.5, 99.5)
"""Of the values of a picture with more than 8 bits: the window that it is first shown in."""
INT16 = np.iinfo(np.int16)


def picture(path: str) -> tuple[dict[str, Any], bytes]:
    """The values of a picture, little-endian, row by row.

    Args:
        path: as for ``read_image``.

    Returns:
        ``width``, ``height``, ``channels`` and ``type`` (as NumPy calls it) of the values; ``reduced``, pixels of the
        file a pixel along a side; ``full``, the width and height of the file's picture; ``lowest`` and ``highest``
        value; ``low`` and ``high``, the window that it is first shown in. And the values themselves.

    Raises:
        ReadError: it cannot be read.
    """
    pixels = read_image(path)
    height, width, channels = pixels.shape
    by = math.ceil(math.sqrt(height * width / MOST_PIXELS))
    if by > 1:
        size = (math.ceil(width / by), math.ceil(height / by))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], channels)
    window = (0.0, 255.0) if pixels.dtype == np.uint8 else tuple(np.percentile(pixels, PERCENTILES).tolist())
    about = {
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "channels": channels,
        "type": pixels.dtype.name,
        "reduced": by,
        "full": [width, height],
        "lowest": float(pixels.min()),
        "highest": float(pixels.max()),
        "low": window[0],
        "high": max(window[1], window[0] + 1e-6),
    }
    return about, pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()


def volume(path: str) -> bytes:
    """A volume as NIfTI, with its affine; time points are frames.

    Args:
        path: as for ``read_volume``.

    Raises:
        ReadError: it cannot be read.
    """
    import nibabel  # waits until there is a volume

    read = read_volume(path, time="phases")
    array = np.moveaxis(read.array, 0, -1)
    array = array[..., 0] if array.shape[-1] == 1 else array
    whole = INT16.min <= array.min() and array.max() <= INT16.max and not np.any(np.mod(array, 1))
    make: Any = nibabel.Nifti1Image
    image = make(array.astype(np.int16 if whole else np.float32), read.affine)
    image.header.set_xyzt_units("mm")
    content: bytes = image.to_bytes()
    return content


def largest_contribution(path: Path) -> float:
    """The largest absolute value of a map of a volume: the end of its colour scale.

    Raises:
        ReadError: it cannot be read.
    """
    values = np.abs(read_volume(path).array)
    if not (limit := float(values.max())):
        raise ReadError("holds zeros alone", str(path))
    return limit
