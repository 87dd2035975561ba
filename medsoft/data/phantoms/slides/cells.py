"""Positions of the nuclei and glands of a planned slide.

Each block of the slide has random numbers of its own, so that any part can be drawn alone and agrees with its
neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medsoft.data.phantoms.seeds import Purpose, stream
from medsoft.data.phantoms.slides.coarse_maps import Points, Rectangle
from medsoft.data.phantoms.slides.nuclei import ANGLES, EPITHELIUM, FIBROBLAST, LYMPHOCYTE, TUMOUR, VARIANTS, Kind
from medsoft.data.phantoms.slides.plan import FAT, INFLAMED, INSIDE, REGION, TISSUE, SlidePlan

BLOCK_PX0 = 1024
FUZZY = 140  # how much nuclei stray across an outline: the whole slope of a map is 255
GLANDS = 100  # names their random numbers, like the number of a kind of nuclei
GLAND_PITCH_UM = 190.0
GLAND_RADIUS_UM = (32.0, 56.0)


@dataclass(frozen=True)
class Nuclei:
    """Nuclei of one kind.

    Attributes:
        kind: which.
        centres_N2_px0: where they lie.
        pictures_N: which of the kind's pictures each is drawn with.
    """

    kind: Kind
    centres_N2_px0: Points
    pictures_N: NDArray[np.int64]


@dataclass(frozen=True)
class Gland:
    """A ring of epithelium around an opening.

    Attributes:
        x_px0, y_px0: its centre.
        radius_px0: on average.
        oval, phase, other_phase: how its outline differs from a circle.
    """

    x_px0: float
    y_px0: float
    radius_px0: float
    oval: float
    phase: float
    other_phase: float

    def outline(self, share: float, points: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Points (K, 2) in level-0 pixels at a share of the radius, and their directions (K) from the centre."""
        angle = np.linspace(0, 2 * math.pi, points, endpoint=False)
        uneven = 1 + self.oval * np.cos(2 * angle + self.phase) + 0.05 * np.cos(3 * angle + self.other_phase)
        radius = share * self.radius_px0 * uneven
        around = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.array([self.x_px0, self.y_px0]) + around, angle


def glands_near(plan: SlidePlan, part: Rectangle) -> list[Gland]:
    """The glands in a part of the slide, and some outside of it."""
    found = []
    for row, column in _blocks(part.grown(math.ceil(1.3 * GLAND_RADIUS_UM[1] / plan.mpp))):
        centres, rng = _places(plan, GLANDS, GLAND_PITCH_UM, row, column)
        radius = rng.uniform(*GLAND_RADIUS_UM, len(centres)) / plan.mpp
        oval, phase, other_phase = rng.uniform(0, ((0.2,), (7,), (7,)), (3, len(centres)))
        x, y = centres.T * plan.mpp
        together = np.sin(x / 310 + plan.index) + np.sin(y / 240 - plan.index) > 0.35  # in some parts of the tissue
        here = plan.maps.at(centres)
        room = (here[:, TISSUE] == 255) & (here[:, FAT] == 0) & (here[:, REGION] == 0) & (here[:, INFLAMED] == 0)
        for k in np.flatnonzero(room & together):
            found.append(Gland(centres[k, 0], centres[k, 1], radius[k], oval[k], phase[k], other_phase[k]))
    return found


def nuclei_of(gland: Gland, mpp: float) -> Nuclei:
    """The ring of a gland's nuclei, which point to its centre."""
    count = max(8, round(2 * math.pi * 0.8 * gland.radius_px0 * mpp / EPITHELIUM.pitch_um))
    centres, angle = gland.outline(0.82, count)
    direction = np.rint(angle / math.pi * ANGLES).astype(np.int64) % ANGLES
    pictures = direction * VARIANTS + np.arange(count) % VARIANTS
    return Nuclei(EPITHELIUM, np.rint(centres).astype(np.int64), pictures)


def nuclei_near(plan: SlidePlan, part: Rectangle) -> Iterator[Nuclei]:
    """The nuclei in a part of the slide, and some outside of it; not those of glands."""
    kinds = (FIBROBLAST, LYMPHOCYTE, TUMOUR) if plan.tumour else (FIBROBLAST, LYMPHOCYTE)
    for row, column in _blocks(part):
        for kind in kinds:
            yield _scattered(plan, kind, row, column)


def _scattered(plan: SlidePlan, kind: Kind, row: int, column: int) -> Nuclei:
    centres, rng = _places(plan, kind.number, kind.pitch_um, row, column)
    chance, direction, variant, stray = rng.random((4, len(centres)))
    here = plan.maps.at(centres) + FUZZY * (stray[:, None] - 0.5)
    region, inflamed = here[:, REGION] >= INSIDE, here[:, INFLAMED] >= INSIDE
    if kind is TUMOUR:
        share = np.where(region, 0.93, 0.0)
    elif kind is LYMPHOCYTE:
        share = np.where(inflamed | (region & (not plan.tumour)), 0.92, 0.02)
    else:
        share = np.where(region | inflamed, 0.15, 0.45)
        direction = (direction - 0.5) * 0.25  # along the fibres
    pictures = np.rint(direction * ANGLES).astype(np.int64) % ANGLES * VARIANTS + (variant * VARIANTS).astype(np.int64)
    kept = chance < share
    return Nuclei(kind, centres[kept], pictures[kept])


def _places(plan: SlidePlan, number: int, pitch_um: float, row: int, column: int) -> tuple[Points, np.random.Generator]:
    """Points of a shaken grid in one block, and the block's random numbers that follow."""
    rng = stream(plan.seed, Purpose.SLIDE_CELLS, plan.index, row, column, number)
    steps = max(1, round(BLOCK_PX0 * plan.mpp / pitch_um))
    grid = np.stack(np.meshgrid(np.arange(steps), np.arange(steps)), axis=-1).reshape(-1, 2)
    points = (grid + 0.5 + rng.uniform(-0.36, 0.36, grid.shape)) * (BLOCK_PX0 / steps)
    return points.astype(np.int64) + BLOCK_PX0 * np.array([column, row]), rng


def _blocks(part: Rectangle) -> Iterator[tuple[int, int]]:
    """Row and column of each block of the slide that a part touches; there are none left of it or above."""
    for row in range(max(0, part.y // BLOCK_PX0), (part.y + part.height - 1) // BLOCK_PX0 + 1):
        for column in range(max(0, part.x // BLOCK_PX0), (part.x + part.width - 1) // BLOCK_PX0 + 1):
            yield row, column
