"""What a segmentation model finds on a slide, for tiles: where the tissue is, and what artefacts tiles have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medsoft.slides.segmentation.mask_model import MaskModel, chosen_values
from medsoft.slides.segmentation.segment import Segmented, WindowSettings, segment_slide
from medsoft.slides.tiling.grid import part_of_values

if TYPE_CHECKING:
    from medsoft.slides.reading.slide import Slide

OVERLAP = 0.5
"""Of windows, as a part of their side."""


def tissue_mask(
    slide: Slide, model: MaskModel, mpp: float, classes: Sequence[str], size: tuple[int, int], scratch: Path | None
) -> npt.NDArray[np.bool_]:
    """Where a model finds some of its classes: (H, W) bool of the whole slide, False outside what was scanned.

    Args:
        slide: open.
        model: that is shown all of it.
        mpp: µm per pixel at which it is shown the slide.
        classes: names; all where there are none.
        size: (W, H) of the result.
        scratch: see ``LabelMap``.

    Raises:
        SlideError: too much of the slide cannot be read.
    """
    values = chosen_values(model, classes)
    with segment_slide(slide, model, _windows(model, mpp), scratch).labels_kept() as found:
        x, in_x = _pixels_of(found, 0, size[0], slide.size_px0[0])
        y, in_y = _pixels_of(found, 1, size[1], slide.size_px0[1])
        mask_HW = np.zeros(size[::-1], bool)
        for top, band in found.labels.bands():
            rows = np.flatnonzero(in_y & (y >= top) & (y < top + len(band)))
            mask_HW[np.ix_(rows, np.flatnonzero(in_x))] = np.isin(band[np.ix_(y[rows] - top, x[in_x])], values)
    return mask_HW


def _pixels_of(found: Segmented, axis: int, length: int, length_px0: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel along an axis of the whole slide that of the map in its middle, and whether there is one."""
    middles_px0 = (np.arange(length) + 0.5) * length_px0 / length
    at = np.floor((middles_px0 - found.origin_px0[axis]) / found.scale_px0).astype(np.int64)
    return at, (at >= 0) & (at < found.labels.size_px[axis])


def parts_of_classes(
    slide: Slide, model: MaskModel, mpp: float, coords_N2_px0: np.ndarray, tile_px0: float, scratch: Path | None
) -> dict[str, np.ndarray]:
    """Which part of each tile a model takes for each of its classes: (N,) float32 from 0 to 1 by class.

    The model is shown the windows that tiles lie in.

    Args:
        slide: open.
        model: see above.
        mpp: as of ``tissue_mask``.
        coords_N2_px0: top-left corners (x, y) of tiles.
        tile_px0: their side.
        scratch: see ``LabelMap``.

    Raises:
        SlideError: too much of the slide cannot be read.
    """
    if not len(coords_N2_px0):
        return {name: np.empty(0, np.float32) for name in model.classes}

    def holds_tiles(corners_M2_px0: np.ndarray, side_px0: float) -> npt.NDArray[np.bool_]:
        from scipy.spatial import KDTree

        # Squares overlap where their middles are closer than half of both sides, along both axes.
        tree = KDTree(coords_N2_px0 + tile_px0 / 2)
        away_M, _ = tree.query(corners_M2_px0 + side_px0 / 2, p=np.inf)
        return np.asarray(away_M < (side_px0 + tile_px0) / 2)

    with segment_slide(slide, model, _windows(model, mpp), scratch, holds_tiles).labels_kept() as found:
        size_px0 = (found.labels.size_px[0] * found.scale_px0, found.labels.size_px[1] * found.scale_px0)
        places = coords_N2_px0 - found.origin_px0
        values = range(1, 1 + len(found.classes))
        parts_NC = part_of_values(found.labels, values, size_px0, places, tile_px0)
    return dict(zip(found.classes, parts_NC.T, strict=True))


def _windows(model: MaskModel, mpp: float) -> WindowSettings:
    return WindowSettings(mpp, round(model.side * OVERLAP))
