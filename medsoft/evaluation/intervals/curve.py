"""A curve with a pointwise band out of the draws of the bootstrap."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Curve:
    """A curve with a pointwise bootstrap band; ``low`` and ``high`` are empty where the draws give none."""

    x: FloatArray
    y: FloatArray
    low: FloatArray
    high: FloatArray

    def to_json(self) -> dict[str, list[float]]:
        """Plain values."""
        return {name: np.asarray(getattr(self, name)).tolist() for name in ("x", "y", "low", "high")}


def curve_of(
    x: FloatArray, point: Mapping[Name, FloatArray], drawn: Mapping[Name, FloatArray], key: Name, confidence: float
) -> Curve:
    """The curve of one value.

    Args:
        x: (T,) where it is known.
        point: by name, values (1, T).
        drawn: by name, values (B, T); draws without a value somewhere are left out.
        key: which.
        confidence: of the band.
    """
    defined = drawn[key][np.isfinite(drawn[key]).all(axis=1)]
    if not len(defined):
        return Curve(x, point[key][0], np.array([]), np.array([]))
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Curve(x, point[key][0], low, high)
