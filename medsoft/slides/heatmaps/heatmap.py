"""Heatmaps: what each tile of a slide contributes to a logit, as numbers and as an overlay.

Colours are symmetric about 0, white at 0, red for tiles that raise the logit, blue for those that lower it. The scale
ends at the 99th percentile of the absolute contributions, so that one odd tile does not make all others pale.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medsoft.slides.reading.levels import Cropped
from medsoft.storage.files import replacing

if TYPE_CHECKING:
    from medsoft.slides.reading.slide import Slide

Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]

LONG_SIDE_PX = 2048
"""Longer side of a map, whatever the slide's size: a tile is a few pixels even of the largest slides."""

COLOURS = "RdBu_r"  # of Matplotlib

OPACITY = 0.65
"""Of the map over the slide."""

CONTRAST = 0.6
"""Of the slide in grey under the map."""

CLIPPED_PERCENT = 1.0


@dataclass(frozen=True, eq=False)
class Heatmap:
    """The contributions of a slide's tiles to the logit of one class.

    Attributes:
        id: of the slide.
        name: of the class; of a regression the column of its targets.
        size_px0: (width, height) of the slide's level 0.
        mpp: µm per level-0 pixel.
        coords_N2_px0: top-left corners (x, y) of the tiles that have a contribution.
        tile_px0: side of a tile in level-0 pixels.
        contributions_N: of the tiles, in the unit of the logit; or their attention.
        logit: what the parts and the contributions add up to.
        parts: of the logit that belong to no tile, by name: bias, residual, class token.
        probability: of the class; None for a regression, whose logit is the prediction, in the unit of its targets.
        unit: of the logit: 1 for log-odds, of a regression the standard deviation of the training targets.
        unfamiliar: the slide's out-of-distribution score, and whether the model abstains, in words.
        bounds_px0: (x, y, width, height) of the part that was scanned, which the map shows, as QuPath shows the slide;
            None: the whole slide, as the scanned part is not known.
        attention_of: the aggregator whose attention the values are, which are no contributions then: they have no sign
            and no unit, and add up to no logit; "" where they are contributions.
    """

    id: str
    name: str
    size_px0: tuple[int, int]
    mpp: float
    coords_N2_px0: npt.NDArray[np.int64]
    tile_px0: float
    contributions_N: npt.NDArray[np.float64]
    logit: float
    probability: float | None
    parts: dict[str, float] = field(default_factory=dict)
    unit: float = 1.0
    unfamiliar: str = ""
    bounds_px0: tuple[int, int, int, int] | None = None
    attention_of: str = ""

    @property
    def quantity(self) -> str:
        """What the contributions add up to: ``logit of tumour``, ``prediction of age``; or whose attention they are."""
        if self.attention_of:
            return f"attention of {self.attention_of}"
        return f"logit of {self.name}" if self.probability is not None else quantity_of_regression(self.name)

    @property
    def view_px0(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) of what the map shows."""
        return self.bounds_px0 or (0, 0, *self.size_px0)

    @property
    def limit(self) -> float:
        """Share at the ends of the colour scale."""
        sizes = np.abs(self.contributions_N)
        limit = float(np.percentile(sizes, 100 - CLIPPED_PERCENT, method="higher")) if len(sizes) else 0.0
        return limit or float(sizes.max(initial=0.0)) or 1.0

    @property
    def map_mpp(self) -> float:
        """Resolution of the map in µm per pixel; not finer than the slide."""
        return self.mpp * max(1.0, max(self.view_px0[2:]) / LONG_SIDE_PX)


def quantity_of_regression(name: str) -> str:
    """``prediction of age``; ``prediction`` where nobody says of what."""
    return "prediction" if name == "prediction" else f"prediction of {name}"


def map_size(heatmap: Heatmap) -> tuple[int, int]:
    """(width, height) of the map, that of its view at the map's resolution."""
    width, height = (max(1, math.floor(side * heatmap.mpp / heatmap.map_mpp + 0.5)) for side in heatmap.view_px0[2:])
    return width, height


