"""Metrics of predicted numbers, as functions of how often each unit was drawn.

All are in the unit of the target but for the shares:

- MAE, RMSE; bias: mean of prediction - target; limits of agreement: bias ± 1.96 standard deviations of the differences
  (J. M. Bland, D. G. Altman, Lancet 1986).
- R²: 1 - squared errors / squared deviations of the targets from their mean; below 0 where the mean would do better.
- Concordance correlation coefficient (L. I.-K. Lin, Biometrics 45, 1989), with variances divided by n.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.evaluation.metrics.weighted import Key, Values

FloatArray = npt.NDArray[np.float64]


class Measured:
    """Regression metrics as functions of how often each unit was drawn.

    Args:
        frame: rows with a target.
        unit_N: (N,) unit of each row.
    """

    def __init__(self, frame: pd.DataFrame, unit_N: npt.NDArray[np.intp]) -> None:
        target, prediction = (frame[name].to_numpy(dtype=np.float64) for name in ("target", "prediction"))
        # Moments about the targets' mean: about 0 they would lose digits where values are large and close together.
        centre = target.mean() if len(target) else 0.0
        t, p = target - centre, prediction - centre
        columns = [np.ones_like(t), t, p, t * t, p * p, t * p, np.abs(p - t)]
        n_units = int(unit_N.max()) + 1 if len(unit_N) else 0
        self._sums_UK = np.stack([np.bincount(unit_N, weights=c, minlength=n_units) for c in columns], axis=1)

    def __call__(self, weights_BU: FloatArray) -> Values:
        """Values (B,) under the weights of the units; NaN where undefined."""
        sums = weights_BU[:, : len(self._sums_UK)] @ self._sums_UK
        n = sums[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            t, p, tt, pp, tp, absolute = (sums[:, k] / n for k in range(1, 7))
            var_t, var_p, covariance = (tt - t * t).clip(0), (pp - p * p).clip(0), tp - t * p
            squared = (tt + pp - 2 * tp).clip(0)
            bias = p - t
            spread = np.sqrt((squared - bias**2).clip(0) * n / (n - 1))
            r2 = np.where(var_t > 1e-15 * (1 + squared), 1 - squared / var_t, np.nan)
            both = var_t + var_p + bias**2
            concordance = np.where(both > 0, 2 * covariance / both, np.nan)
        return {
            Key("mae"): absolute,
            Key("rmse"): np.sqrt(squared),
            Key("bias"): bias,
            Key("limit_low"): np.where(n > 1, bias - 1.96 * spread, np.nan),
            Key("limit_high"): np.where(n > 1, bias + 1.96 * spread, np.nan),
            Key("r2"): np.where(n > 1, r2, np.nan),
            Key("concordance"): np.where(n > 1, concordance, np.nan),
        }
