"""An encoder as one function of tensors: prepared images in, features out; what every engine computes."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from medsoft.encoders.recipes import Recipe
from medsoft.models.token_map import token_map

Wanted = Literal["pooled", "tokens", "both"]


class Graph(nn.Module):
    """From prepared images to what is wanted of them.

    Args:
        model: gives (B, F), or all tokens (B, N, D) for the pooling ``cls+mean``.
        recipe: mean, deviation and pooling.
        wanted: pooled features, the map of tokens, or both, in this order.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, recipe: Recipe, wanted: Wanted) -> None:
        super().__init__()
        self.model, self.wanted = model, wanted
        self.is_of_pictures, self.pools_here = recipe.dims == 2, recipe.pooling == "cls+mean"
        for name, values in (("mean", recipe.mean), ("std", recipe.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, *[1] * recipe.dims), persistent=False)

    def forward(self, images_BHWC: Tensor) -> tuple[Tensor, ...]:
        """Pictures (B, H, W, C) uint8, or volumes (B, D, H, W, C) float32, to features (B, F), map (B, h, w, Ft)."""
        # A view with the channels in front has the memory layout "channels last" already.
        image = images_BHWC.movedim(-1, 1).float()
        image = ((image / 255 if self.is_of_pictures else image) - self.mean) / self.std
        model: Any = self.model
        if self.wanted == "pooled":
            return (self._pooled(model(image)),)
        features = model.forward_features(image)
        tokens = token_map(model, features, image.shape[2:])
        if self.wanted == "tokens":
            return (tokens,)
        return self._pooled(model.forward_head(features)), tokens

    def _pooled(self, output: Tensor) -> Tensor:
        if not self.pools_here:
            return output
        model: Any = self.model
        patches_BND = output[:, model.num_prefix_tokens :]
        return torch.cat([output[:, 0], patches_BND.mean(1)], dim=1)
