"""Reads a mask, the class of every pixel of an image, or says in one sentence why it cannot be used.

Masks in memory are uint8: ``IGNORED`` where nothing is known, ``BACKGROUND``, then the classes in their order. So 0 is
what augmentation and padding bring in from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from medsoft.data.images.read import MAX_PIXELS, read_image
from medsoft.errors import InputError, ReadError
from medsoft.storage.files import open_regular_file

IGNORED = 0
BACKGROUND = 1
MOST_CLASSES = 253
SHOWN = 6
"""Values that a message lists."""

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MaskValues:
    """What the values of mask files mean.

    Attributes:
        classes: values of the classes, in their order; 0 is the background. None: 1, 2, and so on, where the single
            class of a mask of 0 and 255 has 255.
        names: of the classes.
        ignored: value of pixels that are neither learnt from nor scored; None for none.
        threshold: from which value on a pixel belongs to the single class of soft masks; None for plain values.

    Raises:
        InputError: the values contradict each other.
    """

    names: tuple[str, ...]
    classes: tuple[int, ...] | None = None
    ignored: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if len(self.names) > MOST_CLASSES:
            raise InputError(f"data.classes: {len(self.names)} classes; a mask has at most {MOST_CLASSES}")
        given = [*self.stated, *([] if self.ignored is None else [self.ignored])]
        if self.classes is not None and len(self.classes) != len(self.names):
            raise InputError(
                f"data.mask_values: {len(self.classes)} values for {len(self.names)} classes "
                f"({', '.join(self.names)}): give one each, in the order of data.classes"
            )
        if len(set(given)) != len(given) or 0 in given or min(given) < 0 or max(given) > 65535:
            raise InputError(
                "data.mask_values and data.ignore_value: values from 1 to 65535, each once; 0 is the background"
            )
        if self.threshold is not None and len(self.names) != 1:
            raise InputError("data.mask_threshold is for masks of a single class; leave it out")

    @property
    def stated(self) -> tuple[int, ...]:
        """Of each class; 1, 2, and so on where nobody said others."""
        return self.classes or tuple(range(1, len(self.names) + 1))

    @property
    def of_predictions(self) -> MaskValues:
        """The values of predicted masks: plain ones, whatever the true masks are like."""
        return replace(self, classes=self.stated, threshold=None)

    def encoded(self, values_HW: npt.NDArray[np.integer] | npt.NDArray[np.floating]) -> Mask:
        """A mask as it is kept in memory.

        Args:
            values_HW: (H, W) as stored.

        Raises:
            ReadError: there are values that mean nothing.
        """
        if self.threshold is not None:
            mask = np.where(values_HW >= self.threshold, BACKGROUND + 1, BACKGROUND).astype(np.uint8)
            return mask if self.ignored is None else np.where(values_HW == self.ignored, np.uint8(IGNORED), mask)
        there = np.unique(values_HW)
        meanings = dict(zip(self.stated, range(BACKGROUND + 1, 255), strict=False)) | {0: BACKGROUND}
        if self.ignored is not None:
            meanings[self.ignored] = IGNORED
        if self.classes is None and len(self.names) == 1 and self.ignored != 255 and set(there.tolist()) <= {0, 255}:
            meanings[255] = BACKGROUND + 1
        if unnamed := [value for value in there.tolist() if value not in meanings]:
            raise ReadError(self._unnamed(unnamed))
        mask = np.zeros(values_HW.shape, np.uint8)
        for value, meaning in meanings.items():
            mask[values_HW == value] = meaning
        return mask

    def _unnamed(self, values: Sequence[float]) -> str:
        shown = ", ".join(f"{value:g}" for value in values[:SHOWN]) + (" and more" if len(values) > SHOWN else "")
        if len(self.names) == 1 and len(values) > SHOWN and max(values) <= 255:
            return (
                f"has {len(values)} values besides those of {self.names[0]} and the background ({shown}): smoothed "
                "edges or a picture; save masks without smoothing and as PNG, or say data.mask_threshold, such as 128"
            )
        names = ", ".join(f"{value} {name}" for value, name in zip(self.stated, self.names, strict=True))
        return (
            f"has values without a name: {shown}; named are 0 background, {names}. Name all with data.classes and "
            "data.mask_values, or say data.ignore_value"
        )

    def decoded(self, mask_HW: Mask) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
        """A mask with the values of the files; where nothing is known, 0 if there is no value for that."""
        lookup = np.zeros(256, np.uint16)
        lookup[IGNORED] = self.ignored or 0
        lookup[BACKGROUND + 1 : BACKGROUND + 1 + len(self.stated)] = self.stated
        values = lookup[mask_HW]
        return values.astype(np.uint8) if values.max(initial=0) < 256 else values


def read_mask(path: str, values: MaskValues, max_pixels: int = MAX_PIXELS) -> Mask:
    """Read the mask of an image.

    Args:
        path: PNG, TIFF, BMP or another picture without loss; ``file.npz#key/index``; a palette's indices are taken,
            not its colours. A colour picture is taken where its three channels are equal.
        values: what the values mean.
        max_pixels: as for ``read_image``.

    Returns:
        (H, W) uint8, see above.

    Raises:
        ReadError: it cannot be read, is a colour picture, or has values without a name.
    """
    return values.encoded(read_values(path, max_pixels))


def read_values(path: str, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.integer] | npt.NDArray[np.floating]:
    """The values of a mask as they are stored, (H, W), whatever they mean.

    Args:
        path: as for ``read_mask``.
        max_pixels: as for ``read_image``.

    Raises:
        ReadError: it cannot be read, or is a colour picture.
    """
    indices = _palette(path, max_pixels)
    if indices is not None:
        return indices
    image = read_image(path, max_pixels=max_pixels)
    if image.shape[2] == 3 and not (image[..., :1] == image[..., 1:]).all():
        raise ReadError("is a colour picture: a mask has one channel, whose values are the classes", path)
    values: npt.NDArray[np.integer] = image[..., 0]
    return values


def _palette(path: str, max_pixels: int) -> npt.NDArray[np.uint8] | None:
    """The indices of a picture with a palette; None of any other file."""
    if Path(path).suffix.lower() not in (".png", ".gif", ".bmp", ".tif", ".tiff"):
        return None
    try:
        with open_regular_file(path) as stream, Image.open(stream) as picture:
            if picture.mode != "P" or picture.width * picture.height > max_pixels:
                return None
            return np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # read_image says what is wrong
