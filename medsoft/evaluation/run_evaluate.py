"""What ``medsoft evaluate`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from medsoft.errors import InputError, check_range
from medsoft.evaluation.across_folds import AcrossFolds, FoldsEstimate
from medsoft.evaluation.estimates import Estimate
from medsoft.evaluation.evaluate import Evaluation, evaluate_table
from medsoft.evaluation.locked import read_locked
from medsoft.evaluation.part import Part
from medsoft.evaluation.report.card import read_card
from medsoft.evaluation.report.content import Given
from medsoft.evaluation.report.examples import read_examples
from medsoft.evaluation.report.page import write_report
from medsoft.evaluation.report.run_facts import read_run
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.subgroups import group_columns
from medsoft.evaluation.tables import Predictions, join_samples, read_parts, read_samples
from medsoft.evaluation.writing import write_evaluation


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
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    stratify: bool = True,
    pictures: bool = True,
    report: bool = True,
    run: str | None = None,
    examples: int = 4,
    ids: bool = False,
    title: str | None = None,
    card: str | None = None,
) -> int:
    """Metrics with intervals, thresholds, calibration and subgroups of one model's predictions.

    Args:
        predictions: Tables as medsoft writes them, or with id, target and p_<class>; several where val and test, or
            folds, lie in files of their own; or the folder of a run or a cross-validation.
        out: Folder for report.html, evaluation.json, tables and pictures; created.
        table: Sample table (CSV or Parquet) with further columns, such as sex, age, site or scanner.
        id: Its column with the ids, or with files whose names without suffix are the ids; id if not given.
        subgroups: Columns to group by, with commas between; if not given, all of the sample table with 2 to 8 values.
        bands: Limits for columns of numbers, such as {age: [50, 65]} for < 50, 50 to < 65 and >= 65.
        by: row, exam or patient, or several with commas between; if not given, those that differ.
        thresholds: Rules with commas between: a number, youden, sensitivity:0.95, specificity:0.9, cost:5 (a miss costs
            five false alarms). If not given, 0.5, and youden where there are rows to choose on.
        choose_on: Split whose rows choose thresholds and fit the recalibration.
        optimistic: Allow to choose on the split that is reported. Every such value is then marked as OPTIMISTIC.
        recalibrate: temperature, isotonic or none; temperature if not given and where there are rows to fit on.
        locked: locked.json of an earlier evaluation, whose thresholds and recalibration are then used.
        prevalences: For further PPV and NPV, with commas between, such as 0.01,0.05.
        uncertainty: Column by which selective prediction sets rows aside, such as spread_ill or ood_score; the
            predicted class's probability if not given.
        draws: Of the bootstrap over patients.
        seed: Of the bootstrap.
        confidence: Of all intervals.
        stratify: Draw patients within the classes. False for a consecutive series, whose mix of classes came by chance.
        pictures: Draw ROC curves with bands, reliability diagrams, decision curves and forest plots.
        report: Write report.html, one file that needs nothing else, and report.json.
        run: Folder of the run that made the predictions, for the report's flow of samples, learning curves, examples,
            configuration and versions; not needed where the predictions are named by that folder.
        examples: So many right and so many wrong answers in the report, with the run's pictures; 0 for no pictures.
        ids: Show the names of the examples. Without it the report names no sample and no patient.
        title: Of the report.
        card: YAML file with the authors' words for the report's model card (intended_use, users, out_of_scope,
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
        prevalences=_numbers(prevalences),
        levels=None if by is None else tuple(words(by)),
        uncertainty=uncertainty,
    )
    chosen_before = None
    if locked is not None:
        if rules is not None or recalibrate is not None:
            raise InputError("--locked brings thresholds and recalibration: leave out --thresholds and --recalibrate")
        if given.task is None:
            raise InputError("--locked is for classes: a regression has no thresholds")
        chosen_before = read_locked(locked, given.task)
    if given.task is None and (rules is not None or recalibrate is not None or settings.prevalences):
        raise InputError(
            "thresholds, recalibration and prevalences are for classes: these predictions are a regression"
        )
    groups = None
    notes: list[str] = []
    if table is not None:
        samples = join_samples(given.frame, read_samples(table), id, table)
        columns = None if subgroups is None else words(subgroups)
        groups, notes = group_columns(samples, given.frame, given.task, columns, bands or {})
        unknown = int((samples == "").all(axis=1).sum())
        notes += [f"{unknown} of {len(samples)} samples are not in {table}"] if unknown else []
    elif subgroups is not None or bands is not None or id is not None:
        raise InputError("subgroups need the sample table: name it with --table")
    about = Given(
        given.frame,
        given.inputs,
        read_run(run) if (run := run or _run_among(predictions)) else None,
        title or "",
        read_card(card) if card is not None else {},
    )
    check_range("examples", examples, 0)
    shown, how = read_examples(about.run.path / "examples", given.frame, examples) if about.run else ([], "")
    result = evaluate_table(given.frame, given.task, settings, groups, chosen_before)
    result.notes.extend(notes)
    if chosen_before is not None:
        result.notes.append(f"thresholds and recalibration as locked in {locked}")
    written = write_evaluation(result, out, given.inputs, pictures)
    if report:
        written += write_report(result, out, about, shown, how, ids)
    _print(result, given, Path(out), len(written), report)
    return 0


