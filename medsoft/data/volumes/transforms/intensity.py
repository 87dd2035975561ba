"""Scales a scanner's intensities to the model's input values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from monai.data import MetaTensor

Scaling = Literal["zscore", "window", "percentiles", "none"]
Dynamic = Literal["none", "phases", "subtractions", "both"]

WINDOW = (-160.0, 240.0)
"""Of CT in HU, where nobody says another: soft tissue."""

OF_MODALITY: dict[str, Scaling] = {"MR": "zscore", "CT": "window"}
"""What ``auto`` means; values of other modalities have no customary scale."""


def scaled(
    volume: MetaTensor,
    scaling: Scaling,
    window: tuple[float, float],
    percentiles: tuple[float, float],
    by_first: bool,
) -> MetaTensor:
    """Scale the values of every channel.

    Args:
        volume: (C, X, Y, Z).
        scaling: ``zscore``: mean 0 and standard deviation 1; ``window``: the two values become 0 and 1, what lies
            beyond is cut off; ``percentiles``: likewise those of the volume; ``none``: as they are.
        window: lower and upper value, of CT in Hounsfield units.
        percentiles: lower and upper one, 0 to 100.
        by_first: the first channel's mean, deviation and percentiles are used for all, and nothing is cut off above:
            channels that are phases stay comparable, and brighter than before the contrast agent.

    Returns:
        The same shape. A constant channel becomes 0.
    """
    if scaling == "none":
        return volume
    values = volume.as_tensor()
    channels = values.flatten(1)
    reference = channels[:1].expand(len(channels), -1) if by_first else channels
    if scaling == "zscore":
        low, width = reference.mean(dim=1), reference.std(dim=1, correction=0)
    else:
        if scaling == "window":
            low, high = (torch.full((len(channels),), value) for value in window)
        else:
            low, high = (_percentile(reference, value) for value in percentiles)
        width = high - low
    width = torch.where(width > 0, width, torch.inf)
    out = (values - low[:, None, None, None]) / width[:, None, None, None]
    if scaling != "zscore":
        out = out.clamp(min=0) if by_first else out.clamp(0, 1)
    return MetaTensor(out, affine=volume.affine)


def with_subtractions(volume: MetaTensor, dynamic: Dynamic) -> MetaTensor:
    """Phases of a dynamic series to the channels that the model sees.

    Args:
        volume: (C, X, Y, Z) phases in the order of time, the first without contrast agent, on one scale.
        dynamic: ``phases`` as they are, ``subtractions`` of the first from each later one, or ``both``: phases first.
    """
    values = volume.as_tensor()
    later = values[1:] - values[:1]
    parts: Sequence[torch.Tensor] = {"subtractions": (later,), "both": (values, later)}.get(dynamic, (values,))
    return MetaTensor(torch.cat(list(parts)), affine=volume.affine)


def background(values: torch.Tensor, dynamic: Dynamic) -> torch.Tensor:
    """What stands for no signal in channels (C, X, Y, Z): (C,) the lowest value, and 0 of subtractions."""
    fill: torch.Tensor = values.flatten(1).amin(dim=1)
    differences = {"subtractions": len(values), "both": len(values) // 2}.get(dynamic, 0)
    fill[len(values) - differences :] = 0
    return fill


def channels_of(phases: int, dynamic: Dynamic) -> int:
    """Channels that ``with_subtractions`` makes of a number of phases."""
    return {"subtractions": phases - 1, "both": 2 * phases - 1}.get(dynamic, phases)


def _percentile(channels: torch.Tensor, percent: float) -> torch.Tensor:
    """The nearest value below, channel by channel; unlike torch.quantile of any number of values."""
    n = channels.shape[1]
    rank = 1 + int(percent / 100 * (n - 1))
    return channels.kthvalue(rank, dim=1).values
