"""Two or more models on the same samples: differences with intervals, tests, and non-inferiority.

The last table is the reference; each other model is compared with it, and a difference is model - reference. All are
paired: by sample, and by patient in the bootstrap's draws. With folds the metric is the mean over the folds' own
values, each model's fold against the other's.

Several comparisons are corrected by Holm (S. Holm, Scandinavian Journal of Statistics 6, 1979). Non-inferiority asks
whether the interval's unfavourable end stays within a margin that was stated beforehand; the one-sided p belongs to
the hypothesis that the model is worse by the margin or more. Of several models non-inferiority is shown by Holm's
corrected p alone: of five models that are all worse by just the margin, intervals would show one in 12 % of studies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from medsoft.errors import InputError
from medsoft.evaluation.comparison.mcnemar import McNemar, mcnemar
from medsoft.evaluation.comparison.mean_over_folds import mean_over_folds
from medsoft.evaluation.comparison.pairing import Model, Paired
from medsoft.evaluation.intervals.bootstrap import patients_of, percentile_interval
from medsoft.evaluation.intervals.delong import delong
from medsoft.evaluation.metrics.by_name import Asked, wanted_key
from medsoft.evaluation.metrics.table import lower_is_better
from medsoft.evaluation.metrics.targets import one_against_rest, predicted, targets
from medsoft.evaluation.metrics.thresholds import OperatingPoint
from medsoft.evaluation.settings import Settings
from medsoft.task import Task

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """One model against the reference.

    Attributes:
        model: its name.
        reference: the reference's.
        metric: what is compared.
        value: the model's; with folds the mean over folds.
        reference_value: the reference's.
        difference: value - reference_value; None where either is undefined.
        low: lower end of the interval to report.
        high: its upper end.
        method: delong, clustered delong or bootstrap: of interval and p.
        p: two-sided, that there is no difference; None where there is no test.
        p_holm: corrected for the number of models.
        bootstrap_low: lower end of the percentile interval.
        bootstrap_high: its upper end.
        bootstrap_p: two-sided, from the draws.
        margin: of non-inferiority; None where none was stated.
        not_worse: whether being worse by the margin is excluded: by the interval; of several models, by Holm's p.
        p_not_worse: one-sided.
        p_not_worse_holm: corrected for the number of models.
        decisions: McNemar's test; None where no decision is taken.
        note: what to beware of.
    """

    model: str
    reference: str
    metric: str
    value: float | None
    reference_value: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    method: str = ""
    p: float | None = None
    p_holm: float | None = None
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None
    bootstrap_p: float | None = None
    margin: float | None = None
    not_worse: bool | None = None
    p_not_worse: float | None = None
    p_not_worse_holm: float | None = None
    decisions: McNemar | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def compare_models(
    paired: Paired, asked: Asked, settings: Settings | None = None, margin: float | None = None
) -> list[Difference]:
    """Compare every model with the last one.

    Args:
        paired: the models' predictions of the same samples.
        asked: the metric, of which class, and the rule of decisions.
        settings: draws, seed, confidence and strata of the bootstrap.
        margin: of non-inferiority, in the metric's unit.

    Raises:
        InputError: the metric does not fit the task.
    """
    settings = settings or Settings()
    *models, reference = paired.models
    drawn, point, left_out = mean_over_folds(paired.models, paired.task, asked, settings)
    found = []
    for model in models:
        value, other = float(point[model.name][0]), float(point[reference.name][0])
        if np.isnan(value) or np.isnan(other):
            values = (None if np.isnan(value) else value, None if np.isnan(other) else other, None)
            note = paired.task.why_undefined(wanted_key(asked, paired.task), model.frame)
            note = note or "undefined on these samples, such as for want of both classes"
            found.append(Difference(model.name, reference.name, asked.metric, *values, margin=margin, note=note))
            continue
        apart = drawn[model.name] - drawn[reference.name]
        result = _difference(paired, model, reference, asked, value, other, apart, margin, settings.confidence)
        if left_out:
            without = f"undefined in {len(left_out)} of {len(paired.folds)} folds, which are left out"
            result = replace(result, note="; ".join(filter(None, (result.note, without))))
        found.append(result)
    return with_holm(found, settings.confidence)


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's corrected p-values; None stays None and is not counted."""
    tested = sorted((value, index) for index, value in enumerate(p) if value is not None)
    corrected: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, index) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * value))
        corrected[index] = highest
    return corrected


