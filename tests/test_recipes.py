"""Recipes of published encoders: each builds, has the published size, and is shown what its authors state."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from medsoft.deploy.encoders import create_model
from medsoft.errors import InputError
from medsoft.slides.recipes import Recipe, find_recipe, recipes

PUBLISHED = {  # millions of parameters, shape of what the model gives for 2 tiles, length of the features
    "uni": (303.35, (2, 1024), 1024),
    "uni2-h": (681.39, (2, 1536), 1536),
    "virchow2": (631.24, (2, 261, 1280), 2560),
    "h-optimus-0": (1134.77, (2, 1536), 1536),
    "gigapath": (1134.95, (2, 1536), 1536),
    "ctranspath": (27.52, (2, 768), 768),
    "resnet50-imagenet": (23.51, (2, 2048), 2048),
    "efficientnet-lite0": (3.37, (2, 1280), 1280),
}
PREFIX_TOKENS = {"uni": 1, "uni2-h": 9, "virchow2": 5, "h-optimus-0": 5, "gigapath": 1}  # class token and registers
POOLS = {"cls": "token", "mean": "avg", "cls+mean": ""}


def test_the_published_encoders_are_there():
    assert recipes().keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_builds_the_published_model(name):
    recipe = recipes()[name]
    millions, shape, num_features = PUBLISHED[name]
    with torch.device("meta"):
        model = create_model(recipe).eval()
        output = model(torch.empty(2, 3, recipe.input_px, recipe.input_px))
    assert sum(weight.numel() for weight in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    assert tuple(output.shape) == shape
    pool = model.global_pool if isinstance(model.global_pool, str) else model.global_pool.pool_type
    assert pool == POOLS[recipe.pooling]
    assert getattr(model, "num_prefix_tokens", 0) == PREFIX_TOKENS.get(name, 0)
    assert num_features == shape[-1] * (2 if recipe.pooling == "cls+mean" else 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_says_everything(name):
    recipe = recipes()[name]
    assert len(recipe.mean) == len(recipe.std) == 3
    assert 0 < min(recipe.std) <= max(recipe.mean) < 1
    assert recipe.source.startswith("https://")
    assert recipe.licence
    assert recipe.tile_mpp in (0.5, None)
    assert json.loads(json.dumps(recipe.settings)) == recipe.settings


def test_only_encoders_of_slides_have_a_resolution():
    """What was trained on photographs, or whose authors name none, leaves it to the user."""
    assert {name for name, recipe in recipes().items() if recipe.tile_mpp is None} == {
        "ctranspath",
        "resnet50-imagenet",
        "efficientnet-lite0",
    }


def test_capitals_do_not_matter():
    assert find_recipe("UNI2-h") is recipes()["uni2-h"]
    assert find_recipe("uni3") is None


def recipe(**changes) -> Recipe:
    return Recipe("x", "resnet18", (0.5,) * 3, (0.5,) * 3, 224, 256, "mean", **changes)


def test_a_tile_of_the_right_size_is_left_as_it_is():
    tile = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    assert recipe().prepare(tile) is tile
    assert recipe(fit="crop").prepare(tile) is tile


def test_cropping_takes_the_middle_and_keeps_pixels():
    tile = np.arange(256 * 256 * 3, dtype=np.uint32).astype(np.uint8).reshape(256, 256, 3)
    assert np.array_equal(recipe(fit="crop").prepare(tile), tile[16:240, 16:240])
    with pytest.raises(InputError, match="--tile 200"):
        recipe(fit="crop").check_tile(200)
    recipe(fit="resize").check_tile(200)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_is_that_of_pillow(interpolation):
    tile = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    prepared = recipe(interpolation=interpolation).prepare(tile)
    expected = Image.fromarray(tile).resize((224, 224), getattr(Image.Resampling, interpolation.upper()))
    assert np.array_equal(prepared, np.asarray(expected))
