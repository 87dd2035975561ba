"""Where the tissue of an open slide is, in its overview: by colour, or by a segmentation model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medsoft.errors import SlideError
from medsoft.slides.segmentation.mask_model import TileModels
from medsoft.slides.segmentation.masks import tissue_mask
from medsoft.slides.tiling.settings import BY_MODEL, TissueSettings
from medsoft.slides.tiling.tissue import Tissue, cleaned, find_tissue, why_colourless

if TYPE_CHECKING:
    from medsoft.slides.reading.slide import Slide

MAX_MASK_PIXELS = 2**26
"""Largest mask: 65 × 65 mm at 8 µm/px. A larger slide has a wrong resolution, or needs a coarser mask."""

NO_MODEL = (
    "its tiles are decided by a segmentation model, which this command cannot name: tile it first with medsoft slides "
    "tile, with the options of the training, into the same --out"
)


@dataclass(frozen=True, eq=False)
class SlideTissue:
    """The tissue of a slide.

    Attributes:
        tissue: what was found.
        overview_HW3: uint8 RGB, the whole slide.
        gaps_HW: bool, where it could not be read.
        why_colourless: as the function of this name says.
    """

    tissue: Tissue
    overview_HW3: np.ndarray
    gaps_HW: np.ndarray
    why_colourless: str | None

    @property
    def mask_HW(self) -> np.ndarray:
        """Tissue, and what may be: what could not be read is not to be lost unseen."""
        mask: np.ndarray = self.tissue.mask_HW | self.gaps_HW
        return mask


def tissue_of_slide(slide: Slide, settings: TissueSettings, models: TileModels) -> SlideTissue:
    """Find the tissue of a slide.

    Args:
        slide: open.
        settings: how.
        models: one of tissue among them, where the settings ask for it.

    Raises:
        SlideError: the slide is larger than any slide is, cannot be read, or is without colour.
    """
    mpp = mask_mpp(slide.mpp, settings)
    _check_size(slide, mpp)
    overview_HW3, gaps_HW = slide.overview_and_gaps(mpp)
    if gaps_HW.all():
        raise SlideError("no part of it can be read")
    why = why_colourless(overview_HW3, gaps_HW)
    if settings.method == BY_MODEL:
        if models.tissue is None:
            raise SlideError(NO_MODEL)
        size = (overview_HW3.shape[1], overview_HW3.shape[0])
        mask_HW = tissue_mask(slide, models.tissue, settings.mpp, settings.class_names, size, models.scratch)
        tissue = cleaned(mask_HW, mpp, settings)
    else:
        tissue = find_tissue(overview_HW3, mpp, settings)
        if why and not tissue.mask_HW.any():
            raise SlideError(
                f"no tissue can be told from glass, as the slide {why} Save it as RGB with 8 bits per channel, or take "
                "all of it with --tissue.method everything"
            )
    return SlideTissue(tissue, overview_HW3, gaps_HW, why)


def mask_mpp(slide_mpp: float, settings: TissueSettings) -> float:
    """µm per pixel of a slide's mask and overview: as set, or the slide's own where that is coarser."""
    return max(slide_mpp, settings.mpp)


def size_mm(slide: Slide) -> str:
    """Such as "12.3 × 4.5 mm at 0.25 µm/px (option)"."""
    width, height = (side * slide.mpp / 1000 for side in slide.size_px0)
    return f"{width:.4g} × {height:.4g} mm at {slide.mpp:.4g} µm/px ({slide.mpp_origin})"


def _check_size(slide: Slide, mpp: float) -> None:
    width, height = (side * slide.mpp / mpp for side in slide.size_px0)
    if width * height > MAX_MASK_PIXELS:
        raise SlideError(
            f"would measure {size_mm(slide)}, more than any slide: is its resolution wrong, such as by 10 times? "
            "State the right one with --slide-mpp or in the table, or take a coarser --tissue.mpp"
        )