def paint(heatmap: Heatmap, width: int, height: int) -> Values:
    """The contributions on a picture of the map's view: (height, width) float32, NaN where no tile lies.

    Where tiles overlap, a pixel has the mean of their contributions.
    """
    x, y, view_width, view_height = heatmap.view_px0
    scale = np.array([width, height]) / (view_width, view_height)
    coords_N2 = heatmap.coords_N2_px0 - np.array([x, y])
    low_N2 = np.round(coords_N2 * scale).astype(np.int64)
    # A grid that rounds places to whole pixels can leave gaps of one between neighbours: they are covered.
    high_N2 = np.round((coords_N2 + np.ceil(heatmap.tile_px0)) * scale).astype(np.int64)
    high_N2 = np.maximum(high_N2, low_N2 + 1)
    total_HW = np.zeros((height, width), dtype=np.float32)
    count_HW = np.zeros((height, width), dtype=np.int32)
    for (x0, y0), (x1, y1), contribution in zip(low_N2.clip(0), high_N2.clip(0), heatmap.contributions_N, strict=True):
        total_HW[y0:y1, x0:x1] += contribution
        count_HW[y0:y1, x0:x1] += 1
    with np.errstate(invalid="ignore"):
        total_HW /= count_HW
    return total_HW


def overlay(values_HW: Values, limit: float, thumbnail: Pixels | None) -> Pixels:
    """The map over the slide in pale grey, (H, W, 3): over white where there is no thumbnail."""
    grey_HW = np.full(values_HW.shape, 255, dtype=np.uint8)
    if thumbnail is not None:
        import cv2

        cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY, dst=grey_HW)
        # Paler, or dark tissue would make all colours dark, unlike those of the colour bar.
        grey_HW = cv2.convertScaleAbs(grey_HW, alpha=CONTRAST, beta=255 * (1 - CONTRAST)).astype(np.uint8, copy=False)
    picture = np.repeat(grey_HW[..., None], 3, axis=2)
    there_HW = ~np.isnan(values_HW)
    under_M1 = grey_HW[there_HW].astype(np.float32)[:, None]
    colours_M3 = colours_of(values_HW[there_HW], limit)
    picture[there_HW] = np.round(OPACITY * colours_M3 + (1 - OPACITY) * under_M1).astype(np.uint8)
    return picture


def colours_of(values_M: Values, limit: float) -> Values:
    """The colours of contributions, (M, 3) RGB of 0 to 255: blue at ``-limit``, white at 0, red at ``limit``."""
    from matplotlib import colormaps

    table_K3 = colormaps[COLOURS](np.arange(256), bytes=True)[:, :3].astype(np.float32)
    index_M = np.round((values_M / limit).clip(-1, 1) * 127.5 + 127.5).astype(np.uint8)
    colours_M3: Values = table_K3[index_M]
    return colours_M3


def thumbnail_of(slide: Slide, heatmap: Heatmap) -> Pixels:
    """The map's view of the slide at the map's resolution (H, W, 3).

    Raises:
        SlideError: the slide cannot be read.
    """
    from medsoft.slides.reading.overview import read_overview

    level = slide.best_level(heatmap.map_mpp)
    picture: Pixels = read_overview(Cropped(slide.levels, heatmap.view_px0), level, *map_size(heatmap))[0]
    return picture


def write_contributions(path: Path, heatmap: Heatmap) -> None:
    """Write the numbers behind a map: a CSV with ``x_px0, y_px0, contribution``, one row per tile.

    The last column is ``attention`` where the values are that.
    """
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["x_px0", "y_px0", "attention" if heatmap.attention_of else "contribution"])
        for (x, y), contribution in zip(heatmap.coords_N2_px0.tolist(), heatmap.contributions_N.tolist(), strict=True):
            writer.writerow([x, y, f"{contribution:.9g}"])
