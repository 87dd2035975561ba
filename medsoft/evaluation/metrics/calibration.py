"""Whether probabilities mean what they say: reliability, calibration error, and the parts of the Brier score.

Bins are adaptive: quantiles of the scores, so that each holds about as many rows; equal scores share a bin. The
expected calibration error is the mean of |observed share - mean score| over the bins, weighted by rows. It is above 0
even for a perfect model, the more so the fewer the rows; what a perfect model would get is given beside it. It has no
bootstrap interval: resampled rows are less calibrated than the rows, and the interval would lie too high.

The Brier score is uncertainty - discrimination + miscalibration, exactly, with the isotonic fit to the rows in place of
bins (T. Dimitriadis, T. Gneiting, A. I. Jordan, PNAS 118, 2021, e2016191118).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BINS = 10
ROWS_A_BIN = 10
"""Fewer rows than this a bin, and there are fewer bins."""


@dataclass(frozen=True)
class Bin:
    """Rows of similar score: how many, their mean score, and the share of positive ones with its Wilson interval.

    The interval takes rows as independent; it is None where a patient has several.
    """

    n: int
    mean_p: float
    observed: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Calibration:
    """Calibration of one yes-or-no question.

    Attributes:
        ece: expected calibration error over adaptive bins.
        ece_if_calibrated: its mean where each row's outcome is drawn with the row's own probability.
        ece_if_calibrated_95: its 95th percentile there.
        ece_equal_width: over 10 (``BINS``) bins of equal width, as many papers have it.
        brier: mean squared error, the sum of the next three.
        miscalibration: what recalibration could gain (0 is best); it is in-sample and thus slightly pessimistic.
        discrimination: what the scores tell (higher is better).
        uncertainty: Brier score of the prevalence.
        bins: the reliability diagram.
    """

    ece: float
    ece_if_calibrated: float
    ece_if_calibrated_95: float
    ece_equal_width: float
    brier: float
    miscalibration: float
    discrimination: float
    uncertainty: float
    bins: tuple[Bin, ...]

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def calibrate(
    truth: npt.NDArray[np.bool_], p: FloatArray, *, clustered: bool = False, confidence: float = 0.95, seed: int = 0
) -> Calibration | None:
    """Calibration of (n,) probabilities; None without rows."""
    if not len(truth):
        return None
    from sklearn.isotonic import IsotonicRegression

    outcome = truth.astype(np.float64)
    # By ranks: the fit depends on the order alone, and slopes between probabilities such as 1e-300 would overflow.
    _, rank = np.unique(p, return_inverse=True)
    best = IsotonicRegression().fit_transform(rank.astype(np.float64), outcome)
    brier, attainable = float(((p - outcome) ** 2).mean()), float(((best - outcome) ** 2).mean())
    prevalence = float(outcome.mean())
    uncertainty = prevalence * (1 - prevalence)
    which = adaptive_bins(p)
    luck = _errors_if_calibrated(p, which, seed)
    return Calibration(
        ece=_error(outcome, p, which),
        ece_if_calibrated=float(luck.mean()),
        ece_if_calibrated_95=float(np.quantile(luck, 0.95)),
        ece_equal_width=_error(outcome, p, np.minimum((p * BINS).astype(np.intp), BINS - 1)),
        brier=brier,
        miscalibration=brier - attainable,
        discrimination=uncertainty - attainable,
        uncertainty=uncertainty,
        bins=tuple(_bins(outcome, p, which, clustered, confidence)),
    )


def adaptive_bins(p: FloatArray, n_bins: int | None = None) -> npt.NDArray[np.intp]:
    """(n,) index of each row's bin; by default 10 bins, fewer where there are fewer than 10 rows for each."""
    n_bins = n_bins or max(1, min(BINS, len(p) // ROWS_A_BIN))
    edges = np.quantile(p, np.linspace(0, 1, n_bins + 1)[1:-1])
    return np.searchsorted(edges, p)


def top_label_error(p_NC: FloatArray, target_N: npt.NDArray[np.intp]) -> float | None:
    """Expected calibration error of the predicted class's probability, over adaptive bins; None without rows."""
    if not len(target_N):
        return None
    top = p_NC.max(axis=1)
    right = (p_NC.argmax(axis=1) == target_N).astype(np.float64)
    return _error(right, top, adaptive_bins(top))


def _error(outcome: FloatArray, p: FloatArray, which: npt.NDArray[np.intp]) -> float:
    return float(np.abs(np.bincount(which, weights=outcome - p)).sum() / len(p))


def _errors_if_calibrated(p: FloatArray, which: npt.NDArray[np.intp], seed: int, n_draws: int = 200) -> FloatArray:
    rng = np.random.default_rng(seed)
    return np.array([_error((rng.random(len(p)) < p).astype(np.float64), p, which) for _ in range(n_draws)])


def _bins(
    outcome: FloatArray, p: FloatArray, which: npt.NDArray[np.intp], clustered: bool, confidence: float
) -> list[Bin]:
    from scipy.stats import binomtest

    bins = []
    for index in np.unique(which):
        inside = which == index
        n, positives = int(inside.sum()), int(outcome[inside].sum())
        low = high = None
        if not clustered:
            interval = binomtest(positives, n).proportion_ci(confidence, method="wilson")
            low, high = float(interval.low), float(interval.high)
        bins.append(Bin(n, float(p[inside].mean()), positives / n, low, high))
    return bins
