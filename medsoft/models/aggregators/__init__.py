"""Slide aggregators: ``logits_BC = aggregator(x_BNF, mask_BN=None, coords_BN2_um=None)``, chosen by name."""

from __future__ import annotations

from typing import Any

from medsoft.models.aggregators.abmil import AbmilAggregator
from medsoft.models.aggregators.base import Aggregator, Explanation
from medsoft.models.aggregators.pooling import MaxAggregator, MeanAggregator
from medsoft.models.aggregators.stream import can_stream, stream_explain, stream_logits
from medsoft.models.aggregators.transformer import TransformerAggregator

AGGREGATORS: dict[str, type[Aggregator]] = {
    "mean": MeanAggregator,
    "max": MaxAggregator,
    "abmil": AbmilAggregator,
    "transformer": TransformerAggregator,
}


def build_aggregator(name: str, num_features: int, num_classes: int, **options: Any) -> Aggregator:
    """An aggregator by name.

    Args:
        name: ``mean``, ``max``, ``abmil`` or ``transformer``.
        num_features: features F of a tile.
        num_classes: logits C.
        **options: of the aggregator's class, as ``dim``, or ``attention`` of the transformer.

    Raises:
        ValueError: no aggregator of this name; the known ones are listed.
    """
    if name not in AGGREGATORS:
        raise ValueError(f"unknown aggregator {name!r}: one of {', '.join(AGGREGATORS)}")
    return AGGREGATORS[name](num_features, num_classes, **options)


__all__ = [
    "AGGREGATORS",
    "AbmilAggregator",
    "Aggregator",
    "Explanation",
    "MaxAggregator",
    "MeanAggregator",
    "TransformerAggregator",
    "build_aggregator",
    "can_stream",
    "stream_explain",
    "stream_logits",
]
