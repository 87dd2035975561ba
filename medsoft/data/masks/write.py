"""Writes predicted masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from medsoft.storage.files import replacing


def write_mask(path: Path, values_HW: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """Write a mask as a grey PNG of 8 or 16 bits; the folder is made.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(values_HW).save(temporary, format="PNG")
