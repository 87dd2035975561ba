"""Predicts slides and draws heatmaps, in this process or in workers, with one record as in ``encode_cohort``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from medsoft.cluster.client import Cluster
from medsoft.inference.slides.model import SlideModel, SlidePrediction
from medsoft.inference.slides.predict import HeatmapRequest, predict_slide
from medsoft.inference.slides.worker import KILLED, Job, once
from medsoft.slides.folder import SlidesFolder, SlideStatus
from medsoft.slides.progress import SlidesProgress
from medsoft.slides.source import SlideSource

Predicted = tuple[SlideSource, SlideStatus, SlidePrediction | None]


@dataclass(frozen=True, kw_only=True)
class PredictJob(Job):
    """How features become predictions and heatmaps.

    Attributes:
        build: ``build(device=…)`` makes the model.
        heatmaps: which to draw; None: none.
    """

    build: Callable[..., SlideModel]
    heatmaps: HeatmapRequest | None


def predict_slides(
    sources: Sequence[SlideSource],
    slide_statuses: Mapping[str, SlideStatus],
    folder: SlidesFolder,
    job: PredictJob,
    model: SlideModel,
    where: Cluster,
    progress: SlidesProgress,
) -> dict[str, SlidePrediction]:
    """Predict slides whose features are there, and draw their heatmaps.

    Args:
        sources: the slides.
        slide_statuses: what became of each so far, by id; those that failed or have no tissue are passed over.
        folder: where the features lie and everything goes.
        job: which heatmaps to draw, and how workers build the model.
        model: of this process, where it does the work.
        where: the work runs.
        progress: told as it goes on.

    Returns:
        Predictions by id, of the slides that have one.

    Raises:
        InputError: the workers cannot do what is asked.
        OSError: the folder cannot be written; finished work is kept.
        RunError: the cluster is gone; finished work is kept.
    """
    folder.tidy()
    predictions: dict[str, SlidePrediction] = {}
    for done in _predicted(sources, slide_statuses, folder, job, model, where):
        folder.record_all([(source, slide_status) for source, slide_status, _ in done])
        for source, slide_status, prediction in done:
            if prediction is not None:
                predictions[source.id] = prediction
            progress.done(source, slide_status)
    return predictions


def _predicted(
    sources: Sequence[SlideSource],
    slide_statuses: Mapping[str, SlideStatus],
    folder: SlidesFolder,
    job: PredictJob,
    model: SlideModel,
    where: Cluster,
) -> Iterator[list[Predicted]]:
    if where.workers.is_this_process:
        for source in sources:
            yield [(source, *predict_slide(source, slide_statuses[source.id], model, folder, job.heatmaps))]
        return
    tasks = [(job, source, slide_statuses[source.id]) for source in sources]
    for found in where.map(predict_in_worker, tasks):
        yield [
            (sources[number], *(result or (SlideStatus("failed", "predict", KILLED), None))) for number, result in found
        ]


def predict_in_worker(
    job: PredictJob, source: SlideSource, slide_status: SlideStatus
) -> tuple[SlideStatus, SlidePrediction | None]:
    """Predict a slide whose features are there, and draw its heatmaps; its row is the caller's to record.

    Returns:
        What became of it, and its prediction if it has one.
    """
    with once.lock:
        return predict_slide(source, slide_status, once.build(job, job.build), SlidesFolder(job.out), job.heatmaps)
