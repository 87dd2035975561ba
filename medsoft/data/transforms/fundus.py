"""Colour photographs of the fundus of the eye."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from medsoft.data.transforms import pixels
from medsoft.data.transforms import requirements as said
from medsoft.data.transforms.base import Step, Transforms
from medsoft.data.transforms.views import Symmetry
from medsoft.errors import check_range

if TYPE_CHECKING:
    import albumentations as A

DISC_THRESHOLD = 0.1
"""Darkest part of the disc, as a part of the picture's 99th percentile of brightness (largest of red, green, blue)."""

SEARCH = 256
"""Longest side in pixels of the copy that the disc is looked for on."""


class Fundus(Transforms):
    """Colour fundus photographs: cropped to the illuminated disc, aspect kept, black around it.

    Args:
        size: Side of the square input in pixels, or its height and width.
        crop_to_disc: Cut off the black margin around the illuminated disc.
        clahe: Clip limit of contrast-limited adaptive histogram equalisation of the lightness (2 is usual), 0 for none.
        augmentation: Whether training images are augmented.
        rand_augment: Strength, from 0 to 1, of two further random operations on each training image (RandAugment), of
            those that this recipe allows; 0 for none, 0.3 is usual.
        flips: Random mirroring; mirroring left to right makes a left eye look like a right eye.
        rotation: Largest random rotation in degrees.
        zoom: Largest random enlargement or reduction, as a fraction of the size.
        jitter: Largest random relative change of brightness, contrast and saturation (a tenth of it for hue).
        mean: Mean per channel for values from 0 to 1; ImageNet's by default.
        std: Standard deviation per channel for values from 0 to 1; ImageNet's by default.
    """

    allowed = ("place", "light", "colour")

    def __init__(
        self,
        size: int | tuple[int, int] = 224,
        crop_to_disc: bool = True,
        clahe: float = 0.0,
        augmentation: bool = True,
        rand_augment: float = 0.0,
        flips: Literal["none", "horizontal", "vertical", "both"] = "both",
        rotation: float = 15.0,
        zoom: float = 0.1,
        jitter: float = 0.1,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__(size, 3, augmentation, mean, std, rand_augment)
        check_range("clahe", clahe, 0, 40)
        check_range("rotation", rotation, 0, 180)
        check_range("zoom", zoom, 0, 0.5)
        check_range("jitter", jitter, 0, 1)
        self.crop_to_disc, self.clahe = crop_to_disc, clahe
        self.flips, self.rotation, self.zoom, self.jitter = flips, rotation, zoom, jitter

    def box(self, image: np.ndarray) -> tuple[int, int, int, int]:
        """See :meth:`Transforms.box`."""
        return disc_box(pixels.to_channels(pixels.to_uint8(image), 3)) if self.crop_to_disc else super().box(image)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """See :meth:`Transforms.prepare`."""
        image = pixels.to_channels(pixels.to_uint8(image), 3)
        if self.crop_to_disc:
            left, top, width, height = disc_box(image)
            image = image[top : top + height, left : left + width]
        image = pixels.resize(image, self.size, "pad")
        if self.clahe:
            image = equalise(image, self.clahe)
        return pixels.centre(image, self.size)

    def steps(self) -> list[Step]:
        """See :meth:`Transforms.steps`."""
        cropped: list[Step] = [
            {
                "step": "crop_to_disc",
                "options": {"search": SEARCH, "threshold": DISC_THRESHOLD},
                "what": f"cropped to the box of the largest connected part (8 neighbours) where max(R, G, B) is above "
                f"{DISC_THRESHOLD:g} of its 99th percentile, found on a copy that fits into {SEARCH} x {SEARCH}",
            }
        ]
        equalised: list[Step] = [
            {
                "step": "equalise",
                "options": {"clip_limit": self.clahe, "fields": [8, 8]},
                "what": f"CLAHE of OpenCV (clip limit {self.clahe:g}, 8 x 8 fields) of L of CIELAB, within the disc",
            }
        ]
        first = [said.numbers(False), said.channels(3), *(cropped if self.crop_to_disc else [])]
        then = [said.resizing(self.size, "pad"), *(equalised if self.clahe else [])]
        return [*first, *then, said.centring(self.size)]

    @property
    def symmetry(self) -> Symmetry:
        """See :meth:`Transforms.symmetry`."""
        return self.flips

    def random_steps(self) -> list[A.BasicTransform]:
        """See :meth:`Transforms.random_steps`."""
        from medsoft.data.transforms import augment as steps

        scale = (1 - self.zoom, 1 + self.zoom)
        return [
            *steps.flips(self.flips),
            *steps.affine(self.rotation, scale, shift=0),
            *steps.jitter(self.jitter),
        ]


def disc_mask(image: np.ndarray) -> np.ndarray:
    """Where the picture is lit: the largest connected part brighter than ``DISC_THRESHOLD``.

    Args:
        image: (H, W, 3), uint8.

    Returns:
        (H, W), bool; all False for a black picture.
    """
    brightness = image.max(axis=2)
    lit = (brightness > DISC_THRESHOLD * np.percentile(brightness, 99)).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(lit, connectivity=8)
    if count == 1:  # 0 is the background
        return np.zeros(lit.shape, bool)
    mask: np.ndarray = labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    return mask


def disc_box(image: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest rectangle around the illuminated disc.

    Found on a copy of at most ``SEARCH`` px, where averaging has removed the noise of the black margin.

    Args:
        image: (H, W, 3), uint8.

    Returns:
        (left, top, width, height) in pixels; the whole picture where nothing is lit or no margin is found.
    """
    height, width = image.shape[:2]
    small = pixels.resize(image, (SEARCH, SEARCH), "pad") if max(height, width) > SEARCH else image
    mask = disc_mask(small)
    if not mask.any():
        return 0, 0, width, height
    left, top, box_width, box_height = cv2.boundingRect(mask.astype(np.uint8))
    x_scale, y_scale = width / small.shape[1], height / small.shape[0]
    left_px, top_px = int(left * x_scale), int(top * y_scale)
    right_px, bottom_px = round((left + box_width) * x_scale), round((top + box_height) * y_scale)
    return left_px, top_px, right_px - left_px, bottom_px - top_px


def equalise(image: np.ndarray, clip_limit: float) -> np.ndarray:
    """Equalise the contrast of the lightness (L of CIELAB) in 8 × 8 fields; the black margin stays as it is.

    Source: Zuiderveld, Contrast limited adaptive histogram equalization, Graphics Gems IV, 1994; as OpenCV has it.

    Args:
        image: (H, W, 3), uint8.
        clip_limit: of each field's histogram, in multiples of its mean.

    Returns:
        (H, W, 3), uint8.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[:, :, 0] = cv2.createCLAHE(clip_limit, (8, 8)).apply(np.ascontiguousarray(lab[:, :, 0]))
    return np.where(disc_mask(image)[:, :, np.newaxis], cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), image)
