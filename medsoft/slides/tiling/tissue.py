"""Finds the tissue on a slide: a mask of fixed resolution, made from the overview alone.

The same overview and settings give the same mask on every machine: nothing depends on memory, threads or chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from medsoft.slides.tiling.ink import BLACK, ROWS, connected_pieces, find_ink, keep_large, labelled
from medsoft.slides.tiling.settings import BY_PICTURE, TissueSettings

GLASS_VALUE, GLASS_SATURATION = 190, 30
"""Glass is at least so bright and at most so saturated (of 255): microscopes' white is seldom quite white."""

GLASS_SHARE = 0.05
"""With less glass than this the slide's white is not known, and is taken for white."""

GREY_CHROMA = 4
"""Channels of a grey pixel differ by no more (of 255), JPEG's rounding included."""

GREY_PART, DARK_PART = 0.999, 0.01
"""A grey picture is grey in all but this part's rest, and has this part of something darker than glass."""

BLACK_VALUE = 32
"""A picture is nearly black where 99 % of its pixels are darker: less than an eighth of the range."""

MUCH_INK = 0.2
"""A larger share of ink in all that is stained is worth a warning."""


@dataclass(frozen=True, eq=False)
class Tissue:
    """Tissue and pen ink of a slide.

    Attributes:
        mask_HW: bool, tissue.
        ink_HW: bool, pen strokes with their margin, which are not tissue.
        notes: what the user should look at.
    """

    mask_HW: np.ndarray
    ink_HW: np.ndarray
    notes: tuple[str, ...] = ()


def find_tissue(image_HW3: np.ndarray, mpp: float, settings: TissueSettings) -> Tissue:
    """Find tissue with the method of the settings, one that needs the picture alone.

    Args:
        image_HW3: uint8 RGB, the whole slide.
        mpp: µm per pixel of the image.
        settings: all lengths and areas in µm.
    """
    return METHODS[settings.method](image_HW3, mpp, settings)


def cleaned(mask_HW: np.ndarray, mpp: float, settings: TissueSettings) -> Tissue:
    """What a model took for tissue, without small holes and small pieces; it knows pens itself.

    Args:
        mask_HW: bool, the whole slide.
        mpp: µm per pixel.
        settings: areas in µm².
    """
    filled_HW = fill_small_holes(mask_HW, settings.max_hole_um2 / mpp**2)
    return Tissue(keep_large(filled_HW, settings.min_area_um2 / mpp**2), np.zeros_like(mask_HW))


def why_colourless(image_HW3: np.ndarray, gaps_HW: np.ndarray | None = None) -> str | None:
    """Why no tissue can be told from glass by its colour; None for coloured pictures, and for glass alone.

    Args:
        image_HW3: uint8 RGB, the whole slide.
        gaps_HW: bool, True where it could not be read, which does not count; but something could.

    Returns:
        What the picture is, as the end of a sentence that begins with "the slide".
    """
    values, spreads = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for top in range(0, len(image_HW3), ROWS):  # a copy of all of it would double the memory
        rows = slice(top, top + ROWS)
        red, green, blue = cv2.split(image_HW3[rows])
        value_HW, least_HW = _most_and_least(red, green, blue)
        read_HW = np.ones(value_HW.shape, bool) if gaps_HW is None else ~gaps_HW[rows]
        values += _counts(value_HW, read_HW).astype(np.int64)
        spreads += _counts(cv2.subtract(value_HW, least_HW), read_HW).astype(np.int64)
    pixels = values.sum()
    if values[:BLACK_VALUE].sum() >= 0.99 * pixels:
        return "is nearly black: fluorescence, or more than 8 bits per channel that were cut to their upper ones?"
    grey, dark = spreads[: GREY_CHROMA + 1].sum() / pixels, values[:GLASS_VALUE].sum() / pixels
    if grey >= GREY_PART and dark >= DARK_PART:
        return "is grey, without any colour: one channel or plane of it?"
    return None


def by_saturation(image_HW3: np.ndarray, mpp: float, settings: TissueSettings) -> Tissue:
    """What is more saturated than glass: Otsu's threshold within fixed limits, then cleaning in µm².

    The saturation is that of HSV, after the glass was made white and the picture blurred. The limits keep Otsu's
    threshold (Otsu, IEEE Trans. SMC 9(1), 1979) from dividing noise on a slide of glass only, or pale from dark tissue.
    """
    saturation_HW, ink_HW, black_HW = _saturation_and_ink(image_HW3, mpp, settings)
    counted = saturation_HW[~(ink_HW | black_HW)]
    otsu = cv2.threshold(counted, 0, 255, cv2.THRESH_OTSU)[0] if counted.size else 0.0
    stained_HW = saturation_HW > np.clip(otsu, 255 * settings.min_saturation, 255 * settings.max_saturation)
    del saturation_HW, black_HW, counted  # as large as the mask, each
    notes = []
    if np.count_nonzero(stained_HW & ink_HW) > MUCH_INK * np.count_nonzero(stained_HW):
        notes.append(
            "much of what is stained has the colour of pens and was left out: if it is the stain, or blood, "
            'name the pens to leave out with --tissue.ink, "" for none'
        )
    mask_HW = fill_small_holes(stained_HW, settings.max_hole_um2 / mpp**2)
    del stained_HW
    mask_HW &= ~ink_HW
    return Tissue(keep_large(mask_HW, settings.min_area_um2 / mpp**2), ink_HW, tuple(notes))


