"""Seamless tissue textures, drawn once and cropped anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

PERIOD_PX = 1024
OTHER_PERIOD_PX = 768  # of the clouds: together the two repeat only after 3072 pixels
LARGEST_CUT_PX = 1280
MIDDLE = 128  # the mean of a texture that lightens and darkens


@dataclass(frozen=True)
class Textures:
    """Grey textures (H, W), each continued far enough to be cut anywhere.

    Attributes:
        fibres: wavy fibres, mean 128.
        clefts: 255 in tissue, 0 in the slits between fibres.
        clouds: smooth, mean 128.
        fat: 255 on the walls of fat cells, 0 inside them.
    """

    fibres: Pixels
    clefts: Pixels
    clouds: Pixels
    fat: Pixels


def cut(texture: Pixels, x: int, y: int, width: int, height: int) -> Pixels:
    """A view (height, width) of the texture at any place; at most ``LARGEST_CUT_PX`` a side."""
    period = texture.shape[0] - LARGEST_CUT_PX
    top, left = y % period, x % period
    return texture[top : top + height, left : left + width]


@lru_cache(maxsize=4)
def draw_textures(mpp: float) -> Textures:
    """The textures at ``mpp`` µm per pixel, the same in every slide."""
    rng = np.random.default_rng(2024)
    # Fibres run along x and are bent by a smooth displacement, which repeats like the rest.
    bend = periodic_noise(rng, PERIOD_PX, 40 / mpp, 40 / mpp) * (13 / mpp)
    fibres = _bent(periodic_noise(rng, PERIOD_PX, 9 / mpp, 0.55 / mpp), bend)
    slits = _bent(periodic_noise(rng, PERIOD_PX, 28 / mpp, 1.6 / mpp), bend)
    clouds = periodic_noise(rng, OTHER_PERIOD_PX, 18 / mpp, 10 / mpp)
    return Textures(
        fibres=_continued(_grey(fibres)),
        clefts=_continued(np.clip((2.35 - slits) * 600, 0, 255).astype(np.uint8)),
        clouds=_continued(_grey(clouds)),
        fat=_continued(_fat_walls(rng, mpp)),
    )


def periodic_noise(rng: np.random.Generator, size: int, sigma_x: float, sigma_y: float) -> Floats:
    """Smooth noise (size, size) of mean 0 and deviation 1 that continues at the opposite edge."""
    frequency = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    smooth = np.exp(-2 * np.pi**2 * ((sigma_y * frequency[0]) ** 2 + (sigma_x * frequency[1]) ** 2))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) * smooth, s=(size, size))
    value: Floats = ((noise - noise.mean()) / noise.std()).astype(np.float32)
    return value


def _bent(noise: Floats, shift_px: Floats) -> Floats:
    """The noise with every pixel taken from ``shift_px`` further down."""
    rows, columns = np.indices(noise.shape).astype(np.float32)
    moved = cv2.remap(
        noise, np.asarray(columns), np.asarray(rows + shift_px), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )
    return np.asarray(moved, np.float32)


def _grey(noise: Floats) -> Pixels:
    return np.asarray(np.clip(MIDDLE + 45 * noise, 0, 255), np.uint8)


def _continued(texture: Pixels) -> Pixels:
    """The texture with its own beginning after its end."""
    return np.asarray(np.pad(texture, ((0, LARGEST_CUT_PX), (0, LARGEST_CUT_PX)), mode="wrap"))


def _fat_walls(rng: np.random.Generator, mpp: float) -> Pixels:
    """Walls between the cells that are nearest to points of a shaken grid."""
    cells = max(2, round(PERIOD_PX * mpp / 58))
    grid = np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), axis=-1).reshape(-1, 2)
    points = (grid + 0.5 + rng.uniform(-0.38, 0.38, grid.shape)) * PERIOD_PX / cells
    away = np.full((3 * PERIOD_PX, 3 * PERIOD_PX), 255, np.uint8)
    for shift in np.ndindex(3, 3):  # the neighbours across the edge are the texture's own
        x, y = (points + np.array(shift) * PERIOD_PX).astype(int).T
        away[y, x] = 0
    middle = np.s_[PERIOD_PX // 2 : 5 * PERIOD_PX // 2]
    _, nearest = cv2.distanceTransformWithLabels(
        away[middle, middle], cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    walls = np.zeros(nearest.shape, np.uint8)
    walls[:, 1:][nearest[:, 1:] != nearest[:, :-1]] = 255
    walls[1:][nearest[1:] != nearest[:-1]] = 255
    # Blurred and cut, corners become round.
    thick = cv2.GaussianBlur(walls, (0, 0), 2.2 / mpp).astype(np.float32) / 255
    walls = np.clip((thick * 6 / mpp - 0.55) * 3 * 255, 0, 255).astype(np.uint8)
    inner = np.s_[PERIOD_PX // 2 : 3 * PERIOD_PX // 2]
    return walls[inner, inner]
