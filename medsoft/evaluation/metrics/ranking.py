"""What depends on the order of the scores alone, for many weightings of the same rows at once.

The rows are sorted once. AUROC and average precision of weighted rows are then cumulative sums; so are the counts at
any threshold, the ROC curve and the net benefit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import auc

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """Weights of positive and negative rows by distinct score, lowest first, (B, G), and their running sums."""

    positive: FloatArray
    negative: FloatArray
    positive_up_to: FloatArray
    negative_up_to: FloatArray

    @property
    def positives(self) -> FloatArray:
        """(B,) weight of all positive rows."""
        return self.positive_up_to[:, -1]

    @property
    def negatives(self) -> FloatArray:
        """(B,) weight of all negative rows."""
        return self.negative_up_to[:, -1]


class Ranking:
    """Rows in the order of their scores.

    Args:
        truth: (n,) whether the row is positive; at least one row.
        score: (n,) higher for positive.
        unit: (n,) index of the unit whose weight the row takes.
    """

    def __init__(
        self, truth: npt.NDArray[np.bool_], score: FloatArray, unit: npt.NDArray[np.intp] | None = None
    ) -> None:
        order = np.argsort(score, kind="stable")
        self._truth = truth[order]
        self._unit = order if unit is None else unit[order]
        self.score, self._starts = np.unique(score[order], return_index=True)
        """(G,) distinct scores, lowest first."""

    def sums(self, weights_BU: FloatArray) -> Sums:
        """Sums under the weights of the units, (B, U)."""
        weights = weights_BU[:, self._unit]
        positive = weights * self._truth
        negative = weights - positive
        if len(self.score) < len(self._truth):
            positive = np.add.reduceat(positive, self._starts, axis=1)
            negative = np.add.reduceat(negative, self._starts, axis=1)
        return Sums(positive, negative, np.cumsum(positive, axis=1), np.cumsum(negative, axis=1))

    def counts(self, sums: Sums, threshold: float) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """(B,) true positives, false positives, false negatives and true negatives where p >= threshold is a yes."""
        caught, false_alarms, missed, correct = self.counts_at(sums, np.array([threshold]))
        return caught[:, 0], false_alarms[:, 0], missed[:, 0], correct[:, 0]

    def counts_at(self, sums: Sums, thresholds_T: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """(B, T) the same at many thresholds."""
        below_T = np.searchsorted(self.score, thresholds_T, side="left")
        up_to_T = np.maximum(below_T - 1, 0)
        missed = np.where(below_T > 0, sums.positive_up_to[:, up_to_T], 0.0)
        correct = np.where(below_T > 0, sums.negative_up_to[:, up_to_T], 0.0)
        return sums.positives[:, None] - missed, sums.negatives[:, None] - correct, missed, correct


def auroc(sums: Sums) -> FloatArray:
    """(B,) area under the ROC curve, ties counting a half; NaN without both kinds of rows.

    Of a single weighting, as is every value that is reported, the area is summed in scikit-learn's order: the value
    then is that of ``sklearn.metrics.roc_auc_score`` to the last bit, and a paper's number can be looked up.
    """
    if len(sums.positives) == 1 and sums.positives[0] and sums.negatives[0]:
        return np.array([_area_of_corners(sums)])
    below = sums.negative_up_to - 0.5 * sums.negative
    pairs_in_order: FloatArray = np.einsum("bg,bg->b", sums.positive, below)
    return pairs_in_order / (sums.positives * sums.negatives)


def _area_of_corners(sums: Sums) -> float:
    """The area below the ROC curve of one weighting, by trapezia between the curve's corners."""
    caught, false_alarms = (np.cumsum(side[0, ::-1]) for side in (sums.positive, sums.negative))
    is_corner = np.ones(len(caught), bool)
    is_corner[1:-1] = (np.diff(caught, 2) != 0) | (np.diff(false_alarms, 2) != 0)
    x, y = (np.concatenate([[0.0], side[is_corner]]) / side[-1] for side in (false_alarms, caught))
    return float(auc(x, y))


def average_precision(sums: Sums) -> FloatArray:
    """(B,) the step-wise sum over recall, without interpolation; NaN without both kinds of rows."""
    # How many have at least this score: all, less those up to it, plus its own.
    precision = sums.positive - sums.positive_up_to
    precision += sums.positives[:, None]
    called = sums.negative - sums.negative_up_to
    called += sums.negatives[:, None]
    called += precision
    # Where nothing is called there is nothing to weigh either: the 0 stays a 0.
    called[called == 0] = 1
    precision /= called
    value = np.einsum("bg,bg->b", sums.positive, precision) / sums.positives
    return np.where(sums.negatives > 0, value, np.nan)


def sensitivity_at(sums: Sums, false_positive_rates: FloatArray) -> FloatArray:
    """(B, R) the ROC curve's sensitivity at false positive rates, at a vertical step its top."""
    curves = np.full((len(sums.positives), len(false_positive_rates)), np.nan)
    for at in np.flatnonzero((sums.positives > 0) & (sums.negatives > 0)):
        x = np.concatenate([[0.0], 1 - sums.negative_up_to[at, -2::-1] / sums.negatives[at], [1.0]])
        y = np.concatenate([[0.0], 1 - sums.positive_up_to[at, -2::-1] / sums.positives[at], [1.0]])
        left = np.searchsorted(x, false_positive_rates + 1e-12, side="right") - 1
        right = np.minimum(left + 1, len(x) - 1)
        step = x[right] - x[left]
        share = np.divide(false_positive_rates - x[left], step, out=np.zeros(len(left)), where=step > 0)
        curves[at] = y[left] + share.clip(0, 1) * (y[right] - y[left])
    return curves
