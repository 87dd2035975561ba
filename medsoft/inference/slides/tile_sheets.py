"""Contact sheets of contributing tiles: of one slide, of the cohort, and as the examples of a slide report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medsoft.data.features.open import open_bag
from medsoft.errors import BagError, SlideError
from medsoft.evaluation.examples import Example, pick_examples, write_examples
from medsoft.inference.slides.existing_features import features_of, holds_features
from medsoft.inference.slides.predict import NOTE_PHANTOM, folder_name
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.heatmaps.heatmap import Pixels
from medsoft.slides.heatmaps.tile_sheet import (
    SHOWN,
    Contribution,
    mosaic,
    most_and_least,
    read_contributions,
    read_pictures,
    shown_in,
    write_tile_sheet,
)
from medsoft.slides.heatmaps.write import about_heatmap
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.run import open_source
from medsoft.storage.files import replacing
from medsoft.task import Task

MOST_OF_A_SLIDE = 2
"""Tiles of one slide in each row of a cohort's sheet: one slide is not to fill it."""
EXAMPLES = 4
"""Right answers in a report, and wrong ones."""
EXAMPLE_PX = 384
OF_SLIDES = (
    "On the left of each slide: six tiles that raise the logit of its heatmap most (red frames), and three that raise "
    "it least or lower it (blue). On the right, its heatmap: what each tile adds, red for, blue against. Positions and "
    "contributions are beside the heatmaps, in files that end in .tiles.png."
)


def write_cohort_sheets(folder: SlidesFolder, sources: Sequence[SlideSource], name: str = "") -> list[Path]:
    """Draw the tiles that add most and least over all slides, one sheet per explained class.

    Contributions are compared across slides in the unit of the logit. Slides that were given as features, and those
    without a heatmap, are left out; a class with a single slide has no sheet.

    Args:
        folder: of the results.
        sources: the slides.
        name: folder of the heatmaps below heatmaps/; "" for the default ones.

    Returns:
        The sheets.
    """
    by_class: dict[str, list[tuple[SlideSource, list[Contribution]]]] = {}
    shown: dict[str, str] = {}
    for source in sources:
        if holds_features(source):
            continue
        about, tiles = _heatmap(folder, source, name)
        if tiles and not about.get("note"):
            by_class.setdefault(str(about["class"]), []).append((source, tiles))
            shown[str(about["class"])] = shown_in(about)
    sheets = []
    for class_, slides in by_class.items():
        if len(slides) < 2:
            continue
        most, least = most_and_least([tile for _, tiles in slides for tile in tiles], SHOWN, MOST_OF_A_SLIDE)
        pictures: dict[Contribution, Pixels] = {}
        settings: Mapping[str, Any] = {}
        for source, _ in slides:
            wanted = [tile for tile in (*most, *least) if tile.slide == source.id]
            if wanted:
                found, settings = _pictures(folder, source, wanted)
                pictures |= found
        if pictures:
            path = folder.heatmap(f"cohort_{folder_name(class_)}" if not name else f"{name}/cohort", ".tiles.png")
            title = f"{len(slides)} slides: {shown[class_]}"
            title = f"{NOTE_PHANTOM} {title}" if any(source.row.get("phantom") for source, _ in slides) else title
            write_tile_sheet(path, most, least, pictures, settings, title, with_slides=True)
            sheets.append(path)
    return sheets


def write_slide_examples(
    out: Path, frame: pd.DataFrame, task: Task, folder: SlidesFolder, sources: Sequence[SlideSource], name: str = ""
) -> bool:
    """Draw right and wrong answers about slides for the report: contributing tiles beside the heatmap.

    Args:
        out: folder of the examples.
        frame: the predictions.
        task: theirs.
        folder: of the results.
        sources: the slides.
        name: as for ``write_cohort_sheets``.

    Returns:
        Whether there are any.
    """
    if not task.has_classes:
        return False
    known = frame[task.known(frame)]
    by_id = {source.id: source for source in sources if not holds_features(source)}
    rows: list[tuple[Example, str | None, str | None]] = []
    for number, example in enumerate(pick_examples(known, task, EXAMPLES)):
        source = by_id.get(str(example.id))
        about, tiles = ({}, []) if source is None else _heatmap(folder, source, name)
        if source is None or not tiles or about.get("note"):
            continue
        most, least = most_and_least(tiles, 6)
        pictures, _ = _pictures(folder, source, [*most, *least[:3]])
        shown = mosaic(most, least, pictures, EXAMPLE_PX)
        overlay = _overlay(folder.heatmap(f"{name}/{source.id}" if name else source.id, ".tif"))
        names = [f"{number:02d}.jpg", f"{number:02d}_contributions.jpg"]
        for pixels, file in zip((shown, overlay), names, strict=True):
            if pixels is not None:
                _save(pixels, out / file)
        rows.append((example, names[0] if shown is not None else None, names[1] if overlay is not None else None))
    if rows:
        write_examples(out, rows, OF_SLIDES)
    return bool(rows)


def _heatmap(folder: SlidesFolder, source: SlideSource, name: str) -> tuple[dict[str, Any], list[Contribution]]:
    """What a slide's heatmap says of itself, and its tiles; empty where it has none."""
    stem = f"{name}/{source.id}" if name else source.id
    try:
        return about_heatmap(folder.heatmap(stem, ".json")), read_contributions(folder.heatmap(stem, ".csv"), source.id)
    except (OSError, ValueError, KeyError):
        return {}, []


def _pictures(
    folder: SlidesFolder, source: SlideSource, tiles: Sequence[Contribution]
) -> tuple[dict[Contribution, Pixels], Mapping[str, Any]]:
    """Pictures of tiles and their settings; none of a slide that cannot be read any more."""
    try:
        with open_bag(features_of(source, folder)) as bag:
            facts = bag.slide_facts
        if facts is None:
            return {}, {}
        with open_source(source) as slide:
            return read_pictures(slide, tiles, facts.tile_settings), facts.tile_settings
    except (BagError, SlideError):
        return {}, {}


def _overlay(file: Path) -> Pixels | None:
    """The coloured map of a heatmap's TIFF, at its smallest level."""
    import tifffile

    try:
        with tifffile.TiffFile(file) as tiff:
            pixels: Pixels = np.asarray(tiff.series[0].levels[-1].asarray())
            return pixels
    except (OSError, ValueError, IndexError, tifffile.TiffFileError):
        return None


def _save(pixels: Pixels, path: Path) -> None:
    image = Image.fromarray(pixels)
    image.thumbnail((EXAMPLE_PX, EXAMPLE_PX))
    with replacing(path) as temporary:
        image.save(temporary, format="JPEG", quality=85)
