"""Measures blur, folds, air bubbles and pen ink of tiles, without a trained model; or takes a model's word for them.

Blur is measured in the tiles themselves. The others are larger than cells and are found in the slide's overview, where
the tissue was found: the tiles need not be read for them. docs/experiments/tile_quality.md says what was measured on
real tiles, and how the thresholds below follow from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from medsoft.errors import TileError
from medsoft.slides.quality.settings import ArtefactLimits, QualitySettings
from medsoft.slides.tiling.grid import mask_fraction
from medsoft.slides.tiling.ink import keep_large
from medsoft.slides.tiling.tissue import Tissue, value_and_saturation, whitened_channels

if TYPE_CHECKING:
    from medsoft.slides.reading.slide import Slide

SHARPNESS_MPP = 1.0
"""µm per pixel at which blur is measured: a nucleus has 5 to 10 px, and sensor noise is averaged out."""

COARSEST_MPP = 1.1
"""Slides of coarser pixels cannot show whether they are sharp."""

STAINED = 0.05
"""Saturation (0 to 1) of tissue, which blur is measured in: glass has nothing that could be sharp."""

STAINED_SHARE = 0.1
"""Tiles with less of it have no measurable sharpness."""

LARGEST_PX = 2048
"""Larger tiles are judged by the square of this side in their middle."""

SMOOTH_UM = 8.0
"""Standard deviation of the blur before folds and bubbles are found: single nuclei are as dark as folds."""

FOLD = 0.15
"""Saturation minus value (both 0 to 1) of folds is above, in strong stains: two layers of tissue are darker and
stronger in colour than one (Bautista and Yagi, Proc. SPIE 7260, 2009)."""

DENSEST_PART, DENSER = 0.05, 1.3
"""In pale stains folds are denser (in red, which haematoxylin and folds absorb) than all but this part of the slide's
own tissue, by this factor."""

GREY_VALUE, GREY_CHROMA = 0.8, 15
"""What is darker than this value (0 to 1) with channels that differ by less (of 255) is neither glass nor stain."""

MIN_AREA_UM2 = 5_000.0
"""Smaller pieces are no folds and no bubbles."""

ROUNDING = 1e-6
"""Of parts that are added up in float32."""

_NO_WORD = re.compile(r"\W+")

READERS = 2
"""Threads that read tiles of one slide; several slides are worked on at once."""

CAUSES = {"sharpness": "blurred", "fold": "with folds", "bubble": "with air bubbles or edges", "pen": "with pen"}
"""Measure -> what is said of tiles that it rules out."""


ARTEFACTS = "artefacts"
"""What a model's limit is on: all of its artefacts together."""


@dataclass(frozen=True, eq=False)
class TileQuality:
    """Measures of the tiles of a slide.

    Attributes:
        columns: measure -> (N,) float32. Without a model: ``sharpness``, the variance of the Laplacian of the grey
            tissue at ``SHARPNESS_MPP``, NaN where it is not known (a slide that is too coarse, a tile that cannot be
            read or has hardly any colour); and the part of each tile, from 0 to 1, that is ``fold``, ``bubble`` (dark
            without colour) and ``pen`` (ink, its margin included). With a model: ``artefact_CLASS``, the part of each
            tile that is of this class.
        left_out: how many tiles each measure has ruled out; a tile may be among several.
        tiles_left_out: how many tiles were ruled out.
        corners_left_out_M2_px0: where they were, for the picture; empty where the measures come from a file.
    """

    columns: Mapping[str, np.ndarray]
    left_out: Mapping[str, int] = field(default_factory=dict)
    tiles_left_out: int = 0
    corners_left_out_M2_px0: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))

    @property
    def tiles(self) -> int:
        """How many were measured, and are kept."""
        return len(next(iter(self.columns.values())))

    @property
    def in_words(self) -> str:
        """Such as "12 tiles left out: 10 blurred, 3 with pen"; "" where none was."""
        if not self.tiles_left_out:
            return ""
        words = {**CAUSES, ARTEFACTS: "with artefacts"}
        causes = ", ".join(f"{number} {words[name]}" for name, number in self.left_out.items() if number)
        return f"{self.tiles_left_out} tiles left out: {causes}"


def quality_of_parts(parts: Mapping[str, np.ndarray]) -> TileQuality:
    """What a segmentation model says of tiles: (N,) the part of each that is of a class, by class."""
    return TileQuality({f"artefact_{_NO_WORD.sub('_', name)}": part_N for name, part_N in parts.items()})


def measure_tiles(
    slide: Slide, coords_N2_px0: np.ndarray, tile_um: float, overview_HW3: np.ndarray, tissue: Tissue
) -> TileQuality:
    """Measure the tiles of an open slide.

    Args:
        slide: the tiles are read from it, for their sharpness alone.
        coords_N2_px0: upper left corners (x, y).
        tile_um: side of a tile in µm.
        overview_HW3: uint8 RGB, the whole slide.
        tissue: what was found in it.

    Raises:
        SlideError: the slide cannot be read any more.
    """
    mpp = slide.size_px0[0] * slide.mpp / overview_HW3.shape[1]
    fold_HW, bubble_HW = folds_and_bubbles(overview_HW3, mpp, tissue)
    tile_px0 = tile_um / slide.mpp

    def part(mask_HW: np.ndarray) -> np.ndarray:
        return mask_fraction(mask_HW, slide.size_px0, coords_N2_px0, tile_px0)

    sharpness_N = _sharpness_of_tiles(slide, coords_N2_px0, tile_um)
    masks = {"fold": fold_HW, "bubble": bubble_HW, "pen": tissue.ink_HW}
    return TileQuality({"sharpness": sharpness_N} | {name: part(mask_HW) for name, mask_HW in masks.items()})


