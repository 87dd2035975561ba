"""Dermoscopic images of skin lesions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from medsoft.data.transforms import pixels
from medsoft.data.transforms import requirements as said
from medsoft.data.transforms.base import Step, Transforms
from medsoft.data.transforms.views import Symmetry
from medsoft.errors import check_range

if TYPE_CHECKING:
    import albumentations as A


class Dermoscopy(Transforms):
    """Dermoscopic images: aspect ratio kept, the light's colour optionally removed, mirrored and turned freely.

    Args:
        size: Side of the square input in pixels, or its height and width.
        fit: pad adds black borders to reach the input's shape; crop fills the input and cuts off the rest (part of a
            wide lesion).
        colour_constancy: Remove the colour of the illumination (shades of grey).
        augmentation: Whether training images are augmented.
        rand_augment: Strength, from 0 to 1, of two further random operations on each training image (RandAugment), of
            those that this recipe allows; 0 for none, 0.3 is usual.
        zoom: Largest random enlargement, as a fraction of the size; the position of the crop is random as well.
        jitter: Largest random relative change of brightness, contrast and saturation (a tenth of it for hue).
        mean: Mean per channel for values from 0 to 1; ImageNet's by default.
        std: Standard deviation per channel for values from 0 to 1; ImageNet's by default.
    """

    allowed = ("light", "colour")  # its own steps turn and enlarge, and let no black in from outside

    def __init__(
        self,
        size: int | tuple[int, int] = 224,
        fit: Literal["pad", "crop"] = "pad",
        colour_constancy: bool = False,
        augmentation: bool = True,
        rand_augment: float = 0.0,
        zoom: float = 0.15,
        jitter: float = 0.1,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__(size, 3, augmentation, mean, std, rand_augment)
        check_range("zoom", zoom, 0, 0.5)
        check_range("jitter", jitter, 0, 1)
        self.fit: Literal["pad", "crop"] = fit
        self.colour_constancy, self.zoom, self.jitter = colour_constancy, zoom, jitter

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """See :meth:`Transforms.prepare`."""
        image = pixels.resize(pixels.to_channels(pixels.to_uint8(image), 3), self.size, self.fit)
        if self.colour_constancy:
            image = shades_of_grey(image)
        return pixels.centre(image, self.size)

    def steps(self) -> list[Step]:
        """See :meth:`Transforms.steps`."""
        grey: list[Step] = [
            {
                "step": "shades_of_grey",
                "options": {"power": 6.0},
                "what": "each channel times |L| / (sqrt(3) L), L its Minkowski mean of power 6; not where an L is 0",
            }
        ]
        first = [said.numbers(False), said.channels(3), said.resizing(self.size, self.fit)]
        return [*first, *(grey if self.colour_constancy else []), said.centring(self.size)]

    @property
    def symmetry(self) -> Symmetry:
        """See :meth:`Transforms.symmetry`."""
        return "square"

    def random_steps(self) -> list[A.BasicTransform]:
        """See :meth:`Transforms.random_steps`."""
        from medsoft.data.transforms import augment as steps

        return [
            *steps.symmetries(self.size),
            *steps.zoom_in(self.size, self.zoom),
            *steps.jitter(self.jitter),
        ]


def shades_of_grey(image: np.ndarray, p: float = 6) -> np.ndarray:
    """Scale the channels so that the colour of the light becomes neutral grey, on the values as stored.

    The light's colour is estimated as the Minkowski mean of each channel. Source: Finlayson & Trezzi, Shades of gray
    and colour constancy, Color Imaging Conference 2004, where p = 6 was best.

    Args:
        image: (H, W, 3), uint8.
        p: exponent of the mean: 1 is grey world, infinity is white patch.

    Returns:
        (H, W, 3), uint8; a picture with an empty channel is returned as it is.
    """
    light = np.mean((image / 255.0) ** p, axis=(0, 1)) ** (1 / p)
    if light.min() == 0:
        return image
    gains = np.linalg.norm(light) / (np.sqrt(3) * light)
    return pixels.round_to_uint8(image * gains)
