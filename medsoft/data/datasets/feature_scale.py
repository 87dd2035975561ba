"""What features are like over a training part, by which they are standardised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAST_SPREAD = 1e-3
"""A feature that varies less than this share of the median feature is taken for constant, or its noise would count."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scale:
    """Standardisation: (x − mean) / sd; features that do not vary have an infinite sd, and become 0."""

    mean_F: Array
    sd_F: Array

    @classmethod
    def of(cls, x_NF: Array) -> Scale:
        """Of rows."""
        return cls.from_moments(x_NF.mean(axis=0), x_NF.std(axis=0))

    @classmethod
    def from_moments(cls, mean_F: Array, sd_F: Array) -> Scale:
        """Of means and standard deviations as they were found."""
        varying = sd_F[sd_F > 0]
        least = LEAST_SPREAD * float(np.median(varying)) if len(varying) else np.inf
        return cls(mean_F, np.where(sd_F > least, sd_F, np.inf))

    def __call__(self, x_NF: Array) -> Array:
        found: Array = (x_NF - self.mean_F) / self.sd_F
        return found
