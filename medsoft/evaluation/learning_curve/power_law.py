"""The inverse power law by which most learning curves go: value = c - a · n^-b, or c + a · n^-b of an error.

R. L. Figueroa et al., BMC Medical Informatics and Decision Making 12:8, 2012, predict sample sizes so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

FloatArray = npt.NDArray[np.float64]

SLOWEST, FASTEST = 0.05, 2.0
"""Exponents that are thought possible; a law of 0 never changes, and with few points a steep one fits any noise."""
FEWEST = 3
"""Points: there are three numbers to find."""


@dataclass(frozen=True)
class PowerLaw:
    """A curve ``plateau + sign · scale · n^-exponent``, which reaches its plateau from its worse side.

    Attributes:
        scale: a, at least 0.
        exponent: b.
        plateau: c, of endless data.
        sign: 1 for an error, -1 for what is better the higher it is.
    """

    scale: float
    exponent: float
    plateau: float
    sign: float

    def __call__(self, n: npt.ArrayLike) -> FloatArray:
        """Values at numbers of patients."""
        law: FloatArray = self.plateau + self.sign * self.scale * np.asarray(n, dtype=np.float64) ** -self.exponent
        return law


def fit_power_law(n: npt.ArrayLike, values: npt.ArrayLike, lower_is_better: bool, best: float) -> PowerLaw:
    """Least squares over a, b and c; for each b the other two are a straight line, so that one number is searched for.

    Args:
        n: (P,) numbers of patients, three or more different ones.
        values: (P,) of the metric.
        lower_is_better: of the metric.
        best: value that it cannot exceed (1 of an AUROC, 0 of an error); infinite for none.

    Raises:
        ValueError: fewer than three points, or values that are not finite.
    """
    n_P, value_P = np.asarray(n, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(np.unique(n_P)) < FEWEST or not np.isfinite(value_P).all():
        raise ValueError(f"a power law needs {FEWEST} points with a value")
    sign = 1.0 if lower_is_better else -1.0
    unit = float(n_P.max())  # keeps a and n^-b near 1

    def line(exponent: float) -> tuple[float, float, float]:
        """Scale and plateau of least squares within their limits, and the sum of squares."""
        x_P = sign * (n_P / unit) ** -exponent
        spread = x_P - x_P.mean()
        scale = max(0.0, float(spread @ value_P / (spread @ spread)))
        plateau = float(value_P.mean() - scale * x_P.mean())
        if sign * (best - plateau) > 0:  # beyond the best value there is
            plateau = best
            scale = max(0.0, float(x_P @ (value_P - best) / (x_P @ x_P)))
        return scale, plateau, float(((value_P - plateau - scale * x_P) ** 2).sum())

    def squares(log_exponent: float) -> float:
        return line(float(np.exp(log_exponent)))[2]

    found = minimize_scalar(squares, bounds=(np.log(SLOWEST), np.log(FASTEST)), method="bounded")
    exponent = float(np.exp(found.x))
    scale, plateau, _ = line(exponent)
    return PowerLaw(scale * unit**exponent, exponent, plateau, sign)
