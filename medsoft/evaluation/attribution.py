"""When what the parts of a sample add to an answer is drawn as a map: not where it is rounding noise.

A map's colours reach from the largest contribution down, however small that is: noise of a model that has learnt
nothing would look like a finding. One rule holds for patches of pictures, cells of volumes and tiles of slides.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LEAST_PART = 1e-3
"""Of the logit's spread: what is smaller is no map. It moves a probability by less than 0.00025."""
NO_MAP = f"no map: what the parts add is rounding noise, below {LEAST_PART:g} of the spread of the answers"


def is_noise(contributions: npt.ArrayLike, spread: float = 1.0) -> bool:
    """Whether contributions are rounding noise beside the spread of the answers.

    Their size is the root of the sum of their squares, which independent errors of that size would add up to: no
    contribution is larger, and a sum over ten thousand tiles of which each adds little is told from as many errors.

    Args:
        contributions: any shape, in the unit of the answer; empty is noise.
        spread: of the answers in the same unit, from ``spread_of``.
    """
    return float(np.linalg.norm(np.asarray(contributions, dtype=np.float64))) < LEAST_PART * spread


def spread_of(answers: npt.ArrayLike | None = None, unit: float = 1.0) -> float:
    """The standard deviation of a run's answers, and at least the unit.

    Args:
        answers: logits or predicted numbers; None where they are not known together, as of slides one by one.
        unit: 1 for log-odds, which is one nat; of a regression the standard deviation of the training targets.
    """
    values = np.asarray([] if answers is None else answers, dtype=np.float64)
    values = values[np.isfinite(values)]
    return max(unit, float(values.std()) if len(values) > 1 else 0.0)
