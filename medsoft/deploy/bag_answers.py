"""What a slide classifier says of one bag: its logits, and what each tile adds to one of them.

Bags are read in chunks where the aggregator can do so, so that memory does not grow with the slide; softmax, soft and
soft_norm attention need all tiles at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from medsoft.data.bags.bag_file import Bag
from medsoft.learn.question import Question
from medsoft.models.aggregators import (
    Aggregator,
    Explanation,
    TransformerAggregator,
    can_stream,
    stream_explain,
    stream_logits,
)

CHUNK_TILES = 4096


@torch.no_grad()
def bag_logits(aggregator: Aggregator, bag: Bag) -> Tensor:
    """Logits (1, K) in float32 of a bag's good tiles.

    Raises:
        BagError: the file cannot be read.
        ValueError: the features do not fit the model, or coordinates are missing that it needs.
    """
    if can_stream(aggregator):
        return stream_logits(aggregator, partial(_chunks, bag)).float().cpu()
    logits: Tensor = aggregator(*_whole(aggregator, bag))
    return logits.float().cpu()


@dataclass(frozen=True, eq=False)
class Answer:
    """A logit taken apart: ``logit = Σ parts + Σ shares_N``, but for rounding.

    Attributes:
        logit: of the question.
        parts: that belong to no tile, by name; residual and class token only where the model has them.
        shares_N: float64, of the bag's good tiles in their order.
    """

    logit: float
    parts: dict[str, float]
    shares_N: np.ndarray


def explain_bag(aggregator: Aggregator, bag: Bag, question: Question) -> Answer:
    """What each good tile of a bag adds to the question's logit.

    Raises:
        BagError, ValueError: as ``bag_logits``.
    """
    logit, parts, shares_N = 0.0, {"bias": 0.0, "residual": 0.0, "class token": 0.0}, np.zeros(int(bag.good_N.sum()))
    for index, weight in question.weights.items():
        found = _explain(aggregator, bag, index)
        logit += weight * found.logit.item()
        for name, value in zip(parts, (found.bias, found.residual, found.cls_share), strict=True):
            parts[name] += weight * value.item()
        shares_N += weight * found.shares_N.double().cpu().numpy()
    if not isinstance(aggregator, TransformerAggregator):
        parts = {"bias": parts["bias"]}
    return Answer(logit, parts, shares_N)


def _explain(aggregator: Aggregator, bag: Bag, index: int) -> Explanation:
    if can_stream(aggregator):
        return stream_explain(aggregator, partial(_chunks, bag), index)
    x_1NF, mask, coords_1N2_um = _whole(aggregator, bag)
    return aggregator.explain(x_1NF, index, mask, coords_1N2_um)


def _chunks(bag: Bag) -> Iterator[tuple[Tensor, Tensor | None]]:
    for features_nF, coords_n2_um in bag.chunks(CHUNK_TILES):
        yield torch.from_numpy(features_nF), None if coords_n2_um is None else torch.from_numpy(coords_n2_um)


def _whole(aggregator: Aggregator, bag: Bag) -> tuple[Tensor, None, Tensor | None]:
    """Features (1, N, F), no mask, places (1, N, 2) in µm: what an aggregator takes."""
    weight = aggregator.head.weight
    chunks = list(_chunks(bag))
    features_1NF = torch.cat([features for features, _ in chunks])[None].to(weight.device, weight.dtype)
    places = [coords for _, coords in chunks if coords is not None]
    return features_1NF, None, torch.cat(places)[None].to(weight.device) if places else None
