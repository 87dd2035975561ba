"""Slide aggregators: ``logits_BC = aggregator(x_BNF, mask_BN=None, coords_BNA=None)``, chosen by name."""

from __future__ import annotations

import inspect
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
    read_attention,
    read_explanation,
    read_logits,
    stream_explain,
    stream_logits,
)
from medsoft.models.aggregators.torchmil import KINDS, PREFIX, TorchmilAggregator, options_of
from medsoft.models.aggregators.transformer import TransformerAggregator

AGGREGATORS: dict[str, type[Aggregator]] = {
    "mean": MeanAggregator,
    "max": MaxAggregator,
    "abmil": AbmilAggregator,
    "transformer": TransformerAggregator,
}
OF_ALL = ("standardise", "on_probe")
"""Options that every aggregator takes (``build_aggregator``)."""
TORCHMIL = tuple(PREFIX + name for name in KINDS)
"""Models of torchmil that can be used, as they are named here."""
SOLVED: dict[str, type[Aggregator]] = {"neighbours": NeighboursAggregator}
"""Without weights that a training in steps could learn: those of probes."""


def arguments_of(name: str) -> list[str] | None:
    """Names of the arguments that an aggregator takes; None where there is no such aggregator, or it cannot be made."""
    if name.startswith(PREFIX):
        try:
            return [*options_of(name), "standardise"]
        except ValueError:
            return None
    return [*inspect.signature(AGGREGATORS[name]).parameters, *OF_ALL] if name in AGGREGATORS else None


def build_aggregator(
    name: str, num_features: int, num_classes: int, standardise: bool = False, on_probe: bool = False, **options: Any
) -> Aggregator:
    """An aggregator by name.

    Args:
        name: ``mean``, ``max``, ``abmil`` or ``transformer``; of a probe ``neighbours``; or a model of torchmil, as
            ``torchmil:TransMIL``.
        num_features: features F of a tile.
        num_classes: logits C.
        standardise: bring each feature to mean 0 and deviation 1 of the training part first (``Standardise``).
        on_probe: let it learn what a linear probe on the mean of the tiles leaves unexplained (``OnProbe``).
        **options: of the aggregator's class, as ``dim``, or ``attention`` of the transformer.

    Raises:
        ValueError: no aggregator of this name; the known ones are listed. Or torchmil is not installed. Or on_probe
            with an aggregator whose logits are no sums over tiles.
    """
    aggregator: Aggregator
    if name.startswith(PREFIX):
        aggregator = TorchmilAggregator(num_features, num_classes, name, **options)
    elif name in AGGREGATORS | SOLVED:
        aggregator = (AGGREGATORS | SOLVED)[name](num_features, num_classes, **options)
    else:
        known = f"one of {', '.join(AGGREGATORS)}; or of torchmil, {', '.join(TORCHMIL)}"
        raise ValueError(f"unknown aggregator {name!r}: {known}")
    if standardise:
        aggregator.tile = nn.Sequential(Standardise(num_features), aggregator.tile)
    if not on_probe:
        return aggregator
    if not aggregator.adds_up:
        raise ValueError("on_probe is for aggregators whose logits are sums over tiles: leave it out")
    return OnProbe(aggregator)


__all__ = [
    "AGGREGATORS",
    "OF_ALL",
    "SOLVED",
    "TORCHMIL",
    "AbmilAggregator",
    "Aggregator",
    "Explanation",
    "MaxAggregator",
    "MeanAggregator",
    "NeighboursAggregator",
    "OnProbe",
    "Standardise",
    "TorchmilAggregator",
    "TransformerAggregator",
    "arguments_of",
    "build_aggregator",
    "can_stream",
    "read_attention",
    "read_explanation",
    "read_logits",
    "stream_explain",
    "stream_logits",
]
