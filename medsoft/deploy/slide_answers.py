"""From features to answers and heatmaps, slide by slide; one that fails is recorded, and the rest goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from medsoft.data.bags.bag_file import Bag, BagError, open_bag
from medsoft.deploy.slide_features import features_of, holds_features
from medsoft.deploy.slide_model import SlideAnswer, SlideModel
from medsoft.learn.question import Question, default_question, question_about
from medsoft.slides.errors import SlideError
from medsoft.slides.folder import Outcome, SlidesFolder
from medsoft.slides.heatmap import Pixels, thumbnail_of
from medsoft.slides.heatmap_files import is_made, write_heatmap
from medsoft.slides.progress import SlidesProgress
from medsoft.slides.settings import settings_columns
from medsoft.slides.sources import SlideSource
from medsoft.slides.tile_slides import open_source
from medsoft.task import Task

NOTE_PHANTOM = "Phantom slides, no patients."


@dataclass(frozen=True)
class Maps:
    """Which heatmaps are drawn.

    Attributes:
        questions: by folder within ``heatmaps/``; empty: one a slide, of the positive or the predicted class.
    """

    questions: Mapping[str, Question]

    @classmethod
    def of(cls, task: Task, classes: str | Sequence[str] | None) -> Maps:
        """The maps of the named classes.

        Raises:
            InputError: the model does not know a class.
        """
        names = [classes] if isinstance(classes, str) else list(classes or [])
        return cls({folder_name(name): question_about(task, name) for name in names})


def answer_slides(
    sources: Sequence[SlideSource],
    outcomes: Mapping[str, Outcome],
    model: SlideModel,
    folder: SlidesFolder,
    maps: Maps | None,
    progress: SlidesProgress,
) -> dict[str, SlideAnswer]:
    """Predict slides and draw their heatmaps.

    Args:
        sources: the slides.
        outcomes: what became of each so far, by id; those that failed or have no tissue are passed over.
        model: the trained classifier.
        folder: where the features lie and everything goes.
        maps: what to draw; None: nothing.
        progress: told as it goes on.

    Returns:
        Answers by id, of the slides that have one.

    Raises:
        OSError: the folder cannot be written; what was finished is kept.
    """
    answers: dict[str, SlideAnswer] = {}
    for source in sources:
        outcome, answer = answer_one(source, outcomes[source.id], model, folder, maps)
        folder.record(source, outcome)
        if answer is not None:
            answers[source.id] = answer
        progress.done(source, outcome)
    return answers


def answer_one(
    source: SlideSource, outcome: Outcome, model: SlideModel, folder: SlidesFolder, maps: Maps | None
) -> tuple[Outcome, SlideAnswer | None]:
    """What becomes of one slide, which the caller records, and its answer if it has one."""
    if outcome.status == "no tissue":
        nothing = f"{outcome.reason}: nothing to predict"
        return replace(outcome, status="failed", stage="tile", reason=nothing), None
    if outcome.status == "failed":
        return outcome, None
    return _answer(source, replace(outcome, status="predicted", kept=False), model, folder, maps)


def _answer(
    source: SlideSource, outcome: Outcome, model: SlideModel, folder: SlidesFolder, maps: Maps | None
) -> tuple[Outcome, SlideAnswer | None]:
    answer = None
    try:
        with open_bag(features_of(source, folder)) as bag:
            outcome = replace(outcome, tiles=bag.num_tiles, unreadable=int(np.count_nonzero(~bag.good_N)))
            answer = model.answer(bag)
            if bag.facts is not None:
                outcome = replace(outcome, **settings_columns(bag.facts.tile_settings))
            if maps is not None and bag.facts is None:
                missing = "no heatmap, as the feature file does not say the slide's size"
                return replace(outcome, warnings="; ".join(filter(None, (outcome.warnings, missing)))), answer
            if maps is not None:
                _draw(source, bag, model, answer.mean_C, folder, maps)
    except (BagError, SlideError) as error:
        stage = "predict" if answer is None else "heatmap"
        return replace(outcome, status="failed", stage=stage, reason=error.reason), answer
    return outcome, answer


def _draw(source: SlideSource, bag: Bag, model: SlideModel, p_C: np.ndarray, folder: SlidesFolder, maps: Maps) -> None:
    """Draw the maps of a slide that are not there yet."""
    questions = maps.questions or {"": default_question(model.task, p_C)}
    thumbnail: Pixels | None = None
    for name, question in questions.items():
        place = partial(_place, folder, f"{name}/{source.id}" if name else source.id)
        made_from = model.made_from(bag.path, question, "nothing" if holds_features(source) else "slide")
        if is_made(place, made_from):
            continue
        heatmap = model.heatmap(bag, source.id, question, p_C)
        if thumbnail is None and not holds_features(source):
            with open_source(source) as slide:
                thumbnail = thumbnail_of(slide, heatmap)
        write_heatmap(heatmap, thumbnail, place, made_from, NOTE_PHANTOM if source.row.get("phantom") else "")


def _place(folder: SlidesFolder, name: str, suffix: str) -> Path:
    return folder.heatmap(name, suffix)


def folder_name(class_name: str) -> str:
    """A class's name as that of a folder."""
    return re.sub(r"[/\\\0]|^\.", "_", class_name)
