"""The work of ``slides predict``, from slides to predictions, heatmaps and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medsoft.cluster.client import Cluster
from medsoft.cluster.options import Workers
from medsoft.encoders.from_checkpoint import NamedEncoder, check_regions, check_tiles
from medsoft.errors import InputError
from medsoft.evaluation.locked import TARGETS, decide_each, write_decisions
from medsoft.evaluation.metrics.score import write_metrics
from medsoft.evaluation.report.run import RunFacts, kind_of_reason
from medsoft.evaluation.report.targets import write_targets_report
from medsoft.evaluation.tables.exams import Pooled
from medsoft.evaluation.tables.recorded import FILES, OF_SLIDES, record_of
from medsoft.evaluation.wording import counted
from medsoft.inference.slides.agreement import said_of_agreement
from medsoft.inference.slides.cases import Case, find_cases
from medsoft.inference.slides.existing_features import holds_features
from medsoft.inference.slides.features import make_features
from medsoft.inference.slides.model import SlideModel, SlidePrediction
from medsoft.inference.slides.options import NO_MAPS, ModelSource, PatientColumns, ReportSettings, TruthColumns
from medsoft.inference.slides.predict import HeatmapRequest
from medsoft.inference.slides.predict_cohort import PredictJob
from medsoft.inference.slides.predict_cohort import predict_slides as predict_each
from medsoft.inference.slides.results import Truth, predictions_table, read_truth
from medsoft.inference.slides.tile_sheets import EXAMPLES, write_cohort_sheets, write_slide_examples
from medsoft.parsing.configurations import read_configuration
from medsoft.runs.bundle import Bundle
from medsoft.runs.facts import training_of
from medsoft.runs.run_folder import RunFolder
from medsoft.slides.annotations.match import with_annotations
from medsoft.slides.annotations.settings import NO_REGIONS, RegionOptions
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.progress import conclude, slides_progress
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.settings import EncodingSettings, HeatmapSettings, TrainedTiles
from medsoft.task import Task
from medsoft.training.predict import write_run_results
from medsoft.training.shift import ShiftNotes, say
from medsoft.workflows.run_report import about_target, evaluate_run, without_signs, write_run_report


@dataclass(frozen=True)
class SlidesJob:
    """What the command line asks for.

    Attributes:
        sources: the slides.
        folder: for everything that is written.
        source: of the model, which is there.
        who: whose the slides are.
        columns: of the table, for what is known of the slides.
        heatmaps: to draw.
        reported: what is made of the predictions.
        encoding: how tiles are read and encoded.
        where: the work runs.
        tiles: of the training, to check.
        encoder: as the user names it.
        drawn: regions of the slides that decide which tiles are kept.
    """

    sources: Sequence[SlideSource]
    folder: SlidesFolder
    source: ModelSource
    who: PatientColumns
    columns: TruthColumns
    heatmaps: HeatmapSettings
    reported: ReportSettings
    encoding: EncodingSettings
    where: Workers
    tiles: TrainedTiles
    encoder: NamedEncoder
    drawn: RegionOptions = NO_REGIONS


def predict_slides(job: SlidesJob) -> int:
    """Encode slides where features are missing, predict them, and write everything that follows.

    Returns:
        0, or 3 if slides failed.

    Raises:
        InputError: the job does not fit the checkpoint.
    """
    folder = job.folder
    models = job.source.find()
    _require_one_model_for_maps(models, job.heatmaps)
    model = SlideModel(models, job.where.device_here)
    check_tiles(model.slides, job.tiles)
    # Features that are given were made of the tiles that they were made of.
    is_restrictable = job.drawn.regions is not None or not all(map(holds_features, job.sources))
    regions = check_regions(model.slides, job.drawn) if is_restrictable else None
    sources = with_annotations(job.sources, job.drawn, () if regions is None else (*regions.classes, *regions.exclude))
    model.restrict(regions)
    request = _heatmap_request(model, models, job.heatmaps)
    cases, other = find_cases(sources, model, job.who)
    trained = {} if model.run is None or not model.run.config.is_file() else read_configuration(model.run.config)
    truth = read_truth(cases, model.task, job.who, job.columns, (trained.get("data") or {}).get("targets") or {})
    bundle = models[0] if isinstance(models[0], Bundle) else None
    encoder = _encoder_of(bundle, job.encoder)

    build = partial(SlideModel, models, regions=regions)
    compared = job.heatmaps.heatmap is not False and model.can_compare
    out = folder.path.absolute()
    prediction = PredictJob(out=out, where=job.where, build=build, heatmaps=request, compared=compared)
    print(_said(cases, sources, model, other), end="")
    folder.tidy()
    with Cluster(job.where, folder) as cluster:
        outcomes = make_features(sources, folder, model, encoder, job.encoding, cluster)
        told = [one.id for one in sources if outcomes[one.id].status == "failed" and not holds_features(one)]
        with slides_progress(len(sources), "predicting", told) as progress:
            predictions = predict_each(cases, outcomes, folder, prediction, model, cluster, progress)

    names = () if request is None else tuple(request.logit_targets) or ("",)
    predicted = [source for case in cases if case.id in predictions for source in case.sources]
    for name in names:
        for sheet in write_cohort_sheets(folder, predicted, name):
            print(f"Tiles that add most and least, of all slides: {sheet}")
    said = say("predict", model.shifts(list(predictions.values())), _unit(cases)) if predictions else None
    maps = names[0] if names else None
    frame = write_results(folder, model, cases, truth, predictions, job.columns, job.reported, said, maps)
    _write_decisions(folder, model, bundle, frame)
    return conclude(progress, folder)


def _unit(cases: Sequence[Case]) -> str:
    """What a prediction is of, in a word."""
    return "patient" if any(case.id != case.sources[0].id for case in cases) else "slide"


def _said(cases: Sequence[Case], sources: Sequence[SlideSource], model: SlideModel, other: str) -> str:
    """Lines on how slides are pooled, and on covariates; "" where there is nothing to say."""
    lines = [other] if other else []
    if _unit(cases) == "patient":
        lines.append(f"{counted(len(sources), 'slide')} of {counted(len(cases), 'patient')}: one bag each, as trained")
    for k, name in enumerate(model.covariates):
        if missing := sum(bool(np.isnan(case.covariates[k])) for case in cases):
            whole = "WARNING: " if missing == len(cases) else ""
            lines.append(f"{whole}{name} is not known of {missing} of {counted(len(cases), _unit(cases))}")
    return "".join(f"{line}\n" for line in lines)


def _require_one_model_for_maps(models: Sequence[Path | Bundle], heatmaps: HeatmapSettings) -> None:
    """Raise InputError where heatmaps of an ensemble are asked for; say how many models there are."""
    if len(models) == 1:
        return
    if heatmaps.heatmap or heatmaps.classes is not None:
        raise InputError(NO_MAPS)
    print(f"{len(models)} models")


def _heatmap_request(
    model: SlideModel, models: Sequence[Path | Bundle], heatmaps: HeatmapSettings
) -> HeatmapRequest | None:
    """The heatmaps to draw; None for none, as for an ensemble, or an aggregator that says nothing of its tiles.

    Raises:
        InputError: such an aggregator, and heatmaps are asked for.
    """
    if len(models) > 1 or heatmaps.heatmap is False:
        return None
    if not model.has_maps:
        if heatmaps.heatmap or heatmaps.classes is not None:
            raise InputError(f"no heatmaps: {model.facts['backbone']} gives no contributions or attention of its tiles")
        return None
    return HeatmapRequest.of(model.task, heatmaps.classes)


def _encoder_of(bundle: Bundle | None, named: NamedEncoder) -> NamedEncoder:
    """The encoder that a bundle brings, unless the user names one."""
    if bundle is None or bundle.encoder is None or named != NamedEncoder():
        return named
    if bundle.encoder.is_dir():
        return replace(named, name=str(bundle.encoder))
    return replace(named, weights=bundle.encoder)


def _write_decisions(
    folder: SlidesFolder, model: SlideModel, bundle: Bundle | None, frame: pd.DataFrame | None
) -> None:
    """Write ``decisions.csv`` where a bundle has locked thresholds, in place of that of an earlier call."""
    decisions = folder.path / "decisions.csv"
    decisions.unlink(missing_ok=True)
    if bundle is not None and frame is not None and (locks := bundle.locked()):
        write_decisions(decide_each(frame, model.task, locks), decisions)


@dataclass(frozen=True)
class _Slides:
    """What ``write_run_results`` asks of a data module."""

    task: Task
    note: str

    def thumbnail(self, id: str) -> None:
        """None: a bag has no picture."""


def write_results(
    folder: SlidesFolder,
    model: SlideModel,
    cases: Sequence[Case],
    truth: Truth,
    predictions: Mapping[str, SlidePrediction],
    columns: TruthColumns,
    settings: ReportSettings,
    said: ShiftNotes | None = None,
    maps: str | None = None,
) -> pd.DataFrame | None:
    """Write ``predictions.csv``, and where true classes are known metrics, figures and the report, as of a run.

    All are of this call's slides alone: what an earlier call left is replaced, or removed where there is nothing.

    Args:
        folder: where they go.
        model: that predicted.
        cases: all slides, or the slides of each patient.
        truth: of all cases.
        predictions: by id, of the cases that have one.
        columns: that the truth was read from, for the report.
        settings: what to write.
        said: whether the slides as a whole are unlike the data of the training.
        maps: folder of the heatmaps that the report's examples show, below heatmaps/; None: there are none.

    Returns:
        The predictions table, with the further columns of ``medsoft predict``; None where no slide could be predicted.

    Raises:
        OSError: a file cannot be written.
    """
    run = RunFolder(folder.path)
    remove_results(run)
    frame = predictions_table(model.task, cases, truth, predictions)
    if frame is None:
        print(f"No {_unit(cases)} could be predicted.")
        return None
    note = "phantom slides, no patients" if any("phantom" in case.sources[0].row for case in cases) else ""
    pooling: Pooled = {"exam": settings.exams, "patient": settings.patients}
    write_run_results(run, frame, _Slides(model.task, note), settings.figures, pooling=pooling)
    for target in model.task.parts:
        rows, of_target = model.task.frame_of(target.name, frame), _Slides(target.task, note)
        write_run_results(run.target(target.name), rows, of_target, settings.figures, None, pooling, target.name)
    tables = [run.predictions, *(run.pooled_predictions(level) for level in pooling)]
    write_metrics({FILES: record_of(tables)}, folder.path / OF_SLIDES)
    print(f"{len(frame)} of {counted(len(cases), _unit(cases))} predicted: {folder.predictions_csv}")
    of_members = said_of_agreement([one.agreement for one in predictions.values()], _unit(cases))
    print("".join(f"{line}\n" for line in of_members), end="")
    notes = [*([] if said is None else said.warnings), *of_members]
    about = _about(folder, model, cases, set(predictions), truth, columns, note, said)
    if model.task.parts:
        _report_targets(run, frame, model, notes, settings.report, about)
        return frame
    result = evaluate_run(frame, model.task, model.run, notes, model.kept)
    if nothing := without_signs(frame, model.task, result):
        print(f"WARNING: {nothing}")
    if settings.report and result is not None:
        alone = [case.sources[0] for case in cases if case.id == case.sources[0].id]
        has_examples = maps is not None and write_slide_examples(run.examples, frame, model.task, folder, alone, maps)
        write_run_report(run, frame, result, examples=EXAMPLES if has_examples else 0, about=about)
        print(f"Report: {run.report}")
    return frame


def _report_targets(
    run: RunFolder, frame: pd.DataFrame, model: SlideModel, notes: Sequence[str], report: bool, about: RunFacts
) -> None:
    """Evaluate each of several targets by itself, and write their reports and the page above them."""
    reports = []
    for target in model.task.parts:
        own, rows = run.target(target.name), model.task.frame_of(target.name, frame)
        model_of = None if model.run is None else model.run.target(target.name)
        kept = [of_model.get(target.name, {}) for of_model in model.kept]
        result = evaluate_run(rows, target.task, model_of, notes, kept)
        if nothing := without_signs(rows, target.task, result):
            print(f"WARNING: {target.name}: {nothing}")
        if report and result is not None:
            write_run_report(own, rows, result, examples=0, about=about_target(about, own, target))
            reports.append(target)
    if reports:
        write_targets_report(run.path, reports, about)
        print(f"Report: {run.report}")


def remove_results(run: RunFolder) -> None:
    """Remove what an earlier call made of its predictions, and the predictions: they are not those of this call."""
    for folder in (run.path / TARGETS).glob("*"):
        remove_results(RunFolder(folder))
    files = [run.path / OF_SLIDES, run.predictions, run.metrics]
    for level in ("exam", "patient"):
        files += [run.pooled_predictions(level), run.pooled_metrics(level)]
    files += [run.report, run.report.with_suffix(".json"), *run.figures.glob("*.png")]
    files += [*run.evaluation.glob("*.csv"), *run.evaluation.glob("*.json")]
    files += [*run.examples.glob("*.jpg"), *run.examples.glob("*.json")]
    for file in files:
        file.unlink(missing_ok=True)


def _about(
    folder: SlidesFolder,
    model: SlideModel,
    cases: Sequence[Case],
    predicted: set[str],
    truth: Truth,
    columns: TruthColumns,
    note: str,
    said: ShiftNotes | None,
) -> RunFacts:
    """What the report says beside the numbers: the slides, those that are missing, and the model."""
    ids = {case.sources[0].id for case in cases if case.id not in predicted}  # which speaks for the others of a patient
    failed = [row for id, row in folder.rows().items() if id in ids]
    patients = set(truth.about["patient"]) - {""}
    config: dict[str, Any] = {"data": {"label": columns.label, "positive": columns.positive}}
    if model.run is not None and model.run.config.is_file():
        config["model"] = read_configuration(model.run.config).get("model") or {}
    facts = {
        "data": {
            "unit": _unit(cases),
            "note": note,
            "rows": len(cases),
            "patients": len(patients) or None,
            "splits": {},
        },
        "model": model.facts,
        "training": training_of(model.run),
    }
    if said is not None:
        facts["out_of_distribution"] = said.numbers
    excluded = Counter((row["stage"], kind_of_reason(row["reason"])) for row in failed)
    return RunFacts(Path(folder.path), config, facts=facts, excluded=dict(excluded))
