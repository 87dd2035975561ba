"""What depends on the order of the scores alone, for many weightings of the same rows at once.

The rows are sorted once, and positive and negative rows kept apart. AUROC and average precision of weighted rows are
then sums over the positive rows, of how many negative ones lie below each; and the counts at any threshold, the ROC
curve and the net benefit are looked up in two running sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import auc

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Sums:
    """Weights of the positive and of the negative rows, lowest score first, and their running sums, which begin with 0.

    Attributes:
        ranking: the rows.
        positive: (B, P) weights of the positive rows.
        positive_below: (B, P + 1) weight of the first 0, 1, … P positive rows.
        negative_below: (B, N + 1) weight of the first 0, 1, … N negative rows.
        plain: whether every row counts once, in a single weighting: the data as they are.
    """

    ranking: Ranking
    positive: FloatArray
    positive_below: FloatArray
    negative_below: FloatArray
    plain: bool

    @property
    def positives(self) -> FloatArray:
        """(B,) weight of all positive rows."""
        return self.positive_below[:, -1]

    @property
    def negatives(self) -> FloatArray:
        """(B,) weight of all negative rows."""
        return self.negative_below[:, -1]

    def missed(self, score: IntArray) -> FloatArray:
        """(B, T) weight of the positive rows below the distinct scores of these numbers; G is above all."""
        return self.positive_below[:, self.ranking.positives_below[score]]

    def correct(self, score: IntArray) -> FloatArray:
        """(B, T) weight of the negative rows below them."""
        return self.negative_below[:, self.ranking.negatives_below[score]]


class Ranking:
    """Rows in the order of their scores.

    Args:
        truth: (n,) whether the row is positive; at least one row.
        score: (n,) higher for positive.
        unit: (n,) index of the unit whose weight the row takes.

    Attributes:
        score: (G,) distinct scores, lowest first.
        positives_below: (G + 1,) number of positive rows below each, and of all.
        negatives_below: (G + 1,) likewise.
        level: (P,) of each positive row, the number of its score.
    """

    def __init__(
        self, truth: npt.NDArray[np.bool_], score: FloatArray, unit: npt.NDArray[np.intp] | None = None
    ) -> None:
        order = np.argsort(score, kind="stable")
        is_positive = truth[order]
        units = order if unit is None else unit[order]
        self._positive_unit, self._negative_unit = units[is_positive], units[~is_positive]
        self.score, starts = np.unique(score[order], return_index=True)
        starts = np.append(starts, len(order))
        self.positives_below: IntArray = np.concatenate([[0], np.cumsum(is_positive)])[starts]
        self.negatives_below: IntArray = starts - self.positives_below
        self.level: IntArray = np.repeat(np.arange(len(self.score)), np.diff(self.positives_below))
        self._is_tied = len(self.score) < len(order)

    def sums(self, weights_BU: FloatArray) -> Sums:
        """Sums under the weights of the units, (B, U)."""
        positive = weights_BU[:, self._positive_unit]
        below = [_from_0(positive), _from_0(weights_BU[:, self._negative_unit])]
        plain = len(weights_BU) == 1 and bool((weights_BU == 1).all())
        return Sums(self, positive, below[0], below[1], plain)

    def negatives_before(self, sums: Sums) -> FloatArray:
        """(B, P) weight of the negative rows below each positive one."""
        return sums.negative_below[:, self.negatives_below[self.level]]

    def negatives_equal(self, sums: Sums) -> FloatArray | None:
        """(B, P) weight of the negative rows with the score of each positive one; None where no scores are equal."""
        if not self._is_tied:
            return None
        return sums.negative_below[:, self.negatives_below[self.level + 1]] - self.negatives_before(sums)

    def positives_before(self, sums: Sums) -> FloatArray:
        """(B, P) weight of the positive rows below each positive one."""
        return (
            sums.positive_below[:, self.positives_below[self.level]] if self._is_tied else sums.positive_below[:, :-1]
        )

    def counts(self, sums: Sums, threshold: float) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """(B,) true positives, false positives, false negatives and true negatives where p >= threshold is a yes."""
        caught, false_alarms, missed, correct = self.counts_at(sums, np.array([threshold]))
        return caught[:, 0], false_alarms[:, 0], missed[:, 0], correct[:, 0]

    def counts_at(self, sums: Sums, thresholds_T: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """(B, T) the same at many thresholds."""
        first_T = np.searchsorted(self.score, thresholds_T, side="left")
        missed, correct = sums.missed(first_T), sums.correct(first_T)
        return sums.positives[:, None] - missed, sums.negatives[:, None] - correct, missed, correct


def _from_0(weights: FloatArray) -> FloatArray:
    """Running sums along the last axis, with a 0 in front."""
    sums = np.empty((weights.shape[0], weights.shape[1] + 1))
    sums[:, 0] = 0
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def auroc(sums: Sums) -> FloatArray:
    """(B,) area under the ROC curve, ties counting a half; NaN without both kinds of rows.

    Of the data as they are, as is every value that is reported, the area is summed in scikit-learn's order: the value
    then is that of ``sklearn.metrics.roc_auc_score`` to the last bit, and a paper's number can be looked up.
    """
    if sums.plain and sums.positives[0] and sums.negatives[0]:
        return np.array([_area_of_corners(sums)])
    below, equal = sums.ranking.negatives_before(sums), sums.ranking.negatives_equal(sums)
    if equal is not None:
        below = below + 0.5 * equal
    pairs_in_order: FloatArray = np.einsum("bp,bp->b", sums.positive, below)
    return pairs_in_order / (sums.positives * sums.negatives)


def _area_of_corners(sums: Sums) -> float:
    """The area below the ROC curve of one weighting, by trapezia between the curve's corners."""
    levels = np.arange(len(sums.ranking.score))[::-1]
    caught, false_alarms = sums.positives - sums.missed(levels)[0], sums.negatives - sums.correct(levels)[0]
    is_corner = np.ones(len(caught), bool)
    is_corner[1:-1] = (np.diff(caught, 2) != 0) | (np.diff(false_alarms, 2) != 0)
    x, y = (np.concatenate([[0.0], side[is_corner]]) / side[-1] for side in (false_alarms, caught))
    return float(auc(x, y))


