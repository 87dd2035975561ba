"""Builds the network of a timm model for the images that it will be given.

Our own architectures are known to timm where ``medsoft.models`` has been imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import timm.layers
import torch
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from medsoft.models.stems import ConvStem

LAYERS: dict[str, Any] = {"SwiGLUPacked": timm.layers.SwiGLUPacked, "ConvStem": ConvStem}
"""Layers that arguments may name."""
CLASS_AND_MEAN = "cls+mean"
"""A pooling that timm does not have: the class token, and behind it the mean of the patches without registers."""


def build_network(
    name: str, channels: int, size: int | Sequence[int], arguments: Mapping[str, Any], spatial_dims: int = 2
) -> nn.Module:
    """A timm model without a head, with fresh weights, for images of this size where it must know it.

    Args:
        name: that timm knows.
        channels: of the images.
        size: side of the square in px, or one number an axis.
        arguments: of ``timm.create_model``; ``mlp_layer`` and ``embed_layer`` as names, and ``global_pool`` may be
            ``cls+mean``.
        spatial_dims: 3 for volumes.

    Raises:
        TypeError, ValueError, AssertionError, RuntimeError: arguments that the model does not take.
    """
    settings: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
    settings |= {
        key: LAYERS[value] if key in ("mlp_layer", "embed_layer") and value in LAYERS else value
        for key, value in arguments.items()
    }
    is_class_and_mean = settings.get("global_pool") == CLASS_AND_MEAN
    if is_class_and_mean:
        settings["global_pool"] = ""
    of_size: dict[str, Any] = {"img_size": size} | ({"spatial_dims": 3} if spatial_dims == 3 else {})
    try:
        model = timm.create_model(name, **of_size, **settings)
    except TypeError:  # convolutional networks take any size and no such argument
        model = timm.create_model(name, **settings)
    if is_class_and_mean:
        if type(model) is not TimmVisionTransformer:
            raise ValueError(f"global_pool {CLASS_AND_MEAN} is for timm's vision transformers")
        model.__class__ = ClassAndMean
    network: nn.Module = model
    return network


class ClassAndMean(TimmVisionTransformer):
    """timm's vision transformer without a head, pooled as ``cls+mean``."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, prefix tokens + N, D) to (B, 2 D)."""
        return torch.cat([x[:, 0], x[:, self.num_prefix_tokens :].mean(1)], dim=1)
