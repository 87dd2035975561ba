"""An encoder as the backbone of a model that is trained: from its recipe, with its weights and its scaling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import medsoft.models  # noqa: F401 (registers our backbones with timm)
from medsoft.encoders.pretrained import find_pretrained
from medsoft.encoders.recipes import Recipe, find_recipe, unknown_encoder
from medsoft.encoders.weights import load_for_training
from medsoft.errors import InputError
from medsoft.models.build import CLASS_AND_MEAN, build_network
from medsoft.models.token_map import token_map


class PretrainedBackbone(nn.Module):
    """An encoder that is trained on, or stays as it is.

    Attributes:
        network: timm's model without a head, or medsoft's.
        recipe: how it was built and what it is shown.
        mean: one value per channel, for values from 0 to 1.
        std: one value per channel, for values from 0 to 1.
        sha256: of its weights.
        num_features: length of the pooled features.
        num_token_features: length of a token's features.

    Args:
        network: as the attribute.
        recipe: as the attribute.
        sha256: as the attribute.
        size: of the images it will be given.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, sha256: str, channels: int, size: Sequence[int]) -> None:
        super().__init__()
        self.network, self.recipe, self.sha256 = network, recipe, sha256
        self.mean, self.std = recipe.mean, recipe.std
        was_training = network.training
        network.eval()
        blank = next(network.parameters()).new_zeros(1, channels, *size)
        try:
            with torch.no_grad():
                pooled, tokens = network(blank), self.maps(blank)
        except (RuntimeError, ValueError, AssertionError) as error:
            given = " x ".join(map(str, size))
            raise InputError(f"model.encoder {recipe.name}: takes no images of {given}: {error}") from None
        network.train(was_training)
        self.num_features, self.num_token_features = int(pooled.shape[-1]), int(tokens.shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W), or volumes (B, C, X, Y, Z), to pooled features (B, F)."""
        pooled: Tensor = self.network(x)
        return pooled

    def map(self, x: Tensor) -> Tensor:
        """Images to the tokens of their places (B, N, Ft), row by row."""
        return self.maps(x).flatten(1, -2)

    def maps(self, x: Tensor) -> Tensor:
        """Images to the map of tokens (B, h, w, Ft), or (B, x, y, z, Ft)."""
        network: Any = self.network
        return token_map(network, network.forward_features(x), x.shape[2:])


def pretrained_backbone(
    name: str, channels: int, size: Sequence[int], weights: Path | None = None, is_loaded: bool = True
) -> PretrainedBackbone:
    """The backbone of an encoder's recipe.

    Args:
        name: of a recipe, or of weights in the folder of weights that brought one; or the folder of a pretraining.
        channels: of the images.
        size: of the images: (height, width) in px, or (X, Y, Z) in voxels.
        weights: their file; None for the package's, or the one in the folder of weights.
        is_loaded: False leaves the weights as they are drawn, as a checkpoint will bring them.

    Raises:
        InputError: no such recipe, no weights of it, or it takes no such images.
    """
    recipe = find_recipe(name)
    if recipe is None and (pretrained := find_pretrained(name)) is not None:
        recipe, own = pretrained
        weights = weights or own
    if recipe is None:
        raise unknown_encoder("model.encoder", name)
    recipe.check_images("model.encoder", channels, len(size))
    try:
        network = build_network(recipe.architecture, channels, tuple(size), backbone_arguments(recipe), recipe.dims)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        given = " x ".join(map(str, size))
        raise InputError(f"model.encoder {name}: cannot be built for images of {given}: {error}") from None
    digest = load_for_training(network, recipe, weights) if is_loaded else ""
    return PretrainedBackbone(network, recipe, digest, channels, size)


def backbone_arguments(recipe: Recipe) -> dict[str, Any]:
    """Arguments with which the recipe's architecture gives its pooled features by itself."""
    if recipe.pooling != CLASS_AND_MEAN:
        return dict(recipe.arguments)
    return {**recipe.arguments, "global_pool": CLASS_AND_MEAN}
