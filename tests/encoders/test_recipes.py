"""Recipes of published encoders: each builds, has the published size, and is shown what its authors state."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medsoft.cli.encoders import kinds_of
from medsoft.encoders.build import create_model
from medsoft.encoders.key_maps import KEY_MAPS
from medsoft.encoders.recipes import Recipe, find_recipe, recipes
from medsoft.errors import InputError
from medsoft.models.token_map import token_map

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "encoders.md"

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


def test_the_first_encoders_are_there():
    assert recipes().keys() > PUBLISHED.keys()


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


def few_layers(recipe: Recipe) -> Recipe:
    """A transformer of two blocks: width and stride are as they were."""
    is_transformer = recipe.architecture.startswith(("vit_", "eva02_"))
    return replace(recipe, arguments={**recipe.arguments, "depth": 2}) if is_transformer else recipe


@pytest.mark.parametrize("name", [name for name, recipe in recipes().items() if recipe.dims == 2])
def test_a_recipe_says_how_long_its_features_are_and_how_large_its_tokens(name):
    recipe = few_layers(recipes()[name])
    size = (recipe.input_px,) * 2
    with torch.device("meta"):
        model = create_model(recipe).eval()
        image = torch.empty(1, recipe.channels, *size)
        pooled, tokens = model(image), token_map(model, model.forward_features(image), size)
    assert pooled.shape[-1] * (2 if recipe.pooling == "cls+mean" else 1) == recipe.features
    assert tuple(tokens.shape[1:3]) == tuple(side // recipe.stride for side in size)


COUNTED = [name for name, recipe in recipes().items() if recipe.dims == 2 and recipe.parameters < 100]


@pytest.mark.parametrize("name", COUNTED)
def test_a_recipe_says_how_many_parameters_it_has(name):
    with torch.device("meta"):
        model = create_model(recipes()[name])
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    assert millions == pytest.approx(recipes()[name].parameters, abs=0.01)


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_says_everything(name):
    recipe = recipes()[name]
    assert len(recipe.mean) == len(recipe.std) == recipe.channels
    assert 0 < min(recipe.std) <= 1
    assert recipe.source.startswith("https://")
    assert recipe.licence
    assert recipe.images
    assert recipe.stride
    assert (recipe.intensity != "") == (recipe.dims == 3)
    assert (recipe.window is not None) == (recipe.intensity == "window")
    assert recipe.spacing_mm is None or recipe.dims == 3
    assert recipe.checked != "own"
    assert recipe.key_map in ("", *KEY_MAPS)
    assert recipe.tile_mpp in (0.5, None)
    assert json.loads(json.dumps(recipe.settings)) == recipe.settings


def test_only_encoders_of_slides_have_a_resolution():
    """What was trained on other images, or whose authors name none, leaves it to the user."""
    of_slides = {name for name, recipe in recipes().items() if recipe.images == ("histology",)}
    assert {name for name, recipe in recipes().items() if recipe.tile_mpp is not None} == of_slides - {"ctranspath"}


def test_the_page_of_encoders_has_their_table():
    """docs/reference/encoders.md; ``MEDSOFT_RECORD=1`` writes it anew."""
    text = PAGE.read_text(encoding="utf-8")
    before, begin, rest = text.partition("<!-- recipes -->\n")
    _, end, after = rest.partition("<!-- end -->")
    assert begin
    assert end
    wanted = f"{before}{begin}{table_of_recipes()}{end}{after}"
    if os.environ.get("MEDSOFT_RECORD") == "1":
        PAGE.write_text(wanted, encoding="utf-8")
    assert text == wanted


def table_of_recipes() -> str:
    columns = ("encoder", "for", "parameters", "features", "input", "µm/px", "feature", "licence", "checked")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for recipe in recipes().values():
        unit = "px" if recipe.dims == 2 else "voxels"
        cells = [
            f"`{recipe.name}`",
            kinds_of(recipe),
            f"{recipe.parameters:,.0f} M",
            str(recipe.features),
            ", ".join(
                filter(
                    None,
                    (
                        f"{size_of_input(recipe)} {unit}",
                        "grey" if recipe.channels == 1 else "",
                        "any" if recipe.any_size else "",
                    ),
                )
            ),
            f"{recipe.tile_mpp:g}" if recipe.tile_mpp else "",
            {"model": "its own", "cls": "class token"}.get(recipe.pooling, recipe.pooling),
            recipe.licence,
            recipe.checked + (f" ({recipe.checked_how})" if recipe.checked_how else ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def size_of_input(recipe: Recipe) -> str:
    """A side, or all where they differ."""
    return " x ".join(map(str, recipe.size)) if recipe.input_size else str(recipe.input_px)


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
