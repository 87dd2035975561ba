"""Paints any part of a planned slide; its pixels do not depend on how the slide is divided.

Tissue is two layers of stain, eosin and haematoxylin, 0 to 255 each; light passes both and the glass.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from medsoft.data.phantoms.slides.cells import Gland, glands_near, nuclei_near, nuclei_of
from medsoft.data.phantoms.slides.coarse_maps import Pixels, Rectangle
from medsoft.data.phantoms.slides.nuclei import reach_px, stamps
from medsoft.data.phantoms.slides.plan import INK, INSIDE, OUTLINE_CELLS, TISSUE, SlidePlan
from medsoft.data.phantoms.slides.textures import MIDDLE, cut, draw_textures

LARGEST_PX = 1024
FIRM = 200  # nuclei lie where tissue is at least this solid
BLACK = 10
MARK, MARK_GREY = "PHANTOM", 120


def paint(plan: SlidePlan, x_px0: int, y_px0: int, width: int, height: int) -> Pixels:
    """Paint a part of the slide, at most ``LARGEST_PX`` a side: uint8 (height, width, 3), RGB."""
    part = Rectangle(x_px0, y_px0, width, height)
    image = _glass(plan, part)
    if plan.maps.cells(part)[..., TISSUE].any():
        image = np.asarray(cv2.multiply(image, _light_through_tissue(plan, part), scale=1 / 255), np.uint8)
    _draw_artefacts(plan, part, image)
    return image


def _glass(plan: SlidePlan, part: Rectangle) -> Pixels:
    """Empty glass, a little darker to the right and down."""
    shade_x, shade_y = plan.stain.shade
    right = np.rint((part.x + np.arange(part.width)) / plan.size_px0 * shade_x)
    down = np.rint((part.y + np.arange(part.height)) / plan.size_px0 * shade_y)
    row = (np.array(plan.stain.glass) - right[:, None]).astype(np.uint8)
    return np.asarray(row[None] - down.astype(np.uint8)[:, None, None], np.uint8)


def _light_through_tissue(plan: SlidePlan, part: Rectangle) -> Pixels:
    """The share of light that both stains let through, 0 to 255: (H, W, 3)."""
    reach = reach_px(plan.mpp)
    around = part.grown(reach)  # a nucleus whose centre lies outside of this does not reach the part
    eosin, haematoxylin, solid = _matrix(plan, around)
    glands = glands_near(plan, around)
    for gland in glands:
        _draw_gland(gland, around, eosin, haematoxylin, solid)
    haematoxylin = _with_nuclei(plan, around, glands, haematoxylin, solid)
    middle = np.s_[reach : reach + part.height, reach : reach + part.width]
    pink, blue = (cv2.multiply(layer[middle], solid[middle], scale=1 / 255) for layer in (eosin, haematoxylin))
    through_pink, through_blue = _transmission(plan.stain.eosin), _transmission(plan.stain.haematoxylin)
    channels = [
        cv2.multiply(cv2.LUT(pink, through_pink[:, c]), cv2.LUT(blue, through_blue[:, c]), scale=1 / 255)
        for c in range(3)
    ]
    return np.asarray(cv2.merge(channels), np.uint8)


def _transmission(density: tuple[float, float, float]) -> Pixels:
    """Light (256, 3) that passes 0 to 255 of a stain (Beer and Lambert)."""
    light: Pixels = np.rint(255 * np.exp(-np.arange(256)[:, None] / 255 * np.array(density))).astype(np.uint8)
    return light


def _matrix(plan: SlidePlan, around: Rectangle) -> tuple[Pixels, Pixels, Pixels]:
    """What lies between the cells: eosin, haematoxylin, and where it is solid (255) or open (0)."""
    textures = draw_textures(plan.mpp)
    place = (around.x + plan.texture_px[0], around.y + plan.texture_px[1], around.width, around.height)
    fibres, clefts, clouds, walls = (
        cut(texture, *place) for texture in (textures.fibres, textures.clefts, textures.clouds, textures.fat)
    )
    tissue, fat, region, inflamed, _ = cv2.split(plan.maps.enlarged(around))
    eosin = cv2.addWeighted(fibres, 0.55, clouds, 0.55, 150 - 1.1 * MIDDLE)
    haematoxylin = cv2.addWeighted(region, 18 / 255, inflamed, 18 / 255, 14)

    # From the gentle slope of a map to an outline that is soft over two micrometres, and frayed by the fibres.
    steepness = OUTLINE_CELLS * plan.maps.cell_px0 * plan.mpp
    table = np.clip(127.5 + (np.arange(256) - INSIDE) * steepness, 0, 255).astype(np.uint8)
    fraying = min(8 / steepness, 0.7)  # more would make tissue of glass where the map is 0
    frayed = cv2.addWeighted(tissue, 1, fibres, fraying, -fraying * MIDDLE)
    solid = cv2.min(cv2.LUT(frayed, table), clefts)
    if fat.any():
        solid = cv2.min(solid, cv2.max(255 - cv2.LUT(fat, table), walls))
    return np.asarray(eosin, np.uint8), np.asarray(haematoxylin, np.uint8), np.asarray(solid, np.uint8)


def _draw_gland(gland: Gland, around: Rectangle, eosin: Pixels, haematoxylin: Pixels, solid: Pixels) -> None:
    """Fill the ring and its opening, in place."""
    outer, inner = (_polygon(gland.outline(share, 40)[0], around) for share in (1.0, 0.48))
    for layer, value in ((solid, 255), (eosin, 135), (haematoxylin, 42)):
        cv2.fillPoly(layer, [outer], value, cv2.LINE_AA, shift=4)
    cv2.fillPoly(solid, [inner], 0, cv2.LINE_AA, shift=4)


def _polygon(points: NDArray[np.float64], around: Rectangle) -> NDArray[np.int32]:
    """Points in sixteenths of the part's pixels, as OpenCV wants them."""
    return np.rint((points - (around.x, around.y)) * 16).astype(np.int32)


