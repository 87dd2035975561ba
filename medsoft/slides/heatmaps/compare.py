"""Compares heatmaps with regions that somebody drew: how much of what raises the logit lies inside them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from medsoft.errors import SlideError
from medsoft.slides.annotations.on_slide import Frame, regions_on_slide
from medsoft.slides.annotations.settings import AnnotationSource
from medsoft.slides.heatmaps.geojson import mass_inside
from medsoft.slides.heatmaps.tile_sheet import read_contributions
from medsoft.slides.records import as_text, write_whole

TABLE = "heatmaps_in_regions.csv"


@dataclass(frozen=True)
class InRegions:
    """A slide's heatmap and its regions.

    Attributes:
        id: of the slide.
        heatmap: folder of the heatmap below heatmaps/; "" for the default one.
        regions: number of regions.
        mass_inside: part of the positive contributions that lies inside; NaN where none is positive.
        area_inside: part of the tiles' area that lies inside: what a heatmap without any knowledge would reach.
    """

    id: str
    heatmap: str
    regions: int
    mass_inside: float
    area_inside: float


def compare_heatmap(
    contributions: Path,
    id: str,
    heatmap: str,
    slide: Frame,
    tile_px0: float,
    source: AnnotationSource,
    classes: Sequence[str],
    exclude: Sequence[str],
) -> InRegions:
    """Compare the heatmap of a slide with its regions.

    Args:
        contributions: the heatmap's CSV.
        id: of the slide.
        heatmap: folder of the heatmap.
        slide: its size, bounds and resolution.
        tile_px0: side of a tile in level-0 pixels.
        source: the annotation file.
        classes: of the regions; () for all.
        exclude: classes that are cut out of these.

    Raises:
        SlideError: the annotation file cannot be used, or the heatmap's CSV cannot be read.
    """
    areas = regions_on_slide(source, slide).chosen(classes, exclude)
    try:
        tiles = read_contributions(contributions, id)
    except (OSError, ValueError, KeyError) as error:
        raise SlideError(f"its heatmap {contributions.name} cannot be read ({type(error).__name__})") from None
    coords_N2_px0 = np.array([(tile.x_px0, tile.y_px0) for tile in tiles], np.int64).reshape(-1, 2)
    values_N = np.array([tile.value for tile in tiles])
    found = [mass_inside(coords_N2_px0, tile_px0, one_N, areas) for one_N in (values_N, np.ones(len(tiles)))]
    return InRegions(id, heatmap, len(areas), *found)


def write_comparison(path: Path, rows: Sequence[InRegions]) -> str:
    """Write the table, and say the means over the slides with regions.

    Raises:
        OSError: the folder cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(InRegions)])
    writer.writeheader()
    for row in rows:
        cells = {name: "" if value != value else as_text(value) for name, value in asdict(row).items()}
        writer.writerow(cells)
    write_whole(path, text.getvalue().encode())
    known = [row for row in rows if row.regions and not math.isnan(row.mass_inside)]
    if not known:
        return f"no heatmap could be compared with regions: {path}"
    mass, area = (float(np.mean([getattr(row, name) for row in known])) for name in ("mass_inside", "area_inside"))
    return (
        f"{mass:.0%} of what raises the logit lies within the regions, which are {area:.0%} of the tiles' area (means "
        f"over {len(known)} heatmaps): {path}"
    )
