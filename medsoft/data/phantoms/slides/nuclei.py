"""Cell nuclei: small images, drawn once and stamped many times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

ANGLES = 16  # a kind is drawn in this many directions over half a turn
VARIANTS = 6  # and so often in each
SUPERSAMPLED_MPP = 0.15  # they are drawn at least this finely, then averaged


@dataclass(frozen=True)
class Kind:
    """Nuclei of one sort of cell.

    Attributes:
        number: names the kind's random numbers; it keeps it, or all phantoms change.
        length_um, width_um: of the nucleus, on average.
        spread: deviation of both sizes, as a share.
        stain: how much haematoxylin it takes up, 0 to 255.
        mottled: how uneven its chromatin is, 0 to 1.
        pitch_um: distance of the places where one may lie.
    """

    number: int
    length_um: float
    width_um: float
    spread: float
    stain: int
    mottled: float
    pitch_um: float


FIBROBLAST = Kind(0, length_um=11.0, width_um=2.9, spread=0.20, stain=165, mottled=0.15, pitch_um=15.0)
EPITHELIUM = Kind(1, length_um=7.6, width_um=5.0, spread=0.10, stain=165, mottled=0.15, pitch_um=6.0)
LYMPHOCYTE = Kind(2, length_um=6.2, width_um=5.9, spread=0.07, stain=215, mottled=0.15, pitch_um=8.2)
TUMOUR = Kind(3, length_um=13.0, width_um=9.8, spread=0.20, stain=215, mottled=0.45, pitch_um=14.5)
KINDS = (FIBROBLAST, EPITHELIUM, LYMPHOCYTE, TUMOUR)
LARGEST_UM = 22.0  # across the longest nucleus that is drawn


@lru_cache(maxsize=4)
def stamps(mpp: float) -> dict[Kind, list[Pixels]]:
    """Pictures (S, S) of haematoxylin, 0 to 255, ``VARIANTS`` for each of ``ANGLES`` directions, S odd."""
    rng = np.random.default_rng(7)
    return {
        kind: [_nucleus(kind, math.pi * angle / ANGLES, mpp, rng) for angle in range(ANGLES) for _ in range(VARIANTS)]
        for kind in KINDS
    }


def reach_px(mpp: float) -> int:
    """No nucleus covers a pixel further from its centre than this, along x or y."""
    return math.ceil(LARGEST_UM / 2 / mpp) + 2


def _nucleus(kind: Kind, angle: float, mpp: float, rng: np.random.Generator) -> Pixels:
    """An uneven ellipse with a darker rim and clumps of chromatin."""
    length, width = (
        min(size * math.exp(rng.normal(0, kind.spread)), LARGEST_UM - 1) for size in (kind.length_um, kind.width_um)
    )
    half = math.ceil(length / 2 / mpp) + 1
    finer = math.ceil(mpp / SUPERSAMPLED_MPP)
    side = (2 * half + 1) * finer
    y, x = (np.indices((side, side)) + 0.5) / finer - half - 0.5
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    turn = np.arctan2(across / width, along / length)
    uneven = 1 + 0.06 * np.cos(2 * turn + rng.uniform(0, 7)) + 0.05 * np.cos(3 * turn + rng.uniform(0, 7))
    radius = np.hypot(along / (length / 2), across / (width / 2)) * mpp / uneven

    clumps = cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), 0.8 / mpp * finer)
    chromatin = 1 - kind.mottled * (0.5 - 0.45 * np.clip(clumps / clumps.std(), -1, 1)) * (radius < 0.82)
    # An edge as soft as the optics leave it: half a micrometre.
    edge = np.clip((1 - radius) * width / 2 / 0.5 + 0.5, 0, 1)
    drawn = cv2.resize(
        edge * chromatin * kind.stain * rng.uniform(0.9, 1.0), (2 * half + 1,) * 2, interpolation=cv2.INTER_AREA
    )
    return np.asarray(np.rint(drawn), np.uint8)
