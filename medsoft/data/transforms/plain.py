"""Pictures of any kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from medsoft.data.transforms import pixels
from medsoft.data.transforms.base import Transforms, check_percentiles
from medsoft.data.transforms.views import Symmetry
from medsoft.errors import check_range

if TYPE_CHECKING:
    import albumentations as A


class Plain(Transforms):
    """Pictures of any kind: resized with their aspect kept, and changed only mildly.

    Args:
        size: Side of the square input in pixels, or its height and width.
        channels: 3 for colour (grey pictures are repeated), 1 for grey (colour becomes luminance).
        fit: Pad with black to the input's shape, or fill the input and cut off what sticks out.
        window: Percentiles of the values that become black and white, or null for the full range of 8 or 16 bits.
        augmentation: Whether training pictures are changed at random.
        flips: Random mirroring; none by default, as sides matter in most medical pictures.
        rotation: Largest random rotation in degrees.
        zoom: Largest random enlargement or reduction, as a part of the size.
        jitter: Largest random relative change of brightness, contrast and saturation (a tenth of it for hue).
        mean: Mean a channel for values from 0 to 1; ImageNet's for colour and 0.5 for grey by default.
        std: Standard deviation a channel for values from 0 to 1; ImageNet's for colour and 0.25 for grey by default.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 224,
        channels: Literal[1, 3] = 3,
        fit: Literal["pad", "crop"] = "pad",
        window: tuple[float, float] | None = None,
        augmentation: bool = True,
        flips: Literal["none", "horizontal", "vertical", "both"] = "none",
        rotation: float = 10.0,
        zoom: float = 0.1,
        jitter: float = 0.1,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__(size, channels, augmentation, mean, std)
        check_range("rotation", rotation, 0, 180)
        check_range("zoom", zoom, 0, 0.5)
        check_range("jitter", jitter, 0, 1)
        if window is not None:
            check_percentiles(window)
        self.fit, self.window = fit, window
        self.flips, self.rotation, self.zoom, self.jitter = flips, rotation, zoom, jitter

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """See :meth:`Transforms.prepare`."""
        image = image.astype(np.float32) if self.window else pixels.to_uint8(image)
        image = pixels.resize(pixels.to_channels(image, self.channels), self.size, self.fit)
        if self.window:
            image = pixels.window(image, self.window)
        return pixels.centre(image, self.size)

    @property
    def symmetry(self) -> Symmetry:
        """See :meth:`Transforms.symmetry`."""
        return self.flips

    def random_steps(self) -> list[A.BasicTransform]:
        """See :meth:`Transforms.random_steps`."""
        from medsoft.data.transforms import random_steps as steps

        scale = (1 - self.zoom, 1 + self.zoom)
        return [
            *steps.flips(self.flips),
            *steps.affine(self.rotation, scale, shift=0),
            *steps.jitter(self.jitter),
        ]