def _with_nuclei(plan: SlidePlan, around: Rectangle, glands: list[Gland], stain: Pixels, solid: Pixels) -> Pixels:
    """The layer of haematoxylin with all nuclei whose centre lies in the part, on firm ground."""
    drawn, reach = stamps(plan.mpp), reach_px(plan.mpp)
    roomy = cv2.copyMakeBorder(stain, reach, reach, reach, reach, cv2.BORDER_CONSTANT)
    for nuclei in (*nuclei_near(plan, around), *(nuclei_of(gland, plan.mpp) for gland in glands)):
        x, y = nuclei.centres_N2_px0[:, 0] - around.x, nuclei.centres_N2_px0[:, 1] - around.y
        kept = np.flatnonzero((x >= 0) & (y >= 0) & (x < around.width) & (y < around.height))
        kept = kept[solid[y[kept], x[kept]] >= FIRM]
        pictures = drawn[nuclei.kind]
        for left, top, number in zip(x[kept].tolist(), y[kept].tolist(), nuclei.pictures_N[kept].tolist(), strict=True):
            picture = pictures[number]
            side = len(picture)
            half = reach - side // 2
            under = roomy[top + half : top + half + side, left + half : left + half + side]
            np.maximum(under, picture, out=under)
    return np.asarray(roomy[reach:-reach, reach:-reach], np.uint8)


def _draw_artefacts(plan: SlidePlan, part: Rectangle, image: Pixels) -> None:
    """Draw pen ink, a black border and the word PHANTOM, in place."""
    if plan.maps.cells(part)[..., INK].any():
        opaque = plan.maps.enlarged(part)[..., INK, None].astype(np.float32) / 255
        image[:] = np.rint(image * (1 - opaque * (1 - np.array(plan.ink, np.float32) / 255)))
    image[:, max(0, plan.size_px0 - plan.border_px0 - part.x) :] = BLACK
    if part.x < 0.3 * plan.size_px0 and part.y + part.height > 0.9 * plan.size_px0:
        height = plan.size_px0 / 45
        scale, thickness = height / 21, max(1, round(height / 8))  # OpenCV's letters are 21 pixels high
        corner = (round(0.02 * plan.size_px0) - part.x, round(0.98 * plan.size_px0) - part.y)
        cv2.putText(image, MARK, corner, cv2.FONT_HERSHEY_SIMPLEX, scale, (MARK_GREY,) * 3, thickness, cv2.LINE_AA)
