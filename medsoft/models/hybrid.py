"""Hybrid models: the map of a convolutional network or a ViT, read by blocks with any attention of the family.

Source: the hybrid of Dosovitskiy et al. 2021 (arXiv 2010.11929, section 3.1), a ViT whose patches are the places of a
network's last feature map. Deviations: the attention is chosen by name; any network of timm that gives a map, for
pictures or for volumes, is an encoder; the map's channels are normalised before they are projected.

All of it is trained end to end. It is a ``VisionTransformer`` over the map, so that whatever works for one
(attribution, the out-of-distribution detector, images of any size) works for the hybrid. A token is a place of the map,
whose receptive field in the image is larger than its cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import timm
import torch
from timm.models import group_parameters, register_model
from torch import Tensor, nn

from medsoft.layers.base import Grid
from medsoft.layers.embeddings import to_sizes
from medsoft.models.build import build_network
from medsoft.models.token_map import token_map
from medsoft.models.vit import VisionTransformer
from medsoft.models.weights import refuse_fetching

LANDMARK_PX = 32
"""What one landmark kernel of SOFT spans in the image, as in our vision transformers."""


class Hybrid(VisionTransformer):
    """An encoder, and a vision transformer over its map.

    Args:
        encoder: gives a map by ``forward_features`` (see ``medsoft.models.token_map``); without a head.
        attention: of the blocks, a key of ``medsoft.layers.attention.ATTENTION``.
        img_size: the size of image that the position table is made for; any other is taken too.
        in_chans: channels of the images.
        spatial_dims: 2 for pictures, 3 for volumes.
        embed_dim: width of the blocks.
        depth: number of blocks.
        num_heads: heads of each.
        attention_options: passed to every attention module.
        **kwargs: as for ``VisionTransformer``.

    Raises:
        ValueError: the encoder gives no map for images of this size.
    """

    def __init__(
        self,
        encoder: nn.Module,
        attention: str = "seqnorm",
        img_size: int | Sequence[int] = 224,
        in_chans: int = 3,
        spatial_dims: Literal[2, 3] = 2,
        embed_dim: int = 192,
        depth: int = 2,
        num_heads: int = 3,
        attention_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if "patch_size" in kwargs:
            raise ValueError("patch_size is not an option of a hybrid: its tokens are the places of the encoder's map")
        size = to_sizes(img_size, spatial_dims)
        grid, width = _map_of(encoder, in_chans, size)
        options = dict(attention_options or {})
        if attention in ("soft", "soft_norm"):
            stride = max(side // places for side, places in zip(size, grid, strict=True))
            options = {"landmark_stride": max(1, LANDMARK_PX // max(1, stride))} | options
        super().__init__(
            attention=attention,
            attention_options=options,
            spatial_dims=spatial_dims,
            img_size=grid,
            patch_size=1,
            in_chans=width,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            **kwargs,
        )
        self.map_norm = nn.LayerNorm(width)
        self.encoder = encoder

    def embed_tokens(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Images to the map's tokens with their positions (B, N, D), and the grid of the places among them."""
        map_BxF = self.map_norm(token_map(self.encoder, _features(self.encoder, x), x.shape[2:]))
        return super().embed_tokens(map_BxF.movedim(-1, 1))

    def no_weight_decay(self) -> set[str]:
        """Names of position tables and tokens, the encoder's among them."""
        of_encoder: Any = getattr(self.encoder, "no_weight_decay", tuple)
        own: set[str] = set(super().no_weight_decay())
        return own | {f"encoder.{name}" for name in of_encoder()}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], tuple[float, ...]]:
        """Layers in their order, for rates that decay with depth: the encoder's, then all that is new as one."""
        matcher: Any = getattr(self.encoder, "group_matcher", None)
        if matcher is None:
            layers: dict[str, int] = {}
        else:
            layers = group_parameters(self.encoder, matcher(coarse=coarse), reverse=True)

        def layer_of(name: str) -> tuple[float, ...]:
            is_new = not name.startswith("encoder.")
            return (math.inf,) if is_new else (layers.get(name.removeprefix("encoder."), 0),)

        return layer_of


def _features(encoder: nn.Module, x: Tensor) -> Tensor:
    """All features of an image, ahead of the pooling."""
    forward: Any = encoder.forward_features if hasattr(encoder, "forward_features") else encoder
    features: Tensor = forward(x)
    return features


def _map_of(encoder: nn.Module, channels: int, size: Grid) -> tuple[Grid, int]:
    """Grid and width of the map of images of a size."""
    was_training = [(module, module.training) for module in encoder.modules()]
    try:
        with torch.no_grad():
            found = token_map(encoder, _features(encoder.eval(), torch.zeros(1, channels, *size)), size)
    finally:
        for module, training in was_training:
            module.training = training
    return tuple(found.shape[1:-1]), found.shape[-1]


def hybrid(
    pretrained: bool = False,
    encoder: str | None = None,
    encoder_args: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Hybrid:
    """A hybrid over a network of timm with fresh weights.

    Args:
        pretrained: not to be had: weights are loaded into ``Hybrid.encoder``.
        encoder: name of the network.
        encoder_args: its arguments.
        **kwargs: as for ``Hybrid``.

    Raises:
        ValueError: no encoder is named, timm has none of this name, or it takes no such images.
    """
    if pretrained:
        raise ValueError("weights come from a file: model.encoder or model.pretrained")
    if encoder is None:
        raise ValueError("name the encoder: model.encoder, or for random weights backbone_args {encoder: resnet18}")
    if not timm.is_model(encoder) or encoder == "hybrid":
        raise ValueError(f"encoder {encoder!r}: no model of timm")
    for option in ("cache_dir", "pretrained_cfg", "pretrained_cfg_overlay"):  # which timm passes to all
        kwargs.pop(option, None)
    arguments = dict(encoder_args or {})
    refuse_fetching("model.backbone_args encoder_args", arguments, "model.pretrained")
    size, dims = kwargs.get("img_size", 224), kwargs.get("spatial_dims", 2)
    network = build_network(encoder, kwargs.get("in_chans", 3), size, arguments, dims)
    return Hybrid(network, **kwargs)


register_model(hybrid)

__all__ = ["Hybrid", "hybrid"]
