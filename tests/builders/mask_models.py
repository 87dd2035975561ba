"""A segmentation model without a network: classes are colours."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

COLOURS = {"pink": (230, 120, 170), "blue": (70, 80, 190)}
"""Of the classes; glass is (243, 243, 243)."""
GLASS = (243, 243, 243)


class Colours:
    """The class of a pixel is that of the nearest colour; of its neighbourhood's mean colour, if ``reach`` is given.

    Args:
        side: of a window.
        reach: pixels around one that it looks at.
    """

    name = "colours"
    classes = ("pink", "blue")
    values_K = np.array([0, 1, 2], np.uint8)

    def __init__(self, side: int = 64, reach: int = 0) -> None:
        from monai.data.utils import compute_importance_map

        self.side, self.reach = side, reach
        self.weights_hw = compute_importance_map((side, side), mode="gaussian").numpy()
        self.identity: dict[str, Any] = {"side": side, "reach": reach}
        self.windows = 0

    def __call__(self, images_BHWC: np.ndarray) -> np.ndarray:
        self.windows += len(images_BHWC)
        images = images_BHWC.astype(np.float32)
        if self.reach:
            size = (2 * self.reach + 1,) * 2
            images = np.stack([cv2.blur(one, size, borderType=cv2.BORDER_CONSTANT) for one in images])
        return np.stack([-((images - colour) ** 2).sum(-1) for colour in (GLASS, *COLOURS.values())], axis=1)


def painted(width: int, height: int) -> np.ndarray:
    """A picture of glass to paint on."""
    return np.full((height, width, 3), GLASS, np.uint8)
