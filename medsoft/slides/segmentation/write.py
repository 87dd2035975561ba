"""Writes what a segmentation of a slide leaves.

<id>.ome.tif   the map: 0 the background, then the classes in their order; levels of labels, µm per pixel
<id>.geojson   outlines of the classes with holes, for QuPath: level-0 pixels from the corner of the slide's bounds
<id>.jpg       the slide with the classes over it, for people
<id>.json      areas, classes, and what the files were made from; written when the others are there
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image
from shapely.affinity import scale

from medsoft.data.images.write_pyramid import write_pyramid
from medsoft.evaluation.segmentation.contours import COLOURS, with_outlines
from medsoft.slides.folder import write_whole
from medsoft.slides.heatmaps.geojson import annotation, write_features
from medsoft.slides.segmentation.outlines import TooManyCornersError, outlines_of
from medsoft.slides.segmentation.segment import Segmented
from medsoft.slides.tiling.ink import keep_large
from medsoft.slides.tiling.overview_figure import INK, LONG_SIDE_PX, WARNING, Colour, with_facts
from medsoft.slides.tiling.tissue import fill_small_holes
from medsoft.storage.files import replacing

if TYPE_CHECKING:
    from medsoft.slides.reading.slide import Slide

SUFFIXES = (".ome.tif", ".geojson", ".jpg", ".json")
OPACITY = 0.35
"""Of the classes over the slide."""
LEAST_OUTLINED_PX = 100
"""Smaller pieces and holes of the picture are coloured and have no outline: loose tissue would be lines alone."""
SMALLEST_LEVEL_PX = 512
"""The longer side of the smallest level of a map is no longer."""


def write_segmentation(
    slide: Slide,
    found: Segmented,
    place: Callable[[str], Path],
    about: Mapping[str, Any],
    min_area_um2: float,
    warnings: list[str],
) -> list[str]:
    """Write all files of a slide, each whole or not at all.

    Args:
        slide: open, for the picture.
        found: its map.
        place: from a suffix to the file.
        about: what ``made_of`` reads later.
        min_area_um2: smaller pieces get no outline, and smaller holes are closed.
        warnings: what the user should look at.

    Returns:
        The warnings, with those that came here.

    Raises:
        OSError: a file cannot be written.
    """
    place(".json").unlink(missing_ok=True)  # the files that it vouches for are about to change
    pieces: dict[str, int] = {}
    place(".geojson").parent.mkdir(parents=True, exist_ok=True)
    try:
        write_features(place(".geojson"), _features(found, min_area_um2, pieces))
    except TooManyCornersError:
        place(".geojson").unlink(missing_ok=True)
        pieces.clear()
        warnings = [*warnings, "the outlines are too fine to be written: the map has them; take a coarser --mpp"]
    labels, width = found.labels, max(found.labels.size_px)
    downsamples = [1]
    while width / downsamples[-1] > SMALLEST_LEVEL_PX:
        downsamples.append(downsamples[-1] * 4)
    names = ", ".join(f"{value} {name}" for value, name in enumerate(("background", *found.classes)))
    write_pyramid(
        place(".ome.tif"),
        labels.size_px,
        labels.block,
        found.mpp,
        downsamples=downsamples,
        compression="deflate",
        description=f"medsoft segmentation: {names}".encode("ascii", "replace").decode(),
        ome=True,
        labels=True,
    )
    _write_picture(place(".jpg"), slide, found, min_area_um2, warnings)
    facts = {
        **about,
        "slide": slide.name,
        "mpp": slide.mpp,
        "mpp_origin": slide.mpp_origin,
        "bounds_px0": list(slide.bounds_px0),
        "classes": list(found.classes),
        "map": {"mpp": found.mpp, "size_px": list(labels.size_px), "px0_per_px": found.scale_px0},
        "area_px": dict(zip(found.classes, found.pixels_C[1:].tolist(), strict=True)),
        "area_mm2": found.mm2,
        "pieces": pieces,
        "windows": {"all": found.windows, "shown": found.shown, "unreadable": found.unreadable},
        "warnings": warnings,
    }
    with replacing(place(".json")) as temporary:
        temporary.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return warnings


def read_about(path: Path) -> dict[str, Any]:
    """What the JSON of a segmentation says; {} where there is none, or it is damaged."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def colour_of(value: int) -> Colour:
    """The colour of a class, by its value in the map from 1 on."""
    return COLOURS[(value - 1) % len(COLOURS)]


