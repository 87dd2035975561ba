"""Transparent pixels, shown on white paper."""

from __future__ import annotations

import numpy as np


def on_white(image: np.ndarray, *, premultiplied: bool = False, white: int | None = None) -> np.ndarray:
    """Show (H, W, 2) or (H, W, 4) pixels of an unsigned type on white; others are returned as they are.

    Args:
        image: pixels, the last sample of each its opacity.
        premultiplied: whether colours are multiplied by the opacity already.
        white: the value of white and of full opacity; by default the largest of the type.
    """
    if image.ndim == 2 or image.shape[-1] not in (2, 4):
        return image
    white = int(np.iinfo(image.dtype).max) if white is None else white
    pixels, alpha = image[..., :-1], image[..., -1:]
    if (alpha == white).all():
        return pixels
    opacity = alpha.astype(np.float32) / white
    shown = pixels if premultiplied else pixels * opacity
    return np.clip(np.rint(shown + white * (1 - opacity)), 0, white).astype(image.dtype)
