"""Numbers from the predictions table alone, so that they can be computed again without the model.

Definitions where the field has several:

- Predicted class (for accuracy, F1, sensitivity, kappa ...): positive where p >= 0.5 for binary and multilabel tasks,
  otherwise the most probable class.
- Balanced accuracy: mean sensitivity of the classes that occur.
- Brier score of binary questions: mean (p - y)², in [0, 1]. Of several classes: the mean over samples of the sum over
  classes, in [0, 2] (G. W. Brier, Monthly Weather Review 78, 1950), which is the sum of the classes' own scores.
- Kappa: Cohen's with quadratic weights (J. Cohen, Psychological Bulletin 70, 1968), ordinal tasks only.
- Average precision: the step-wise sum over recall, without interpolation.
- Log loss: natural logarithm, of probabilities divided by their sum (the table allows 1e-3 off); where the true class
  has p = 0, that of the smallest float64 step (36.04).

Metrics of a regression are defined in ``medsoft.evaluation.metrics.regression``.

What the data cannot answer (the AUROC of a class that no row has) is None with a sentence in ``notes``, never a number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from medsoft.evaluation.metrics.table import HEADLINE, METRICS, metric_name, of_family
from medsoft.evaluation.metrics.targets import THRESHOLD, OneAgainstRest, one_against_rest
from medsoft.evaluation.metrics.thresholds import at_half
from medsoft.evaluation.metrics.weighted import MOST_PROBABLE, Key, weighted_metrics
from medsoft.evaluation.metrics.weighted import Values as Weighted
from medsoft.storage.files import replacing
from medsoft.task import Task

Values = dict[str, float | None]
_PER_CLASS = ("auroc", "average_precision", "f1", "sensitivity", "specificity")
_PER_LABEL = (*_PER_CLASS, "brier", "accuracy", "balanced_accuracy", "log_loss")
_MEANS_OF_LABELS = (*_PER_CLASS, "accuracy", "balanced_accuracy", "brier", "log_loss")
_OF_ALL_CLASSES = ("accuracy", "balanced_accuracy", "kappa", "brier", "log_loss")


class Scores(TypedDict):
    """What ``score`` returns.

    Attributes:
        task: kind of the task.
        n: rows that were scored.
        n_missing: rows left out for want of a target.
        n_per_class: scored rows of each class; for multilabel, rows that have the label.
        threshold: of a positive prediction; None where the most probable class is predicted.
        overall: values of the whole table. For binary all there is: of the positive class.
        macro: plain means of ``per_class`` over the classes for which a value is defined. Empty for binary.
        per_class: each class against the rest, or each label over the rows that know it. Empty for binary.
        notes: one sentence for everything undefined or left out.
    """

    task: str
    n: int
    n_missing: int
    n_per_class: dict[str, int]
    threshold: float | None
    overall: Values
    macro: Values
    per_class: dict[str, Values]
    notes: list[str]


def score(frame: pd.DataFrame, task: Task) -> Scores:
    """Compute all metrics of a predictions table (as read or made by ``predictions``).

    Rows without a target are left out and counted; the splits of the table are not told apart (see ``score_splits``).
    """
    if task.parts:
        return _score_of_several(frame, task)
    known_N = task.known(frame)
    known = frame[known_N]
    n, n_missing = len(known), int((~known_N).sum())
    points = at_half(task)
    card = task.measures(known, np.arange(n), points) if n else []
    # Each row counts once.
    values = weighted_metrics(card, np.ones((1, n)))
    rule = points[0].rule if points else MOST_PROBABLE
    questions = one_against_rest(known, task)
    result = Scores(
        task=task.kind,
        n=n,
        n_missing=n_missing,
        n_per_class=task.tally(known),
        threshold=THRESHOLD if points else None,
        overall={},
        macro={},
        per_class={},
        notes=[],
    )
    if not task.has_classes:
        names = of_family(task.number_metrics)
        result["overall"] = _taken(values, names, "", "")
        several = task.asked_classes if len(task.asked_classes) > 1 else ()
        result["per_class"] = {name: _taken(values, names, name, "") for name in several}
        result["notes"] = _notes_on_numbers(result, task, known)
        return result
    if task.positive:
        result["overall"] = _taken(values, _PER_LABEL, task.positive, rule)
    elif task.several_columns:
        result["per_class"] = {q.name: _counts(q) | _taken(values, _PER_LABEL, q.name, rule) for q in questions}
        both = [q.name for q in questions if 0 < q.truth.sum() < len(q.truth)]
        result["macro"] = _means(_MEANS_OF_LABELS, [result["per_class"][name] for name in both])
    else:
        names = tuple(name for name in _OF_ALL_CLASSES if name in task.metrics)
        result["overall"] = _taken(values, names, "", rule)
        per_class = (*_PER_CLASS, "brier")
        result["per_class"] = {q.name: _counts(q) | _taken(values, per_class, q.name, rule) for q in questions}
        result["macro"] = _means(_PER_CLASS, result["per_class"].values())
    result["notes"] = _notes(questions, result, task)
    return result


def _score_of_several(frame: pd.DataFrame, task: Task) -> Scores:
    """The headline metrics of each target, and the mean of their skills; each target is of the rows that know it."""
    known_N = task.known(frame)
    each = {one.name: score(task.frame_of(one.name, frame), one.task) for one in task.parts}
    values: Values = {f"{name}.{metric}": v for name, scores in each.items() for metric, v in headline(scores).items()}
    skills = []
    for one in task.parts:
        metric, chance = one.task.skill
        value = values[one.prefix + metric]
        skills.append(None if value is None else (value - chance) / (1 - chance))
    defined = [skill for skill in skills if skill is not None]
    mean = float(np.mean(defined)) if len(defined) == len(skills) else None
    return Scores(
        task=task.kind,
        n=int(known_N.sum()),
        n_missing=int((~known_N).sum()),
        n_per_class=task.tally(frame[known_N]),
        threshold=None,
        overall={task.monitor: mean} | values,
        macro={},
        per_class={},
        notes=[f"{name}: {note}" for name, scores in each.items() for note in scores["notes"]],
    )


def score_splits(frame: pd.DataFrame, task: Task) -> dict[str, Scores]:
    """Score each split, and each fold of it, by itself.

    Returns:
        The scores by ``split``, or by ``split/fold`` where the table names folds; a table without splits is ``all``.
    """
    names = (frame["split"].replace("", "all") + "/" + frame["fold"]).str.removesuffix("/")
    return {str(name): score(part, task) for name, part in frame.groupby(names, sort=False)}


def headline(scores: Scores) -> dict[str, float | None]:
    """The few values for a log or for choosing a checkpoint: macro means where a metric is asked of each class."""
    values = scores["macro"] | scores["overall"]
    of_targets = [name for name in values if "." in name]  # of several, in their order
    return {name: values[name] for name in (*HEADLINE, *of_targets) if name in values}


def write_metrics(results: Mapping[str, Any], path: Path | str) -> None:
    """Write scores as JSON; undefined values are null.

    Raises:
        ValueError: a value is NaN or infinite, for which JSON has no word.
        OSError: the file cannot be written.
    """
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(Path(path)) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _notes_on_numbers(scores: Scores, task: Task, known: pd.DataFrame) -> list[str]:
    """The same for predicted numbers."""
    n, undefined = scores["n"], ", ".join(name for name, value in scores["overall"].items() if value is None)
    if not n:
        return ["No row has a target: every metric is undefined."]
    lacking = [name for name, value in scores["overall"].items() if value is None]
    reasons = {name: task.why_undefined(Key(name), known) for name in lacking}
    if any(reasons.values()):
        return [f"{metric_name(name)} is undefined: {reason}." for name, reason in reasons.items()]
    return (
        [f"{'There is a single target' if n == 1 else 'All targets are equal'}; undefined: {undefined}."]
        if undefined
        else []
    )


def _counts(question: OneAgainstRest) -> Values:
    return {"n": len(question.truth), "n_positive": int(question.truth.sum())}


def _taken(values: Weighted, names: Iterable[str], class_name: str, rule: str) -> Values:
    """Metrics of one class, or "" for the whole table, by name; None where undefined.

    Decisions are those of the rule.
    """
    taken: Values = {}
    for name in names:
        found = values.get(Key(name, class_name, rule=rule if METRICS[name].is_decision else ""))
        taken[name] = None if found is None or np.isnan(found[0]) else float(found[0])
    return taken


def _means(names: Iterable[str], per_class: Iterable[Values]) -> Values:
    per_class = list(per_class)
    means: Values = {}
    for name in names:
        defined = [value for values in per_class if (value := values[name]) is not None]
        means[name] = float(np.mean(defined)) if defined else None
    return means


def _notes(questions: list[OneAgainstRest], scores: Scores, task: Task) -> list[str]:
    """One sentence for everything that the rows cannot answer."""
    if not scores["n"]:
        return ["No row has a target: every metric is undefined."]
    notes = []
    for question in questions:
        n, positives = len(question.truth), int(question.truth.sum())
        values = scores["per_class"].get(question.name, scores["overall"])
        undefined = ", ".join(name for name, value in values.items() if value is None)
        if n == 0:
            notes.append(f"No row has a target for {question.name!r}: its metrics are undefined.")
        elif positives in (0, n):
            notes.append(f"{'No' if positives == 0 else 'Every'} row is {question.name!r}; undefined: {undefined}.")
    if notes and task.several_columns:
        notes.append("Macro means leave out labels without both values.")
    elif notes and scores["per_class"]:
        notes.append("Macro means and balanced accuracy leave out the classes for which they are undefined.")
    undefined = ", ".join(name for name, value in scores["overall"].items() if value is None)
    if undefined and scores["per_class"]:
        notes.append(f"Only one class occurs; undefined: {undefined}.")
    return notes
