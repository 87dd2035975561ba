"""Where the tiles of one slide lie: tissue, grid and selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medsoft.errors import SlideError
from medsoft.slides.annotations.area import parts_inside
from medsoft.slides.annotations.on_slide import NO_FILE, SlideRegions, regions_on_slide
from medsoft.slides.annotations.settings import AnnotationSource
from medsoft.slides.annotations.shapes import Area
from medsoft.slides.quality.measure import COARSEST_MPP, TileQuality, filtered, measure_tiles, quality_of_parts
from medsoft.slides.segmentation.masks import parts_of_classes
from medsoft.slides.tiling.grid import grid_px0, mask_fraction
from medsoft.slides.tiling.settings import TileSettings
from medsoft.slides.tiling.slide_tissue import NO_MODEL, SlideTissue, size_mm, tissue_of_slide
from medsoft.storage.hashing import quick_hash

if TYPE_CHECKING:
    from medsoft.slides.reading.slide import Slide

MANY = 0.5
"""A larger share of tiles that are left out for artefacts is worth a warning."""

PLAUSIBLE_SIDE_MM = (0.5, 150)
PLAUSIBLE_TISSUE_MM2 = (0.1, 5000)
ROUNDING = 1e-9
"""Part of a tile's area that rounding may take: half of a tile is half of it."""
ENLARGED = 1.1
"""Tiles finer than level 0 by more than this are worth a warning."""


@dataclass(frozen=True, eq=False)
class Tiling:
    """The tiles of a slide.

    Attributes:
        slide: name of its file.
        quick_hash: of its file (``medsoft.storage.hashing.quick_hash``).
        size_px0: (width, height) of level 0.
        mpp: µm per level-0 pixel.
        mpp_origin: where ``mpp`` comes from.
        settings: what the tiles were made with.
        coords_N2_px0: top-left corners (x, y) in level-0 pixels, int64, row by row from the top, each from the left.
        tissue_N: fraction of each tile that is tissue, float32.
        tissue_mm2: area of all tissue of the slide.
        warnings: what the user should look at: an absurd size, tiles finer than the slide, …
        bounds_px0: (x, y, width, height) of the part that was scanned (``Slide.bounds_px0``); None: not known.
        regions_from: the regions that the tiles were chosen by (``AnnotationSource.fingerprint``); "" without any.
        drawn: these regions, in level-0 pixels; () where the tiling comes from a file.
        quality: artefacts of the tiles; None where they were not measured.
    """

    slide: str
    quick_hash: str
    size_px0: tuple[int, int]
    mpp: float
    mpp_origin: str
    settings: TileSettings
    coords_N2_px0: np.ndarray
    tissue_N: np.ndarray
    tissue_mm2: float
    warnings: tuple[str, ...] = ()
    bounds_px0: tuple[int, int, int, int] | None = None
    regions_from: str = ""
    drawn: tuple[Area, ...] = ()
    quality: TileQuality | None = None

    def __len__(self) -> int:
        return len(self.coords_N2_px0)

    @property
    def tile_um(self) -> float:
        """Side of a tile in µm."""
        return self.settings.tile_um

    @property
    def tile_px0(self) -> float:
        """Side of a tile in level-0 pixels, not rounded."""
        return self.settings.tile_um / self.mpp


def tile_slide(
    slide: Slide, settings: TileSettings, annotations: AnnotationSource | None = None
) -> tuple[Tiling, np.ndarray, np.ndarray]:
    """Find the tissue of a slide and the tiles that hold enough of it.

    The first tile lies at the corner of the bounds, the part of the slide that was scanned: counted from the slide's
    own corner, the same scan would be tiled otherwise after every change of the empty margin around it. Parts of the
    slide that cannot be read count as tissue, so that their tiles are listed, and found unreadable, not lost unseen.

    Args:
        slide: an open slide.
        settings: size of tiles, how tissue is found, and which tiles regions leave.
        annotations: the regions of the slide, where the settings ask for them.

    Returns:
        The tiling (no tiles where there is no tissue), the tissue mask (H, W) bool, and the overview that it was
        found in, (H, W, 3) uint8; both of the whole slide, at ``slide_tissue.mask_mpp``.

    Raises:
        SlideError: the slide is too coarse for such tiles, larger than any slide is, or without colour; or its regions
            are asked for and cannot be used.
    """
    slide.check_mpp(settings.mpp)
    # Before the slide is read: what is wrong with the regions is known at once.
    regions, regions_from = _regions(slide, settings, annotations)
    step_px0 = (settings.tile_px - settings.overlap_px) * settings.mpp / slide.mpp
    if step_px0 < 1:
        raise SlideError(f"tiles would lie {step_px0:.2g} of its pixels apart, closer than one: less --overlap")
    found = tissue_of_slide(slide, settings.tissue, settings.models)
    tissue, mask_HW, gaps_HW, overview_HW3 = found.tissue, found.mask_HW, found.gaps_HW, found.overview_HW3
    tile_px0 = settings.tile_um / slide.mpp
    coords_N2_px0 = grid_px0(slide.bounds_px0, tile_px0, step_px0)
    fraction_N = mask_fraction(mask_HW, slide.size_px0, coords_N2_px0, tile_px0)
    kept_N = fraction_N >= settings.min_tissue
    areas: tuple[Area, ...] = ()
    if settings.regions is not None:
        areas = tuple(regions.chosen(settings.regions.classes, settings.regions.exclude))
        parts_N = parts_inside(coords_N2_px0[kept_N], tile_px0, areas)
        parts_N = parts_N if settings.regions.keep == "inside" else 1 - parts_N
        kept_N[kept_N] = parts_N >= settings.regions.min_part - ROUNDING
    quality: TileQuality | None = None
    if settings.quality is not None:
        quality = _measured(slide, settings, coords_N2_px0[kept_N], found)
        if settings.quality.filters:
            quality, good_N = filtered(quality, coords_N2_px0[kept_N], settings.quality)
            kept_N[kept_N] = good_N
    # A pixel of the mask is not exactly ``mpp`` wide, as the sides of the overview are rounded.
    pixel_mm2 = slide.size_px0[0] * slide.size_px0[1] * (slide.mpp / 1000) ** 2 / mask_HW.size
    tissue_mm2 = float((tissue.mask_HW & ~gaps_HW).sum() * pixel_mm2)
    warnings = [
        *slide.notes,
        *_too_small(slide, coords_N2_px0, settings),
        *_doubts(slide, settings, tissue_mm2),
        *tissue.notes,
        *regions.notes,
        *_doubts_on_quality(slide, settings, quality),
    ]
    if found.why_colourless and "black" in found.why_colourless:
        warnings.append(f"the slide {found.why_colourless}")
    if gaps_HW.any():
        warnings.append(f"{gaps_HW.sum() * pixel_mm2:.3g} mm² cannot be read in the overview, and count as tissue")
    tiling = Tiling(
        slide=slide.name,
        quick_hash=hash_slide(slide),
        size_px0=slide.size_px0,
        mpp=slide.mpp,
        mpp_origin=slide.mpp_origin,
        settings=settings,
        coords_N2_px0=coords_N2_px0[kept_N],
        tissue_N=fraction_N[kept_N],
        tissue_mm2=tissue_mm2,
        warnings=tuple(warnings),
        bounds_px0=slide.bounds_px0,
        regions_from=regions_from,
        drawn=areas,
        quality=quality,
    )
    return tiling, mask_HW, overview_HW3


