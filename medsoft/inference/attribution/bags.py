"""Attributions of bags: what each tile contributes to a logit of a slide classifier."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from medsoft.data.datasets.bag_dataset import pieces_of
from medsoft.data.features.open import Bag
from medsoft.models.aggregators import Aggregator, read_explanation
from medsoft.task_types import LogitTarget


@dataclass(frozen=True, eq=False)
class BagExplanation:
    """A logit taken apart: ``logit = Σ parts + Σ contributions_N``, but for rounding.

    Attributes:
        logit: of the question.
        parts: that belong to no tile, by name; residual and class token only where the model has them.
        contributions_N: float64, of the bag's good tiles in their order.
    """

    logit: float
    parts: dict[str, float]
    contributions_N: np.ndarray


def explain_bag(aggregator: Aggregator, bag: Bag, logit_target: LogitTarget) -> BagExplanation:
    """What each good tile of a bag adds to the question's logit.

    Raises:
        BagError: the file cannot be read.
        ValueError: the features do not fit the model, or coordinates are missing that it needs.
    """
    logit, parts, contributions_N = (
        0.0,
        {"bias": 0.0, "residual": 0.0, "class token": 0.0},
        np.zeros(int(bag.good_N.sum())),
    )
    for index, weight in logit_target.weights.items():
        found = read_explanation(aggregator, partial(pieces_of, bag), index)
        logit += weight * found.logit.item()
        for name, value in zip(parts, (found.bias, found.residual, found.cls_contribution), strict=True):
            parts[name] += weight * value.item()
        contributions_N += weight * found.contributions_N.double().cpu().numpy()
    if not aggregator.has_class_token:
        parts = {"bias": parts["bias"]}
    return BagExplanation(logit, parts, contributions_N)
