"""The augmentations that the recipes are made of, as albumentations transforms.

Imported only when a picture is augmented: albumentations takes seconds to import. Each function returns a list, empty
where the settings ask for no change.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import albumentations as A
import cv2
import numpy as np

from medsoft.data.transforms.pixels import round_to_uint8

Flips = Literal["none", "horizontal", "vertical", "both"]
OPERATIONS = 2
"""Of ``rand_augment``, on each picture."""
Kind = Literal["place", "light", "colour"]
"""Kinds of operations of ``rand_augment``."""


def flips(which: Flips) -> list[A.BasicTransform]:
    """Mirror left-right, top-bottom, or both independently; each half of the time."""
    horizontal = [A.HorizontalFlip(p=0.5)] if which in ("horizontal", "both") else []
    vertical = [A.VerticalFlip(p=0.5)] if which in ("vertical", "both") else []
    return horizontal + vertical


def symmetries(size: tuple[int, int]) -> list[A.BasicTransform]:
    """One of the eight symmetries of a square, evenly; of the four of a rectangle where ``size`` is not square."""
    return [A.D4(p=1)] if size[0] == size[1] else flips("both")


def affine(rotation: float, scale: tuple[float, float], shift: float) -> list[A.BasicTransform]:
    """Rotate, scale and shift in one resampling; black comes in from outside the picture.

    Args:
        rotation: largest angle in degrees, either way.
        scale: smallest and largest magnification, the same for both axes.
        shift: largest shift as a part of the side, either way, each axis on its own.
    """
    if not rotation and not shift and scale == (1.0, 1.0):
        return []
    return [
        A.Affine(
            rotate=(-rotation, rotation),
            scale=scale,
            keep_ratio=True,
            translate_percent=(-shift, shift),
            interpolation=cv2.INTER_LINEAR,
            border_mode=cv2.BORDER_CONSTANT,
            p=1,
        )
    ]


def zoom_in(size: tuple[int, int], amount: float) -> list[A.BasicTransform]:
    """Show a random part of the picture, enlarged by up to ``amount``; nothing comes in from outside."""
    if not amount:
        return []
    smallest_area = 1 / (1 + amount) ** 2
    aspect = size[1] / size[0]
    return [A.RandomResizedCrop(size, scale=(smallest_area, 1), ratio=(aspect, aspect), p=1)]


def jitter(amount: float) -> list[A.BasicTransform]:
    """Change brightness, contrast and saturation by up to ``amount``, hue by up to ``amount`` / 10 of the circle."""
    if not amount:
        return []
    return [A.ColorJitter(*[(1 - amount, 1 + amount)] * 3, hue=(-amount / 10, amount / 10), p=1)]


# Optical densities of haematoxylin, eosin and diaminobenzidine in red, green and blue (Ruifrok & Johnston,
# Anal. Quant. Cytol. Histol. 2001; 23: 291-299).
HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


def scale_stains(image: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiply the amount of each of the three stains.

    Args:
        image: (H, W, 3), uint8.
        factors: (3,), for haematoxylin, eosin and diaminobenzidine (the rest that the two do not explain).

    Returns:
        (H, W, 3), uint8. White stays exactly white.
    """
    density_of_value = -np.log((np.arange(256) + 1) / 256).astype(np.float32)
    # Unmix into stains, scale, mix again: all three are linear in optical density, so one matrix does it.
    matrix = np.linalg.inv(HED) @ np.diag(factors) @ HED
    density = cv2.transform(cv2.LUT(image, density_of_value), matrix.T)
    return round_to_uint8(256 * np.exp(-density) - 1)


class StainJitter(A.ImageOnlyTransform):
    """Scale the amount of each stain at random (Tellez et al., IEEE Trans. Med. Imaging 2018; 37: 2126-2136).

    The paper also adds a random constant to each stain; that tints the bare glass, so it is left out here.
    ``albumentations.HEStain`` is not used: it projects onto two stains, so that other colours (blood, pigment, ink) are
    lost even at factor 1.

    Args:
        amount: each factor is drawn evenly from 1 - amount to 1 + amount.
    """

    def __init__(self, amount: float) -> None:
        super().__init__(p=1)
        self.amount = amount

    def get_params(self) -> dict[str, Any]:
        """Draw the three factors."""
        return {"factors": self.random_generator.uniform(1 - self.amount, 1 + self.amount, 3)}

    def apply(self, img: np.ndarray, factors: np.ndarray, **_: Any) -> np.ndarray:
        """Apply the drawn factors."""
        return scale_stains(img, factors)


def stain_jitter(amount: float) -> list[A.BasicTransform]:
    """:class:`StainJitter` of this amount."""
    return [StainJitter(amount)] if amount else []


def rand_augment(strength: float, kinds: Collection[Kind]) -> list[A.BasicTransform]:
    """Two different operations, drawn evenly for each picture.

    Source: RandAugment, Cubuk et al. 2020 (arXiv 1909.13719). Deviations: a recipe says which kinds of operations leave
    its labels as they are; operations that make other grey values of the same picture (posterise, solarise, equalise,
    invert) are left out, as they remove what small lesions differ by; strengths are drawn from a range around none, so
    that weak ones occur too.

    Args:
        strength: largest of each operation, from 0 to 1; 0 for no operations.
        kinds: that may be drawn.
    """
    if not strength:
        return []
    m = strength
    # At full strength: 30 degrees, a scale of 0.7 to 1.3, shear of 15
    # degrees, a shift of 0.15; 0.4 of brightness and contrast, a gamma of 0.5 to 2; 0.6 of saturation, 0.05 of the hue.
    operations: dict[Kind, list[Any]] = {
        "place": [
            *affine(30 * m, (1.0, 1.0), 0),
            *affine(0, (1 - 0.3 * m, 1 + 0.3 * m), 0),
            *affine(0, (1.0, 1.0), 0.15 * m),
            A.Affine(shear={"x": (-15 * m, 15 * m), "y": (-15 * m, 15 * m)}, border_mode=cv2.BORDER_CONSTANT, p=1),
        ],
        "light": [
            A.RandomBrightnessContrast(brightness_limit=0.4 * m, contrast_limit=0, p=1),
            A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.4 * m, p=1),
            A.RandomGamma(gamma_limit=(100 / (1 + m), 100 * (1 + m)), p=1),
            A.Sharpen(alpha=(0, 0.5 * m), lightness=(1, 1), p=1),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 0.1 + 1.5 * m), p=1),
        ],
        "colour": [
            A.ColorJitter((1, 1), (1, 1), (1 - 0.6 * m, 1 + 0.6 * m), (0, 0), p=1),
            A.ColorJitter((1, 1), (1, 1), (1, 1), (-0.05 * m, 0.05 * m), p=1),
        ],
    }
    allowed = [one for kind, some in operations.items() if kind in kinds for one in some]
    return [A.SomeOf(allowed, n=OPERATIONS, replace=False, p=1)]
