"""Statistics of a model's inputs: brightness, contrast, colour, sharpness, black border; features of bags.

They are taken from the prepared image or volume, not from its file: what preparing removes (the size of the file, fine
JPEG noise in a picture that is shrunk to an eighth) cannot change the model's answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = (1, 2, 4)
"""Sizes in pixels of the steps whose energy is measured: fine, middle, coarse."""

FLOOR = 1e-4
"""Added to energies before their logarithm: rounding to 8 bits has about as much."""

LARGEST = 2**16
"""Values of a channel that its percentiles are read from; of more, every so many is taken."""


def statistic_names(channels: int) -> list[str]:
    """Names of the columns of ``pixel_statistics``."""
    of_channel = ("mean", "spread", "5th percentile", "95th percentile")
    each = [f"{what} of channel {k + 1}" if channels > 1 else what for k in range(channels) for what in of_channel]
    colour = ["colourfulness", "spread of colour", "colour detail"] if channels > 1 else []
    detail = [f"detail at {scale} px" for scale in SCALES]
    return [*each, *colour, *detail, "share of the darkest value", "share of the brightest value", "border"]


@torch.no_grad()
def pixel_statistics(image_BCx: Tensor) -> Tensor:
    """Statistics of each image or volume.

    Args:
        image_BCx: (B, C, H, W) or (B, C, X, Y, Z), as the model is shown them.

    Returns:
        (B, S) float32, in the order of ``statistic_names``. ``detail`` is the logarithm of the mean squared difference
        of neighbours, after averaging over so many pixels; ``colour…`` is of the channels' differences from their
        mean; ``border`` is the mean of the outermost eighth minus that of the whole.
    """
    image = image_BCx.float()
    channels = image.shape[1]
    flat = image.flatten(2)
    some = flat[..., :: max(1, flat.shape[-1] // LARGEST)].sort(dim=-1).values
    last = some.shape[-1] - 1
    low, high = some[..., round(0.05 * last)], some[..., round(0.95 * last)]
    each = torch.stack([flat.mean(-1), flat.std(-1, correction=0), low, high], dim=-1).flatten(1)
    columns = [each]
    grey = image.mean(dim=1, keepdim=True)
    if channels > 1:
        colour = image - grey
        amount = colour.flatten(2).norm(dim=1)
        columns += [torch.stack([amount.mean(-1), amount.std(-1, correction=0), _detail(colour)], dim=-1)]
    columns += [torch.stack([_detail(_averaged(grey, scale)) for scale in SCALES], dim=-1)]
    values = grey.flatten(1)
    darkest, brightest = values.min(-1, keepdim=True).values, values.max(-1, keepdim=True).values
    near = 0.02 * (brightest - darkest)
    shares = [(values <= darkest + near).float().mean(-1), (values >= brightest - near).float().mean(-1)]
    inside: Any = (..., *(slice(side // 8, side - side // 8) for side in grey.shape[2:]))
    inner = grey[inside].flatten(1)
    whole = values.mean(-1)
    outer = (values.sum(-1) - inner.sum(-1)) / max(1, values.shape[1] - inner.shape[1])
    columns += [torch.stack([*shares, outer - whole], dim=-1)]
    return torch.cat(columns, dim=1)


def bag_statistic_names(num_features: int) -> list[str]:
    """Names of the columns of ``bag_statistics``."""
    return [
        "number of tiles (log)",
        *(f"{what} of feature {k}" for what in ("mean", "spread") for k in range(num_features)),
    ]


@torch.no_grad()
def bag_statistics(pieces: Iterable[Tensor]) -> Tensor:
    """Statistics of a bag of features.

    Args:
        pieces: (n, F) each, which together are the bag.

    Returns:
        (2 · F + 1,) float32: the logarithm of the number of tiles, then mean and standard deviation of each feature
        over them.
    """
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for piece in pieces:
        values = piece.double().cpu()
        count, total, squares = count + len(values), total + values.sum(0), squares + values.pow(2).sum(0)
    mean = total / max(count, 1)
    spread = (squares / max(count, 1) - mean**2).clamp(min=0).sqrt()
    return torch.cat([torch.log(torch.tensor([float(max(count, 1))])), mean.float(), spread.float()])


def _averaged(image: Tensor, scale: int) -> Tensor:
    """Means over cubes of so many pixels a side; of an axis that is shorter, as it is."""
    kernel = [min(scale, side) for side in image.shape[2:]]
    averaged: Tensor = (F.avg_pool2d if image.ndim == 4 else F.avg_pool3d)(image, kernel)
    return averaged


def _detail(image: Tensor) -> Tensor:
    """(B,) logarithm of the mean squared difference of neighbours along all axes that have some."""
    energies = [
        image.diff(dim=axis).pow(2).flatten(1).mean(-1) for axis in range(2, image.ndim) if image.shape[axis] > 1
    ]
    if not energies:
        return image.new_full((len(image),), float(torch.log(torch.tensor(FLOOR))))
    return torch.log(torch.stack(energies).mean(0) + FLOOR)
