"""Detects pen ink on the glass by its colour.

Haematoxylin and eosin both absorb green most: what they stain has more red than green, by 14 levels of 255 or more in
99 % of the pixels of 154 patients (docs/experiments/tissue.md). Blue and green pens have not. Red pens have, but
much more of it, and no more blue than green; so has clotted blood, which is left out with them.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from medsoft.slides.tiling.settings import INK_COLOURS, TissueSettings

ROWS = 128
"""Of a picture that are looked at together: what is as large as the slide takes memory."""

BLACK = 64
"""Pixels none of whose channels reaches this are black: pen, or what lies outside the scan; never stained tissue."""


def _blue(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    return (cv2.subtract(red, green) < 10) & (cv2.subtract(blue, red) > 30) & (blue > green)  # subtract stops at 0


def _green(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    return (cv2.subtract(green, red) > 15) & (green >= blue)


def _red(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    return (cv2.subtract(red, green) > 110) & (cv2.subtract(blue, green) < 15)


def _black(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    return cv2.max(cv2.max(red, green), blue) < BLACK


_HAS_COLOUR: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = dict(
    zip(INK_COLOURS, (_blue, _green, _red, _black), strict=True)
)


def find_ink(red: np.ndarray, green: np.ndarray, blue: np.ndarray, mpp: float, settings: TissueSettings) -> np.ndarray:
    """Pen strokes and what lies within the margin around them.

    Args:
        red: (H, W) uint8, 255 where there is only glass; likewise ``green`` and ``blue``.
        green: see ``red``.
        blue: see ``red``.
        mpp: µm per pixel.
        settings: which colours, how large, how wide a margin.

    Returns:
        (H, W) bool.
    """
    ink = np.zeros(red.shape, bool)
    for name in settings.ink_colours:
        # Each colour by itself: specks of two colours side by side are no stroke.
        coloured = np.empty(red.shape, bool)
        for top in range(0, len(red), ROWS):
            rows = slice(top, top + ROWS)
            coloured[rows] = _HAS_COLOUR[name](red[rows], green[rows], blue[rows])
        ink |= keep_large(coloured, settings.min_ink_um2 / mpp**2)
    return widen(ink, settings.ink_margin_um / mpp) if ink.any() else ink


def keep_large(mask_HW: np.ndarray, min_px: float) -> np.ndarray:
    """The connected pieces (8 neighbours) of at least so many pixels."""
    if np.count_nonzero(mask_HW) < min_px:
        return np.zeros_like(mask_HW)
    labels, stats = connected_pieces(mask_HW, 8)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_px
    keep[0] = False  # what is not in the mask
    return labelled(labels, keep)


def connected_pieces(mask_HW: np.ndarray, connectivity: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W) of the connected pieces of a mask, 0 outside it, and OpenCV's statistics of each label.

    Two bytes a label where they are enough, which OpenCV itself does not check: a new label begins only at a pixel of
    the mask with none to its left and none above it, so that their number is a bound.
    """
    beginnings = 0
    for top in range(0, len(mask_HW), ROWS):
        rows = mask_HW[top : top + ROWS]
        first = rows.copy()
        first[:, 1:] &= ~rows[:, :-1]
        first[1:] &= ~rows[:-1]
        if top:
            first[0] &= ~mask_HW[top - 1]
        beginnings += int(np.count_nonzero(first))
    kind = cv2.CV_16U if beginnings < np.iinfo(np.uint16).max else cv2.CV_32S
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask_HW.view(np.uint8), connectivity=connectivity, ltype=kind
    )
    return labels, stats


def labelled(labels_HW: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Where the label of a connected piece is one of the chosen ((L,) bool): (H, W) bool."""
    found_HW: np.ndarray = chosen[labels_HW]
    return found_HW


def widen(mask_HW: np.ndarray, margin_px: float) -> np.ndarray:
    """All pixels within a distance of the mask."""
    far = cv2.distanceTransform((~mask_HW).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    near: np.ndarray = far <= margin_px
    return near
