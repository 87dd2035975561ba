"""Images of any kind."""

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


class Plain(Transforms):
    """Images of any kind: resized with their aspect ratio kept, and changed only mildly.

    Args:
        size: Side of the square input in pixels, or its height and width.
        channels: 3 for colour (grey images are repeated), 1 for grey (colour becomes luminance).
        fit: pad adds black borders to reach the input's shape; crop fills the input and cuts off the rest.
        window: Percentiles of the values that become black and white, or null for the full range of 8 or 16 bits.
        augmentation: Whether training images are augmented.
        rand_augment: Strength, from 0 to 1, of two further random operations on each training image (RandAugment), of
            those that this recipe allows; 0 for none, 0.3 is usual.
        flips: Random mirroring; none by default, because left and right matter in most medical images.
        rotation: Largest random rotation in degrees.
        zoom: Largest random enlargement or reduction, as a fraction of the size.
        jitter: Largest random relative change of brightness, contrast and saturation (a tenth of it for hue).
        mean: Mean per channel for values from 0 to 1; ImageNet's for colour and 0.5 for grey by default.
        std: Standard deviation per channel for values from 0 to 1; ImageNet's for colour and 0.25 for grey by default.
    """

    allowed = ("place", "light", "colour")

    def __init__(
        self,
        size: int | tuple[int, int] = 224,
        channels: Literal[1, 3] = 3,
        fit: Literal["pad", "crop"] = "pad",
        window: tuple[float, float] | None = None,
        augmentation: bool = True,
        rand_augment: float = 0.0,
        flips: Literal["none", "horizontal", "vertical", "both"] = "none",
        rotation: float = 10.0,
        zoom: float = 0.1,
        jitter: float = 0.1,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__(size, channels, augmentation, mean, std, rand_augment)
        check_range("rotation", rotation, 0, 180)
        check_range("zoom", zoom, 0, 0.5)
        check_range("jitter", jitter, 0, 1)
        if window is not None:
            check_percentiles(window)
        self.fit: Literal["pad", "crop"] = fit
        self.window = window
        self.flips, self.rotation, self.zoom, self.jitter = flips, rotation, zoom, jitter

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """See :meth:`Transforms.prepare`."""
        image = image.astype(np.float32) if self.window else pixels.to_uint8(image)
        image = pixels.resize(pixels.to_channels(image, self.channels), self.size, self.fit)
        if self.window:
            image = pixels.window(image, self.window)
        return pixels.centre(image, self.size)

    def steps(self) -> list[Step]:
        """See :meth:`Transforms.steps`."""
        windowed = [said.windowing(self.window)] if self.window else []
        first = [said.numbers(bool(self.window)), said.channels(self.channels), said.resizing(self.size, self.fit)]
        return [*first, *windowed, said.centring(self.size)]

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
