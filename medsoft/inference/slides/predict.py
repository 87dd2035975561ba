"""Predicts a slide, or a patient's slides, from features, and draws heatmaps; a failure is a status, not an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from medsoft.data.features.open import Bag, open_bag
from medsoft.errors import BagError, SlideError
from medsoft.evaluation.wording import counted
from medsoft.inference.attribution.bags import BagExplanation
from medsoft.inference.slides.cases import Case
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
    shown_in,
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
        """Those of the named classes, a list or separated by commas; one per slide where none is named.

        Raises:
            InputError: the model does not know a class.
        """
        names = [] if classes is None else [classes] if isinstance(classes, str) else list(classes)
        if isinstance(classes, str) and classes not in task.classes:  # the name of a class may have a comma
            names = [name.strip() for name in classes.split(",")]
        return cls({folder_name(name): task.logit_target(name) for name in names})


def predict_case(
    case: Case,
    slide_statuses: Sequence[SlideStatus],
    model: SlideModel,
    folder: SlidesFolder,
    heatmaps: HeatmapRequest | None,
    compared: bool = False,
) -> tuple[list[SlideStatus], SlidePrediction | None]:
    """What becomes of the slides of a case, which the caller records, and its prediction if it has one.

    A slide that cannot be used fails by itself. The others of a patient are predicted without it, as in a training
    that leaves it out, and say so.

    Args:
        case: a slide, or all slides of a patient.
        slide_statuses: what became of each so far; those that failed or have no tissue are passed over.
        model: the trained classifier.
        folder: where the features lie and everything goes.
        heatmaps: what to draw; None: nothing.
        compared: whether to compare what the members of an ensemble say of each tile.

    Raises:
        OSError: the folder cannot be written.
    """
    found = [_ready(slide_status) for slide_status in slide_statuses]
    prediction = None
    with ExitStack() as opened:
        bags: dict[int, Bag] = {}
        for index, source in enumerate(case.sources):
            if found[index].status != "failed":
                found[index], bag = _open(source, found[index], model, folder, opened)
                bags |= {} if bag is None else {index: bag}
        if not bags:
            return found, None
        try:
            prediction = model.predict(list(bags.values()), case.covariates)
            if compared:
                prediction = model.compare(list(bags.values()), prediction)
        except BagError as error:
            for index in bags:
                found[index] = replace(found[index], status="failed", stage="predict", reason=error.reason)
            return found, None
        for index in bags:
            if left_out := len(case.sources) - len(bags):
                found[index] = _warned(found[index], [f"predicted without {counted(left_out, 'slide')} of the patient"])
        if heatmaps is not None:
            for index, drawn in _draw_all(case, bags, model, prediction, folder, heatmaps).items():
                if isinstance(drawn, str):
                    found[index] = replace(found[index], status="failed", stage="heatmap", reason=drawn)
                else:
                    found[index] = _warned(found[index], drawn)
    return found, prediction


def _ready(slide_status: SlideStatus) -> SlideStatus:
    """A slide that is to be predicted, or why there is nothing to predict."""
    if slide_status.status == "no tissue":
        nothing = f"{slide_status.reason}: nothing to predict"
        return replace(slide_status, status="failed", stage="tile", reason=nothing)
    if slide_status.status == "failed":
        return slide_status
    return replace(slide_status, status="predicted", kept=False)


def _open(
    source: SlideSource, slide_status: SlideStatus, model: SlideModel, folder: SlidesFolder, opened: ExitStack
) -> tuple[SlideStatus, Bag | None]:
    """A slide's features, which fit the model; None where they do not."""
    try:
        bag = opened.enter_context(open_bag(features_of(source, folder)))
        slide_status = replace(slide_status, tiles=bag.num_tiles, unreadable=int(np.count_nonzero(~bag.good_N)))
        model.check(bag)
    except BagError as error:
        return replace(slide_status, status="failed", stage="predict", reason=error.reason), None
    if bag.slide_facts is not None:
        slide_status = replace(slide_status, **settings_columns(bag.slide_facts.tile_settings))
    return slide_status, bag


