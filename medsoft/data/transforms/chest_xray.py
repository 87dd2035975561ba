"""Chest radiographs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from medsoft.data.transforms import pixels
from medsoft.data.transforms import requirements as said
from medsoft.data.transforms.base import Step, Transforms, check_percentiles
from medsoft.data.transforms.views import Symmetry
from medsoft.errors import check_range

if TYPE_CHECKING:
    import albumentations as A


class ChestXray(Transforms):
    """Chest radiographs: grey, windowed between two percentiles, never mirrored top to bottom.

    Args:
        size: Side of the square input in pixels, or its height and width.
        channels: 1 for grey, 3 to repeat it for a model that expects colour.
        window: Percentiles of the values that become black and white; 8, 12 and 16 bits and floats are treated alike.
            null uses the full range of 8 or 16 bits, for DICOM shown with its own window (data.voi).
        augmentation: Whether training images are augmented.
        rand_augment: Strength, from 0 to 1, of two further random operations on each training image (RandAugment), of
            those that this recipe allows; 0 for none, 0.3 is usual.
        horizontal_flip: Mirror half of the images left to right; off by default, because the heart lies on the left.
        rotation: Largest random rotation in degrees.
        zoom: Largest random enlargement or reduction, as a fraction of the size.
        shift: Largest random shift along each axis, as a fraction of the side.
        jitter: Largest random relative change of brightness and contrast.
        mean: Mean per channel for values from 0 to 1; 0.5 by default, ImageNet's with 3 channels.
        std: Standard deviation per channel for values from 0 to 1; 0.25 by default, ImageNet's with 3 channels.
    """

    allowed = ("place", "light")

    def __init__(
        self,
        size: int | tuple[int, int] = 224,
        channels: Literal[1, 3] = 1,
        window: tuple[float, float] | None = (1.0, 99.0),
        augmentation: bool = True,
        rand_augment: float = 0.0,
        horizontal_flip: bool = False,
        rotation: float = 7.0,
        zoom: float = 0.1,
        shift: float = 0.05,
        jitter: float = 0.1,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__(size, channels, augmentation, mean, std, rand_augment)
        if window is not None:
            check_percentiles(window)
        check_range("rotation", rotation, 0, 45)
        check_range("zoom", zoom, 0, 0.5)
        check_range("shift", shift, 0, 0.5)
        check_range("jitter", jitter, 0, 1)
        self.window, self.horizontal_flip = window, horizontal_flip
        self.rotation, self.zoom, self.shift, self.jitter = rotation, zoom, shift, jitter

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """See :meth:`Transforms.prepare`."""
        image = pixels.to_channels(image.astype(np.float32) if self.window else pixels.to_uint8(image), 1)
        image = pixels.resize(image, self.size, "pad")
        if self.window:
            # After averaging, so that single hot pixels do not count; before padding, so that the padding does not.
            image = pixels.window(image, self.window)
        return pixels.to_channels(pixels.centre(image, self.size), self.channels)

    def steps(self) -> list[Step]:
        """See :meth:`Transforms.steps`."""
        windowed = [said.windowing(self.window)] if self.window else []
        first = [said.numbers(bool(self.window)), said.channels(1), said.resizing(self.size, "pad")]
        last = [said.channels(3)] if self.channels == 3 else []
        return [*first, *windowed, said.centring(self.size), *last]

    @property
    def symmetry(self) -> Symmetry:
        """See :meth:`Transforms.symmetry`."""
        return "horizontal" if self.horizontal_flip else "none"

    def random_steps(self) -> list[A.BasicTransform]:
        """See :meth:`Transforms.random_steps`."""
        from medsoft.data.transforms import augment as steps

        scale = (1 - self.zoom, 1 + self.zoom)
        return [
            *steps.flips("horizontal" if self.horizontal_flip else "none"),
            *steps.affine(self.rotation, scale, self.shift),
            *steps.jitter(self.jitter),
        ]
