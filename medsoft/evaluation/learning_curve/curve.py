"""A learning curve from cross-validations of growing parts of the same training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.evaluation.comparison.mean_over_folds import mean_over_folds
from medsoft.evaluation.comparison.pairing import Model, Paired, pair
from medsoft.evaluation.intervals.bootstrap import percentile_interval
from medsoft.evaluation.learning_curve.power_law import FEWEST, PowerLaw, fit_power_law
from medsoft.evaluation.metrics.by_name import Asked
from medsoft.evaluation.metrics.table import METRICS, lower_is_better, metric_name
from medsoft.evaluation.metrics.thresholds import parse_rule
from medsoft.evaluation.settings import Settings
from medsoft.task import Task

FloatArray = npt.NDArray[np.float64]
MORE = 2.0
"""Times as many patients as there are, for which the curve is drawn on."""


@dataclass(frozen=True)
class Point:
    """A part of the training data.

    Attributes:
        fraction: of the training part of each fold.
        n: patients that were trained on, or rows where patients are not named; mean over the folds.
        value: of the metric, mean over the folds; None where undefined.
        low: lower end of its interval.
        high: its upper end.
    """

    fraction: float
    n: float
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Forecast:
    """What the power law says of more patients, each with its interval; see ``LearningCurve``.

    Attributes:
        n: patients.
        value: of the metric, with the interval ``low`` to ``high``.
        gain: over the curve at all the data, with its interval.
        plateau: of endless data, with its interval.
    """

    n: float
    value: float
    low: float | None
    high: float | None
    gain: float
    gain_low: float | None
    gain_high: float | None
    plateau: float
    plateau_low: float | None
    plateau_high: float | None


@dataclass(frozen=True)
class LearningCurve:
    """A metric over the number of training patients.

    Attributes:
        metric: its name.
        unit: what is counted: patients or rows.
        points: the smallest part first.
        law: that fits them; None with fewer than three.
        forecast: at ``MORE`` times the data. Its intervals come from draws of folds, and of patients within them, the
            same for all parts: a law is fitted to each.
        n_folds: that were drawn.
        notes: what to know before reading.
    """

    metric: str
    unit: str
    points: tuple[Point, ...]
    law: PowerLaw | None
    forecast: Forecast | None
    n_folds: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"words": sentence(self)}


def learning_curve(
    tables: Mapping[float, pd.DataFrame], n: Mapping[float, float], task: Task, settings: Settings, unit: str
) -> LearningCurve:
    """Compare models that were trained on parts of the data, on the same rows.

    Args:
        tables: by fraction, out-of-fold predictions of the reported part, all of the same rows and folds.
        n: by fraction, patients trained on.
        task: theirs.
        settings: of the bootstrap.
        unit: what ``n`` counts.

    Raises:
        InputError: the tables do not hold the same rows.
    """
    fractions = sorted(tables)
    told = [(str(fraction), tables[fraction]) for fraction in fractions]
    paired = pair(told, task, split="test", level="row", rule=parse_rule("0.5"))
    asked = Asked(task.primary["metric"])
    drawn, point, _ = mean_over_folds(paired.models, task, asked, settings)
    points = []
    for fraction, model in zip(fractions, paired.models, strict=True):
        value = float(point[model.name][0])
        interval = percentile_interval(drawn[model.name], settings.confidence)
        points.append(Point(fraction, n[fraction], value if np.isfinite(value) else None, interval.low, interval.high))
    law, forecast, notes = _law(points, paired, task, asked, settings)
    return LearningCurve(asked.metric, unit, tuple(points), law, forecast, len(paired.folds), tuple(notes))


def _law(
    points: Sequence[Point], paired: Paired, task: Task, asked: Asked, settings: Settings
) -> tuple[PowerLaw | None, Forecast | None, list[str]]:
    known = [one for one in points if one.value is not None]
    if len({one.n for one in known}) < FEWEST:
        return None, None, [f"a power law needs {FEWEST} parts of the data: no forecast"]
    if len(known) < len(points):
        return None, None, ["a part of the data has no value: no forecast"]
    low_best = lower_is_better(asked.metric)
    best = METRICS[asked.metric].lowest if low_best else METRICS[asked.metric].highest
    sizes = [one.n for one in points]

    def fit(values: Any) -> PowerLaw:
        return fit_power_law(sizes, values, low_best, best)

    law = fit([one.value for one in points])
    draws_PB = _draws(paired, task, asked, settings)
    laws = [fit(values_P) for values_P in draws_PB.T if np.isfinite(values_P).all()]
    more, now = MORE * sizes[-1], sizes[-1]
    ends: dict[str, float | None] = {}
    for name, of in (
        ("", lambda one: float(one(more))),
        ("gain_", lambda one: float(one(more) - one(now))),
        ("plateau_", lambda one: one.plateau),
    ):
        interval = percentile_interval(np.array([of(one) for one in laws]), settings.confidence)
        ends |= {f"{name}low": interval.low, f"{name}high": interval.high}
    forecast = Forecast(n=more, value=float(law(more)), gain=float(law(more) - law(now)), plateau=law.plateau, **ends)
    notes = [
        "the forecast holds if the curve goes on as a power law, for patients like these and the same training",
        "each part of the data was drawn once: its interval holds no chance of another part",
    ]
    return law, forecast, notes


def _draws(paired: Paired, task: Task, asked: Asked, settings: Settings) -> FloatArray:
    """(P, B) values of each part under draws of folds, and of patients within folds."""
    of_folds = []
    for fold in paired.folds:
        models = [_of_fold(model, fold) for model in paired.models]
        drawn, _, _ = mean_over_folds(models, task, asked, settings)
        of_folds.append(np.stack([drawn[model.name] for model in models]))
    values_KPB = np.stack(of_folds)
    folds, _, draws = values_KPB.shape
    rng = np.random.default_rng(settings.seed)
    taken_BK = rng.integers(folds, size=(draws, folds))
    means: FloatArray = np.stack([values_KPB[taken, :, b].mean(axis=0) for b, taken in enumerate(taken_BK)], axis=1)
    return means


def _of_fold(model: Model, fold: str) -> Model:
    return replace(model, frame=model.frame[model.frame["fold"] == fold].reset_index(drop=True))


def sentence(found: LearningCurve) -> str:
    """What more patients would bring, in plain words; "" without a forecast."""
    one = found.forecast
    if one is None:
        return ""
    name = metric_name(found.metric)
    gain = f"{one.gain:+.3f}{_interval(one.gain_low, one.gain_high, '+.3f')}".replace("-", "−")
    value = f"{one.value:.3f}{_interval(one.low, one.high, '.3f')}".replace("-", "−")
    return f"Twice as many {found.unit} ({one.n:,.0f} in training) would bring {name} {value}, a gain of {gain}"


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"
