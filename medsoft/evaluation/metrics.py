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

Metrics of a regression are defined in ``medsoft.evaluation.regression``.

What the data cannot answer (the AUROC of a class that no row has) is None with a sentence in ``notes``, never a number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import pandas as pd
import sklearn
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    cohen_kappa_score,
    confusion_matrix,
    log_loss,
    roc_auc_score,
)

from medsoft.evaluation.arrays import (
    THRESHOLD,
    OneAgainstRest,
    has_target,
    one_against_rest,
    predicted,
    probabilities,
    targets,
)
from medsoft.evaluation.regression import Measured
from medsoft.files import replacing
from medsoft.task import Task

Values = dict[str, float | None]
REGRESSION_HEADLINE = ("mae", "rmse", "r2", "concordance")
HEADLINE = ("auroc", "average_precision", "balanced_accuracy", "f1", "accuracy", "kappa", "brier", "log_loss")
_PER_CLASS = ("auroc", "average_precision", "f1", "sensitivity", "specificity")
_PER_LABEL = (*_PER_CLASS, "accuracy", "balanced_accuracy", "brier", "log_loss")


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
    if task.kind == "regression":
        return _score_regression(frame)
    known_N = has_target(frame, task)
    scored = frame[known_N]
    # The table was checked when it was made; sklearn's own checks would take half the time.
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        questions = one_against_rest(scored, task)
        binary_or_labels = task.kind in ("binary", "multilabel")
        result = Scores(
            task=task.kind,
            n=len(scored),
            n_missing=int((~known_N).sum()),
            n_per_class=_n_per_class(scored, task),
            threshold=THRESHOLD if binary_or_labels else None,
            overall={},
            macro={},
            per_class={},
            notes=[],
        )
        if task.kind == "binary":
            result["overall"] = _score_label(questions[0])
        elif task.kind == "multilabel":
            result["per_class"] = {question.name: _counts(question) | _score_label(question) for question in questions}
            both = [q.name for q in questions if 0 < q.truth.sum() < len(q.truth)]
            result["macro"] = _means(_PER_LABEL, [result["per_class"][name] for name in both])
        else:
            result["overall"] = _score_classes(scored, task)
            result["per_class"] = {question.name: _counts(question) | _score_class(question) for question in questions}
            result["macro"] = _means(_PER_CLASS, result["per_class"].values())
    result["notes"] = _notes(questions, result)
    return result


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
    return {name: values[name] for name in (*HEADLINE, *REGRESSION_HEADLINE) if name in values}


def write_metrics(results: Mapping[str, Any], path: Path | str) -> None:
    """Write scores as JSON; undefined values are null.

    Raises:
        ValueError: a value is NaN or infinite, for which JSON has no word.
        OSError: the file cannot be written.
    """
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(Path(path)) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _score_regression(frame: pd.DataFrame) -> Scores:
    known = frame[frame["target"].notna()]
    n = len(known)
    found = Measured(known, np.arange(n))(np.ones((1, n)))
    overall: Values = {key.metric: None if np.isnan(value[0]) else float(value[0]) for key, value in found.items()}
    undefined = ", ".join(name for name, value in overall.items() if value is None)
    notes = []
    if not n:
        notes.append("No row has a target: every metric is undefined.")
    elif undefined:
        notes.append(f"{'There is a single target' if n == 1 else 'All targets are equal'}; undefined: {undefined}.")
    return Scores(
        task="regression",
        n=n,
        n_missing=len(frame) - n,
        n_per_class={},
        threshold=None,
        overall=overall,
        macro={},
        per_class={},
        notes=notes,
    )


def _counts(question: OneAgainstRest) -> Values:
    return {"n": len(question.truth), "n_positive": int(question.truth.sum())}


