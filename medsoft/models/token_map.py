"""The map of tokens behind a model's pooled vector, whatever the architecture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor


def token_map(model: Any, features: Tensor, size: Sequence[int]) -> Tensor:
    """The tokens that stand for places, as a map.

    Args:
        model: of timm, or one of medsoft's.
        features: what its ``forward_features`` gives: tokens (B, prefix tokens + N, D), or a map, (B, D, *grid) but for
            models whose ``output_fmt`` is NHWC.
        size: of the image, without batch and channels.

    Returns:
        (B, *grid, D).

    Raises:
        ValueError: the tokens are of no grid of this image.
    """
    if features.ndim == 2 + len(size):
        is_last = str(getattr(model, "output_fmt", "NCHW")) == "NHWC"
        return features if is_last else features.movedim(1, -1)
    if features.ndim != 3:
        raise ValueError(f"a model that gives {tuple(features.shape)} has no map of tokens")
    places = features[:, prefix_tokens(model) :]
    grid = grid_of_tokens(model, places.shape[1], size)
    return places.reshape(len(places), *grid, places.shape[2])


def prefix_tokens(model: Any) -> int:
    """Tokens in front that stand for no place: the class token and registers."""
    if hasattr(model, "num_prefix_tokens"):
        return int(model.num_prefix_tokens)
    stages = getattr(model, "stages", None)
    last = stages[-1] if stages is not None and len(stages) else model
    return int(getattr(last, "cls_token", None) is not None)


def grid_of_tokens(model: Any, tokens: int, size: Sequence[int]) -> tuple[int, ...]:
    """The grid of so many places of an image: its sides in patches, of which the last may be cut off or padded.

    Raises:
        ValueError: no such grid has so many places.
    """
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    stride = (math.prod(size) / tokens) ** (1 / len(size))
    sides = [(patch,) * len(size) if isinstance(patch, int) else tuple(patch)] if patch is not None else []
    for strides in (*sides, (stride,) * len(size)):
        choices = [
            dict.fromkeys((side // step, math.ceil(side / step), round(side / step)))
            for side, step in zip(size, strides, strict=True)
        ]
        for grid in itertools.product(*choices):
            whole = tuple(int(side) for side in grid)
            if math.prod(whole) == tokens:
                return whole
    raise ValueError(f"{tokens} tokens are of no grid of an image of {' x '.join(map(str, size))}")
