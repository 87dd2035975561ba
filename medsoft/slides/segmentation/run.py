"""Segments one slide and writes its files, or leaves those of an earlier run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from medsoft import __version__
from medsoft.errors import SlideError
from medsoft.slides.encoding.resume import content_of, is_of_slide
from medsoft.slides.folder import SlidesFolder, SlideStatus
from medsoft.slides.records import as_text, write_table
from medsoft.slides.segmentation.mask_model import MaskModel, TileModels
from medsoft.slides.segmentation.segment import WindowSettings, segment_slide
from medsoft.slides.segmentation.settings import SegmentSettings
from medsoft.slides.segmentation.write import SUFFIXES, read_about, write_segmentation
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.grid import mask_fraction
from medsoft.slides.tiling.run import failed, open_source
from medsoft.slides.tiling.settings import EVERYTHING
from medsoft.slides.tiling.slide_tissue import SlideTissue, tissue_of_slide
from medsoft.slides.tiling.tiling import hash_slide

SEGMENTED = "segmented"
TABLE = "areas.csv"


@dataclass(frozen=True)
class _Made:
    """What a segmentation says of the slide that it was made from (``resume.Made``)."""

    quick_hash: str
    mpp: float
    mpp_origin: str
    regions_from: str = ""


def segment_one(
    source: SlideSource,
    folder: SlidesFolder,
    model: MaskModel,
    settings: SegmentSettings,
    windows: WindowSettings,
    models: TileModels,
    advance: Callable[[int], None] = lambda number: None,
) -> SlideStatus:
    """Segment a slide and write its files, unless an earlier run did; its row is the caller's to record.

    Args:
        source: the slide.
        folder: for everything that is written.
        model: that is shown the slide.
        settings: of the map.
        windows: how the model is shown the slide.
        models: one of tissue among them, where the settings ask for it.
        advance: told how many windows are done; what it raises ends the work.

    Raises:
        OSError: the folder cannot be written.
    """
    since = time.perf_counter()
    made_from = {"model": model.identity, "settings": settings.as_dict(), "medsoft": __version__}
    place = partial(folder.segmentation, source.id)
    try:
        content = content_of(source)
        if (before := _kept(source, folder, made_from, content)) is not None:
            return replace(before, kept=True)
        slide = open_source(source)
    except Exception as error:  # one slide must not end the run, whatever a decoder says
        return failed("open", error, since)
    with slide:
        try:
            tissue, select = None, None
            if settings.tissue.method != EVERYTHING:
                tissue = tissue_of_slide(slide, settings.tissue, models)
                select = partial(_holds_tissue, tissue, slide.size_px0)
            found = segment_slide(slide, model, windows, folder.path, select, advance)
            with found.labels_kept():
                warnings = [*slide.notes]
                if found.unreadable:
                    warnings.append(f"{found.unreadable} windows cannot be read, and are background")
                about = {"quick_hash": hash_slide(slide), "made_from": made_from}
                warnings = write_segmentation(slide, found, place, about, settings.min_area_um2, warnings)
        except OSError:
            raise
        except Exception as error:
            return failed("segment", error, since)
        return SlideStatus(
            status=SEGMENTED if found.shown else "no tissue",
            reason="" if found.shown else "no tissue was found",
            warnings="; ".join(warnings),
            mpp=slide.mpp,
            mpp_origin=slide.mpp_origin,
            seconds=time.perf_counter() - since,
        )


def _holds_tissue(
    found: SlideTissue, size_px0: tuple[int, int], corners_N2_px0: np.ndarray, side_px0: float
) -> npt.NDArray[np.bool_]:
    holds: npt.NDArray[np.bool_] = mask_fraction(found.mask_HW, size_px0, corners_N2_px0, side_px0) > 0
    return holds


def _kept(source: SlideSource, folder: SlidesFolder, made_from: Mapping[str, Any], content: str) -> SlideStatus | None:
    """What an earlier run made of a slide, where this run would make the same of it.

    Raises:
        SlideError: the id is that of another slide in this folder.
    """
    about = read_about(folder.segmentation(source.id, ".json"))
    try:
        made = _Made(str(about["quick_hash"]), float(about["mpp"]), str(about["mpp_origin"]))
        windows, warnings = about["windows"], [str(one) for one in about["warnings"]]
        shown = int(windows["shown"])
    except (KeyError, TypeError, ValueError):
        return None
    if made.quick_hash != content and folder.rows().get(source.id, {}).get("path") not in (None, str(source.path)):
        raise SlideError(f"the name {source.id!r} is that of another slide in this folder: take another --out, or --id")
    if about.get("made_from") != made_from or not is_of_slide(made, source, content):
        return None
    outlines = ".geojson" if about.get("pieces") or not shown else ""
    if not all(
        folder.segmentation(source.id, suffix).is_file() for suffix in SUFFIXES if suffix != ".geojson" or outlines
    ):
        return None
    return SlideStatus(
        SEGMENTED if shown else "no tissue",
        reason="" if shown else "no tissue was found",
        warnings="; ".join(warnings),
        mpp=made.mpp,
        mpp_origin=made.mpp_origin,
    )


def write_areas(folder: SlidesFolder, sources: Sequence[SlideSource], classes: Sequence[str]) -> None:
    """Write the table with the mm² of each class, one row per slide that was segmented, in the order of the slides.

    Args:
        folder: with the segmentations.
        sources: the slides.
        classes: of the model.

    Raises:
        OSError: the folder cannot be written.
    """
    rows = []
    for source in sources:
        about = read_about(folder.segmentation(source.id, ".json"))
        if not about or list(about.get("classes", [])) != list(classes):
            continue
        area, pieces = about["area_mm2"], about["pieces"]
        row: dict[str, Any] = {"id": source.id, "path": str(source.path), "map_mpp": float(about["map"]["mpp"])}
        row |= {f"mm2_{name}": float(area[name]) for name in classes}
        row |= {f"pieces_{name}": pieces.get(name) for name in classes}
        rows.append({name: as_text(value) for name, value in row.items()} | _theirs(source, row))
    write_table(folder.path / TABLE, ("id", "path", "map_mpp", *(f"mm2_{name}" for name in classes)), rows)


def _theirs(source: SlideSource, ours: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in source.row.items() if name not in ours}
