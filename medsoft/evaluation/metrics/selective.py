"""Selective prediction: what errors are left when the least certain samples are set aside.

Samples are answered from the most certain down. Coverage is the share that is answered, risk the share of errors among
these; of a regression the mean absolute error. AURC is the mean risk over all coverages, the area under that curve
(Y. Geifman, G. Uziel, R. El-Yaniv, ICLR 2019); E-AURC is what it has beyond a ranking that sets aside all errors first.
Lower is better for both.

Certainty is the probability of the predicted class, unless a column of the table says how uncertain each row is (the
spread of an ensemble, the distance from the training data).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import digamma

from medsoft.errors import InputError
from medsoft.evaluation.metrics.targets import one_against_rest, predicted, probabilities, targets
from medsoft.evaluation.metrics.weighted import Key, Measure, Values
from medsoft.task import Task

FloatArray = npt.NDArray[np.float64]
COVERAGES = np.linspace(0.01, 1, 100)


@dataclass(frozen=True)
class SelectivePredictions:
    """How certain the answers to one question are, and how wrong.

    Attributes:
        name: of the label; "" for the whole table.
        certainty: (n,) higher for what is answered first.
        loss: (n,) 1 for an error and 0 for a right answer; of a regression the absolute error.
        rows: (n,) positions in the table.
        zero_one: whether the loss is 0 or 1.
    """

    name: str
    certainty: FloatArray
    loss: FloatArray
    rows: npt.NDArray[np.intp]
    zero_one: bool = True


def answers(frame: pd.DataFrame, task: Task, uncertainty: str | None = None) -> list[SelectivePredictions]:
    """The answers of rows with a target; none of numbers without a column that says how uncertain they are.

    Args:
        frame: rows with a target.
        task: theirs.
        uncertainty: column of the table; by default the probability of the predicted class decides.

    Raises:
        InputError: there is no such column, or it holds no numbers.
    """
    certainty = None if uncertainty is None else -_numbers(frame, uncertainty)
    rows = np.arange(len(frame))
    if not task.has_classes:
        if certainty is None:
            return []
        if "prediction" not in frame:
            raise InputError(f"--uncertainty {uncertainty}: a {task.kind} task has no errors to leave out")
        loss = np.abs(frame["prediction"].to_numpy(np.float64) - frame["target"].to_numpy(np.float64))
        return [SelectivePredictions("", certainty, loss, rows, zero_one=False)]
    if task.several_columns:
        return [
            SelectivePredictions(
                question.name,
                np.maximum(question.p, 1 - question.p) if certainty is None else certainty[question.rows],
                (question.predicted != question.truth).astype(np.float64),
                question.rows,
            )
            for question in one_against_rest(frame, task)
            if len(question.truth)
        ]
    if certainty is None:
        certainty = probabilities(frame, task).max(axis=1)
    wrong = (predicted(frame, task) != targets(frame, task)).astype(np.float64)
    return [SelectivePredictions("", certainty, wrong, rows)]


def _numbers(frame: pd.DataFrame, column: str) -> FloatArray:
    if column not in frame:
        known = ("id", "patient", "exam", "split", "fold", "task", "target", "prediction")
        others = [name for name in map(str, frame) if name not in known and not name.startswith(("p_", "target_"))]
        raise InputError(f"--uncertainty {column}: no such column; there are {', '.join(others) or 'none besides'}")
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
    if np.isnan(values).any():
        at = int(np.flatnonzero(np.isnan(values))[0])
        raise InputError(f"--uncertainty {column}: is no number in row {frame['id'].iloc[at]!r}")
    return values


class Selective:
    """AURC, E-AURC and the risk-coverage curve as functions of how often each unit was drawn.

    Args:
        frame: rows with a target.
        task: theirs.
        unit_N: (N,) unit of each row.
        uncertainty: as for ``answers``.
    """

    def __init__(
        self, frame: pd.DataFrame, task: Task, unit_N: npt.NDArray[np.intp], uncertainty: str | None = None
    ) -> None:
        self._sorted = []
        for found in answers(frame, task, uncertainty):
            order = np.argsort(-found.certainty, kind="stable")
            values = found.certainty[order]
            # Equals are answered together: their order in the table must not count.
            last = np.flatnonzero(np.append(values[1:] != values[:-1], True))
            self._sorted.append((found, found.loss[order], unit_N[found.rows[order]], last))

    def __call__(self, weights_BU: FloatArray) -> Values:
        """Values (B,), and ``risk_coverage`` (B, coverages), under the weights of the units; NaN where undefined."""
        values: Values = {}
        for found, loss_n, unit_n, last in self._sorted:
            weights = weights_BU[:, unit_n]
            answered, lost = np.cumsum(weights, axis=1), np.cumsum(weights * loss_n, axis=1)
            if len(last) < len(unit_n):
                answered, lost = answered[:, last], lost[:, last]
                weights = np.diff(answered, axis=1, prepend=0.0)
            total, errors = answered[:, -1], lost[:, -1]
            at = _coverage_indices(answered)
            with np.errstate(divide="ignore", invalid="ignore"):
                # Before anything is answered nothing is lost either: the 0 stays a 0.
                risk = np.divide(lost, answered, out=np.zeros_like(lost), where=answered > 0)
                aurc = np.where(total > 0, np.einsum("bg,bg->b", risk, weights) / total, np.nan)
            values[Key("aurc", found.name)] = aurc
            if found.zero_one:
                excess = aurc - best_aurc(errors, total)
                values[Key("e_aurc", found.name)] = np.maximum(excess, 0.0)  # rounding can take it below
            values[Key("risk_coverage", found.name)] = np.where(
                total[:, None] > 0, np.take_along_axis(risk, at, axis=1), np.nan
            )
        return values


def selective_measures(
    frame: pd.DataFrame,
    task: Task,
    unit_N: npt.NDArray[np.intp],
    level: str = "row",
    uncertainty: str | None = None,
) -> list[Measure]:
    """``Selective``, or nothing where nothing says how certain the answers are: columns are known by row only."""
    if (uncertainty is None and not task.has_classes) or (uncertainty is not None and level != "row"):
        return []
    return [Selective(frame, task, unit_N, uncertainty)]


def best_aurc(errors_B: FloatArray, n_B: FloatArray) -> FloatArray:
    """(B,) AURC where every right answer is more certain than every error: the mean of k / (right + k) over errors."""
    right = n_B - errors_B
    with np.errstate(divide="ignore", invalid="ignore"):
        # The sum over k of right / (right + k) is a difference of harmonic numbers.
        value: FloatArray = (errors_B - right * (digamma(n_B + 1) - digamma(right + 1))) / n_B
    return value


def _coverage_indices(answered_BG: FloatArray) -> npt.NDArray[np.intp]:
    """(B, coverages): the first place at which at least this share is answered."""
    wanted = (COVERAGES - 1e-9) * answered_BG[:, -1:]
    found = np.stack(
        [np.searchsorted(row, shares, side="left") for row, shares in zip(answered_BG, wanted, strict=True)]
    )
    indices: npt.NDArray[np.intp] = np.minimum(found, answered_BG.shape[1] - 1)
    return indices
