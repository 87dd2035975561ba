"""Deterministic steps on image arrays (height, width, channels): number type, channels, grey window, size."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

Fit = Literal["pad", "crop"]


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Scale to 8 bits by the full range of the number type: uint8 stays, uint16 is divided by 257.

    Args:
        image: (H, W, C).

    Returns:
        (H, W, C), uint8.

    Raises:
        ValueError: any other type of number, whose black and white cannot be known.
    """
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    raise ValueError(
        f"holds {image.dtype} values, whose black and white are not known: "
        "store it as 8 or 16 bits, or use a recipe with a grey window (chest_xray, or plain with window)"
    )


def window(image: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    """Map two percentiles of the values to black and white, linearly, and cut off what lies beyond.

    Args:
        image: (H, W, C), float32.
        percentiles: of all values together, 0 to 100, the first becomes black, the second white.

    Returns:
        (H, W, C), uint8; all black where the two percentiles are the same value.

    Raises:
        ValueError: values that are not finite.
    """
    if not np.isfinite(image).all():
        raise ValueError("holds values that are not finite numbers")
    black, white = np.percentile(image, percentiles).astype(np.float32)
    if white <= black:
        return np.zeros(image.shape, np.uint8)
    return round_to_uint8((image - black) / (white - black) * 255)


def round_to_uint8(values: np.ndarray) -> np.ndarray:
    """Round, and cut off below 0 and above 255."""
    rounded: np.ndarray = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Colour to grey by luminance (0.299 R + 0.587 G + 0.114 B, ITU-R BT.601), grey to colour by repetition.

    Args:
        image: (H, W, 1) or (H, W, 3); uint8, uint16 or float32.
        channels: 1 or 3.

    Returns:
        (H, W, channels), same number type.

    Raises:
        ValueError: not a picture of 1 or 3 channels.
    """
    if image.ndim != 3 or image.shape[2] not in (1, 3) or not image.size:
        raise ValueError(f"has the shape {image.shape}, not (height, width, 1) or (height, width, 3)")
    if image.shape[2] == channels:
        return image
    if channels == 1:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, np.newaxis]
    return np.repeat(image, channels, axis=2)


def resize(image: np.ndarray, size: tuple[int, int], fit: Fit) -> np.ndarray:
    """Scale, both axes by the same factor, to lie just inside ``size`` (pad) or just cover it (crop).

    Shrinking averages over the area (no aliasing), enlarging is bilinear.

    Args:
        image: (H, W, C); uint8, uint16 or float32.
        size: (height, width) to fit in or to cover.
        fit: whether the result is going to be padded or cropped.

    Returns:
        (H', W', C), same number type; one of its sides is that of ``size``.
    """
    (height, width), factor = scaled_size(image.shape[:2], size, fit)
    scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    return scaled.reshape(height, width, image.shape[2])


def scaled_size(given: tuple[int, ...], size: tuple[int, int], fit: Fit) -> tuple[tuple[int, int], float]:
    """What ``resize`` makes of a (height, width), and by which factor."""
    ratios = [wanted / side for wanted, side in zip(size, given[:2], strict=True)]
    factor = min(ratios) if fit == "pad" else max(ratios)
    height, width = (max(1, round(side * factor)) for side in given[:2])
    return (height, width), factor


def margins(given: int, wanted: int) -> tuple[int, int, int]:
    """How ``centre`` lays an axis: first pixel that is taken, where it comes to lie, and how many are taken."""
    kept = min(given, wanted)
    return (given - kept) // 2, (wanted - kept) // 2, kept


def centre(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pad with black, or crop, each axis evenly to exactly ``size``.

    Args:
        image: (H, W, C).
        size: (height, width) of the result.

    Returns:
        (*size, C), same number type.
    """
    result = np.zeros((*size, image.shape[2]), image.dtype)
    source, target = [], []
    for given, wanted in zip(image.shape[:2], size, strict=True):
        first, place, kept = margins(given, wanted)
        source.append(slice(first, first + kept))
        target.append(slice(place, place + kept))
    result[tuple(target)] = image[tuple(source)]
    return result