def average_precision(sums: Sums) -> FloatArray:
    """(B,) the step-wise sum over recall, without interpolation; NaN without both kinds of rows."""
    # How many have at least the score of each positive row: all, less those below it.
    precision = sums.positives[:, None] - sums.ranking.positives_before(sums)
    called = sums.negatives[:, None] - sums.ranking.negatives_before(sums)
    called += precision
    # Where nothing is called there is nothing to weigh either: the 0 stays a 0.
    called[called == 0] = 1
    precision /= called
    value = np.einsum("bp,bp->b", sums.positive, precision) / sums.positives
    return np.where(sums.negatives > 0, value, np.nan)


def sensitivity_at(sums: Sums, false_positive_rates: FloatArray) -> FloatArray:
    """(B, R) the ROC curve's sensitivity at false positive rates, at a vertical step its top."""
    curves = np.full((len(sums.positives), len(false_positive_rates)), np.nan)
    negatives_below = sums.ranking.negatives_below
    for at in np.flatnonzero((sums.positives > 0) & (sums.negatives > 0)):
        positives, negatives = sums.positives[at], sums.negatives[at]
        # The lowest score whose negatives above it are no more than the rate allows; the next one up lies left of it
        # on the curve.
        least = negatives * (1 - (false_positive_rates + 1e-12))
        first = np.searchsorted(sums.negative_below[at], least, side="left")
        left = np.searchsorted(negatives_below, np.minimum(first, len(sums.negative_below[at]) - 1), side="left")
        right = np.maximum(left - 1, 0)
        x, x_right = (1 - sums.negative_below[at, negatives_below[score]] / negatives for score in (left, right))
        y, y_right = (
            1 - sums.positive_below[at, sums.ranking.positives_below[score]] / positives for score in (left, right)
        )
        step = x_right - x
        share = np.divide(false_positive_rates - x, step, out=np.zeros(len(left)), where=step > 0)
        curves[at] = y + share.clip(0, 1) * (y_right - y)
    return curves