def _saturation_and_ink(
    image_HW3: np.ndarray, mpp: float, settings: TissueSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blurred saturation (uint8), ink and black pixels (bool)."""
    red, green, blue = whitened_channels(image_HW3)
    ink_HW = find_ink(red, green, blue, mpp, settings)
    saturation_HW, black_HW = np.empty(red.shape, np.uint8), np.empty(red.shape, bool)
    for top in range(0, len(red), ROWS):
        rows = slice(top, top + ROWS)
        value, saturation_HW[rows] = value_and_saturation(red[rows], green[rows], blue[rows])
        black_HW[rows] = value < BLACK
    del red, green, blue  # as large as the mask, each
    saturation_HW[black_HW] = 0  # it is noise there
    if settings.smooth_um:
        saturation_HW = np.asarray(cv2.GaussianBlur(saturation_HW, (0, 0), settings.smooth_um / mpp), np.uint8)
    return saturation_HW, ink_HW, black_HW


def everything(image_HW3: np.ndarray, mpp: float, settings: TissueSettings) -> Tissue:
    """The whole picture: for photographs, and for regions that were cut out of slides."""
    whole = np.ones(image_HW3.shape[:2], bool)
    return Tissue(whole, ~whole)


METHODS: dict[str, Callable[[np.ndarray, float, TissueSettings], Tissue]] = dict(
    zip(BY_PICTURE, (by_saturation, everything), strict=True)
)
"""Name -> method; a new one is added here and to ``BY_PICTURE``."""


def whitened_channels(image_HW3: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Red, green and blue, scaled so that the commonest colour of bare glass becomes white."""
    red, green, blue = cv2.split(image_HW3)
    white = _white(red, green, blue)
    if white is None:
        return red, green, blue
    return _scaled(red, white[0]), _scaled(green, white[1]), _scaled(blue, white[2])


def _white(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> tuple[int, int, int] | None:
    """The commonest colour of bare glass; None where there is too little of it."""
    parts = [slice(top, top + ROWS) for top in range(0, len(red), ROWS)]
    values = np.zeros(256)
    for rows in parts:
        value_HW, glass_HW = _glass(red[rows], green[rows], blue[rows])
        values += _counts(value_HW, glass_HW)
    if values.sum() < GLASS_SHARE * red.size:
        return None
    channels = np.zeros((3, 256))
    for rows in parts:
        value_HW, glass_HW = _glass(red[rows], green[rows], blue[rows])
        glass_HW &= value_HW == values.argmax()
        channels += [_counts(channel[rows], glass_HW) for channel in (red, green, blue)]
    return _median(channels[0]), _median(channels[1]), _median(channels[2])


def _glass(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """V of HSV, and where bare glass is."""
    value_HW, least_HW = _most_and_least(red, green, blue)
    glass_HW = (value_HW >= GLASS_VALUE) & (cv2.subtract(value_HW, least_HW) <= GLASS_SATURATION)
    glass_HW &= least_HW < 255  # pure white was never scanned, but filled in
    return value_HW, glass_HW


def _counts(values_HW: np.ndarray, where_HW: np.ndarray) -> np.ndarray:
    """How often each of the levels 0 to 255 occurs."""
    return cv2.calcHist([values_HW], [0], where_HW.view(np.uint8), [256], [0, 256]).ravel()  # a column in OpenCV 4


def _median(counts: np.ndarray) -> int:
    total = counts.cumsum(dtype=np.float64)
    return int(np.searchsorted(total, total[-1] / 2))


def _scaled(channel_HW: np.ndarray, white: int) -> np.ndarray:
    """The channel with ``white`` at 255, in place."""
    table = np.clip(np.rint(np.arange(256) * 255 / white), 0, 255).astype(np.uint8)
    return cv2.LUT(channel_HW, table, dst=channel_HW)


def value_and_saturation(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """V and S of HSV, both uint8; S is 0 where V is."""
    value_HW, least_HW = _most_and_least(red, green, blue)
    spread_HW = cv2.subtract(value_HW, least_HW, dst=least_HW)  # in place: of a large slide, each is 15 MB or more
    return value_HW, cv2.divide(spread_HW, value_HW, dst=spread_HW, scale=255)


def _most_and_least(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    most_HW, least_HW = cv2.max(red, green), cv2.min(red, green)
    return cv2.max(most_HW, blue, dst=most_HW), cv2.min(least_HW, blue, dst=least_HW)


def fill_small_holes(mask_HW: np.ndarray, max_px: float) -> np.ndarray:
    """Fill holes (4 neighbours) of fewer pixels; what touches the edge of the picture is no hole."""
    labels, stats = connected_pieces(~mask_HW, 4)
    left, top, width, height, area = stats.T
    inside = (left > 0) & (top > 0) & (left + width < mask_HW.shape[1]) & (top + height < mask_HW.shape[0])
    fill = inside & (area < max_px)
    fill[0] = False  # the mask itself
    filled_HW = labelled(labels, fill)
    filled_HW |= mask_HW
    return filled_HW
