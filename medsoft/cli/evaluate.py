"""The verb ``evaluate``: metrics of one model's predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medsoft.errors import InputError, check_range
from medsoft.evaluation.comparison.reader_study import (
    REVIEWS,
    Key,
    ReaderRow,
    Review,
    read_reviews,
    reader_study,
    write_reader_study,
)
from medsoft.evaluation.evaluate import Evaluation, evaluate_table
from medsoft.evaluation.examples import read_examples
from medsoft.evaluation.learnt import nothing_learnt
from medsoft.evaluation.locked import TARGETS, read_locked
from medsoft.evaluation.report.content import Given
from medsoft.evaluation.report.model_card import read_card
from medsoft.evaluation.report.page import write_report
from medsoft.evaluation.report.run import RunFacts, read_run
from medsoft.evaluation.report.targets import write_targets_report
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.subgroups import group_columns
from medsoft.evaluation.tables.predictions import write_predictions
from medsoft.evaluation.tables.read import Predictions, files_of, join_samples, read_parts, read_samples
from medsoft.evaluation.terminal import across_table, part_table
from medsoft.evaluation.wording import counted
from medsoft.evaluation.writing import write_evaluation
from medsoft.runs.run_folder import RunFolder
from medsoft.storage.files import holding
from medsoft.system.progress import progress
from medsoft.system.terminal import plain_console
from medsoft.task import Task
from medsoft.task_types import KEPT
from medsoft.text.spelling import notes_on_spellings
from medsoft.workflows.run_report import about_target
from medsoft.workflows.shortcuts import kept_shortcuts, say_shortcuts


def evaluate(
    predictions: list[str],
    out: str,
    table: str | None = None,
    id: str | None = None,
    subgroups: str | list[str] | None = None,
    bands: dict[str, list[float]] | None = None,
    by: str | list[str] | None = None,
    thresholds: str | float | list[str | float] | None = None,
    choose_on: str = "val",
    optimistic: bool = False,
    recalibrate: str | None = None,
    locked: str | None = None,
    prevalences: float | str | list[float] | None = None,
    uncertainty: str | None = None,
    times: float | str | list[float] | None = None,
    tau: float | None = None,
    risk_cut: float | str | list[float] = "median",
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    stratify: bool = True,
    figures: bool = True,
    report: bool = True,
    run: str | None = None,
    examples: int = 4,
    ids: bool = False,
    title: str | None = None,
    card: str | None = None,
) -> int:
    """Compute metrics with intervals, thresholds, calibration and subgroups of one model's predictions.

    Args:
        predictions: Tables of predictions as medsoft writes them, or with the columns id, target and p_<class>; several
            if val and test, or the folds, are in separate files; or the folder of a run or a cross-validation.
        out: Folder for report.html, evaluation.json, tables and figures; it is created.
        table: Sample table (CSV or Parquet) with further columns, such as sex, age, site or scanner.
        id: Column of that table with the ids, or with files whose names without suffix are the ids; id if not given.
        subgroups: Columns to group by, separated by commas; if not given, all columns of the sample table with 2 to 8
            values.
        bands: Limits that divide numeric columns into bands, such as {age: [50, 65]} for < 50, 50 to < 65 and >= 65.
        by: unit of the evaluation: row, exam or patient, or several, separated by commas; if not given, all that
            differ.
        thresholds: Rules for thresholds, separated by commas: a number, youden, sensitivity:0.95, specificity:0.9,
            cost:5 (a miss costs five false alarms). If not given, 0.5, and also youden if there are rows to choose it
            on.
        choose_on: Split on whose rows thresholds and risk groups are chosen and the recalibration is fitted.
        optimistic: Allow choosing on the split that is reported. Every value from it is then marked OPTIMISTIC.
        recalibrate: recalibration: temperature, isotonic or none; if not given, temperature if there are rows to fit it
            on.
        locked: file locked.json of an earlier evaluation, whose thresholds, recalibration and risk groups are used.
        prevalences: Prevalences at which PPV and NPV are also given, separated by commas, such as 0.01,0.05.
        uncertainty: Column by which selective prediction rejects rows, such as spread_ill or ood_score; the predicted
            class's probability if not given.
        times: Survival: times at which AUC(t) is given, separated by commas, in the unit of the table's times; if not
            given, those of the columns s_<time>, else the quartiles of the event times.
        tau: Survival: time at which Uno's C ends; if not given, the last one at which a tenth of the rows is at risk.
        risk_cut: Survival: risk at which groups are divided: median, of the validation rows, or numbers separated by
            commas.
        draws: Number of bootstrap draws over patients.
        seed: Seed of the bootstrap.
        confidence: Confidence level of all intervals.
        stratify: Draw patients within classes. Use false for a consecutive series, whose mix of classes arose by
            chance.
        figures: Draw ROC curves with bands, reliability diagrams, decision curves, Kaplan-Meier curves and forest
            plots.
        report: Write report.json and report.html, a self-contained file.
        run: Folder of the run that made the predictions, for the report's flow of samples, learning curves, examples,
            configuration and versions; not needed if that folder is given as the predictions.
        examples: How many correct and how many wrong predictions the report shows with their images; 0 for none.
        ids: Show the ids of the examples. Otherwise the report names no sample and no patient.
        title: Title of the report.
        card: YAML file with the authors' text for the report's model card (intended_use, users, out_of_scope,
            reference_standard, data_collection, ethics, licence, contact).

    Raises:
        InputError: the tables or options are wrong.
    """
    given = read_parts(predictions)
    rules = None if thresholds is None else tuple(words(thresholds))
    settings = Settings(
        draws=draws,
        seed=seed,
        confidence=confidence,
        stratify=stratify,
        rules=rules,
        choose_on=choose_on,
        optimistic=optimistic,
        recalibrate=recalibrate,
        prevalences=_numbers("prevalences", prevalences),
        levels=None if by is None else tuple(words(by)),
        uncertainty=uncertainty,
        times=_numbers("times", times),
        tau=tau,
        risk_cut=",".join(words(risk_cut)),
    )
    _check_options(given.task, settings, locked)
    check_range("examples", examples, 0)
    if table is None and (subgroups is not None or bands is not None or id is not None):
        raise InputError("subgroups need the sample table: name it with --table")
    columns = None if subgroups is None else words(subgroups)
    call = _Call(
        predictions, settings, locked, table, id, columns, bands or {}, figures, report, examples, ids, title, card
    )
    run = run or _run_among(predictions)
    about = read_run(run) if run else None
    if not given.task.parts:
        return _evaluate(call, given, about, Path(out))
    reported = []
    for target in given.task.parts:
        own = RunFolder(Path(out)).target(target.name)
        rows = replace(given, frame=given.task.frame_of(target.name, given.frame), task=target.task)
        if not target.task.known(rows.frame).any():
            print(f"Note: {target.name}: no row has this target: it is not evaluated")
            continue
        of_run = None
        if about is not None:
            of_run = about_target(about, RunFolder(about.path).target(target.name), target)
        _evaluate(call, rows, of_run, own.path, target.name)
        write_predictions(rows.frame, own.predictions)
        reported.append(target)
    if report and reported:
        with holding(Path(out)):
            write_targets_report(out, reported, about)
        print(f"Wrote {Path(out) / 'report.html'}, of all targets")
    return 0


@dataclass(frozen=True)
class _Call:
    """What the command line asks for; see ``evaluate``."""

    predictions: list[str]
    settings: Settings
    locked: str | None
    table: str | None
    id: str | None
    subgroups: list[str] | None
    bands: dict[str, list[float]]
    figures: bool
    report: bool
    examples: int
    ids: bool
    title: str | None
    card: str | None


def _check_options(task: Task, settings: Settings, locked: str | None) -> None:
    """Raise InputError where options do not go together, or mean nothing for the task."""
    of_classes = settings.rules is not None or settings.recalibrate is not None or bool(settings.prevalences)
    of_survival = bool(settings.times) or settings.tau is not None or settings.risk_cut != "median"
    if task.parts and (of_classes or of_survival or locked is not None):
        raise InputError(
            "thresholds, recalibration, prevalences, locked, times, tau and risk_cut are of one target, and these "
            f"predictions have several: evaluate one by itself, from the folder {TARGETS}/{task.parts[0].name} of the "
            "run, or of an evaluation of all"
        )
    if locked is not None:
        if settings.rules is not None or settings.recalibrate is not None:
            raise InputError("--locked brings thresholds and recalibration: leave out --thresholds and --recalibrate")
        if settings.risk_cut != "median":
            raise InputError("--locked brings the cut of the risk groups: leave out --risk_cut")
        if not (task.has_probabilities or task.has_risk_groups):
            raise InputError(f"--locked is for classes and risk groups: a {task.kind} has neither")
    if task.parts:
        return
    if not task.has_probabilities and of_classes:
        raise InputError(
            f"thresholds, recalibration and prevalences are for classes: these predictions are a {task.kind}"
        )
    if not task.has_risk_groups and of_survival:
        raise InputError(f"times, tau and risk_cut are for survival: these predictions are {task.kind}")


def _evaluate(call: _Call, given: Predictions, run: RunFacts | None, out: Path, of_target: str = "") -> int:
    """Evaluate predictions of one question, and write and print what comes of it.

    Args:
        call: the command line.
        given: the predictions.
        run: that made them, as far as its folder says it.
        out: folder.
        of_target: which of several targets it is; "" for a single one.
    """
    settings, predictions = call.settings, call.predictions
    chosen_before = None if call.locked is None else read_locked(call.locked, given.task)
    groups = None
    notes = notes_on_spellings(given.frame["patient"], "patient")
    if len(predictions) > 1:
        notes.insert(
            0, f"{len(predictions)} tables are pooled as the predictions of one model: {', '.join(predictions)}"
        )
    if call.table is not None:
        samples = join_samples(given.frame, read_samples(call.table), call.id, call.table)
        groups, of_groups = group_columns(samples, given.frame, given.task, call.subgroups, call.bands)
        notes += of_groups
        unknown = int((samples == "").all(axis=1).sum())
        notes += [f"{unknown} of {counted(len(samples), 'sample')} not in {call.table}"] if unknown else []
    title = f"{call.title}: {of_target}" if call.title and of_target else call.title or ""
    about = Given(given.frame, given.inputs, run, title, read_card(call.card) if call.card is not None else {})
    shown, how = read_examples(run.path / "examples", given.frame, call.examples) if run else ([], "")
    data = run.config.get("data") if run else None
    task = given.task.as_configured(data if isinstance(data, dict) else {})
    kept = run.facts.get(KEPT) if run else None
    result = evaluate_table(given.frame, task, settings, groups, chosen_before, kept)
    result.notes.extend(notes)
    if run is not None:
        about = replace(about, shortcuts=kept_shortcuts(RunFolder(run.path), given.frame, given.task, settings))
    if chosen_before is not None:
        what = "risk groups" if given.task.has_risk_groups else "thresholds and recalibration"
        result.notes.append(f"{what} as locked in {call.locked}")
    read: list[ReaderRow] = []
    if not of_target:
        read, of_reader = _reader_study(predictions, given, settings.confidence)
        result.notes.extend(of_reader)
    with holding(out), progress("drawing figures and writing the report"):
        written = write_evaluation(result, out, given.inputs, call.figures)
        if call.report:
            written += write_report(result, out, about, shown, how, call.ids)
        if read:
            write_reader_study(read, out / "reader_study.csv")
            written.append(out / "reader_study.csv")
    if of_target:
        print(f"{of_target}:")
    _print(result, given, out, len(written), call.report)
    for row in read:
        where = f"{row.split}: " if row.split else ""
        print(f"{where}{row.measure} {row.value:.3f} ({row.low:.3f} to {row.high:.3f}), {row.hits} of {row.n} reviewed")
    if run is not None and about.shortcuts is not None:
        say_shortcuts(about.shortcuts, settings, run.unit, of_target)
    return 0


def _reader_study(paths: Sequence[str], given: Predictions, confidence: float) -> tuple[list[ReaderRow], list[str]]:
    """What the ``reviews.csv`` beside the predictions says; nothing where there is none."""
    reviews: dict[Key, Review] = {}
    for folder in dict.fromkeys(file.parent for file in files_of(paths)):
        if (folder / REVIEWS).is_file():
            reviews |= read_reviews(folder / REVIEWS)
    return reader_study(reviews, given.frame, given.task, confidence) if reviews else ([], [])


def _run_among(predictions: Sequence[str]) -> str | None:
    """The folder of a run, where that is what the predictions were named by."""
    return next((path for path in predictions if (Path(path) / "config.yaml").is_file()), None)


def words(values: str | float | Sequence[str | float]) -> list[str]:
    """Words separated by commas, or a list of them."""
    listed = values.split(",") if isinstance(values, str) else [values] if isinstance(values, int | float) else values
    return [str(word).strip() for word in listed if str(word).strip()]


def _numbers(option: str, values: float | str | list[float] | None) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in words(values)) if values is not None else ()
    except ValueError as error:
        raise InputError(f"--{option}: {error}") from error


def _print(result: Evaluation, given: Predictions, out: Path, n_written: int, report: bool) -> None:
    console = plain_console()
    for across in result.across:
        console.print(across_table(across))
        for note in across.notes:
            console.print(f"  {note}", soft_wrap=True)
    for part in result.parts:
        if result.across:  # each fold's values are in metrics.csv
            part.notes[:] = [f"fold {part.fold}, {part.split}: {note}" for note in part.notes]
        else:
            console.print(part_table(part))
        for note in part.notes:
            console.print(f"  {note}", soft_wrap=True)
    for note in result.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    if said := nothing_learnt(result):
        console.print(f"WARNING: {said}", soft_wrap=True)
    main = out / ("report.html" if report else "evaluation.json")
    console.print(f"Wrote {main} and {counted(n_written - 1, 'other file')}", soft_wrap=True)
