"""Draws the tissue and tiles of a slide into its overview, with a scale bar and a line of facts.

This is the picture to look at before a run is believed: whether tissue was missed, or ink, dust and borders taken for
tissue, and whether the scale bar fits what is seen.
"""

from __future__ import annotations

import importlib.util
import io
import math
import textwrap
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medsoft.slides.folder import write_whole
from medsoft.slides.tiling.slide_tissue import mask_mpp
from medsoft.slides.tiling.tiling import Tiling

LONG_SIDE_PX = 1600
LEAST_WIDTH_PX = 800
"""Narrower overviews get a margin, so that the facts have room."""

TISSUE, TILE, REGION, WARNING, INK = (0, 130, 60), (20, 60, 200), (200, 90, 0), (170, 20, 20), (34, 34, 34)
OUTLINED_PX = 6
"""Tiles drawn smaller than this are tinted but not outlined: there would be nothing but lines."""

FONT_PX = 17

Colour = tuple[int, int, int]


def write_overview(path: Path, overview_HW3: np.ndarray, mask_HW: np.ndarray, tiling: Tiling) -> None:
    """Draw and write the picture as JPEG, whole or not at all.

    Args:
        path: the file.
        overview_HW3: uint8 RGB, the whole slide.
        mask_HW: bool, tissue, of the same size.
        tiling: the tiles and facts of the slide.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    picture = draw_overview(overview_HW3, mask_HW, tiling)
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="JPEG", quality=85)
    write_whole(path, content.getbuffer())


def draw_overview(overview_HW3: np.ndarray, mask_HW: np.ndarray, tiling: Tiling) -> np.ndarray:
    """The picture, uint8 RGB: the overview with its long side at ``LONG_SIDE_PX``, and lines of facts below."""
    height, width = mask_HW.shape
    scale = LONG_SIDE_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = cv2.resize(overview_HW3, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    px_per_px0 = size[0] / tiling.size_px0[0]
    _draw_tiles(picture, tiling, px_per_px0)
    _draw_left_out(picture, tiling, px_per_px0)
    mask = cv2.resize(mask_HW.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)  # holes too
    cv2.drawContours(picture, contours, -1, TISSUE, 2)
    _draw_regions(picture, tiling, px_per_px0)
    return with_facts(picture, facts(tiling), tiling.mpp / px_per_px0)


def _draw_tiles(picture: np.ndarray, tiling: Tiling, px_per_px0: float) -> None:
    side = tiling.tile_px0 * px_per_px0
    corners = np.rint(tiling.coords_N2_px0 * px_per_px0).astype(int).tolist()
    stops = np.rint((tiling.coords_N2_px0 + tiling.tile_px0) * px_per_px0).astype(int).tolist()
    tinted = picture.copy()
    for corner, stop in zip(corners, stops, strict=True):
        cv2.rectangle(tinted, corner, stop, TILE, cv2.FILLED)
    cv2.addWeighted(tinted, 0.12, picture, 0.88, 0, dst=picture)
    if side >= OUTLINED_PX:
        for corner, stop in zip(corners, stops, strict=True):
            cv2.rectangle(picture, corner, stop, TILE, 1)


def _draw_left_out(picture: np.ndarray, tiling: Tiling, px_per_px0: float) -> None:
    """Tint tiles that artefacts have ruled out."""
    if tiling.quality is None or not tiling.quality.tiles_left_out:
        return
    tinted = picture.copy()
    for x, y in tiling.quality.corners_left_out_M2_px0:
        corner, stop = (np.rint((np.array([x, y]) + side) * px_per_px0).astype(int) for side in (0, tiling.tile_px0))
        cv2.rectangle(tinted, corner.tolist(), stop.tolist(), WARNING, cv2.FILLED)
    cv2.addWeighted(tinted, 0.35, picture, 0.65, 0, dst=picture)


def _draw_regions(picture: np.ndarray, tiling: Tiling, px_per_px0: float) -> None:
    for area in tiling.drawn:
        for polygon in getattr(area, "geoms", [area]):
            for ring in (polygon.exterior, *polygon.interiors):
                points = np.rint(np.asarray(ring.coords)[:, :2] * px_per_px0).astype(np.int32)
                cv2.polylines(picture, [points], True, REGION, 2, cv2.LINE_AA)


def with_facts(picture: np.ndarray, lines_of_facts: list[tuple[str, Colour]], um_per_px: float) -> np.ndarray:
    """The picture with a scale bar and lines of text below, each in its colour."""
    width = max(LEAST_WIDTH_PX, picture.shape[1])
    font = ImageFont.truetype(_font_file(), FONT_PX)
    lines = [(line, colour) for text, colour in lines_of_facts for line in textwrap.wrap(text, width // 10) or [""]]
    line_px = FONT_PX + 8
    bar_px, bar_text = scale_bar(um_per_px, width / 5)
    page = Image.new("RGB", (width, picture.shape[0] + line_px * (len(lines) + 1) + 24), "white")
    page.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(page)
    y = picture.shape[0] + 12
    draw.rectangle((10, y + 4, 10 + bar_px, y + 10), fill=INK)
    draw.text((20 + bar_px, y - 3), bar_text, fill=INK, font=font)
    for i, (line, colour) in enumerate(lines, start=1):
        draw.text((10, y + i * line_px - 3), line, fill=colour, font=font)
    return np.asarray(page)


def facts(tiling: Tiling) -> list[tuple[str, Colour]]:
    """Lines of text with their colours: what the slide is, what was found, and what is doubtful."""
    settings = tiling.settings
    width, height = tiling.size_px0
    overlap = f", {settings.overlap_px} px overlap" if settings.overlap_px else ""
    tiles = (
        f"{len(tiling)} tiles of {settings.tile_px} px at {settings.mpp:.4g} µm/px ({tiling.tile_um:.4g} µm{overlap})"
    )
    mask = mask_mpp(tiling.mpp, settings.tissue)
    lines = [
        (tiling.slide, INK),
        (f"{width} × {height} px at {tiling.mpp:.4g} µm/px ({tiling.mpp_origin})", INK),
        (f"{tiles}, at least {settings.min_tissue:.0%} tissue", TILE),
        (f"{tiling.tissue_mm2:.3g} mm² tissue ({settings.tissue.method}, {mask:.4g} µm/px)", TISSUE),
    ]
    if settings.regions is not None:
        lines.append((f"tiles {settings.regions.in_words}", REGION))
    if tiling.quality is not None and tiling.quality.in_words:
        lines.append((tiling.quality.in_words, WARNING))
    return lines + [(warning, WARNING) for warning in tiling.warnings]


def scale_bar(um_per_px: float, room_px: float) -> tuple[int, str]:
    """Length in pixels and text of the longest bar of 1, 2 or 5 × 10ⁿ µm within ``room_px``."""
    room_um = um_per_px * room_px
    power = 10.0 ** math.floor(math.log10(room_um))
    length_um = max(step * power for step in (1, 2, 5) if step * power <= room_um)
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    return round(length_um / um_per_px), text


def _font_file() -> str:
    """DejaVu Sans of Matplotlib, found without importing it: Pillow's own font has neither µ nor ä."""
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None
    assert spec.submodule_search_locations  # a dependency of medsoft
    return str(Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")
