"""McNemar's test for two models' decisions on the same rows, and its form for patients with several rows.

Sources: Q. McNemar, Psychometrika 12 (1947), in its exact form (binomial over the rows on which one alone is right);
N. A. Obuchowski, Statistics in Medicine 17 (1998), 1495-1507, for clusters: under equal shares the difference over the
rows of each patient has mean 0, and its squares give the variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm


@dataclass(frozen=True)
class McNemar:
    """The test's result.

    Attributes:
        only_first: rows on which the first model alone is right.
        only_second: rows on which the second alone is right.
        p: two-sided; None where the models never differ, or where one patient alone differs.
        method: ``exact`` or ``clustered``.
    """

    only_first: int
    only_second: int
    p: float | None
    method: str


def mcnemar(
    first_right: npt.NDArray[np.bool_],
    second_right: npt.NDArray[np.bool_],
    patient_N: npt.NDArray[np.intp] | None = None,
) -> McNemar:
    """Test whether two models are right equally often on the same rows.

    Args:
        first_right: (N,).
        second_right: (N,).
        patient_N: (N,) indices from 0; where a patient has several rows, the clustered form is used.
    """
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    if patient_N is None or patient_N.max() + 1 == len(patient_N):
        differ = only_first + only_second
        p = float(binomtest(only_first, differ, 0.5).pvalue) if differ else None
        return McNemar(only_first, only_second, p, "exact")
    difference = np.bincount(patient_N, weights=first_right.astype(np.float64) - second_right)
    n = len(difference)
    variance = n / (n - 1) * float((difference**2).sum()) if n > 1 else 0.0
    if np.count_nonzero(difference) < 2:
        return McNemar(only_first, only_second, None, "clustered")
    z = float(difference.sum()) / np.sqrt(variance)
    return McNemar(only_first, only_second, float(2 * norm.sf(abs(z))), "clustered")
