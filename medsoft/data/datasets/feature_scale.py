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
    """Standardisation: (x − mean) / sd; features that do not vary have an infinite sd, and become 0.

    A value that is not known (NaN, of a covariate) becomes 0 too: it stands at the mean.
    """

    mean_F: Array
    sd_F: Array

    @classmethod
    def of(cls, x_NF: Array, covariates: int = 0) -> Scale:
        """Of rows.

        Args:
            x_NF: features, and then covariates.
            covariates: how many of the last columns are; these may have unknown values, and their spread says nothing
                of the features' and the other way round.
        """
        features_NF, covariates_NK = np.split(x_NF, [x_NF.shape[1] - covariates], axis=1)
        found = cls.from_moments(features_NF.mean(axis=0), features_NF.std(axis=0))
        if not covariates:
            return found
        known_NK = ~np.isnan(covariates_NK)
        count_K = np.maximum(known_NK.sum(axis=0), 1)
        mean_K = np.where(known_NK, covariates_NK, 0).sum(axis=0) / count_K
        sd_K = np.sqrt((np.where(known_NK, covariates_NK - mean_K, 0) ** 2).sum(axis=0) / count_K)
        sd_K = np.where(sd_K > 1e-9 * (1 + np.abs(mean_K)), sd_K, np.inf)
        return cls(np.concatenate([found.mean_F, mean_K]), np.concatenate([found.sd_F, sd_K]))

    @classmethod
    def from_moments(cls, mean_F: Array, sd_F: Array) -> Scale:
        """Of means and standard deviations as they were found."""
        varying = sd_F[sd_F > 0]
        least = LEAST_SPREAD * float(np.median(varying)) if len(varying) else np.inf
        return cls(mean_F, np.where(sd_F > least, sd_F, np.inf))

    def __call__(self, x_NF: Array) -> Array:
        found: Array = (x_NF - self.mean_F) / self.sd_F
        found[np.isnan(x_NF)] = 0
        return found
