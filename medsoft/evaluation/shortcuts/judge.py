"""A model beside humble baselines on the same rows: whether it is ahead of them, in numbers and in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.comparison.compare import Difference, compare_models
from medsoft.evaluation.comparison.pairing import pair
from medsoft.evaluation.evaluate import Evaluation, evaluate_table
from medsoft.evaluation.metrics.by_name import Asked
from medsoft.evaluation.metrics.table import lower_is_better, metric_name
from medsoft.evaluation.metrics.thresholds import parse_rule
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.shortcuts.baseline import predict_by
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.task import Task

FACTS, COVARIATES = "facts", "covariates"
PREFIXES = {FACTS: ("number ", "kind "), COVARIATES: ("covariate ",)}
"""Baselines, and what the columns of a table of facts begin with that each may use."""
WORDS = {FACTS: "trivial facts", COVARIATES: "the covariates alone"}


@dataclass(frozen=True)
class Shortcuts:
    """What a model's report says of baselines.

    Attributes:
        split: that is judged, the part that is reported first.
        predictions: by baseline, its predictions of the model's rows.
        evaluations: by baseline, as the model's own evaluation.
        differences: model against baseline by the task's main metric; one a baseline that could be compared.
        facts: names of the facts that are used.
        notes: why there is no baseline, or no comparison.
    """

    split: str = ""
    predictions: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    facts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def not_ahead(self) -> tuple[Difference, ...]:
        """Baselines that the model is not ahead of by its interval."""
        return tuple(one for one in self.differences if not is_ahead(one))


def is_ahead(found: Difference) -> bool:
    """Whether the whole interval of a difference is on the model's side of 0."""
    if found.low is None or found.high is None:
        return False
    return found.high < 0 if lower_is_better(found.metric) else found.low > 0


def baseline_tables(
    train: pd.DataFrame, facts: pd.DataFrame, frame: pd.DataFrame, task: Task
) -> dict[str, pd.DataFrame]:
    """Baselines that learn from facts of the training part, as predictions tables of the same rows as a model's.

    Args:
        train: table of facts (``medsoft.data.facts.table``) of the training part, with the target columns.
        facts: table of facts of all rows of ``frame``, found by ``id``.
        frame: a predictions table with the rows to predict; of its answers nothing is used.
        task: the question.

    Returns:
        By the name of the baseline; without those that have nothing to learn from.
    """
    by_id = facts.drop_duplicates("id").set_index("id").reindex(frame["id"]).reset_index()
    found = {}
    for name, prefixes in PREFIXES.items():
        columns = [str(column) for column in train if str(column).startswith(prefixes)]
        answers_NC = predict_by(train, by_id, task, columns) if columns else None
        if answers_NC is not None:
            about: dict[str, Any] = {column: frame[column].tolist() for column in ("patient", "exam", "split", "fold")}
            table = make_predictions(task, frame["id"].tolist(), answers_NC, **about)
            found[name] = table.assign(**{column: frame[column].to_numpy() for column in task.target_columns})
    return found


def judge(
    frame: pd.DataFrame, tables: Mapping[str, pd.DataFrame], task: Task, settings: Settings, facts: Sequence[str] = ()
) -> Shortcuts:
    """Evaluate baselines as the model was, and compare the model with each, paired by sample and by patient.

    Args:
        frame: the model's predictions.
        tables: of ``baseline_tables``; of a cross-validation all folds together.
        task: theirs.
        settings: of the model's evaluation.
        facts: names of the facts that were used.
    """
    split = first_split(frame, task)
    evaluations, differences, notes = {}, [], []
    for name, table in tables.items():
        evaluations[name] = evaluate_table(table, task, replace(settings, levels=("row",)))
        try:
            told = [("model", frame), (name, table)]
            paired = pair(told, task, split=split, level="row", rule=parse_rule("0.5"))
            differences += compare_models(paired, Asked(task.primary["metric"]), settings)
        except InputError as error:
            notes.append(f"not compared with the baseline on {WORDS[name]}: {error}")
    undefined = [one for one in differences if one.difference is None]
    notes += [f"the baseline on {WORDS[one.reference]} cannot be compared: {one.note}" for one in undefined]
    kept = tuple(one for one in differences if one.difference is not None)
    return Shortcuts(split, tables, evaluations, kept, tuple(facts), tuple(notes))


def first_split(frame: pd.DataFrame, task: Task) -> str:
    """The split that is reported first: test, else another with targets, val last."""
    there = list(dict.fromkeys(frame.loc[task.known(frame), "split"]))
    return str(min(there, key=lambda split: (split != "test", split == "val"), default=""))


def in_words(found: Difference, confidence: float) -> str:
    """Metric, both values, and the difference with its interval."""
    assert found.difference is not None
    metric = metric_name(found.metric)
    told = f"{metric} {_number(found.value)} for the model and {_number(found.reference_value)} for them"
    apart = f"a difference of {_number(found.difference)}"
    if found.low is None or found.high is None:
        return f"{told}, {apart} without an interval"
    return f"{told}, {apart} ({100 * confidence:g} % interval {_number(found.low)} to {_number(found.high)})"


def alarm(shortcuts: Shortcuts, confidence: float, unit: str = "picture") -> str:
    """The sentence for the top of a report where the model is not ahead of a baseline; "" where it is.

    Args:
        shortcuts: what was found.
        confidence: of the intervals.
        unit: what a row is called, such as image.
    """
    said = []
    for one in shortcuts.not_ahead:
        where = f" ({shortcuts.split})" if shortcuts.split else ""
        if one.reference == FACTS:
            said.append(
                f"This model is not shown to be ahead of trivial facts of the {unit}{where}, which a simple regression "
                f"learnt from (how it was taken and stored, not what it shows): {in_words(one, confidence)}. What it "
                "has learnt may be such a shortcut"
            )
        else:
            said.append(
                f"This model is not shown to be ahead of the covariates alone{where}, without any {unit}: "
                f"{in_words(one, confidence)}"
            )
    return ". ".join(said)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")
