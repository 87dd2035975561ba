"""Contact sheets of the tiles that add most and least to a logit, with position, resolution and contribution."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medsoft.errors import TileError
from medsoft.slides.heatmaps.heatmap import Pixels
from medsoft.slides.reading.slide import Slide

SHEET = ".tiles.png"
"""Suffix of a slide's sheet, beside its heatmap."""
SHOWN = 8
"""Tiles of each kind on a sheet."""
RAISES, LOWERS = "#b2182b", "#2166ac"
"""Frames of tiles with a positive and a negative contribution: the ends of the heatmap's colours."""


@dataclass(frozen=True)
class Contribution:
    """A tile and what it adds.

    Attributes:
        slide: id of its slide.
        x_px0: left edge in level-0 pixels, from the slide's corner.
        y_px0: top edge.
        value: its contribution, in the unit of the logit (of the prediction of a regression).
    """

    slide: str
    x_px0: int
    y_px0: int
    value: float


def read_contributions(path: Path, slide: str) -> list[Contribution]:
    """The tiles of a heatmap's CSV, with their contributions, or the attention of a model that gives that.

    Raises:
        OSError: it cannot be read.
        ValueError, KeyError: it is damaged.
    """
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Contribution(
                slide, int(row["x_px0"]), int(row["y_px0"]), float(row.get("attention") or row["contribution"])
            )
            for row in csv.DictReader(file)
        ]


def shown_in(about: Mapping[str, Any]) -> str:
    """What a sheet shows, from what a heatmap says of itself (``about_heatmap``)."""
    if about["sum_of_contributions"] is None:
        return f"tiles with most (above) and least (below) {about['quantity']}"
    return f"tiles that add most (above) and least (below) to the {about['quantity']}"


def most_and_least(
    tiles: Sequence[Contribution], number: int, most_of_a_slide: int | None = None
) -> tuple[list[Contribution], list[Contribution]]:
    """The tiles with the largest contributions, the largest first, and those with the smallest, the smallest first.

    No tile is in both: of few tiles, half are in each. Equal contributions come in the order of the tiles.

    Args:
        tiles: of one slide, or of several.
        number: of each kind.
        most_of_a_slide: at most so many of one slide in each; None: any number.
    """
    order = sorted(range(len(tiles)), key=lambda row: -tiles[row].value)
    most = _spread([tiles[row] for row in order], min(number, (len(tiles) + 1) // 2), most_of_a_slide)
    taken = set(most)
    rest = [tiles[row] for row in reversed(order) if tiles[row] not in taken]
    return most, _spread(rest, min(number, len(tiles) // 2), most_of_a_slide)


def _spread(tiles: Sequence[Contribution], number: int, most_of_a_slide: int | None) -> list[Contribution]:
    taken: dict[str, int] = {}
    found: list[Contribution] = []
    for tile in tiles:
        if len(found) < number and (most_of_a_slide is None or taken.get(tile.slide, 0) < most_of_a_slide):
            found.append(tile)
            taken[tile.slide] = taken.get(tile.slide, 0) + 1
    return found


def read_pictures(
    slide: Slide, tiles: Sequence[Contribution], tile_settings: Mapping[str, Any]
) -> dict[Contribution, Pixels]:
    """The tiles as the encoder saw them, without those that cannot be read any more.

    Args:
        slide: open.
        tiles: of this slide.
        tile_settings: their ``tile_px`` and ``mpp``.

    Raises:
        SlideError: the slide is too coarse for such tiles.
    """
    found = {}
    for tile in tiles:
        try:
            found[tile] = slide.read_tile(tile.x_px0, tile.y_px0, int(tile_settings["tile_px"]), tile_settings["mpp"])
        except TileError:
            continue
    return found


def write_tile_sheet(
    path: Path,
    most: Sequence[Contribution],
    least: Sequence[Contribution],
    pictures: Mapping[Contribution, Pixels],
    tile_settings: Mapping[str, Any],
    title: str,
    with_slides: bool = False,
) -> None:
    """Draw the tiles, the ones that add most first.

    Args:
        path: the file.
        most: largest contributions.
        least: smallest contributions, the smallest first.
        pictures: of the tiles; those without one are left out.
        tile_settings: their ``tile_px`` and ``mpp``, which the title gives.
        title: what the tiles add to.
        with_slides: whether captions name the slides.

    Raises:
        OSError: the file cannot be written.
    """
    from medsoft.data.datasets.contact_sheet import contact_sheet  # Matplotlib waits until there is something to draw

    rows = [[tile for tile in kind if tile in pictures] for kind in (most, least)]
    columns = max(map(len, rows))
    if not columns:
        return
    tiles = [tile for row in rows if row for tile in (*row, *[None] * (columns - len(row)))]
    images = [None if tile is None else pictures[tile] for tile in tiles]
    captions = ["" if tile is None else _caption(tile, with_slides) for tile in tiles]
    frames = [RAISES if tile is None or tile.value >= 0 else LOWERS for tile in tiles]
    side_um = tile_settings["tile_px"] * tile_settings["mpp"]
    size = f"tiles of {tile_settings['tile_px']} px at {tile_settings['mpp']:g} µm/px ({side_um:.4g} µm)"
    contact_sheet(images, captions, columns, f"{title}; {size}", path, frames)


def _caption(tile: Contribution, with_slide: bool) -> str:
    lines = [tile.slide] if with_slide else []
    number = f"{tile.value:+#.3g}".replace("-", "−")
    return "\n".join([*lines, number, f"x {tile.x_px0}, y {tile.y_px0}"])


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def mosaic(
    most: Sequence[Contribution], least: Sequence[Contribution], pictures: Mapping[Contribution, Pixels], side: int
) -> Pixels | None:
    """Two rows of three tiles that add most, framed red, and one of three that add least, framed blue.

    Args:
        most: as for ``write_tile_sheet``.
        least: likewise.
        pictures: likewise.
        side: of the result in pixels, roughly.

    Returns:
        (side, side, 3); None where no tile can be shown.
    """
    import cv2

    cell, line = side // 3, max(2, side // 100)
    rows = [[*most[:6]], [*least[:3]]]
    shown: npt.NDArray[np.uint8] = np.full((3 * cell, 3 * cell, 3), 255, np.uint8)
    drawn = False
    for kind, (tiles, colour) in enumerate(zip(rows, map(_rgb, (RAISES, LOWERS)), strict=True)):
        for place, tile in enumerate(tile for tile in tiles if tile in pictures):
            top, left = (2 * kind + place // 3) * cell, place % 3 * cell
            framed = np.empty((cell, cell, 3), np.uint8)
            framed[:] = colour
            inner = cell - 2 * line
            picture = cv2.resize(pictures[tile], (inner, inner), interpolation=cv2.INTER_AREA)
            framed[line : line + inner, line : line + inner] = picture
            shown[top : top + cell, left : left + cell] = framed
            drawn = True
    return shown if drawn else None
