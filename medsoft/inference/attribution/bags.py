"""Attributions of bags: what each tile contributes to a logit of a slide classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from medsoft.data.datasets.bag_dataset import pieces_of_all
from medsoft.data.features.open import Bag
from medsoft.models.aggregators import Aggregator, read_attention, read_explanation, read_logits
from medsoft.task_types import LogitTarget


@dataclass(frozen=True, eq=False)
class BagExplanation:
    """A logit taken apart: ``logit = Σ parts + Σ contributions_N``, but for rounding.

    Or a logit that is no sum over tiles, with the attention of the model that gave it.

    Attributes:
        logit: of the question.
        parts: that belong to no tile, by name; residual and class token only where the model has them.
        contributions_N: float64, of the good tiles in their order, bag by bag.
        adds_up: whether that sum holds; else ``contributions_N`` is attention, and there are no parts.
    """

    logit: float
    parts: dict[str, float]
    contributions_N: np.ndarray
    adds_up: bool = True


def attention_of_bags(aggregator: Aggregator, bags: Sequence[Bag], logit_target: LogitTarget) -> BagExplanation:
    """The attention of each good tile of some files, which are one bag; of an aggregator that ``gives_attention``.

    Raises:
        BagError: a file cannot be read.
        ValueError: the features do not fit the model, or coordinates are missing that it needs.
    """
    pieces = partial(pieces_of_all, bags)
    logits_K = read_logits(aggregator, pieces)[0]
    logit = sum(weight * logits_K[index].item() for index, weight in logit_target.weights.items())
    weights_N = read_attention(aggregator, pieces).double().cpu().numpy()
    return BagExplanation(logit, {}, weights_N, adds_up=False)


def explain_bag(aggregator: Aggregator, bag: Bag, logit_target: LogitTarget) -> BagExplanation:
    """What each good tile of a bag adds to the question's logit; raises as ``explain_bags``."""
    return explain_bags(aggregator, [bag], logit_target)


def explain_bags(aggregator: Aggregator, bags: Sequence[Bag], logit_target: LogitTarget) -> BagExplanation:
    """What each good tile of some files, which are one bag, adds to the question's logit.

    Raises:
        BagError: a file cannot be read.
        ValueError: the features do not fit the model, or coordinates are missing that it needs.
    """
    logit, parts, contributions_N = (
        0.0,
        {"bias": 0.0, "residual": 0.0, "class token": 0.0},
        np.zeros(sum(int(bag.good_N.sum()) for bag in bags)),
    )
    for index, weight in logit_target.weights.items():
        found = read_explanation(aggregator, partial(pieces_of_all, bags), index)
        logit += weight * found.logit.item()
        for name, value in zip(parts, (found.bias, found.residual, found.cls_contribution), strict=True):
            parts[name] += weight * value.item()
        contributions_N += weight * found.contributions_N.double().cpu().numpy()
    if not aggregator.has_class_token:
        parts = {"bias": parts["bias"]}
    return BagExplanation(logit, parts, contributions_N)
