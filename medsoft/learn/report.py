"""The report that ends a run: its predictions evaluated, with thresholds that validation rows chose."""

from __future__ import annotations

import pandas as pd

from medsoft.evaluation.arrays import has_target
from medsoft.evaluation.evaluate import evaluate_table
from medsoft.evaluation.levels import levels_of
from medsoft.evaluation.locked import Locked, read_locked
from medsoft.evaluation.report.content import Given
from medsoft.evaluation.report.examples import read_examples
from medsoft.evaluation.report.page import write_report
from medsoft.evaluation.report.run_facts import read_run
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.tables import read_parts
from medsoft.evaluation.writing import write_evaluation
from medsoft.learn.run_folder import RunFolder
from medsoft.task import Task

DRAWS = 500
"""Of the bootstrap at the end of a run; ``medsoft evaluate`` takes 2,000."""


def write_run_report(
    run: RunFolder, frame: pd.DataFrame, task: Task, examples: int, model_of: RunFolder | None = None
) -> bool:
    """Evaluate a run's predictions into its ``evaluation/``, and write ``report.html`` and ``report.json``.

    Args:
        run: its folder, with predictions and facts.
        frame: the predictions.
        task: theirs.
        examples: so many right and wrong answers are shown, of those that were drawn.
        model_of: the run that trained the model, or its bundle, whose locked thresholds are used where there are any.

    Returns:
        False where no row has a target, and there is nothing to report.

    Raises:
        OSError: a file cannot be written.
    """
    if not has_target(frame, task).any():
        return False
    of_classes = None if task.kind == "regression" else task
    locked, levels = _locked(model_of, of_classes, frame)
    settings = Settings(draws=DRAWS, levels=levels)
    result = evaluate_table(frame, of_classes, settings, locked=locked)
    if locked is not None and model_of is not None:
        result.notes.append(f"thresholds and recalibration as locked by {model_of.path.name!r}, with the model")
    inputs = read_parts([run.predictions]).inputs
    write_evaluation(result, run.evaluation, inputs, pictures=False)
    about = read_run(run.path)
    shown, how = read_examples(run.examples, frame, examples)
    write_report(result, run.path, Given(frame, inputs, about), shown, how)
    return True


def _locked(
    model_of: RunFolder | None, task: Task | None, frame: pd.DataFrame
) -> tuple[Locked | None, tuple[str, ...] | None]:
    """What the model's own run or bundle locked, and the levels that it is there for."""
    folders = [] if model_of is None or task is None else [model_of.evaluation, model_of.path]
    file = next((folder / "locked.json" for folder in folders if (folder / "locked.json").is_file()), None)
    if file is None or task is None:
        return None, None
    locked = read_locked(file, task)
    there = {chosen.level for chosen in locked.chosen}
    return locked, tuple(level for level in levels_of(frame) if level in there)
