"""Tiles of stained histology."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medsoft.data.transforms import pixels
from medsoft.data.transforms import requirements as said
from medsoft.data.transforms.base import Step, Transforms
from medsoft.data.transforms.views import Symmetry
from medsoft.errors import check_range

if TYPE_CHECKING:
    import albumentations as A


class Histology(Transforms):
    """H&E tiles: turned and mirrored freely, the amount of each stain varied.

    Tiles are cropped, not padded, to the input's shape, so that no black edge appears; give square tiles.

    Args:
        size: Side of the square input in pixels, or its height and width.
        augmentation: Whether training images are augmented.
        rand_augment: Strength, from 0 to 1, of two further random operations on each training image (RandAugment), of
            those that this recipe allows; 0 for none, 0.3 is usual.
        symmetries: Rotate and mirror at random: the 8 symmetries of a square, or the 4 of a rectangle.
        stain_jitter: Largest random relative change of the amount of each stain (haematoxylin, eosin, residual).
        jitter: Largest random relative change of brightness, contrast and saturation (a tenth of it for hue).
        mean: Mean per channel for values from 0 to 1; ImageNet's by default.
        std: Standard deviation per channel for values from 0 to 1; ImageNet's by default.
    """

    fit = "crop"
    allowed = ("light",)  # its own steps turn; colour is what the stains are varied by

    def __init__(
        self,
        size: int | tuple[int, int] = 224,
        augmentation: bool = True,
        rand_augment: float = 0.0,
        symmetries: bool = True,
        stain_jitter: float = 0.2,
        jitter: float = 0.05,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__(size, 3, augmentation, mean, std, rand_augment)
        check_range("stain_jitter", stain_jitter, 0, 1)
        check_range("jitter", jitter, 0, 1)
        self.symmetries, self.stain_jitter, self.jitter = symmetries, stain_jitter, jitter

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """See :meth:`Transforms.prepare`."""
        image = pixels.resize(pixels.to_channels(pixels.to_uint8(image), 3), self.size, "crop")
        return pixels.centre(image, self.size)

    def steps(self) -> list[Step]:
        """See :meth:`Transforms.steps`."""
        return [said.numbers(False), said.channels(3), said.resizing(self.size, "crop"), said.centring(self.size)]

    @property
    def symmetry(self) -> Symmetry:
        """See :meth:`Transforms.symmetry`."""
        return "square" if self.symmetries else "none"

    def random_steps(self) -> list[A.BasicTransform]:
        """See :meth:`Transforms.random_steps`."""
        from medsoft.data.transforms import augment as steps

        return [
            *(steps.symmetries(self.size) if self.symmetries else []),
            *steps.stain_jitter(self.stain_jitter),
            *steps.jitter(self.jitter),
        ]
