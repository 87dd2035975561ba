"""The network that learns, and what any timm network gives at once: pooled features and the map of its tokens."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from torch import Tensor, nn

import medsoft.models  # noqa: F401 (registers our backbones with timm)
from medsoft.encoders.build import create_model
from medsoft.encoders.recipes import Recipe
from medsoft.errors import InputError
from medsoft.models.build import CLASS_AND_MEAN
from medsoft.models.token_map import token_map
from medsoft.models.weights import refuse_fetching


def create_student(recipe: Recipe) -> nn.Module:
    """The network of a recipe, with fresh weights; it is known to give features and tokens.

    Args:
        recipe: as which the result will be stored.

    Raises:
        InputError: timm has no such model, it does not take the arguments or images of this size, or it gives no
            vector or no map.
    """
    name = recipe.architecture
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise InputError(f"--backbone {name}: no such model" + (f"; did you mean {', '.join(near)}?" if near else ""))
    refuse_fetching("--backbone-args", recipe.arguments, "medsoft fit --model.pretrained")
    try:
        student = create_model(recipe)
    except InputError as error:
        raise InputError(str(error).replace("--encoder", "--backbone", 1)) from None
    try:
        measured(student, recipe, recipe.input_px)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        size = f"{recipe.input_px} x {recipe.input_px} px, {recipe.channels} channels"
        raise InputError(f"--backbone {name}: cannot learn from images of {size}: {error}") from None
    return student.train()


def measured(network: nn.Module, recipe: Recipe, px: int) -> tuple[int, int]:
    """Length of the pooled features, and side of the map, of a square image.

    Raises:
        RuntimeError, ValueError, AssertionError, TypeError: it takes no images of this size, or gives no map.
    """
    was_training = network.training
    image = next(network.parameters()).new_zeros(1, recipe.channels, px, px)
    try:
        with torch.no_grad():
            pooled, places = features_and_map(network.eval(), image)
    finally:
        network.train(was_training)
    return int(pooled.shape[1]), int(places.shape[2])


def takes_any_size(network: nn.Module, recipe: Recipe) -> bool:
    """Whether a network takes larger images than the recipe's too."""
    try:
        measured(network, recipe, 2 * recipe.input_px)
    except (RuntimeError, ValueError, AssertionError, TypeError):
        return False
    return True


def features_and_map(model: nn.Module, image_BCHW: Tensor, pooling: str = "model") -> tuple[Tensor, Tensor]:
    """One pass through a timm model without a head.

    Args:
        model: the network.
        image_BCHW: normalised square images.
        pooling: of a recipe; ``cls+mean`` joins the class token and the mean of the places.

    Returns:
        Pooled features (B, F), and the features of the places (B, D, h, w) without class and register tokens.

    Raises:
        ValueError: the network gives no vector for an image, or no map.
    """
    network: Any = model
    features: Tensor = network.forward_features(image_BCHW)
    map_BDhw = token_map(network, features, image_BCHW.shape[2:]).movedim(-1, 1)
    pooled: Tensor
    if pooling == CLASS_AND_MEAN:
        pooled = torch.cat([features[:, 0], map_BDhw.flatten(2).mean(2)], dim=1)
    else:
        pooled = network.forward_head(features, pre_logits=True)
    if pooled.ndim != 2:
        raise ValueError(f"it gives {tuple(pooled.shape)}, not one vector per image; choose a pooling")
    return pooled, map_BDhw
