"""Small copies of pictures, to be looked at."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from medsoft.data.images.read import read_sample
from medsoft.data.transforms.pixels import to_channels, to_uint8


def small_picture(path: Path, side: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 whose longer side is ``side`` pixels at most.

    Raises:
        ReadError: it cannot be read.
        ValueError: its type of number has no known black and white.
    """
    image = to_channels(to_uint8(read_sample(path)), 3)
    height, width = image.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