def sharpness(tile_HW3: np.ndarray, mpp: float = SHARPNESS_MPP) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al., ICPR 2000) of the grey values, 0 to 255, of stained pixels.

    Args:
        tile_HW3: uint8 RGB of at least 3 × 3 px.
        mpp: µm per pixel of the tile.

    Returns:
        NaN where less than ``STAINED_SHARE`` of the tile is stained.
    """
    _, saturation_HW = value_and_saturation(*cv2.split(tile_HW3))
    stained_HW = cv2.GaussianBlur(saturation_HW, (0, 0), 2 / mpp)[1:-1, 1:-1] > 255 * STAINED
    if stained_HW.mean() < STAINED_SHARE:
        return float("nan")
    grey_HW = cv2.cvtColor(tile_HW3, cv2.COLOR_RGB2GRAY).astype(np.float32)
    # The outermost pixels have no neighbours on one side.
    return float(cv2.Laplacian(grey_HW, cv2.CV_32F, ksize=1)[1:-1, 1:-1][stained_HW].var())


def folds_and_bubbles(overview_HW3: np.ndarray, mpp: float, tissue: Tissue) -> tuple[np.ndarray, np.ndarray]:
    """Where tissue lies double, and what is dark without colour: two (H, W) bool masks, both without pen.

    Args:
        overview_HW3: uint8 RGB, the whole slide.
        mpp: µm per pixel.
        tissue: what was found in it.
    """
    channels = [cv2.GaussianBlur(one, (0, 0), SMOOTH_UM / mpp) for one in whitened_channels(overview_HW3)]
    value_HW, saturation_HW = value_and_saturation(*channels)
    least_HW = cv2.min(cv2.min(channels[0], channels[1]), channels[2])
    grey_HW = (value_HW < 255 * GREY_VALUE) & (cv2.subtract(value_HW, least_HW) < GREY_CHROMA)
    strong_HW = cv2.subtract(saturation_HW, value_HW) > 255 * FOLD  # stops at 0
    dense_HW = channels[0] < _red_of_folds(channels[0][tissue.mask_HW])
    fold_HW = (strong_HW | dense_HW) & tissue.mask_HW & ~grey_HW
    min_px = MIN_AREA_UM2 / mpp**2
    return keep_large(fold_HW, min_px), keep_large(grey_HW & ~tissue.ink_HW, min_px)


def _red_of_folds(red_of_tissue: np.ndarray) -> float:
    """Folds are darker than this, in 0 to 255."""
    if not red_of_tissue.size:
        return 0
    share = np.quantile(red_of_tissue, DENSEST_PART) / 255
    return float(255 * share**DENSER)  # a density times a factor is a transmission to this power (Beer and Lambert)


def kept_by(quality: TileQuality, settings: QualitySettings) -> tuple[np.ndarray, dict[str, int]]:
    """Which tiles keep the limits: (N,) bool; and how many each measure rules out. What is not known rules out none."""
    columns = quality.columns
    if settings.model is not None:
        together_N = np.sum(list(columns.values()), axis=0)
        bad = {ARTEFACTS: together_N > settings.model.max_artefact + ROUNDING}
    else:
        limits = settings.limits or ArtefactLimits()
        bad = {
            "sharpness": columns["sharpness"] < limits.min_sharpness,  # NaN is not
            "fold": columns["fold"] > limits.max_fold,
            "bubble": columns["bubble"] > limits.max_bubble,
            "pen": columns["pen"] > limits.max_pen,
        }
    kept_N: np.ndarray = ~np.any(list(bad.values()), axis=0)
    return kept_N, {name: int(rows.sum()) for name, rows in bad.items()}


def filtered(
    quality: TileQuality, coords_N2_px0: np.ndarray, settings: QualitySettings
) -> tuple[TileQuality, np.ndarray]:
    """The measures of the tiles that keep the limits, and which they are: (N,) bool."""
    kept_N, left_out = kept_by(quality, settings)
    columns = {name: values_N[kept_N] for name, values_N in quality.columns.items()}
    corners_M2 = coords_N2_px0[~kept_N]
    return TileQuality(columns, left_out, len(corners_M2), corners_M2), kept_N


def _sharpness_of_tiles(slide: Slide, coords_N2_px0: np.ndarray, tile_um: float) -> np.ndarray:
    found_N = np.full(len(coords_N2_px0), np.nan, np.float32)
    if slide.mpp > COARSEST_MPP:
        return found_N
    mpp = max(slide.mpp, SHARPNESS_MPP)
    side = int(min(tile_um / mpp, LARGEST_PX))
    if side < 3:
        return found_N
    margin_px0 = round((tile_um - side * mpp) / slide.mpp / 2)
    for row, tile in slide.read_tiles(coords_N2_px0 + margin_px0, side, mpp, READERS):
        if not isinstance(tile, TileError):
            found_N[row] = sharpness(tile, mpp)
    return found_N