def _run_among(predictions: Sequence[str]) -> str | None:
    """The folder of a run, where that is what the predictions were named by."""
    return next((path for path in predictions if (Path(path) / "config.yaml").is_file()), None)


def words(values: str | float | Sequence[str | float]) -> list[str]:
    """Words with commas between, or a list of them."""
    listed = values.split(",") if isinstance(values, str) else [values] if isinstance(values, int | float) else values
    return [str(word).strip() for word in listed if str(word).strip()]


def _numbers(values: float | str | list[float] | None) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in words(values)) if values is not None else ()
    except ValueError as error:
        raise InputError(f"--prevalences: {error}") from error


def _print(result: Evaluation, given: Predictions, out: Path, n_written: int, report: bool) -> None:
    console = Console(highlight=False)
    for across in result.across:
        console.print(across_table(across))
        for note in across.notes:
            console.print(f"  {note}", soft_wrap=True, markup=False)
    for part in result.parts:
        if result.across:  # each fold's values are in metrics.csv
            part.notes[:] = [f"fold {part.fold}, {part.split}: {note}" for note in part.notes]
        else:
            console.print(_summary(part))
        for note in part.notes:
            console.print(f"  {note}", soft_wrap=True, markup=False)
    for note in result.notes:
        console.print(f"Note: {note}", soft_wrap=True, markup=False)
    main = out / ("report.html" if report else "evaluation.json")
    console.print(f"Wrote {main} and {n_written - 1} other files", soft_wrap=True, markup=False)


def _summary(part: Part) -> Table:
    name = f"{part.split}{f', fold {part.fold}' if part.fold else ''}, by {part.level}"
    people = "" if part.n_patients is None or part.level == "patient" else f", {part.n_patients} patients"
    table = Table("metric", "value", "interval", "method", title=f"{name} (n={part.n}{people})")
    several = sum(estimate.metric == "auroc" and bool(estimate.class_name) for estimate in part.estimates) > 1
    for estimate in part.estimates:
        if not _is_shown(estimate, several):
            continue
        value = "undefined" if estimate.value is None else f"{estimate.value:.3f}"
        interval = "" if estimate.low is None or estimate.high is None else f"{estimate.low:.3f} to {estimate.high:.3f}"
        table.add_row(_name(estimate), value, interval, estimate.method or estimate.note)
    return table


def across_table(across: AcrossFolds) -> Table:
    """The main metrics over folds, for the terminal."""
    title = f"{across.split}, {len(across.n_per_fold)} folds, by {across.level} (n={sum(across.n_per_fold.values())})"
    table = Table("metric", "mean over folds", "interval", "sd", "folds", "pooled", title=title)
    several = sum(estimate.metric == "auroc" and bool(estimate.class_name) for estimate in across.estimates) > 1
    for estimate in across.estimates:
        if not _is_shown(estimate, several):
            continue
        numbers = [estimate.value, estimate.sd, estimate.pooled]
        value, sd, pooled = ("–" if number is None else f"{number:.3f}" for number in numbers)
        interval = "" if estimate.low is None or estimate.high is None else f"{estimate.low:.3f} to {estimate.high:.3f}"
        folds = str(estimate.n_folds) + (f" ({estimate.note})" if estimate.undefined_folds else "")
        table.add_row(_name(estimate), value, interval, sd, folds, pooled)
    return table


_SHOWN = {"auroc", "average_precision", "sensitivity", "specificity", "accuracy", "balanced_accuracy", "mcc", "kappa"}
_SHOWN |= {"brier", "aurc", "mae", "bias", "r2", "concordance"}


def _is_shown(estimate: Estimate | FoldsEstimate, several: bool) -> bool:
    """The terminal shows the main metrics; of several classes only averages, and each one's AUROC."""
    if estimate.metric not in _SHOWN or estimate.prevalence is not None or estimate.probabilities:
        return False
    return estimate.metric == "auroc" or not (several and (estimate.class_name or estimate.average == "micro"))


def _name(estimate: Estimate | FoldsEstimate) -> str:
    of = [part for part in (estimate.class_name, estimate.average) if part]
    at = f" at {estimate.rule}" if estimate.rule else ""
    return f"{estimate.metric.replace('_', ' ')}{f' ({of[0]})' if of else ''}{at}"