def _warned(slide_status: SlideStatus, warnings: Sequence[str]) -> SlideStatus:
    return replace(slide_status, warnings="; ".join(filter(None, (slide_status.warnings, *warnings))))


def _draw_all(
    case: Case,
    bags: Mapping[int, Bag],
    model: SlideModel,
    prediction: SlidePrediction,
    folder: SlidesFolder,
    heatmaps: HeatmapRequest,
) -> dict[int, str | list[str]]:
    """Draw the maps of each slide of a case that are not there yet.

    Returns:
        By slide why it failed, or what to say of it: maps that it cannot have.
    """
    drawn: dict[int, str | list[str]] = {}
    explained = _Explained(case, list(bags.values()), model)
    for number, (index, bag) in enumerate(bags.items()):
        if bag.slide_facts is None:
            drawn[index] = ["no heatmap, as the feature file does not say the slide's size"]
            continue
        try:
            drawn[index] = _draw(case.sources[index], bag, explained, number, prediction, folder, heatmaps)
        except (BagError, SlideError) as error:
            drawn[index] = error.reason
    return drawn


class _Explained:
    """What each tile of a case adds to a logit, found once and parted by slide.

    Args:
        case: what is explained.
        bags: of its slides.
        model: the classifier.
    """

    def __init__(self, case: Case, bags: Sequence[Bag], model: SlideModel) -> None:
        self.case, self.bags, self.model = case, bags, model
        self._found: dict[str, BagExplanation] = {}

    def of(self, number: int, logit_target: LogitTarget) -> BagExplanation:
        """Of one slide; what the other slides add is one of the parts."""
        if logit_target.name not in self._found:
            self._found[logit_target.name] = self.model.explain(self.bags, logit_target, self.case.covariates)
        whole = self._found[logit_target.name]
        if len(self.bags) == 1:
            return whole
        counts = [int(bag.good_N.sum()) for bag in self.bags]
        own_N = np.split(whole.contributions_N, np.cumsum(counts)[:-1])[number]
        if not whole.adds_up:
            return replace(whole, contributions_N=own_N)
        others = float(whole.contributions_N.sum() - own_N.sum())
        return replace(whole, contributions_N=own_N, parts=whole.parts | {"other slides": others})


def _draw(
    source: SlideSource,
    bag: Bag,
    explained: _Explained,
    number: int,
    prediction: SlidePrediction,
    folder: SlidesFolder,
    heatmaps: HeatmapRequest,
) -> list[str]:
    """Draw the maps of a slide that are not there yet; says which have none, and why."""
    model, beside = explained.model, explained.case.covariates
    p_C, without = prediction.mean_C, []
    logit_targets = heatmaps.logit_targets or {"": model.task.default_logit_target(p_C)}
    thumbnail: Pixels | None = None
    bounds_px0: tuple[int, int, int, int] | None = None  # of the slide itself, before what the features say of it
    bags = [bag, *(other for other in explained.bags if other is not bag)]
    for name, logit_target in logit_targets.items():
        place = partial(_place, folder, f"{name}/{source.id}" if name else source.id)
        made_from = model.made_from(bags, logit_target, "nothing" if holds_features(source) else "slide", beside)
        made_from["unfamiliar"] = prediction.unfamiliar
        if not is_made(place, made_from):
            place(SHEET).unlink(missing_ok=True)  # of other contributions
            answer = explained.of(number, logit_target)
            heatmap = model.heatmap(bag, source.id, logit_target, p_C, answer)
            heatmap = replace(heatmap, unfamiliar=prediction.unfamiliar)
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
    title = f"{source.id}: {shown_in(about_heatmap(place('.json')))}"
    title = f"{NOTE_PHANTOM} {title}" if source.row.get("phantom") else title
    write_tile_sheet(place(SHEET), most, least, pictures, settings, title)


def _place(folder: SlidesFolder, name: str, suffix: str) -> Path:
    return folder.heatmap(name, suffix)


def folder_name(class_name: str) -> str:
    """A class's name as that of a folder."""
    return re.sub(r"[/\\\0]|^\.", "_", class_name)
