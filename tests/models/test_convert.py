"""A softmax vision transformer becomes one without softmax: what carries over, and how the rest starts."""

import hashlib
import json

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from medsoft.cli.weights.convert import find_images
from medsoft.errors import InputError
from medsoft.layers.softmax import SoftmaxAttention
from medsoft.models.convert import TARGETS, backbone_of, calibrate, convert, rebuild
from medsoft.models.vit import VisionTransformer
from medsoft.models.weights import load_pretrained
from tests.builders.images import write_images

SMALL = {"depth": 3, "embed_dim": 48, "num_heads": 3, "img_size": 32, "patch_size": 8}
every_target = pytest.mark.parametrize("to", TARGETS)


def softmax_vit(name="vit_tiny_patch16_224", **options):
    """timm's, with weights that differ from their first values: biases are not 0, scales not 1."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **(SMALL | options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def images(n=4):
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def branches(model, x):
    """Input and output of each attention module when the model sees ``x``."""
    seen = []
    hooks = [
        block.attn.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
        for block in model.blocks
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


def spread(y):
    return (y - y.mean(dim=1, keepdim=True)).square().mean().sqrt()


@pytest.mark.parametrize("pool", ["token", "map", "avg"])
@pytest.mark.parametrize(
    "options", [{}, {"reg_tokens": 2}, {"pre_norm": True}, {"no_embed_class": True}, {"qkv_bias": False}]
)
def test_a_rebuilt_model_answers_as_timms_does(pool, options):
    source = softmax_vit(global_pool=pool, **options)
    torch.testing.assert_close(rebuild(source)(images()), source(images()))


@every_target
def test_what_attention_does_not_normalise_carries_over(to):
    softmax = rebuild(softmax_vit())
    old, new = softmax.state_dict(), convert(softmax, to).state_dict()
    differ = {key.split(".", 2)[-1] for key in new if key not in old or not torch.equal(old[key], new[key])}
    gone = {key.split(".", 2)[-1] for key in old if key not in new}
    if to == "sima":
        assert (differ, gone) == (set(), set())
    else:
        assert (differ, gone) == ({"attn.qkv_norm.weight", "attn.qkv_norm.bias", "attn.proj.bias"}, {"attn.qkv.bias"})
        assert (new["blocks.1.attn.qkv_norm.weight"] == 1).all()
        assert (new["blocks.1.attn.qkv_norm.bias"] == 0).all()
    assert old.keys() == softmax.state_dict().keys()


def seqnorm_with_biases(x, qkv, proj, heads):
    """From the definition, the biases of all projections kept; centred values lose theirs, which is added again."""
    q, k, v = (
        (t - t.mean(1, keepdim=True)) / (t.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        for t in F.linear(x, qkv.weight, qkv.bias).chunk(3, dim=-1)
    )
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    y = (q @ k.transpose(-2, -1) / x.shape[1] @ v).transpose(1, 2).flatten(2)
    return F.linear(y + qkv.bias.chunk(3)[2], proj.weight, proj.bias)


def test_folding_the_biases_changes_nothing():
    softmax = rebuild(softmax_vit()).double()
    converted = convert(softmax, "seqnorm").double()
    x = torch.randn(2, 17, 48, dtype=torch.float64)
    for old, new in zip(softmax.blocks, converted.blocks, strict=True):
        unfolded = seqnorm_with_biases(x, old.attn.qkv, old.attn.proj, heads=3)
        torch.testing.assert_close(new.attn(x), unfolded, rtol=1e-6, atol=1e-6)  # weights went through float32
        # In softmax the value's bias passes as it is: without it, and with the new output bias, nothing changes.
        folded = SoftmaxAttention(48, 3).double()
        folded.load_state_dict(old.attn.state_dict())
        folded.qkv.bias.data.chunk(3)[2].zero_()
        folded.proj.bias.data.copy_(new.attn.proj.bias)
        torch.testing.assert_close(folded(x), old.attn(x), rtol=1e-6, atol=1e-6)


@every_target
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_each_branch_keeps_its_scale_on_the_calibration_images(to, qkv_bias):
    softmax = rebuild(softmax_vit(qkv_bias=qkv_bias))
    converted = convert(softmax, to)
    uncalibrated = [spread(y) for _, y in branches(converted, images())]
    scales = calibrate(softmax, converted, images())
    target = torch.stack([spread(y) for _, y in branches(softmax, images())])
    found = torch.stack([spread(y) for _, y in branches(converted, images())])
    torch.testing.assert_close(found, target, rtol=1e-4, atol=0)
    torch.testing.assert_close(torch.tensor([s.softmax for s in scales]), target, rtol=1e-4, atol=0)
    torch.testing.assert_close(torch.tensor([s.calibrated for s in scales]), target, rtol=1e-4, atol=0)
    assert scales[0].carried == pytest.approx(float(uncalibrated[0]), rel=1e-4)
    assert abs(float(uncalibrated[0]) / float(target[0]) - 1) > 0.1  # there was something to do


def test_calibration_touches_one_factor_a_block():
    softmax = rebuild(softmax_vit())
    before, converted = convert(softmax, "seqnorm").state_dict(), convert(softmax, "seqnorm")
    scales = calibrate(softmax, converted, images())
    after = converted.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed == {f"blocks.{i}.attn.qkv_norm.weight" for i in range(3)}
    for i, scale in enumerate(scales):
        gamma = after[f"blocks.{i}.attn.qkv_norm.weight"]
        assert (gamma[:96] == 1).all()  # of queries and keys
        torch.testing.assert_close(gamma[96:], torch.full((48,), scale.softmax / scale.carried))


def test_a_branch_that_is_switched_off_stays_so_and_nonsense_is_refused():
    softmax = rebuild(softmax_vit())
    softmax.blocks[1].attn.proj.weight.data.zero_()
    converted = convert(softmax, "sima")
    assert calibrate(softmax, converted, images())[1].calibrated == 0
    softmax.blocks[1].attn.qkv.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="block 1"):
        calibrate(softmax, convert(softmax, "sima"), images())


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("vit_tiny_patch16_224", {"qk_norm": True}, "qk_norm"),
        ("vit_tiny_patch16_224", {"init_values": 1e-5}, "init_values"),
        ("vit_tiny_patch16_224", {"scale_mlp_norm": True}, "scale_mlp_norm"),
        ("vit_tiny_patch16_224", {"scale_attn_norm": True}, "scale_attn_norm"),
        ("vit_tiny_patch16_224", {"act_layer": "quick_gelu"}, "act_layer"),
        ("vit_tiny_patch16_224", {"norm_layer": "rmsnorm"}, "norm_layer"),
        ("vit_tiny_patch16_224", {"proj_bias": False}, "proj.bias"),
        ("vit_base_patch16_clip_224", {}, "norm_layer"),
        ("vit_base_patch16_rpn_224", {}, "block_fn: its blocks are ResPostBlock"),
        ("deit_tiny_distilled_patch16_224", {}, "dist_token"),
        ("vit_seqnorm_tiny_patch16_224", {}, "its attention is seqnorm, not softmax"),
    ],
)
def test_models_with_other_options_are_refused_by_name(name, options, says):
    with pytest.raises(InputError, match=f"cannot be converted: .*{says}"):
        rebuild(softmax_vit(name, **options))


def test_models_of_another_kind_are_refused():
    with pytest.raises(InputError, match="ResNet is not a vision transformer"):
        rebuild(timm.create_model("resnet18", num_classes=0))
    with pytest.raises(ValueError, match="no conversion to 'soft' is known"):
        convert(rebuild(softmax_vit()), "soft")


def test_average_pooling_goes_to_sima_and_not_to_seqnorm():
    softmax = rebuild(softmax_vit(global_pool="avg", class_token=False))
    assert calibrate(softmax, convert(softmax, "sima"), images())
    with pytest.raises(InputError, match="use 'token' or 'map'"):
        convert(softmax, "seqnorm")


@every_target
@pytest.mark.parametrize(
    ("options", "name", "keywords"),
    [
        ({"depth": 12, "embed_dim": 192, "patch_size": 16}, "tiny_patch16_224", {"depth": 12}),
        ({"depth": 2, "embed_dim": 384, "num_heads": 6, "patch_size": 8}, "small_patch8_224", {"depth": 2}),
        (
            {"depth": 2, "embed_dim": 64, "num_heads": 2, "patch_size": 4, "reg_tokens": 2, "global_pool": "map"},
            "base_patch16_224",
            {"depth": 2, "embed_dim": 64, "num_heads": 2, "patch_size": 4, "reg_tokens": 2, "global_pool": "map"},
        ),
    ],
)
def test_the_result_can_be_named(to, options, name, keywords):
    model = VisionTransformer(to, num_classes=0, **({"num_heads": 3, "img_size": 16} | options))
    assert backbone_of(model) == (f"vit_{to}_{name}", keywords)
    again = timm.create_model(f"vit_{to}_{name}", num_classes=0, img_size=16, **keywords)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.fixture
def source(tmp_path):
    """Weights of a small softmax ViT for 32 x 32 pixels in a file, with a head as timm saves it."""
    model = softmax_vit()
    file = tmp_path / "softmax.safetensors"
    save_file(model.state_dict() | {"head.weight": torch.randn(10, 48), "head.bias": torch.randn(10)}, file)
    return model, file


MODEL_ARGS = json.dumps({"depth": 3, "embed_dim": 48, "num_heads": 3, "patch_size": 8})


@pytest.fixture
def run(medsoft, source, tmp_path):
    """``medsoft weights convert`` with usual options, of which single ones are replaced or (None) left out."""
    table = write_images(tmp_path / "set", 6)

    def run(**options):
        usual = {
            "model": "vit_tiny_patch16_224",
            "weights": source[1],
            "to": "seqnorm",
            "out": tmp_path / "converted.safetensors",
            "images": table,
            "model_args": MODEL_ARGS,
        }
        chosen = usual | options
        return medsoft(
            "weights", "convert", *(f"--{key}={value}" for key, value in chosen.items() if value is not None)
        )

    return run


@every_target
@pytest.mark.parametrize("kind", ["timm", "run"])
def test_converted_weights_are_read_back_and_keep_their_scale(tmp_path, source, run, to, kind):
    model, file = source
    if kind == "run":  # a checkpoint of medsoft fit
        file = tmp_path / "best.ckpt"
        state = {f"backbone.{key}": value for key, value in model.state_dict().items()}
        torch.save({"state_dict": state | {"head.weight": torch.randn(2, 48)}, "medsoft": {}}, file)
    name = "vit_tiny_patch16_224" if kind == "timm" else "vit_softmax_tiny_patch16_224"
    code, out, err = run(to=to, model=name, weights=file)
    assert (code, err) == (0, "")
    assert "attn.qkv_norm.weight" in out or to == "sima"
    assert f"--model.backbone vit_{to}_base_patch8_224" in out

    with safe_open(tmp_path / "converted.safetensors", "pt") as converted:
        metadata = converted.metadata()
    assert metadata["source_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert metadata["source_model"] == name
    assert metadata["calibration_images"] == "6"
    backbone = timm.create_model(
        metadata["backbone"], num_classes=0, img_size=32, **json.loads(metadata["backbone_args"])
    ).eval()
    load_pretrained(backbone, str(tmp_path / "converted.safetensors"))
    torch.testing.assert_close(backbone.pos_embed, model.pos_embed)  # the file's own grid, not the name's
    torch.testing.assert_close(backbone.blocks[2].mlp.fc2.weight, model.blocks[2].mlp.fc2.weight)
    scales = json.loads(metadata["calibration"])
    assert [s["calibrated"] for s in scales] == pytest.approx([s["softmax"] for s in scales], rel=1e-3)


def test_calibration_takes_a_folder_and_some_of_its_pictures(tmp_path, run):
    code, _, err = run(images=tmp_path / "set", number=4)
    assert (code, err) == (0, "")
    with safe_open(tmp_path / "converted.safetensors", "pt") as converted:
        assert converted.metadata()["calibration_images"] == "4"


@pytest.mark.parametrize(("number", "expected"), [(1, "5"), (2, "27"), (10, "0123456789"), (99, "0123456789")])
def test_images_are_spread_evenly(tmp_path, number, expected):
    for i in range(10):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    assert find_images(tmp_path, "path", number) == [str(tmp_path / f"{i}.png") for i in expected]


def test_an_older_file_is_only_replaced_on_request(tmp_path, run):
    (tmp_path / "converted.safetensors").write_text("precious")
    code, _, err = run()
    assert (code, "--overwrite true replaces it" in err) == (2, True)
    assert (tmp_path / "converted.safetensors").read_text() == "precious"
    assert run(overwrite="true")[0] == 0
    assert safe_open(tmp_path / "converted.safetensors", "pt").keys()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "vit_tiny_patch16_225"}, "did you mean vit_tiny_patch16_224"),
        ({"model": "resnet18", "model_args": None}, "not of this backbone"),
        ({"model_args": None}, "not of this backbone"),
        ({"model_args": '{"depths": 3}'}, "model_args: vit_tiny_patch16_224 cannot be built"),
        ({"weights": "nowhere.pt"}, "nowhere.pt: no such weights file"),
        ({"to": "soft"}, "to"),
        ({"out": "converted.pt"}, "name a file .safetensors"),
        ({"images": None}, "missing: images"),
        ({"images": "nowhere"}, "give a folder with pictures, or a sample table"),
        ({"images": "empty"}, "no pictures in this folder"),
        ({"path": "file"}, "no column 'file'"),
        ({"images": "broken"}, "bad.png"),
        ({"number": 0}, "number 0 must be 1 or more"),
    ],
)
def test_what_cannot_be_converted_is_said_and_nothing_is_written(tmp_path, run, options, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "bad.png").write_bytes(b"no picture")
    before = set(tmp_path.rglob("*"))
    code, _, err = run(**options)
    assert code == 2
    assert says in err
    assert set(tmp_path.rglob("*")) == before


def test_a_position_table_of_a_rectangle_needs_its_size(tmp_path, run):
    torch.save(softmax_vit(img_size=(24, 40)).state_dict(), tmp_path / "box.pt")
    code, _, err = run(weights=tmp_path / "box.pt")
    assert (code, "15 places" in err, "--model_args.img_size" in err) == (2, True, True)
    arguments = json.dumps(json.loads(MODEL_ARGS) | {"img_size": [24, 40]})
    assert run(weights=tmp_path / "box.pt", model_args=arguments)[0] == 0
