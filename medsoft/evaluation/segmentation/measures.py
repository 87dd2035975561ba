"""Means of what was measured of each image, as functions of how often each unit was drawn.

A value of an image that is undefined (NaN) is left out of the mean. The value of all classes together is the mean over
images of the mean over the classes of an image.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.evaluation.metrics.weighted import Key, Values

FloatArray = npt.NDArray[np.float64]


class Overlaps:
    """Weighted means of Dice, IoU and the distances of surfaces, of each class and of all together.

    Args:
        frame: rows of a predictions table with a mask.
        classes: names C.
        measures: names of what was measured; columns are ``<measure>_<class>``.
        unit_N: (N,) unit of each row.
    """

    def __init__(
        self, frame: pd.DataFrame, classes: Sequence[str], measures: Sequence[str], unit_N: npt.NDArray[np.intp]
    ) -> None:
        self._keys: list[Key] = []
        columns: list[FloatArray] = []
        for measure in measures:
            values_NC = frame[[f"{measure}_{name}" for name in classes]].to_numpy(dtype=np.float64)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of an image without any class: it has no value
                columns.append(np.nanmean(values_NC, axis=1))
            self._keys.append(Key(measure))
            if len(classes) > 1:
                self._keys += [Key(measure, name) for name in classes]
                columns += list(values_NC.T)
        values_NK = np.stack(columns, axis=1)
        there_NK = ~np.isnan(values_NK)
        n_units = int(unit_N.max()) + 1 if len(unit_N) else 0
        shape = (n_units, len(columns))
        self._sums_UK, self._counts_UK = np.zeros(shape), np.zeros(shape)
        np.add.at(self._sums_UK, unit_N, np.where(there_NK, values_NK, 0.0))
        np.add.at(self._counts_UK, unit_N, there_NK)

    def __call__(self, weights_BU: FloatArray) -> Values:
        """Values (B,) under the weights of the units; NaN where undefined."""
        weights_BU = weights_BU[:, : len(self._sums_UK)]
        with np.errstate(divide="ignore", invalid="ignore"):
            means_BK = (weights_BU @ self._sums_UK) / (weights_BU @ self._counts_UK)
        return dict(zip(self._keys, means_BK.T, strict=True))