def _difference(
    paired: Paired,
    model: Model,
    reference: Model,
    asked: Asked,
    value: float,
    other: float,
    apart_B: FloatArray,
    margin: float | None,
    confidence: float,
) -> Difference:
    difference = value - other
    percentiles = percentile_interval(apart_B, confidence)
    defined = apart_B[np.isfinite(apart_B)]
    has_draws = percentiles.low is not None
    bootstrap_p = 2 * min(_share(defined <= 0), _share(defined >= 0)) if has_draws else None
    bootstrap_p = None if bootstrap_p is None else min(bootstrap_p, 1.0)
    # What counts is the loss: model below reference, or above it where lower is better.
    sign = -1.0 if lower_is_better(asked.metric) else 1.0
    low, high, method, p, note = percentiles.low, percentiles.high, "bootstrap", bootstrap_p, percentiles.note
    p_not_worse = _share(sign * defined <= -margin) if margin is not None and has_draws else None
    analytic = _delong(paired, model, reference, asked)
    if analytic is not None:
        _, se, clustered = analytic
        method, note = ("clustered delong" if clustered else "delong"), ""
        if se > 0:
            half = float(norm.ppf(0.5 + confidence / 2)) * se
            low, high, p = difference - half, difference + half, float(2 * norm.sf(abs(difference) / se))
            p_not_worse = None if margin is None else float(norm.sf((sign * difference + margin) / se))
        else:
            low = high = p = p_not_worse = None
            note = _why_no_test(se, difference)
    method = method if low is not None else ""
    worst = None if low is None or high is None else (low if sign > 0 else -high)
    return Difference(
        model.name,
        reference.name,
        asked.metric,
        value,
        other,
        difference,
        low,
        high,
        method,
        p,
        bootstrap_low=percentiles.low,
        bootstrap_high=percentiles.high,
        bootstrap_p=bootstrap_p,
        margin=margin,
        not_worse=None if margin is None or worst is None else worst > -margin,
        p_not_worse=p_not_worse,
        decisions=_mcnemar(paired, model, reference, asked),
        note=note,
    )


def _why_no_test(se: float, difference: float) -> str:
    if np.isnan(se):
        return (
            "the variance of the difference is unknown, with fewer than two patients of a class: no interval, no test"
        )
    why = "the models order the rows alike" if difference == 0 else "all rows of a class change places alike"
    return f"the variance of the difference is 0 but for rounding ({why}): no interval and no test"


def _share(hits: npt.NDArray[np.bool_]) -> float:
    """Share of the draws, counting the data themselves as one of them: never 0."""
    return float((hits.sum() + 1) / (len(hits) + 1))


def _delong(paired: Paired, model: Model, reference: Model, asked: Asked) -> tuple[float, float, bool] | None:
    """Difference, standard error and whether clustered, for the AUROC of one class in one fold."""
    task = paired.task
    if asked.metric != "auroc" or len(paired.folds) > 1:
        return None
    name = asked.of or task.positive
    questions = [{q.name: q for q in one_against_rest(m.frame, task)} for m in (model, reference)]
    if name not in questions[0]:
        return None
    first, second = (by_name[name] for by_name in questions)
    result = delong(first.truth, np.stack([first.p, second.p]), patients_of(model.frame)[first.rows])
    return *result.difference(), result.clustered


def _mcnemar(paired: Paired, model: Model, reference: Model, asked: Asked) -> McNemar | None:
    task = paired.task
    if not task.has_classes or (task.several_columns and not asked.of):
        return None
    patients = patients_of(model.frame)
    right = [_right(m, task, asked) for m in (model, reference)]
    known = right[0][1]
    _, owners = np.unique(patients[known], return_inverse=True)
    return mcnemar(right[0][0][known], right[1][0][known], owners)


def _right(model: Model, task: Task, asked: Asked) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(N,) whether the model's decision is right, and whether the row has a target."""
    if not task.thresholded:
        target = targets(model.frame, task)
        return predicted(model.frame, task) == target, target >= 0
    name = asked.of or task.positive
    right, known = np.zeros(len(model.frame), dtype=bool), np.zeros(len(model.frame), dtype=bool)
    question = next(q for q in one_against_rest(model.frame, task) if q.name == name)
    known[question.rows] = True
    folds = model.frame["fold"].to_numpy()[question.rows]
    for fold in np.unique(folds):
        point: OperatingPoint = next(p for p in model.points_of(fold) if p.class_name == name)
        inside = folds == fold
        if point.threshold is None:
            raise InputError(f"{model.name}: {point.note}")
        right[question.rows[inside]] = (question.p[inside] >= point.threshold) == question.truth[inside]
    return right, known


def with_holm(found: Sequence[Difference], confidence: float) -> list[Difference]:
    """Comparisons with their p corrected by Holm, which of several decides what is shown not to be worse.

    Args:
        found: all comparisons of a study.
        confidence: of the intervals; the one-sided level is half of what they leave out.
    """
    p = holm([result.p for result in found])
    p_not_worse = holm([result.p_not_worse for result in found])
    corrected = []
    for result, a, b in zip(found, p, p_not_worse, strict=True):
        not_worse = result.not_worse
        if len(found) > 1 and not_worse is not None and b is not None:
            # One-sided, at the level of the interval's one end.
            not_worse = not_worse and b < (1 - confidence) / 2
        corrected.append(replace(result, p_holm=a, p_not_worse_holm=b, not_worse=not_worse))
    return corrected