def _features(found: Segmented, min_area_um2: float, pieces: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Outlines of all classes; counts them by class."""
    pixel_um2 = found.mpp**2
    for value, name in enumerate(found.classes, start=1):
        polygons = outlines_of(found.labels, value, min_area_um2 / pixel_um2)
        pieces[name] = len(polygons)
        for number, polygon in enumerate(polygons, start=1):
            outline = scale(polygon, found.scale_px0, found.scale_px0, origin=(0, 0))
            measurements = {"area mm2": polygon.area * pixel_um2 / 1e6}
            yield annotation(outline, f"{name} {number}", name, colour_of(value), measurements)


def _write_picture(path: Path, slide: Slide, found: Segmented, min_area_um2: float, warnings: list[str]) -> None:
    x0, y0, width, height = slide.bounds_px0
    um_per_px = max(slide.mpp, max(width, height) * slide.mpp / LONG_SIDE_PX)
    whole_HW3 = slide.overview(um_per_px)
    scale_px = whole_HW3.shape[1] / slide.size_px0[0]
    left, top = round(x0 * scale_px), round(y0 * scale_px)
    picture = whole_HW3[top : top + max(1, round(height * scale_px)), left : left + max(1, round(width * scale_px))]
    small_HW = _nearest(found, (picture.shape[1], picture.shape[0]))
    colours = np.array([(0, 0, 0), *map(colour_of, range(1, 1 + len(found.classes)))], np.uint8)
    mixed = cv2.addWeighted(colours[small_HW], OPACITY, picture, 1 - OPACITY, 0)
    drawn = np.where(small_HW[..., None] > 0, mixed, picture)
    outlined_HW = without_small(small_HW, len(found.classes), min_area_um2 * (scale_px / slide.mpp) ** 2)
    drawn = with_outlines(drawn, outlined_HW, len(found.classes), 1)
    lines = [(slide.name, INK), (f"{found.shown} of {found.windows} windows at {found.mpp:.4g} µm/px", INK)]
    mm2 = found.mm2
    lines += [(f"{name}: {mm2[name]:.4g} mm²", colour_of(value)) for value, name in enumerate(found.classes, start=1)]
    page = with_facts(drawn, [*lines, *((warning, WARNING) for warning in warnings)], slide.mpp / scale_px)
    content = io.BytesIO()
    Image.fromarray(page).save(content, format="JPEG", quality=85)
    write_whole(path, content.getbuffer())


def without_small(labels_HW: np.ndarray, classes: int, least_px: float) -> np.ndarray:
    """The labels of a picture without pieces and holes that get no outline there."""
    least_px = max(LEAST_OUTLINED_PX, least_px)
    large_HW = np.zeros_like(labels_HW)
    for value in range(1, 1 + classes):
        large_HW[keep_large(fill_small_holes(labels_HW == value, least_px), least_px)] = value
    return large_HW


def _nearest(found: Segmented, size: tuple[int, int]) -> np.ndarray:
    """The map at another size (width, height), the value in the middle of each new pixel."""
    columns, rows = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)
        for new, old in zip(size, found.labels.size_px, strict=True)
    )
    small_HW = np.empty(size[::-1], np.uint8)
    for top, band in found.labels.bands():
        inside = (rows >= top) & (rows < top + len(band))
        small_HW[inside] = band[np.ix_(rows[inside] - top, columns)]
    return small_HW
