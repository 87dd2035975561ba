"""Plans a phantom slide on a coarse grid: tissue, fat, regions, ink and a black border.

The grid has at most 1024 cells a side, so that the plan of any slide is small. It gives shapes as shares of the slide;
what has a size in µm is left to the painter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from medsoft.data.phantoms.seeds import Purpose, stream
from medsoft.data.phantoms.slides.coarse_maps import PAD, CoarseMaps
from medsoft.data.phantoms.slides.textures import periodic_noise

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
RGB = tuple[float, float, float]

SMALLEST_CELL_PX0 = 16
MOST_CELLS = 1024
INSIDE = 128  # the value of a map on the outline of what it shows
TISSUE, FAT, REGION, INFLAMED, INK = range(5)  # the maps
OUTLINE_CELLS = 1.5  # a map falls from 255 to 0 over this distance, inwards and outwards

EOSIN: RGB = (0.13, 0.50, 0.27)  # optical density in red, green and blue, natural logarithm
HAEMATOXYLIN: RGB = (0.92, 1.22, 0.55)
INKS: tuple[RGB, ...] = ((40, 60, 170), (20, 110, 70), (35, 35, 42))


@dataclass(frozen=True)
class Stain:
    """Colours of a slide.

    Attributes:
        eosin, haematoxylin: optical density of much stain in red, green and blue.
        glass: colour of the empty glass at the slide's upper left corner.
        shade: by how much it is darker at the right and at the lower edge.
    """

    eosin: RGB
    haematoxylin: RGB
    glass: tuple[int, int, int]
    shade: tuple[float, float]


@dataclass(frozen=True)
class SlidePlan:
    """All that the painter must know of a slide.

    Attributes:
        seed, index: name the random numbers of its cells.
        size_px0: width and height.
        mpp: µm per pixel.
        tumour: whether the region is tumour; otherwise it is inflamed, like a decoy.
        maps: uint8 (H, W, 5): tissue, fat, region, inflammation (0 to 255, 128 on the outline), how opaque ink is.
        stain: its colours.
        texture_px: where the textures are cut at the slide's corner.
        ink: colour of the pen.
        border_px0: width of a black border on the right.
    """

    seed: int
    index: int
    size_px0: int
    mpp: float
    tumour: bool
    maps: CoarseMaps
    stain: Stain
    texture_px: tuple[int, int]
    ink: RGB
    border_px0: int


def plan_slide(seed: int, index: int, size_px0: int, mpp: float, *, tumour: bool) -> SlidePlan:
    """Plan one slide.

    With or without tumour, a seed and an index give the same outlines, stain and artefacts. Only what fills the region
    differs: large nuclei of tumour, or lymphocytes.
    """
    cell = SMALLEST_CELL_PX0
    while size_px0 > cell * MOST_CELLS:
        cell *= 2
    cells = -(-size_px0 // cell) + 2 * PAD
    share = ((np.arange(cells) - PAD + 0.5) * cell / size_px0).astype(np.float32)
    anatomy, regions = stream(seed, Purpose.SLIDE_TISSUE, index), stream(seed, Purpose.SLIDE_REGIONS, index)
    artefacts = stream(seed, Purpose.SLIDE_ARTEFACTS, index)

    tissue = _outlines(anatomy, share)
    inner = _distance(tissue) > 3
    fat = tissue & (_noise(anatomy, cells, 0.05) > anatomy.uniform(1.2, 2.2))
    region = _patch(regions, inner & ~fat, share, regions.uniform(0.08, 0.25) * tissue.sum())
    elsewhere = inner & ~fat & ~cv2.dilate(region.astype(np.uint8), np.ones((5, 5))).astype(bool)
    field = _noise(regions, cells, 0.025)
    inflamed = elsewhere & (field > regions.uniform(1.5, 2.4))

    outlines = [_soft(part) for part in (tissue, fat, region, inflamed)]
    values = np.stack([*outlines, _pen(artefacts, cells)], axis=-1)
    return SlidePlan(
        seed=seed,
        index=index,
        size_px0=size_px0,
        mpp=mpp,
        tumour=tumour,
        maps=CoarseMaps(cell, values),
        stain=_stain(stream(seed, Purpose.SLIDE_STAIN, index)),
        texture_px=(int(anatomy.integers(4096)), int(anatomy.integers(4096))),
        ink=INKS[artefacts.integers(len(INKS))],
        border_px0=round(artefacts.uniform(0.008, 0.03) * size_px0) if artefacts.random() < 0.12 else 0,
    )


def _outlines(rng: np.random.Generator, share: Floats) -> NDArray[np.bool_]:
    """One to three pieces of tissue with irregular outlines."""
    layouts = (
        [(0.50, 0.49, 0.37, 0.37)],
        [(0.29, 0.49, 0.19, 0.37), (0.71, 0.49, 0.19, 0.37)],
        [(0.30, 0.28, 0.21, 0.19), (0.71, 0.36, 0.20, 0.24), (0.42, 0.72, 0.24, 0.19)],
    )
    inside = np.full((len(share), len(share)), -1, np.float32)
    for x, y, radius_x, radius_y in layouts[rng.integers(len(layouts))]:
        dx = (share[None, :] - x - rng.normal(0, 0.01)) / (radius_x * rng.uniform(0.9, 1.05))
        dy = (share[:, None] - y - rng.normal(0, 0.01)) / (radius_y * rng.uniform(0.9, 1.05))
        angle = np.arctan2(dy, dx)
        waves = [rng.normal(0, 0.09 / math.sqrt(k)) * np.cos(k * angle + rng.uniform(0, 7)) for k in range(2, 9)]
        edge = np.clip(1 + np.sum(waves, axis=0), 0.6, 1.15)
        inside = np.maximum(inside, edge - np.hypot(dx, dy))
    noise = 0.035 * _noise(rng, len(share), 0.02) + 0.02 * _noise(rng, len(share), 0.006)
    tissue = inside + np.where(inside > -0.12, noise, 0) > 0
    return _without_specks(tissue, 0.003)


def _patch(rng: np.random.Generator, where: NDArray[np.bool_], share: Floats, cells: float) -> NDArray[np.bool_]:
    """A patch of about this many cells, around some place of ``where``."""
    rows, columns = np.nonzero(where)
    if len(rows) == 0:
        return where
    chosen = rng.integers(len(rows))
    distance = np.hypot(share[None, :] - share[columns[chosen]], share[:, None] - share[rows[chosen]])
    score = np.where(where, 0.06 * _noise(rng, len(share), 0.05) - distance, -np.inf)
    lowest = np.sort(score[where])[-min(round(cells), len(rows))]
    smooth = cv2.medianBlur((score >= lowest).astype(np.uint8) * 255, 5) > 0
    return _without_specks(smooth & where, 0.1)


def _pen(rng: np.random.Generator, cells: int) -> Pixels:
    """Strokes of a pen beside the tissue, and across its edge, on one slide in six."""
    ink = np.zeros((cells, cells), np.uint8)
    if rng.random() > 1 / 6:
        return ink
    x, y = rng.uniform(0.2, 0.8), rng.choice((0.12, 0.86))
    steps = np.linspace(0, 1, 12)
    for _ in range(rng.integers(1, 4)):
        line = np.stack([x + 0.25 * (steps - 0.5), y + 0.03 * np.sin(4 * steps + rng.uniform(0, 7))], axis=1)
        x, y = x + rng.normal(0, 0.1), y + rng.normal(0, 0.04)
        cv2.polylines(ink, [(line * cells).astype(np.int32)], False, int(rng.integers(180, 245)), max(1, cells // 45))
    return np.asarray(cv2.GaussianBlur(ink, (0, 0), 1.0), np.uint8)


def _stain(rng: np.random.Generator) -> Stain:
    """Strength and hue of both stains, and the lamp."""

    def varied(density: RGB) -> RGB:
        red, green, blue = np.array(density) * math.exp(rng.normal(0, 0.12)) * np.exp(rng.normal(0, 0.05, 3))
        return float(red), float(green), float(blue)

    red, green, blue = rng.integers(238, 248) + rng.integers(-2, 3, 3)
    return Stain(
        varied(EOSIN), varied(HAEMATOXYLIN), (int(red), int(green), int(blue)), (rng.uniform(0, 6), rng.uniform(0, 6))
    )


def _noise(rng: np.random.Generator, cells: int, sigma: float) -> Floats:
    """Smooth noise whose bumps are ``sigma`` of the slide wide."""
    return periodic_noise(rng, cells, sigma * cells, sigma * cells)


def _distance(mask: NDArray[np.bool_]) -> Floats:
    """Distance to the outline in cells, negative outside."""
    inwards, outwards = (cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5) for part in (mask, ~mask))
    distance: Floats = np.where(mask, inwards - 0.5, 0.5 - outwards).astype(np.float32)
    return np.clip(distance, -len(mask), len(mask))  # where nothing is inside, OpenCV's distance is the largest float


def _soft(mask: NDArray[np.bool_]) -> Pixels:
    """A map that is 128 on the outline, and whose slope there lets the painter find it between cells."""
    distance = cv2.GaussianBlur(_distance(mask), (0, 0), 1.0)
    return np.asarray(np.clip(np.rint(INSIDE + 127 * distance / OUTLINE_CELLS), 0, 255), np.uint8)


def _without_specks(mask: NDArray[np.bool_], smallest: float) -> NDArray[np.bool_]:
    """Drop pieces that are smaller than a share of the largest one."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    area = statistics[:, cv2.CC_STAT_AREA]
    area[0] = 0
    kept: NDArray[np.bool_] = (area > smallest * area.max())[labels]
    return kept & mask
