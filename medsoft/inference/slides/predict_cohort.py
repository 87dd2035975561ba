"""Predicts slides and draws heatmaps, in this process or in workers, with one record as in ``encode_cohort``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from medsoft.cluster.client import Cluster
from medsoft.inference.slides.cases import Case
from medsoft.inference.slides.model import SlideModel, SlidePrediction
from medsoft.inference.slides.predict import HeatmapRequest, predict_case
from medsoft.inference.slides.worker import KILLED, Job, once
from medsoft.slides.folder import SlidesFolder, SlideStatus
from medsoft.slides.progress import SlidesProgress

Predicted = tuple[Case, list[SlideStatus], SlidePrediction | None]


@dataclass(frozen=True, kw_only=True)
class PredictJob(Job):
    """How features become predictions and heatmaps.

    Attributes:
        build: ``build(device=…)`` makes the model.
        heatmaps: which to draw; None: none.
        compared: whether to compare what the members of an ensemble say of each tile.
    """

    build: Callable[..., SlideModel]
    heatmaps: HeatmapRequest | None
    compared: bool = False


def predict_slides(
    cases: Sequence[Case],
    slide_statuses: Mapping[str, SlideStatus],
    folder: SlidesFolder,
    job: PredictJob,
    model: SlideModel,
    where: Cluster,
    progress: SlidesProgress,
) -> dict[str, SlidePrediction]:
    """Predict slides whose features are there, and draw their heatmaps.

    Args:
        cases: the slides, or the slides of each patient.
        slide_statuses: what became of each slide so far, by id; those that failed or have no tissue are passed over.
        folder: where the features lie and everything goes.
        job: which heatmaps to draw, and how workers build the model.
        model: of this process, where it does the work.
        where: the work runs.
        progress: told as it goes on.

    Returns:
        Predictions by id, of the cases that have one.

    Raises:
        InputError: the workers cannot do what is asked.
        OSError: the folder cannot be written; finished work is kept.
        RunError: the cluster is gone; finished work is kept.
    """
    folder.tidy()
    predictions: dict[str, SlidePrediction] = {}
    with folder.recording():
        for done in _predicted(cases, slide_statuses, folder, job, model, where):
            folder.record_all([pair for case, found, _ in done for pair in zip(case.sources, found, strict=True)])
            for case, found, prediction in done:
                if prediction is not None:
                    predictions[case.id] = prediction
                for source, slide_status in zip(case.sources, found, strict=True):
                    progress.done(source, slide_status)
    return predictions


def _predicted(
    cases: Sequence[Case],
    slide_statuses: Mapping[str, SlideStatus],
    folder: SlidesFolder,
    job: PredictJob,
    model: SlideModel,
    where: Cluster,
) -> Iterator[list[Predicted]]:
    before = [[slide_statuses[source.id] for source in case.sources] for case in cases]
    if where.workers.is_this_process:
        for case, statuses in zip(cases, before, strict=True):
            yield [(case, *predict_case(case, statuses, model, folder, job.heatmaps, job.compared))]
        return
    tasks = [(job, case, statuses) for case, statuses in zip(cases, before, strict=True)]
    for done in where.map(predict_in_worker, tasks):
        yield [(cases[number], *(result or _killed(cases[number]))) for number, result in done]


def _killed(case: Case) -> tuple[list[SlideStatus], None]:
    return [SlideStatus("failed", "predict", KILLED) for _ in case.sources], None


def predict_in_worker(
    job: PredictJob, case: Case, slide_statuses: Sequence[SlideStatus]
) -> tuple[list[SlideStatus], SlidePrediction | None]:
    """Predict slides whose features are there, and draw their heatmaps; their rows are the caller's to record.

    Returns:
        What became of each, and the prediction of the case if it has one.
    """
    with once.lock:
        model, folder = once.build(job, job.build), SlidesFolder(job.out)
        return predict_case(case, slide_statuses, model, folder, job.heatmaps, job.compared)
