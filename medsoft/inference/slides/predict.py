"""Predicts one slide from its features, and draws its heatmaps; a failure becomes its status, not an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from medsoft.data.features.open import Bag, open_bag
from medsoft.errors import BagError, SlideError
from medsoft.inference.slides.existing_features import features_of, holds_features
from medsoft.inference.slides.model import SlideModel, SlidePrediction
from medsoft.slides.folder import SlidesFolder, SlideStatus
from medsoft.slides.heatmaps.heatmap import Pixels, thumbnail_of
from medsoft.slides.heatmaps.tile_sheet import (
    SHEET,
    SHOWN,
    most_and_least,
    read_contributions,
    read_pictures,
    write_tile_sheet,
)
from medsoft.slides.heatmaps.write import about_heatmap, is_made, why_no_map, write_heatmap
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.run import open_source
from medsoft.slides.tiling.settings import settings_columns
from medsoft.task import Task
from medsoft.task_types import LogitTarget

NOTE_PHANTOM = "Phantom slides, no patients."


@dataclass(frozen=True)
class HeatmapRequest:
    """Which heatmaps are drawn of every slide.

    Attributes:
        logit_targets: by folder within ``heatmaps/``; empty: one per slide, of the positive or the predicted class.
    """

    logit_targets: Mapping[str, LogitTarget]

    @classmethod
    def of(cls, task: Task, classes: str | Sequence[str] | None) -> HeatmapRequest:
        """Those of the named classes; one per slide where none is named.

        Raises:
            InputError: the model does not know a class.
        """
        names = [classes] if isinstance(classes, str) else list(classes or [])
        return cls({folder_name(name): task.logit_target(name) for name in names})


def predict_slide(
    source: SlideSource,
    slide_status: SlideStatus,
    model: SlideModel,
    folder: SlidesFolder,
    heatmaps: HeatmapRequest | None,
) -> tuple[SlideStatus, SlidePrediction | None]:
    """What becomes of one slide, which the caller records, and its prediction if it has one.

    Args:
        source: the slide.
        slide_status: what became of it so far; one that failed or has no tissue is passed over.
        model: the trained classifier.
        folder: where the features lie and everything goes.
        heatmaps: what to draw; None: nothing.

    Raises:
        OSError: the folder cannot be written.
    """
    if slide_status.status == "no tissue":
        nothing = f"{slide_status.reason}: nothing to predict"
        return replace(slide_status, status="failed", stage="tile", reason=nothing), None
    if slide_status.status == "failed":
        return slide_status, None
    return _predict(source, replace(slide_status, status="predicted", kept=False), model, folder, heatmaps)


def _predict(
    source: SlideSource,
    slide_status: SlideStatus,
    model: SlideModel,
    folder: SlidesFolder,
    heatmaps: HeatmapRequest | None,
) -> tuple[SlideStatus, SlidePrediction | None]:
    prediction = None
    try:
        with open_bag(features_of(source, folder)) as bag:
            slide_status = replace(slide_status, tiles=bag.num_tiles, unreadable=int(np.count_nonzero(~bag.good_N)))
            prediction = model.predict(bag)
            if bag.slide_facts is not None:
                slide_status = replace(slide_status, **settings_columns(bag.slide_facts.tile_settings))
            if heatmaps is not None and bag.slide_facts is None:
                missing = "no heatmap, as the feature file does not say the slide's size"
                return replace(
                    slide_status, warnings="; ".join(filter(None, (slide_status.warnings, missing)))
                ), prediction
            if heatmaps is not None:
                without = _draw(source, bag, model, prediction, folder, heatmaps)
                slide_status = replace(
                    slide_status, warnings="; ".join(filter(None, (slide_status.warnings, *without)))
                )
    except (BagError, SlideError) as error:
        stage = "predict" if prediction is None else "heatmap"
        return replace(slide_status, status="failed", stage=stage, reason=error.reason), prediction
    return slide_status, prediction


def _draw(
    source: SlideSource,
    bag: Bag,
    model: SlideModel,
    prediction: SlidePrediction,
    folder: SlidesFolder,
    heatmaps: HeatmapRequest,
) -> list[str]:
    """Draw the maps of a slide that are not there yet; says which have none, and why."""
    p_C, without = prediction.mean_C, []
    logit_targets = heatmaps.logit_targets or {"": model.task.default_logit_target(p_C)}
    thumbnail: Pixels | None = None
    bounds_px0: tuple[int, int, int, int] | None = None  # of the slide itself, before what the features say of it
    for name, logit_target in logit_targets.items():
        place = partial(_place, folder, f"{name}/{source.id}" if name else source.id)
        made_from = model.made_from(bag.path, logit_target, "nothing" if holds_features(source) else "slide")
        made_from["unfamiliar"] = prediction.unfamiliar
        if not is_made(place, made_from):
            place(SHEET).unlink(missing_ok=True)  # of other contributions
            heatmap = replace(model.heatmap(bag, source.id, logit_target, p_C), unfamiliar=prediction.unfamiliar)
            if thumbnail is None and not holds_features(source):
                with open_source(source) as slide:
                    bounds_px0 = slide.bounds_px0
                    thumbnail = thumbnail_of(slide, replace(heatmap, bounds_px0=bounds_px0))
            heatmap = replace(heatmap, bounds_px0=bounds_px0 or heatmap.bounds_px0)
            write_heatmap(heatmap, thumbnail, place, made_from, NOTE_PHANTOM if source.row.get("phantom") else "")
        if why := why_no_map(place):
            without.append(f"{logit_target.name}: {why}")
        elif not holds_features(source) and not place(SHEET).is_file():
            _draw_sheet(source, bag, place)
    return without


def _draw_sheet(source: SlideSource, bag: Bag, place: Callable[[str], Path]) -> None:
    """Draw the tiles that add most and least to the logit of a heatmap."""
    assert bag.slide_facts is not None  # there is a heatmap
    most, least = most_and_least(read_contributions(place(".csv"), source.id), SHOWN)
    settings = bag.slide_facts.tile_settings
    with open_source(source) as slide:
        pictures = read_pictures(slide, [*most, *least], settings)
    quantity = about_heatmap(place(".json"))["quantity"]
    title = f"{source.id}: tiles that add most (above) and least (below) to the {quantity}"
    title = f"{NOTE_PHANTOM} {title}" if source.row.get("phantom") else title
    write_tile_sheet(place(SHEET), most, least, pictures, settings, title)


def _place(folder: SlidesFolder, name: str, suffix: str) -> Path:
    return folder.heatmap(name, suffix)


def folder_name(class_name: str) -> str:
    """A class's name as that of a folder."""
    return re.sub(r"[/\\\0]|^\.", "_", class_name)
