"""Images with their true and their predicted masks, as the pictures of a report take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medsoft.data.datasets.segmentation.dataset import wrong_size
from medsoft.data.masks.read import BACKGROUND, Mask, read_mask
from medsoft.data.transforms.pixels import to_channels, to_uint8
from medsoft.errors import ReadError
from medsoft.evaluation.segmentation.contours import with_outlines
from medsoft.runs.run_folder import RunFolder

PART_OF_SIDE = 120
"""Outlines over whole images are so many times thinner than these are long."""
Pixels = npt.NDArray[np.uint8]


def masks_of(data: Any, run: Path) -> Callable[[str, str], tuple[Pixels, Mask, Mask] | None]:
    """From split and id to (H, W, 3) picture, true and predicted mask (H, W), in which 0 is no class.

    Args:
        data: the data module of a segmentation, with loaded parts.
        run: the folder whose predicted masks are shown.
    """
    folder = RunFolder(run).masks

    def found(split: str, id: str) -> tuple[Pixels, Mask, Mask] | None:
        rows = np.flatnonzero(data.part(split).frame["id"] == id)
        if not len(rows):
            return None
        drawn = data.dataset(split).with_masks(int(rows[0]), folder)
        return None if drawn is None else (drawn[0], classes_of(drawn[1]), classes_of(drawn[2]))

    return found


def outlined_truth(data: Any, image: npt.NDArray[Any], path: str) -> Pixels:
    """An image with the outlines of its true mask, (H, W, 3); without them where there is no mask.

    Args:
        data: the data module of a segmentation.
        image: (H, W, C) as read.
        path: of its mask; "" for none.

    Raises:
        ReadError: the mask cannot be read, or is of another size.
    """
    picture = to_channels(to_uint8(image), 3)
    if not path:
        return picture
    mask = read_mask(path, data.values, data.max_pixels)
    if mask.shape != picture.shape[:2]:
        raise ReadError(wrong_size(mask.shape, picture.shape[:2]))
    width = max(2, round(max(mask.shape) / PART_OF_SIDE))
    return with_outlines(picture, classes_of(mask), len(data.task.classes), width)


def classes_of(mask: Mask) -> Mask:
    """A mask in which 0 is no class, the background or unknown, then the classes."""
    return np.where(mask > BACKGROUND, mask - BACKGROUND, 0).astype(np.uint8)
