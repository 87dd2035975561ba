"""Recalibration fitted on validation predictions and applied to others: temperature and isotonic.

Temperature (C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017): the logits are divided by one number,
for multilabel one a label; the order of the rows stays. Isotonic (B. Zadrozny, C. Elkan, KDD 2002): a step function a
class, made to sum to 1 again; it can tie rows and needs more validation data (some 1,000) than temperature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

from medsoft.errors import InputError
from medsoft.evaluation.metrics.targets import OneAgainstRest, one_against_rest, probabilities, targets
from medsoft.task import Task

FloatArray = npt.NDArray[np.float64]
METHODS = ("temperature", "isotonic", "none")
SMALLEST = 1e-12
"""Probabilities of exactly 0 and 1 have no logit; this is what they count as."""
COOLEST, HOTTEST = 0.05, 20.0
Step = tuple[tuple[float, ...], tuple[float, ...]]
IDENTITY: Step = ((0.0, 1.0), (0.0, 1.0))


@dataclass(frozen=True)
class Recalibration:
    """A map from probabilities to better ones.

    Attributes:
        method: temperature or isotonic.
        temperatures: one, or for multilabel one a label; empty for isotonic.
        steps: for isotonic (x, y) of each class, between which the map is linear.
        notes: what limits the fit.
    """

    method: str
    temperatures: tuple[float, ...] = ()
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()

    def apply(self, p_NC: FloatArray, task: Task) -> FloatArray:
        """(N, C) recalibrated probabilities."""
        if self.method == "temperature":
            return _cooled(p_NC, task, np.array(self.temperatures))
        asked = zip(_asked(p_NC, task).T, self.steps, strict=True)
        mapped = np.stack([np.interp(p, *step) for p, step in asked], axis=1)
        if task.thresholded:
            return _of_all(mapped, task)
        total = mapped.sum(axis=1, keepdims=True)
        # Where every class is mapped to 0 the map knows nothing better than what it was given.
        return np.where(total > 0, mapped / np.where(total > 0, total, 1), p_NC)

    def apply_to(self, frame: pd.DataFrame, task: Task) -> pd.DataFrame:
        """The predictions table with recalibrated probabilities."""
        columns = self.apply(probabilities(frame, task), task).T
        return frame.assign(**dict(zip(task.p_columns, columns, strict=True)))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        steps = [{"x": list(x), "y": list(y)} for x, y in self.steps]
        return {
            "method": self.method,
            "temperatures": list(self.temperatures),
            "steps": steps,
            "notes": list(self.notes),
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> Recalibration:
        """What ``to_json`` wrote."""
        steps = tuple((tuple(step["x"]), tuple(step["y"])) for step in values["steps"])
        return Recalibration(values["method"], tuple(values["temperatures"]), steps, tuple(values["notes"]))


def fit_recalibration(frame: pd.DataFrame, task: Task, method: str) -> Recalibration | None:
    """Fit a map on (validation) predictions.

    A label without both values, and for isotonic a class without positive rows, keeps its probabilities; that is noted.

    Returns:
        None where nothing can be fitted: no rows, or one class only.

    Raises:
        InputError: the method is none of ``METHODS``.
    """
    if method not in METHODS:
        raise InputError(f"recalibrate {method!r}: one of {', '.join(METHODS)}")
    known = frame[task.known(frame)]
    questions = one_against_rest(known, task)
    both = [0 < question.truth.sum() < len(question.truth) for question in questions]
    if method == "none" or not any(both):
        return None
    notes = [
        f"{question.name!r} is not recalibrated: it has no positive or no negative rows to fit on"
        for question, fits in zip(questions, both, strict=True)
        if not fits and (task.several_columns or method == "isotonic")
    ]
    if method == "isotonic":
        steps = [_isotonic(question) if fits else IDENTITY for question, fits in zip(questions, both, strict=True)]
        fewest = min(len(question.truth) for question in questions)
        notes += [f"isotonic on {fewest} rows: fewer than 1000 tend to overfit"] if fewest < 1000 else []
        return Recalibration("isotonic", steps=tuple(steps), notes=tuple(notes))
    if task.thresholded:
        fits_ = zip(questions, both, strict=True)
        found = [_temperature(q.p[:, None], q.truth.astype(np.intp)) if fits else 1.0 for q, fits in fits_]
    else:
        found = [_temperature(probabilities(known, task), targets(known, task))]
    at_limit = [value for value in found if not COOLEST * 1.01 < value < HOTTEST / 1.01]
    notes += [f"temperature {value:.3g} is the limit of the search" for value in at_limit]
    return Recalibration("temperature", temperatures=tuple(found), notes=tuple(notes))


def _isotonic(question: OneAgainstRest) -> Step:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1).fit(question.p, question.truth.astype(np.float64))
    return tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist())


def _cooled(p_NC: FloatArray, task: Task, temperatures: FloatArray) -> FloatArray:
    clipped = p_NC.clip(SMALLEST, 1 - SMALLEST)
    if task.thresholded:
        return _of_all(np.asarray(expit(logit(_asked(clipped, task)) / temperatures)), task)
    return np.asarray(softmax(np.log(clipped) / temperatures[0], axis=1))


def _asked(p_NC: FloatArray, task: Task) -> FloatArray:
    """(N, K) probabilities of the classes that are asked about: of a yes-or-no question that of yes."""
    return p_NC[:, [task.classes.index(name) for name in task.asked_classes]]


def _of_all(p_NK: FloatArray, task: Task) -> FloatArray:
    """(N, C) probabilities of all classes, from those of ``_asked``."""
    return np.concatenate([1 - p_NK, p_NK], axis=1) if task.exclusive else p_NK


def _temperature(p: FloatArray, target: npt.NDArray[np.intp]) -> float:
    """The temperature of least log loss; ``p`` is (n, 1) of one yes-or-no question, or (n, C)."""
    clipped = p.clip(SMALLEST, 1 - SMALLEST)
    logits = np.concatenate([np.zeros_like(p), logit(clipped)], axis=1) if p.shape[1] == 1 else np.log(clipped)

    def loss(log_temperature: float) -> float:
        log_p = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-log_p[np.arange(len(target)), target].mean())

    found = minimize_scalar(loss, bounds=(np.log(COOLEST), np.log(HOTTEST)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
