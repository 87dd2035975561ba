"""Images with their true and their predicted masks, as the pictures of a report take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medsoft.data.masks.read import BACKGROUND, Mask, read_mask
from medsoft.data.transforms.pixels import to_channels, to_uint8
from medsoft.runs.run_folder import RunFolder

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
        dataset, index = data.dataset(split), int(rows[0])
        truth, file = dataset.truth(index), folder / f"{dataset.names[index]}.png"
        if truth is None or not file.is_file():
            return None
        picture = to_channels(to_uint8(dataset.image_as_stored(index)), 3)
        predicted = read_mask(str(file), dataset.values.of_predictions)
        return picture, _classes(truth), _classes(predicted)

    return found


def _classes(mask: Mask) -> Mask:
    return np.where(mask > BACKGROUND, mask - BACKGROUND, 0).astype(np.uint8)
