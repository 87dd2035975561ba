"""The variance of AUROCs without resampling: DeLong's, and its form for patients with several rows.

Sources: E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, Biometrics 44 (1988), 837-845; X. Sun, W. Xu, IEEE Signal
Processing Letters 21 (2014), 1389-1393 (mid-ranks instead of all pairs: O(n log n)); N. A. Obuchowski, Biometrics 53
(1997), 567-578 (clusters); M. S. Pepe, The Statistical Evaluation of Medical Tests, 2003, section 5.2 (the interval on
the logit scale, which stays within 0 and 1 and covers better near 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

FloatArray = npt.NDArray[np.float64]

ROUNDING = 1e-13
"""A variance below this part of the terms that it is made of is rounding: it is 0."""
SMALLEST_VARIANCE = 1e-24
"""As is one below this: a single pair of rows in other order, of 100,000 with and 100,000 without, gives 2.5e-21."""


@dataclass(frozen=True)
class DeLong:
    """AUROCs of K scores on the same rows.

    Attributes:
        auroc: (K,).
        covariance: (K, K); NaN where it cannot be estimated (fewer than two patients with or without the class).
        clustered: whether patients with several rows were taken into account.
    """

    auroc: FloatArray
    covariance: FloatArray
    clustered: bool

    def interval(self, confidence: float = 0.95, k: int = 0) -> tuple[float, float] | None:
        """Interval of one AUROC, from its standard error on the logit scale.

        Returns:
            None where the variance is unknown or 0: an AUROC of exactly 0 or 1 has none to estimate it from.
        """
        auroc, variance = float(self.auroc[k]), float(self.covariance[k, k])
        if not (variance > SMALLEST_VARIANCE and 0 < auroc < 1):
            return None
        half = norm.ppf(0.5 + confidence / 2) * np.sqrt(variance) / (auroc * (1 - auroc))
        return float(expit(logit(auroc) - half)), float(expit(logit(auroc) + half))

    def difference(self) -> tuple[float, float]:
        """The first AUROC minus the second, and its standard error (NaN where unknown, 0 where it is rounding)."""
        covariance = self.covariance[:2, :2]
        contrast = np.array([1.0, -1.0])
        variance = float(contrast @ covariance @ contrast)
        if np.isnan(variance):
            return float(self.auroc[0] - self.auroc[1]), variance
        # Terms that cancel leave a rest of the size of rounding, of either sign, from which any p could be made.
        is_zero = variance <= max(ROUNDING * float(np.abs(covariance).sum()), SMALLEST_VARIANCE)
        return float(self.auroc[0] - self.auroc[1]), 0.0 if is_zero else float(np.sqrt(variance))


def delong(truth_N: npt.ArrayLike, scores_KN: npt.ArrayLike, patient_N: npt.ArrayLike | None = None) -> DeLong:
    """AUROCs of scores on the same rows, with their covariance.

    Args:
        truth_N: (N,) whether the row is positive; both kinds must occur.
        scores_KN: (N,) or (K, N), higher for positive.
        patient_N: (N,) whose row it is. Where a patient has several rows, the clustered form is used.

    Raises:
        ValueError: only one kind of rows, or shapes that do not fit.
    """
    truth = np.asarray(truth_N, dtype=bool)
    scores = np.atleast_2d(np.asarray(scores_KN, dtype=np.float64))
    if scores.shape[1:] != truth.shape:
        raise ValueError(f"{len(truth)} rows, but scores of shape {scores.shape}")
    if truth.all() or not truth.any():
        raise ValueError("an AUROC needs rows with and without the class")
    positive_KM, negative_KN = placements(truth, scores)
    auroc_K = positive_KM.mean(axis=1)
    if patient_N is not None:
        _, patient = np.unique(np.asarray(patient_N), return_inverse=True)
        if patient.max() + 1 < len(truth):
            return DeLong(auroc_K, _clustered(truth, positive_KM, negative_KN, auroc_K, patient), clustered=True)
    return DeLong(auroc_K, _covariance(positive_KM) + _covariance(negative_KN), clustered=False)


def placements(truth: npt.NDArray[np.bool_], scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """DeLong's structural components V10 and V01.

    Returns:
        (K, M): for each positive row the share of negative rows below it, (K, N): for each negative row the share of
        positive rows above it; ties count a half.
    """
    n_positive, n_negative = int(truth.sum()), int((~truth).sum())
    ranks = rankdata(scores, axis=1)
    positive = (ranks[:, truth] - rankdata(scores[:, truth], axis=1)) / n_negative
    negative = 1 - (ranks[:, ~truth] - rankdata(scores[:, ~truth], axis=1)) / n_positive
    return positive, negative


def _covariance(components_KM: FloatArray) -> FloatArray:
    """Covariance of the means of (K, M) components."""
    n = components_KM.shape[1]
    if n < 2:
        return np.full((len(components_KM), len(components_KM)), np.nan)
    covariance: FloatArray = np.atleast_2d(np.cov(components_KM)) / n
    return covariance


def _clustered(
    truth: npt.NDArray[np.bool_],
    positive_KM: FloatArray,
    negative_KN: FloatArray,
    auroc_K: FloatArray,
    patient: npt.NDArray[np.intp],
) -> FloatArray:
    """Obuchowski's S10 / M + S01 / N + (S11 + S11') / (M N), with sums of components over each patient's rows."""
    n_patients, n_scores = int(patient.max()) + 1, len(auroc_K)
    n_positive, n_negative = positive_KM.shape[1], negative_KN.shape[1]
    with_positive = len(np.unique(patient[truth]))
    with_negative = len(np.unique(patient[~truth]))
    if with_positive < 2 or with_negative < 2:
        return np.full((n_scores, n_scores), np.nan)

    def sums(components: FloatArray, owner: npt.NDArray[np.intp]) -> FloatArray:
        deviations = components - auroc_K[:, None]
        return np.stack([np.bincount(owner, weights=row, minlength=n_patients) for row in deviations])

    positive, negative = sums(positive_KM, patient[truth]), sums(negative_KN, patient[~truth])
    s10 = with_positive / (with_positive - 1) * (positive @ positive.T) / n_positive**2
    s01 = with_negative / (with_negative - 1) * (negative @ negative.T) / n_negative**2
    s11 = n_patients / (n_patients - 1) * (positive @ negative.T) / (n_positive * n_negative)
    covariance: FloatArray = s10 + s01 + s11 + s11.T
    return covariance