def _score_class(question: OneAgainstRest) -> Values:
    """One class against the rest. F1 counts as undefined without positives: it would be 0 whatever the model does."""
    truth, p, called = question.truth, question.p, question.predicted
    positives, negatives = int(truth.sum()), int((~truth).sum())
    hits, false_alarms = int((truth & called).sum()), int((~truth & called).sum())
    both = positives > 0 and negatives > 0
    return {
        "auroc": float(roc_auc_score(truth, p)) if both else None,
        "average_precision": float(average_precision_score(truth, p)) if both else None,
        "f1": 2 * hits / (positives + hits + false_alarms) if positives else None,
        "sensitivity": hits / positives if positives else None,
        "specificity": (negatives - false_alarms) / negatives if negatives else None,
        "brier": float(brier_score_loss(truth, p, pos_label=True)) if len(truth) else None,
    }


def _score_label(question: OneAgainstRest) -> Values:
    """A yes-or-no question that stands for itself."""
    values, n = _score_class(question), len(question.truth)
    sensitivity, specificity = values["sensitivity"], values["specificity"]
    values["accuracy"] = float(accuracy_score(question.truth, question.predicted)) if n else None
    values["balanced_accuracy"] = (
        None if sensitivity is None or specificity is None else (sensitivity + specificity) / 2
    )
    values["log_loss"] = float(log_loss(question.truth, question.p, labels=[False, True])) if n else None
    return values


def _score_classes(scored: pd.DataFrame, task: Task) -> Values:
    """What is asked of all classes of a multiclass or ordinal task together."""
    target_N, p_NC = targets(scored, task), probabilities(scored, task)
    predicted_N, labels = predicted(scored, task), np.arange(len(task.classes))
    n, several = len(target_N), len(np.unique(target_N)) > 1
    values: Values = {
        "accuracy": float(accuracy_score(target_N, predicted_N)) if n else None,
        "balanced_accuracy": _mean_sensitivity(target_N, predicted_N, labels) if several else None,
    }
    if task.kind == "ordinal":
        kappa = float(cohen_kappa_score(target_N, predicted_N, labels=labels, weights="quadratic")) if several else None
        values["kappa"] = kappa
    values["brier"] = float(((p_NC - np.eye(len(labels))[target_N]) ** 2).sum(axis=1).mean()) if n else None
    values["log_loss"] = float(log_loss(target_N, p_NC / p_NC.sum(axis=1, keepdims=True), labels=labels)) if n else None
    return values


def _mean_sensitivity(
    target_N: npt.NDArray[np.intp], predicted_N: npt.NDArray[np.intp], labels: npt.NDArray[np.intp]
) -> float:
    counts_CC = confusion_matrix(target_N, predicted_N, labels=labels)
    rows_C = counts_CC.sum(axis=1)
    return float((counts_CC.diagonal()[rows_C > 0] / rows_C[rows_C > 0]).mean())


def _means(names: Iterable[str], per_class: Iterable[Values]) -> Values:
    per_class = list(per_class)
    means: Values = {}
    for name in names:
        defined = [value for values in per_class if (value := values[name]) is not None]
        means[name] = float(np.mean(defined)) if defined else None
    return means


def _n_per_class(scored: pd.DataFrame, task: Task) -> dict[str, int]:
    target = targets(scored, task)
    if task.kind == "multilabel":
        counts = (target == 1).sum(axis=0)
    else:
        counts = np.bincount(target, minlength=len(task.classes))
    return {name: int(count) for name, count in zip(task.classes, counts, strict=True)}


def _notes(questions: list[OneAgainstRest], scores: Scores) -> list[str]:
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
    if notes and scores["task"] == "multilabel":
        notes.append("Macro means leave out labels without both values.")
    elif notes and scores["per_class"]:
        notes.append("Macro means and balanced accuracy leave out the classes for which they are undefined.")
    undefined = ", ".join(name for name, value in scores["overall"].items() if value is None)
    if undefined and scores["per_class"]:
        notes.append(f"Only one class occurs; undefined: {undefined}.")
    return notes
