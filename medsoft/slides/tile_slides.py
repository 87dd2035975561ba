"""The verb ``slides tile``: tissue, tiles and a picture of every slide, whatever becomes of the others."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Literal

import numpy as np

from medsoft.data.hashing import quick_hash
from medsoft.errors import InputError, check_range
from medsoft.slides.errors import SlideError
from medsoft.slides.folder import Outcome, SlidesFolder
from medsoft.slides.overview_picture import write_overview
from medsoft.slides.progress import slides_progress
from medsoft.slides.settings import TileSettings, TissueSettings
from medsoft.slides.slide import Slide, open_slide
from medsoft.slides.sources import SlideSource, find_slides
from medsoft.slides.tiling import Tiling, tile_slide
from medsoft.slides.tiling_file import read_tiling, write_tiling

MOST_WORKERS = 4


def tile(
    slides: list[str],
    out: str,
    mpp: float,
    tile: int,
    overlap: int = 0,
    slide_mpp: float | None = None,
    min_tissue: float = 0.25,
    tissue: TissueSettings = TissueSettings(),  # noqa: B008 (frozen)
    root: str | None = None,
    path: str = "path",
    id: str | None = None,
    slide_mpp_column: str = "mpp",
    on_error: Literal["error", "skip"] = "error",
    workers: int | None = None,
) -> int:
    """Find the tissue of slides and lay tiles over it; slides that are done already are left as they are.

    Args:
        slides: Files, folders or globs, or one table (.csv, .parquet) with one row a slide.
        out: The folder for slides.csv, tiles/, overviews/ and, where slides failed, errors.csv.
        mpp: Resolution of the tiles in µm per pixel.
        tile: Side of a tile in pixels of that resolution.
        overlap: How far neighbouring tiles overlap, in pixels of that resolution.
        slide_mpp: Resolution of the slides' finest level in µm per pixel, in place of what the files say.
        min_tissue: Tiles with a smaller fraction of tissue are left out.
        tissue: How tissue is found.
        root: Folder that relative paths of a table start from; the table's own folder if not given.
        path: Column of the table with the files.
        id: Column of the table with unique names; made from the files' names if not given.
        slide_mpp_column: Column of the table with the resolution of each slide's finest level, used where it is there.
        on_error: skip goes on without slides of the table whose files are missing, and lists them in errors.csv.
        workers: Slides worked on at once; by default as many as there are processors, 4 at most.

    Returns:
        0, or 3 if slides failed.

    Raises:
        InputError: the call or the table is wrong.
    """
    settings = TileSettings(mpp, tile, overlap, min_tissue, tissue)
    workers = min(MOST_WORKERS, len(os.sched_getaffinity(0))) if workers is None else workers
    check_range("workers", workers, 1)
    sources = find_slides(
        slides, slide_mpp=slide_mpp, root=root, path=path, id=id, slide_mpp_column=slide_mpp_column, on_error=on_error
    )  # fmt: skip
    folder = SlidesFolder(out)
    check_names(sources, folder)
    folder.tidy()
    pool = ThreadPoolExecutor(workers)
    try:
        with slides_progress(len(sources), "tiling") as progress:
            tasks = {pool.submit(_tile_one, source, folder, settings): source for source in sources}
            for task in as_completed(tasks):
                outcome = task.result()
                progress.advance(outcome.tiles or 0)
                progress.done(tasks[task], outcome)
    finally:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for all slides still queued
    print(f"{progress.slides} slides, {progress.tiles} tiles{progress.kept_in_words()}: {folder.slides_csv}")
    if progress.failed:
        print(f"{progress.failed} failed: {folder.errors_csv}")
    return 3 if progress.failed else 0


def _tile_one(source: SlideSource, folder: SlidesFolder, settings: TileSettings) -> Outcome:
    """Tile a slide and record what became of it."""
    since = time.perf_counter()
    try:
        found = existing_tiling(source, folder, settings)
    except SlideError as error:
        return _recorded(source, folder, failed("open", error, since))
    if found is not None:
        before = folder.outcomes().get(source.id)
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
            made = tile_slide(slide, settings)
        except Exception as error:
            return _recorded(source, folder, failed("tile", error, since))
    warnings = _replaced(source, folder, made[0])
    outcome = tiled(_write(source, folder, *made), since)
    return _recorded(
        source, folder, replace(outcome, warnings="; ".join([*filter(None, [outcome.warnings]), *warnings]))
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
    if not differing:
        return []
    words = [f"replaces tiles of other settings: {', '.join(differing)}"]
    if folder.features(source.id).is_file():
        words.append("its features are still those of the replaced tiles: encode it anew")
    return words


def _recorded(source: SlideSource, folder: SlidesFolder, outcome: Outcome) -> Outcome:
    folder.record(source, outcome)
    return outcome


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
    return _write(source, folder, *tile_slide(slide, settings))


def existing_tiling(source: SlideSource, folder: SlidesFolder, settings: TileSettings) -> Tiling | None:
    """The finished tiling of a slide, recognised by the slide's content, the settings and a stated resolution.

    Raises:
        SlideError: the slide cannot be read, or its id belongs to another slide in this folder.
    """
    try:
        found = read_tiling(folder.tiles(source.id))
    except SlideError:
        return None  # not there yet, or damaged
    content = _content(source)
    if found.quick_hash != content:
        if _other_owner(source, folder.rows()):
            raise SlideError(_taken(source, folder))
        return None
    stated_before = found.mpp_origin in ("option", "table")
    if (source.mpp is not None or stated_before) and source.mpp != found.mpp:
        return None
    return found if found.settings == settings and folder.overview(source.id).is_file() else None


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
                same = read_tiling(folder.tiles(source.id)).quick_hash == _content(source)
            except SlideError:
                continue  # nothing is there to be mixed up, or the slide fails for a reason of its own
            problems += [] if same else [_taken(source, folder)]
    if problems:
        raise InputError("\n".join(problems))


def _content(source: SlideSource) -> str:
    try:
        return quick_hash(source.path)
    except OSError as error:
        raise SlideError(f"cannot be opened: {error.strerror or error}") from error


def _other_owner(source: SlideSource, rows: Mapping[str, Mapping[str, str]]) -> str | None:
    """The path that is recorded under the slide's id, where it is another."""
    path = rows.get(source.id, {}).get("path")
    return path if path != str(source.path) else None


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
    return open_slide(source.path, source.mpp, source.mpp_origin or "option")


def tiled(tiling: Tiling, since: float) -> Outcome:
    """What is to be said of a slide that was tiled, begun at ``since`` (``time.perf_counter``)."""
    nothing = "no tile has enough tissue" if tiling.tissue_mm2 else "no tissue was found"
    return Outcome(
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


def failed(stage: str, error: Exception, since: float) -> Outcome:
    """What is to be said of a slide that failed; an error that was not foreseen is named with its type."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:  # its text names the file
        text = error.strerror
    reason = error.reason if isinstance(error, SlideError) else f"{type(error).__name__}: {text}"
    return Outcome("failed", stage=stage, reason=reason, seconds=time.perf_counter() - since)
