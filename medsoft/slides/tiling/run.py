"""Tiles one slide: finds tissue and tiles and draws a picture, or uses the results of an earlier run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from medsoft.errors import InputError, SlideError
from medsoft.slides.encoding.resume import content_of, is_of_slide
from medsoft.slides.folder import (
    NO_TISSUE,
    NOT_IN_REGIONS,
    TOO_LITTLE_TISSUE,
    WITH_ARTEFACTS,
    SlidesFolder,
    SlideStatus,
)
from medsoft.slides.reading.slide import Slide, open_slide
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.overview_figure import write_overview
from medsoft.slides.tiling.settings import TileSettings
from medsoft.slides.tiling.tiling import Tiling, tile_slide
from medsoft.slides.tiling.tiling_file import read_tiling, write_tiling


def tile_one(source: SlideSource, folder: SlidesFolder, settings: TileSettings) -> SlideStatus:
    """Tile a slide and record what became of it."""
    since = time.perf_counter()
    try:
        found = existing_tiling(source, folder, settings)
    except SlideError as error:
        return _recorded(source, folder, failed("open", error, since))
    if found is not None:
        before = folder.slide_statuses().get(source.id)
        # What was encoded or predicted since is not to be forgotten.
        if before is None or before.status == "failed":
            before = tiled(found, since)
        return _recorded(source, folder, replace(before, kept=True, **settings.as_columns()))
    try:
        slide = open_source(source)
    except Exception as error:  # one slide must not end the run, whatever a decoder says
        return _recorded(source, folder, failed("open", error, since))
    with slide:
        try:
            made = tile_slide(slide, settings, source.annotations)
        except Exception as error:
            return _recorded(source, folder, failed("tile", error, since))
    warnings = _replaced(source, folder, made[0])
    slide_status = tiled(_write(source, folder, *made), since)
    return _recorded(
        source, folder, replace(slide_status, warnings="; ".join([*filter(None, [slide_status.warnings]), *warnings]))
    )


def _replaced(source: SlideSource, folder: SlidesFolder, made: Tiling) -> list[str]:
    """What is to be said where tiles take the place of others, of which there may be features."""
    try:
        before = read_tiling(folder.tiles(source.id))
    except SlideError:
        return []  # there were none that could be used
    differing = [] if before.quick_hash == made.quick_hash else ["another slide"]
    differing += [] if before.mpp == made.mpp else [f"slide of {before.mpp:g} µm/px, not {made.mpp:g}"]
    differing += made.settings.differences(before.settings)
    differing += ["other regions"] if before.regions_from and before.regions_from != made.regions_from else []
    if not differing:
        return []
    words = [f"replaces tiles of other settings: {', '.join(differing)}"]
    if folder.features(source.id).is_file():
        words.append("its features are still those of the replaced tiles: encode it anew")
    return words


def _recorded(source: SlideSource, folder: SlidesFolder, slide_status: SlideStatus) -> SlideStatus:
    folder.record(source, slide_status)
    return slide_status


def _write(
    source: SlideSource, folder: SlidesFolder, tiling: Tiling, mask_HW: np.ndarray, overview_HW3: np.ndarray
) -> Tiling:
    # The picture first: where the tiles are, the picture is too.
    write_overview(folder.overview(source.id), overview_HW3, mask_HW, tiling)
    write_tiling(folder.tiles(source.id), tiling)
    return tiling


def ensure_tiling(source: SlideSource, slide: Slide, folder: SlidesFolder, settings: TileSettings) -> Tiling:
    """The tiling of an open slide: the one in the folder if it is of this slide and these settings, else a new one.

    A new one is written, with its picture.

    Args:
        source: which slide it is.
        slide: the same, open.
        folder: where the results lie.
        settings: of the tiles.

    Raises:
        SlideError: the slide cannot be tiled, or its id belongs to another slide in this folder.
        OSError: the disk is full, or the folder cannot be written.
    """
    found = existing_tiling(source, folder, settings)
    if found is not None and (found.mpp, found.size_px0) == (slide.mpp, slide.size_px0):
        return found
    return _write(source, folder, *tile_slide(slide, settings, source.annotations))


def existing_tiling(source: SlideSource, folder: SlidesFolder, settings: TileSettings) -> Tiling | None:
    """The finished tiling of a slide, recognised by the slide's content, the settings and a stated resolution.

    Raises:
        SlideError: the slide cannot be read, or its id belongs to another slide in this folder.
    """
    try:
        found = read_tiling(folder.tiles(source.id))
    except SlideError:
        return None  # not there yet, or damaged
    content = content_of(source)
    if found.quick_hash != content and _other_owner(source, folder.rows()):
        raise SlideError(_taken(source, folder))
    if not is_of_slide(found, source, content):
        return None
    return found if found.settings.gives(settings) and folder.overview(source.id).is_file() else None


def check_names(sources: Sequence[SlideSource], folder: SlidesFolder) -> None:
    """Refuse to mix slides: two slides of one name, in two runs into the same folder.

    Raises:
        InputError: an id belongs to another slide in this folder; all are listed.
    """
    rows = folder.rows()
    problems = []
    for source in sources:
        if _other_owner(source, rows):
            try:
                same = read_tiling(folder.tiles(source.id)).quick_hash == content_of(source)
            except SlideError:
                continue  # nothing is there to be mixed up, or the slide fails for a reason of its own
            problems += [] if same else [_taken(source, folder)]
    if problems:
        raise InputError("\n".join(problems))


def _other_owner(source: SlideSource, rows: Mapping[str, Mapping[str, str]]) -> str | None:
    """The path that is recorded under the slide's id, where it is another."""
    path = rows.get(source.id, {}).get("path")
    return path if path != source.place else None


def _taken(source: SlideSource, folder: SlidesFolder) -> str:
    return (
        f"the name {source.id!r} is that of another slide in {folder.path} (its slides.csv says of which): "
        "take another --out, or name the slides in a table with a column for --id"
    )


def open_source(source: SlideSource) -> Slide:
    """Open a slide with the resolution that the user states, if any.

    Raises:
        SlideError: it cannot be opened, or its resolution is not known.
    """
    return open_slide(source.file, source.mpp, source.mpp_origin or "option")


def tiled(tiling: Tiling, since: float) -> SlideStatus:
    """What is to be said of a slide that was tiled, begun at ``since`` (``time.perf_counter``)."""
    nothing = TOO_LITTLE_TISSUE if tiling.tissue_mm2 else NO_TISSUE
    if tiling.tissue_mm2 and tiling.settings.regions is not None:
        nothing = f"{NOT_IN_REGIONS} {tiling.settings.regions.in_words}"
    if tiling.quality is not None and tiling.quality.tiles_left_out:
        nothing = WITH_ARTEFACTS
    return SlideStatus(
        status="tiled" if len(tiling) else "no tissue",
        reason="" if len(tiling) else nothing,
        warnings="; ".join(tiling.warnings),
        tiles=len(tiling),
        mpp=tiling.mpp,
        mpp_origin=tiling.mpp_origin,
        tissue_mm2=tiling.tissue_mm2,
        seconds=time.perf_counter() - since,
        **tiling.settings.as_columns(),
    )


def failed(stage: str, error: Exception, since: float) -> SlideStatus:
    """What is to be said of a slide that failed; an error that was not foreseen is named with its type."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:  # its text names the file
        text = error.strerror
    reason = error.reason if isinstance(error, SlideError) else f"{type(error).__name__}: {text}"
    return SlideStatus("failed", stage=stage, reason=reason, seconds=time.perf_counter() - since)
