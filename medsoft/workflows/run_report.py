"""The report that ends a run: its predictions evaluated, with thresholds that validation rows chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from medsoft.data.tables.targets import plain_options
from medsoft.evaluation.evaluate import Evaluation, evaluate_table
from medsoft.evaluation.examples import read_examples
from medsoft.evaluation.learnt import hardly_vary, nothing_learnt
from medsoft.evaluation.locked import LOCKED, Locked, read_locked
from medsoft.evaluation.report.content import Given
from medsoft.evaluation.report.page import write_report
from medsoft.evaluation.report.run import RunFacts, read_run
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.shortcuts.judge import Shortcuts
from medsoft.evaluation.tables.levels import levels_of
from medsoft.evaluation.tables.read import read_parts
from medsoft.evaluation.writing import write_evaluation
from medsoft.runs.run_folder import RunFolder
from medsoft.storage.own_files import read_json_object
from medsoft.system.progress import progress
from medsoft.task import Task
from medsoft.task_types import NamedTask
from medsoft.workflows.tracking.sent import stage_report

DRAWS = 500
"""Of the bootstrap at the end of a run; ``medsoft evaluate`` takes 2,000."""


def evaluate_run(
    frame: pd.DataFrame,
    task: Task,
    model_of: RunFolder | None = None,
    notes: Sequence[str] = (),
    kept: Sequence[Mapping[str, Any]] = (),
) -> Evaluation | None:
    """Evaluate a run's predictions.

    Args:
        frame: the predictions.
        task: theirs.
        model_of: the run that trained the model, or its bundle, whose locked thresholds are used where there are any.
        notes: what else the report must say, first of its notes.
        kept: what the model, or each member of an ensemble, has kept of its training part.

    Returns:
        None where no row has a target, and there is nothing to report.
    """
    if not task.known(frame).any():
        return None
    locked, levels = _locked(model_of, task, frame)
    settings = Settings(draws=DRAWS, levels=levels)
    result = evaluate_table(frame, task, settings, locked=locked, kept={"": kept})
    result.notes[:0] = notes
    if locked is not None and model_of is not None:
        what = "risk groups" if task.has_risk_groups else "thresholds and recalibration"
        result.notes.append(f"{what} as locked by {model_of.name!r}, with the model")
    return result


def without_signs(frame: pd.DataFrame, task: Task, result: Evaluation | None) -> str:
    """The sentence that a model shows no sign of having learnt anything; "" where it does.

    Args:
        frame: its predictions.
        task: theirs.
        result: of ``evaluate_run``; None where there are no targets, so that only constant predictions can be told.
    """
    if result is not None:
        return nothing_learnt(result)
    said = hardly_vary(frame, task)
    return f"No sign that this model has learnt anything: {said}" if said else ""


def write_run_report(
    run: RunFolder,
    frame: pd.DataFrame,
    result: Evaluation,
    examples: int,
    about: RunFacts | None = None,
    shortcuts: Shortcuts | None = None,
) -> None:
    """Write the evaluation of a run into its ``evaluation/``, and ``report.html`` and ``report.json``.

    Args:
        run: its folder, with predictions and facts.
        frame: the predictions.
        result: of ``evaluate_run``.
        examples: so many right and wrong answers are shown, of those that were drawn.
        about: what is known of it, where its folder does not say it.
        shortcuts: baselines beside the model; None where nobody asked for them.

    Raises:
        OSError: a file cannot be written.
    """
    inputs = read_parts([run.predictions]).inputs
    with progress("writing the report"):
        write_evaluation(result, run.evaluation, inputs, figures=False)
        given = Given(frame, inputs, about or read_run(run.path), shortcuts=shortcuts)
        shown, how = read_examples(run.examples, frame, examples)
        write_report(result, run.path, given, shown, how)
        stage_report(result, run.path, given)


def about_target(about: RunFacts, run: RunFolder, target: NamedTask) -> RunFacts:
    """What is known of a run, as of a run of one of its targets alone.

    Args:
        about: the whole run.
        run: what there is of the target.
        target: its name and question.
    """
    data = about.config.get("data")
    data = dict(data) if isinstance(data, dict) else {}
    given = data.pop("targets", None) or {}
    own = {"label": target.name, "positive": None, **plain_options(given.get(target.name))}
    config = {**about.config, "name": f"{about.name}: {target.name}", "data": data | own}
    facts = read_json_object(run.facts) if run.facts.is_file() else about.facts
    return replace(about, path=run.path, config=config, facts=facts)


def _locked(
    model_of: RunFolder | None, task: Task, frame: pd.DataFrame
) -> tuple[Locked | None, tuple[str, ...] | None]:
    """What the model's own run or bundle locked, and the levels that it is there for."""
    # A folder of medsoft auto has one beside its evaluation, which may be of other models (nested cross-validation).
    locks = task.has_probabilities or task.has_risk_groups
    folders = [model_of.path, model_of.evaluation] if model_of is not None and locks else []
    file = next((folder / LOCKED for folder in folders if (folder / LOCKED).is_file()), None)
    if file is None:
        return None, None
    locked = read_locked(file, task)
    there = {chosen.level for chosen in locked.chosen}
    return locked, tuple(level for level in levels_of(frame, task) if level in there)
