"""Slide aggregators: ``logits_BC = aggregator(x_BNF, mask_BN=None, coords_BNA=None)``, chosen by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from medsoft.layers.standardise import Standardise
from medsoft.models.aggregators.abmil import AbmilAggregator
from medsoft.models.aggregators.base import Aggregator, Explanation
from medsoft.models.aggregators.neighbours import NeighboursAggregator
from medsoft.models.aggregators.on_probe import OnProbe
from medsoft.models.aggregators.pooling import MaxAggregator, MeanAggregator
from medsoft.models.aggregators.streaming import (
    can_stream,
    read_explanation,
    read_logits,
    stream_explain,
    stream_logits,
)
from medsoft.models.aggregators.transformer import TransformerAggregator

AGGREGATORS: dict[str, type[Aggregator]] = {
    "mean": MeanAggregator,
    "max": MaxAggregator,
    "abmil": AbmilAggregator,
    "transformer": TransformerAggregator,
}
OF_ALL = ("standardise", "on_probe")
"""Options that every aggregator takes (``build_aggregator``)."""
SOLVED: dict[str, type[Aggregator]] = {"neighbours": NeighboursAggregator}
"""Without weights that a training in steps could learn: those of probes."""


def build_aggregator(
    name: str, num_features: int, num_classes: int, standardise: bool = False, on_probe: bool = False, **options: Any
) -> Aggregator:
    """An aggregator by name.

    Args:
        name: ``mean``, ``max``, ``abmil`` or ``transformer``; of a probe ``neighbours``.
        num_features: features F of a tile.
        num_classes: logits C.
        standardise: bring each feature to mean 0 and deviation 1 of the training part first (``Standardise``).
        on_probe: let it learn what a linear probe on the mean of the tiles leaves unexplained (``OnProbe``).
        **options: of the aggregator's class, as ``dim``, or ``attention`` of the transformer.

    Raises:
        ValueError: no aggregator of this name; the known ones are listed.
    """
    if name not in AGGREGATORS | SOLVED:
        raise ValueError(f"unknown aggregator {name!r}: one of {', '.join(AGGREGATORS)}")
    aggregator = (AGGREGATORS | SOLVED)[name](num_features, num_classes, **options)
    if standardise:
        aggregator.tile = nn.Sequential(Standardise(num_features), aggregator.tile)
    return OnProbe(aggregator) if on_probe else aggregator


__all__ = [
    "AGGREGATORS",
    "OF_ALL",
    "SOLVED",
    "AbmilAggregator",
    "Aggregator",
    "Explanation",
    "MaxAggregator",
    "MeanAggregator",
    "NeighboursAggregator",
    "OnProbe",
    "Standardise",
    "TransformerAggregator",
    "build_aggregator",
    "can_stream",
    "read_explanation",
    "read_logits",
    "stream_explain",
    "stream_logits",
]