def _measured(slide: Slide, settings: TileSettings, coords_N2_px0: np.ndarray, found: SlideTissue) -> TileQuality:
    assert settings.quality is not None
    asked, model = settings.quality.model, settings.models.artefacts
    if asked is None:
        return measure_tiles(slide, coords_N2_px0, settings.tile_um, found.overview_HW3, found.tissue)
    if model is None:
        raise SlideError(NO_MODEL)
    assert asked.mpp is not None, "resolved with the model"
    tile_px0, scratch = settings.tile_um / slide.mpp, settings.models.scratch
    return quality_of_parts(parts_of_classes(slide, model, asked.mpp, coords_N2_px0, tile_px0, scratch))


def _doubts_on_quality(slide: Slide, settings: TileSettings, quality: TileQuality | None) -> list[str]:
    if quality is None or settings.quality is None:
        return []
    found = []
    if slide.mpp > COARSEST_MPP and settings.quality.model is None:
        found.append(f"blur cannot be judged at {slide.mpp:.4g} µm/px, and left out no tile")
    if quality.tiles_left_out > MANY * (quality.tiles_left_out + quality.tiles):
        found.append(f"{quality.in_words}: look at the picture, and at --artefacts")
    return found


def _regions(slide: Slide, settings: TileSettings, annotations: AnnotationSource | None) -> tuple[SlideRegions, str]:
    """The regions of a slide and their fingerprint, where the settings ask for them."""
    if settings.regions is None:
        return SlideRegions(), ""
    if annotations is None:
        raise SlideError(NO_FILE)
    try:
        return regions_on_slide(annotations, slide), annotations.fingerprint
    except OSError as error:
        raise SlideError(f"its annotation file cannot be read: {error.strerror or error}") from None


def hash_slide(slide: Slide) -> str:
    """The quick hash of the file of a slide.

    Raises:
        SlideError: it cannot be read.
    """
    try:
        return quick_hash(slide.path)
    except OSError as error:
        raise SlideError(f"cannot be read: {error.strerror or error}") from error


def _too_small(slide: Slide, coords_N2_px0: np.ndarray, settings: TileSettings) -> list[str]:
    if len(coords_N2_px0):
        return []
    width, height = (side * slide.mpp for side in slide.bounds_px0[2:])
    return [f"what was scanned, {width:.4g} × {height:.4g} µm, is smaller than a tile of {settings.tile_um:.4g} µm"]


def _doubts(slide: Slide, settings: TileSettings, tissue_mm2: float) -> list[str]:
    """Sizes that speak against the resolution, and tiles that the slide is too coarse for."""
    found = []
    right = "is the resolution wrong, such as by 10 times?"
    low, high = PLAUSIBLE_TISSUE_MM2
    shortest, longest = PLAUSIBLE_SIDE_MM
    if not shortest <= max(slide.size_px0) * slide.mpp / 1000 <= longest:
        found.append(f"the slide measures {size_mm(slide)}, a glass slide 76 × 26 mm: {right}")
    elif 0 < tissue_mm2 < low or tissue_mm2 > high:
        found.append(f"{tissue_mm2:.2g} mm² of tissue at {slide.mpp:.4g} µm/px ({slide.mpp_origin}): {right}")
    if slide.mpp > settings.mpp * ENLARGED:
        found.append(f"tiles at {settings.mpp:.4g} µm/px are enlarged from {slide.mpp:.4g} µm/px")
    return found
