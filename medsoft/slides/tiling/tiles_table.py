"""The table of tiles, ``tiles.csv``: a sample table for ``medsoft fit --config histo_tiles``.

One row per tile: where its picture is (a file, a place in an HDF5 file, or a place on its slide), the slide and corner,
the label that its regions give it, and the columns of the slide's row in the user's table.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsoft.slides.annotations.area import majority_labels, parts_inside
from medsoft.slides.annotations.on_slide import regions_on_slide
from medsoft.slides.annotations.settings import RegionOptions
from medsoft.slides.reading.sample import TilePlace
from medsoft.slides.records import as_text
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.save_tiles import SavedTiles
from medsoft.slides.tiling.tiling import Tiling

COLUMNS = ("id", "path", "slide", "x_px0", "y_px0", "tile_px", "tile_mpp", "tissue")
LABEL, PART = "label", "label_part"
UNNAMED = "unclassified"
"""Label of tiles in regions without a class."""


@dataclass(frozen=True)
class TileRows:
    """The rows of one slide.

    Attributes:
        rows: by column.
        labelled: tiles by label; "" those that no class has the majority of, and that have no row.
    """

    rows: list[dict[str, str]]
    labelled: Counter[str]


def tile_rows(
    source: SlideSource, tiling: Tiling, saved: SavedTiles | None, folder: Path, drawn: RegionOptions, other: str | None
) -> TileRows:
    """The rows of a slide's tiles.

    Args:
        source: the slide.
        tiling: its tiles.
        saved: the pictures that were saved; None: the tiles are read from the slide.
        folder: of the table, which paths are relative to.
        drawn: which regions label tiles.
        other: label of tiles of which more than half lies in no region; None: they have none.

    Raises:
        SlideError: the regions cannot be used.
    """
    rows_n = np.arange(len(tiling)) if saved is None else saved.rows
    labels_n, parts_n = _labels(source, tiling, rows_n, drawn, other)
    settings = tiling.settings
    ours = (*COLUMNS, *(() if tiling.quality is None else tiling.quality.columns), LABEL, PART)
    theirs = {f"slide_{name}" if name in ours else name: v for name, v in source.row.items()}
    rows = []
    for place, row in enumerate(rows_n):
        if labels_n is not None and not labels_n[place]:
            continue
        x, y = map(int, tiling.coords_N2_px0[row])
        if saved is None:
            stated = source.mpp
            path = TilePlace(x, y, settings.tile_px, settings.mpp, stated).of(os.path.relpath(source.path, folder))
        else:
            found = os.path.relpath(saved.place, folder)
            path = found + saved.paths[place] if saved.paths[place].startswith("#") else f"{found}/{saved.paths[place]}"
        tile = settings.tile_px, settings.mpp, float(tiling.tissue_N[row])
        values = (f"{source.id}-{x}-{y}", path, source.id, x, y, *tile)
        cells = dict(zip(COLUMNS, map(as_text, values), strict=True))
        if tiling.quality is not None:
            cells |= {name: _number(values_N[row]) for name, values_N in tiling.quality.columns.items()}
        if labels_n is not None and parts_n is not None:
            cells |= {LABEL: labels_n[place], PART: as_text(float(parts_n[place]))}
        rows.append(cells | theirs)
    return TileRows(rows, Counter(labels_n or []))


def _number(value: float) -> str:
    """Four digits; nothing where it is not known."""
    return "" if np.isnan(value) else f"{value:.4g}"


def _labels(
    source: SlideSource, tiling: Tiling, rows_n: np.ndarray, drawn: RegionOptions, other: str | None
) -> tuple[list[str] | None, np.ndarray | None]:
    """The label of each tile, and the part of its area that has it; None where no regions are named."""
    if source.annotations is None:
        return None, None
    regions = regions_on_slide(source.annotations, tiling)
    coords_n2_px0, side = tiling.coords_N2_px0[rows_n], tiling.tile_px0
    names = drawn.classes or sorted({region.name for region in regions.regions} - set(drawn.excluded))
    parts: dict[str, np.ndarray] = {}
    for name in names:
        parts[name or UNNAMED] = parts_inside(coords_n2_px0, side, regions.chosen((name,), drawn.excluded))
    inside_n = parts_inside(coords_n2_px0, side, regions.chosen(drawn.classes, drawn.excluded))
    labels = majority_labels(parts, inside_n, other)
    part_n = [parts[label][i] if label in parts else 1 - inside_n[i] for i, label in enumerate(labels)]
    return labels, np.array(part_n)
