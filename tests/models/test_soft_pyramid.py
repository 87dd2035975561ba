"""The SOFT pyramids: the published model rewritten plainly, its layout of weights, and timm's interface."""

import copy
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import create_feature_extractor
from timm.models._manipulate import group_parameters

from medsoft.layers.soft import SoftAttention
from medsoft.models.soft_pyramid import SIZES, checkpoint_filter_fn
from medsoft.models.weights import load_pretrained

PARAMETERS = {
    "tiny": 13_069_056,
    "small": 38_858_462,
    "medium": 45_812_707,
    "large": 64_700_646,
    "huge": 87_108_273,
}
NAMES = [f"{kind}_{size}" for kind in ("soft", "soft_norm") for size in SIZES]
SMALL = {"embed_dims": (32, 32, 64, 64), "depths": (1, 2, 1, 2)}


def small(name="soft_tiny", **options):
    torch.manual_seed(0)
    return timm.create_model(name, **(SMALL | {"num_classes": 7} | options)).eval()


# --- the published model, from its description: weights by their published names, every operation written out ---------

STRIDES, KERNELS, TABLES = (8, 4, 2), (9, 5, 3), (56, 28, 14, 7)


def published_weights(dims=(64, 128, 320, 512), depths=(1, 2, 3, 2), classes=1000, closeness=0.3, seed=0):
    """Random weights under the published names, far from any initialisation; running statistics too."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def put(name, *shape, about=0.0, std=0.1):
        state[name] = about + std * torch.randn(shape, generator=generator)

    def linear(name, out, into, scale=1.0):
        put(f"{name}.weight", out, into, std=scale * into**-0.5)
        put(f"{name}.bias", out)

    def norm(name, width, scale=1.0):
        put(f"{name}.weight", width, about=scale)
        put(f"{name}.bias", width)

    def conv_and_batch_norm(name, at, out, into):
        put(f"{name}.{at}.weight", out, into, 3, 3, std=(9 * into) ** -0.5)
        put(f"{name}.{at}.bias", out)
        norm(f"{name}.{at + 1}", out)
        put(f"{name}.{at + 1}.running_mean", out)
        state[f"{name}.{at + 1}.running_var"] = 0.5 + torch.rand(out, generator=generator)
        state[f"{name}.{at + 1}.num_batches_tracked"] = torch.tensor(9)

    for stage, (dim, depth) in enumerate(zip(dims, depths, strict=True), start=1):
        if stage == 1:
            for at, (out, into) in zip((0, 3, 6), ((32, 3), (32, 32), (dim, 32)), strict=True):
                conv_and_batch_norm("patch_embed1.proj", at, out, into)
        else:
            conv_and_batch_norm(f"patch_embed{stage}.proj", 0, dim, dims[stage - 2])
        put(f"pos_embed{stage}", 1, TABLES[stage - 1] ** 2 + (stage == 4), dim)
        for i in range(depth):
            block = f"block{stage}.{i}"
            if stage == 4:
                norm(f"{block}.norm1", dim)
                linear(f"{block}.attn.q", dim, dim)
                linear(f"{block}.attn.kv", 2 * dim, dim)
                linear(f"{block}.attn.proj", dim, dim)
                norm(f"{block}.norm2", dim)
                linear(f"{block}.mlp.fc1", 4 * dim, dim)
                linear(f"{block}.mlp.fc2", dim, 4 * dim)
                continue
            r, k = STRIDES[stage - 1], KERNELS[stage - 1]
            # Queries and landmarks near each other: a kernel between 0 and 1, and landmarks that look alike.
            linear(f"{block}.att.mha.W_q", dim, dim, scale=closeness)
            linear(f"{block}.att.mha.W_v", dim, dim)
            linear(f"{block}.att.mha.ff", dim, dim)
            put(f"{block}.att.mha.attn.Qlandmark_op.weight", 32, 32, r, r, std=1 / (r * math.sqrt(32)))
            norm(f"{block}.att.mha.attn.Qnorm_act.0", 32, scale=closeness)
            put(f"{block}.att.mha.attn.conv.weight", dim // 32, 1, k, k, std=1 / k)
            norm(f"{block}.att.norm1", dim)
            linear(f"{block}.att.ff1", 4 * dim, dim)
            linear(f"{block}.att.ff2", dim, 4 * dim)
            norm(f"{block}.att.norm2", dim)
    put("cls_token", 1, 1, dims[3])
    norm("norm", dims[3])
    linear("head", classes, dims[3])
    return state


def published_forward(w, images, symmetric):
    """Logits at 224 x 224, in the weights' precision."""

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, x, eps):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def convolutions(name, x, strides):
        for at, stride in zip(range(0, 9, 3), strides, strict=False):
            conv, bn = f"{name}.{at}", f"{name}.{at + 1}"
            x = F.conv2d(x, w[f"{conv}.weight"], w[f"{conv}.bias"], stride=stride, padding=1)
            scale = w[f"{bn}.weight"] / torch.sqrt(w[f"{bn}.running_var"] + 1e-5)
            shift = w[f"{bn}.bias"] - scale * w[f"{bn}.running_mean"]
            x = F.relu(x * scale[:, None, None] + shift[:, None, None])
        return x

    def kernel(a, b):
        return torch.exp(-(a[..., :, None, :] - b[..., None, :, :]).square().sum(-1) / 2)

    def tanh_gelu(x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def soft(name, x, side, stage):
        heads, r, k = x.shape[-1] // 32, STRIDES[stage], KERNELS[stage]
        q, v = (
            linear(f"{name}.{part}", x).reshape(len(x), -1, heads, 32).transpose(1, 2) for part in ("W_q", "W_v")
        )  # (B, heads, N, 32)
        q = q / 32**0.25
        as_image = q.transpose(2, 3).reshape(-1, 32, side, side)
        landmarks = F.conv2d(as_image, w[f"{name}.attn.Qlandmark_op.weight"], stride=r).flatten(2).transpose(1, 2)
        landmarks = F.gelu(norm(f"{name}.attn.Qnorm_act.0", landmarks, 1e-5)).reshape(len(x), heads, -1, 32)
        assert landmarks.shape[2] == 49
        P, A = kernel(q, landmarks), kernel(landmarks, landmarks)
        damped = A + 0.01 * torch.eye(49, dtype=A.dtype)
        X = 1.8 / A.sum(-1).amax(-1)[..., None, None] ** 2 * damped
        for _ in range(20):
            X = 2 * X - X @ damped @ X
        if symmetric:
            D = torch.diag_embed(A.sum(-1) ** -0.5)
            X = D @ X @ D
        y = P @ X @ (P.transpose(-1, -2) @ v)
        local = F.conv2d(  # one kernel a head, each channel by itself
            v.permute(0, 3, 1, 2).reshape(-1, heads, side, side),
            w[f"{name}.attn.conv.weight"],
            padding=k // 2,
            groups=heads,
        )
        y = y + local.reshape(len(x), 32, heads, -1).permute(0, 2, 3, 1)
        return linear(f"{name}.ff", y.transpose(1, 2).flatten(2))

    x = images
    for stage in range(3):
        x = convolutions(f"patch_embed{stage + 1}.proj", x, (2, 1, 2) if stage == 0 else (2,))
        side = x.shape[-1]
        x = x.flatten(2).transpose(1, 2) + w[f"pos_embed{stage + 1}"]
        i = 0
        while f"block{stage + 1}.{i}.att.norm1.weight" in w:
            block = f"block{stage + 1}.{i}.att"
            x = norm(f"{block}.norm1", x + soft(f"{block}.mha", x, side, stage), 1e-5)
            x = norm(f"{block}.norm2", x + linear(f"{block}.ff2", tanh_gelu(linear(f"{block}.ff1", x))), 1e-5)
            i += 1
        x = x.transpose(1, 2).reshape(len(x), -1, side, side)
    x = convolutions("patch_embed4.proj", x, (2,)).flatten(2).transpose(1, 2)
    x = torch.cat((w["cls_token"].expand(len(x), -1, -1), x), dim=1) + w["pos_embed4"]
    i = 0
    while f"block4.{i}.norm1.weight" in w:
        y, block = norm(f"block4.{i}.norm1", x, 1e-6), f"block4.{i}"
        heads = y.shape[-1] // 32
        q = linear(f"{block}.attn.q", y).reshape(len(x), -1, heads, 32).transpose(1, 2)
        k, v = linear(f"{block}.attn.kv", y).reshape(len(x), -1, 2, heads, 32).permute(2, 0, 3, 1, 4)
        y = (torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(32), dim=-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(f"{block}.attn.proj", y)
        y = norm(f"{block}.norm2", x, 1e-6)
        x = x + linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", y)))
        i += 1
    return linear("head", norm("norm", x, 1e-6)[:, 0])


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["soft_tiny", "soft_norm_tiny"])
def test_published_weights_give_the_published_output(name, precision):
    weights = published_weights()
    model = timm.create_model(name, inverse="newton").eval()
    model.load_state_dict(checkpoint_filter_fn(dict(weights), model), strict=True)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    images[1, :, :, 100:] = 0  # half of it black, where 20 steps do not converge
    weights = {key: value.to(precision) for key, value in weights.items()}
    with torch.no_grad():
        logits = model(images)
        published = published_forward(weights, images.to(precision), symmetric=name.startswith("soft_norm"))
        exact = timm.create_model(name).eval()
        exact.load_state_dict(model.state_dict())
        assert (exact(images) - logits).abs().max() > 0.01  # the inverse matters here
    torch.testing.assert_close(logits, published.float(), rtol=1e-4, atol=1e-4)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts_are_those_of_the_published_code(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name.rpartition("_")[2]]


def test_published_weights_become_a_grey_encoder_of_another_size(tmp_path):
    weights = published_weights(dims=SMALL["embed_dims"], depths=SMALL["depths"])
    torch.save(weights, tmp_path / "soft.pt")
    model = small(num_classes=0, in_chans=1, img_size=(64, 100))
    load_pretrained(model, str(tmp_path / "soft.pt"))
    table = weights["pos_embed4"][:, 1:].reshape(1, 7, 7, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(table, (2, 4), mode="bilinear").permute(0, 2, 3, 1)
    torch.testing.assert_close(model.stages[3].pos_embed.detach(), resized)
    torch.testing.assert_close(model.stages[3].cls_pos_embed.detach(), weights["pos_embed4"][:, :1])
    stem = weights["patch_embed1.proj.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(model.stages[0].embed[0].weight.detach(), stem)
    assert model(torch.randn(1, 1, 64, 100)).shape == (1, 64)


def test_own_weights_load_into_any_size_and_the_same_size_unchanged():
    """112 x 448 has as many tokens as 224 x 224, in another shape."""
    source = small(img_size=(112, 448))
    state = source.state_dict()
    filtered = checkpoint_filter_fn(dict(state), source)
    assert all(torch.equal(filtered[key], value) for key, value in state.items())
    square = small(img_size=224)
    square.load_state_dict(checkpoint_filter_fn(dict(state), square), strict=True)
    table = state["stages.0.pos_embed"].permute(0, 3, 1, 2)
    resized = F.interpolate(table, (56, 56), mode="bilinear").permute(0, 2, 3, 1)
    torch.testing.assert_close(square.stages[0].pos_embed.detach(), resized)


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last_stage", ["softmax", "seqnorm"])
@pytest.mark.parametrize(("channels", "height", "width"), [(3, 14, 14), (1, 1, 1), (2, 45, 67), (5, 33, 160)])
def test_any_size_and_channels_every_pixel_and_every_weight(channels, height, width, last_stage):
    model = small(in_chans=channels, last_stage=last_stage, img_size=64).double()
    with torch.no_grad():  # so that no unit is dead
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.fill_(1.0)
    images = torch.randn(2, channels, height, width, dtype=torch.float64, requires_grad=True)
    logits = model(images)
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert (images.grad != 0).all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(model(images[:1]), logits[:1])  # alone as in a batch


@pytest.mark.parametrize("size", [14, 100, 224, 1024])
def test_landmarks_are_49_at_every_size(size, monkeypatch):
    seen = []

    def spy(self, *args):
        landmarks = original(self, *args)
        seen.append(landmarks.shape[2])
        return landmarks

    original = SoftAttention._landmarks
    monkeypatch.setattr(SoftAttention, "_landmarks", spy)
    with torch.no_grad():
        small(embed_dims=(32, 32, 32, 32), depths=(1, 1, 1, 1), last_stage="seqnorm")(torch.randn(1, 3, size, size))
    assert seen == [49, 49, 49]


@pytest.mark.parametrize("name", ["soft_tiny", "soft_norm_tiny"])
def test_blank_and_bordered_images_are_finite_with_finite_gradients(name):
    model = small(name).train()
    images = torch.zeros(3, 3, 64, 64)
    images[1] = 0.7
    images[2, :, 20:40, 20:40] = torch.randn(3, 20, 20)
    logits = model(images)
    logits.square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_last_stage_with_seqnorm_has_no_softmax(monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("softmax")

    for place, name in ((F, "scaled_dot_product_attention"), (F, "softmax"), (torch, "softmax")):
        monkeypatch.setattr(place, name, refused)
    image = torch.randn(1, 3, 64, 64)
    reordered, moments = (small(last_stage="seqnorm", form=form) for form in ("reordered", "moments"))
    torch.testing.assert_close(reordered(image), moments(image))
    assert {block.attn.form for block in moments.stages[3].blocks} == {"moments"}
    with pytest.raises(AssertionError, match="softmax"):
        small()(image)


def test_inverse_reaches_every_layer_and_changes_the_result():
    image = torch.zeros(1, 3, 64, 64)
    converged, newton = small(), small(inverse="newton")
    assert {m.inverse for m in newton.modules() if isinstance(m, SoftAttention)} == {"newton"}
    assert not torch.allclose(converged(image), newton(image))


@pytest.mark.parametrize(
    "options", [{"last_stage": "soft"}, {"form": "moments"}, {"inverse": "lu"}, {"global_pool": "max"}]
)
def test_unknown_choices_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        small(**options)


def test_average_pooling_is_refused_where_it_would_lose_everything():
    with pytest.raises(ValueError, match="centred queries average to zero"):
        small(last_stage="seqnorm", global_pool="avg")
    model, image = small(), torch.randn(2, 3, 50, 70)
    tokens = model.forward_features(image)
    assert tokens.shape == (2, 1 + 2 * 3, 64)
    model.reset_classifier(0, "avg")
    torch.testing.assert_close(model(image), tokens[:, 1:].mean(1))
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(image), tokens)


# --- timm's interface: what its tests of models ask, and those of them that pick timm's own models alone --------------


def test_checkpointing_changes_neither_output_nor_gradient():
    model, images = small(drop_path_rate=0.3).train(), torch.randn(2, 3, 64, 64)
    results = []
    for enabled in (False, True):
        model.set_grad_checkpointing(enabled)
        model.zero_grad()
        torch.manual_seed(0)
        logits = model(images)
        logits.square().sum().backward()
        results.append([logits, *(p.grad.clone() for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_stochastic_depth_rises_with_depth_and_acts_in_training_alone():
    model, image = small(drop_path_rate=0.5), torch.randn(1, 3, 64, 64)
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    assert rates == sorted(rates)
    assert rates[-1] == 0.5
    assert torch.equal(model(image), model(image))
    model.train()
    assert not torch.equal(model(image), model(image))


@pytest.mark.parametrize("size", [(64, 64), (97, 130)])
def test_four_feature_levels(size):
    features = small(features_only=True)
    image = torch.randn(2, 3, *size)
    expected = [
        (2, width, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        for width, stride in zip(SMALL["embed_dims"], (4, 8, 16, 32), strict=True)
    ]
    assert features.feature_info.channels() == list(SMALL["embed_dims"])
    assert features.feature_info.reduction() == [4, 8, 16, 32]
    assert [tuple(level.shape) for level in features(image)] == expected
    two = small(features_only=True, out_indices=(1, 2))
    assert [tuple(level.shape) for level in two(image)] == expected[1:3]


def test_intermediates_are_the_features():
    model, image = small(), torch.randn(2, 3, 64, 96)
    final, levels = model.forward_intermediates(image)
    torch.testing.assert_close(final, model.forward_features(image))
    _, normed = model.forward_intermediates(image, norm=True)
    torch.testing.assert_close(normed[3].flatten(2).mT, final[:, 1:])
    (third,) = model.forward_intermediates(image, indices=[2], stop_early=True, intermediates_only=True)
    assert torch.equal(third, levels[2])


@pytest.mark.parametrize("level", range(4))
def test_pruned_models_keep_their_features_and_use_every_weight(level):
    model, image = small(), torch.randn(2, 3, 64, 64)
    levels = model.forward_intermediates(image, intermediates_only=True)
    pruned = copy.deepcopy(model)
    taken = pruned.prune_intermediate_layers([level], prune_norm=True)
    (selected,) = pruned.forward_intermediates(image, indices=taken, intermediates_only=True)
    assert torch.equal(selected, levels[level])
    features = pruned.forward_features(image)
    if level < 3:
        assert torch.equal(features, levels[level])
        with pytest.raises(ValueError, match="class token was pruned"):
            pruned.reset_classifier(5, "token")
        pruned.reset_classifier(5, "avg")
        assert pruned(image).shape == (2, 5)
        pruned.reset_classifier(0, "")
    (selected.sum() + features.sum()).backward()
    assert all(p.grad is not None for p in pruned.parameters())
    whole = copy.deepcopy(model)
    whole.prune_intermediate_layers([3], prune_head=False)
    assert torch.equal(whole(image), model(image))


def test_layers_are_grouped_in_their_order():
    model = small()
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    order = ["stages.0.embed.0.weight", "stages.0.blocks.0.attn.q.weight", "stages.1.blocks.0.norm1.weight"]
    order += ["stages.1.blocks.1.mlp.fc1.weight", "stages.2.blocks.0.norm1.weight", "stages.3.blocks.1.norm1.weight"]
    depths = [groups[name] for name in [*order, "head.weight"]]
    assert depths == sorted(set(depths))
    assert groups["stages.3.cls_token"] == groups["stages.3.embed.0.weight"] == groups["stages.3.blocks.0.norm1.weight"]
    assert groups["norm.weight"] == groups["stages.3.blocks.1.norm1.weight"]
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert len(set(coarse.values())) == 6  # stem, four stages, head
    assert model.no_weight_decay() == {f"stages.{i}.pos_embed" for i in range(4)} | {
        "stages.3.cls_token",
        "stages.3.cls_pos_embed",
    }


def test_head_is_replaced_in_its_place_and_precision():
    model = small().double()
    assert model.get_classifier() is model.head
    model.reset_classifier(3)
    assert model.head.weight.dtype == torch.float64
    assert not model.head.training
    assert model(torch.randn(1, 3, 64, 64).double()).shape == (1, 3)
    model.reset_classifier(0)
    features = model.forward_features(torch.randn(1, 3, 64, 64).double())
    assert torch.equal(model.forward_head(features), model.forward_head(features, pre_logits=True))
    assert model.forward_head(features).shape == (1, model.head_hidden_size)
    frozen = small().requires_grad_(False)
    frozen.reset_classifier(0, "")
    assert not any(p.requires_grad for p in frozen.parameters())


def test_it_is_built_where_and_as_asked_and_refuses_unknown_arguments():
    meta = timm.create_model("soft_tiny", device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in meta.parameters()} == {("meta", torch.bfloat16)}
    assert all(b.device.type == "meta" for b in meta.buffers())
    with pytest.raises(TypeError):
        timm.create_model("soft_tiny", device="meta", not_an_argument=1)
    names = meta.state_dict().keys()
    assert f"{meta.default_cfg['classifier']}.weight" in names
    assert f"{meta.default_cfg['first_conv']}.weight" in names
    assert (meta.num_classes, meta.in_chans, meta.num_features) == (1000, 3, 512)


def test_bfloat16_weights_stay_close():
    model, image = small(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        exact = model(image)
        half = copy.deepcopy(model).bfloat16()(image.bfloat16())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(image)
    for y in (half, mixed):
        assert y.dtype == torch.bfloat16
        assert (y.float() - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("last_stage", ["softmax", "seqnorm"])
def test_fx_traces_it_with_gradients(last_stage):
    model, image = small(last_stage=last_stage), torch.randn(2, 3, 64, 64)
    graph = create_feature_extractor(model, {"head": "logits"})
    torch.testing.assert_close(graph(image)["logits"], model(image))
    graph(image)["logits"].sum().backward()
    assert all(p.grad is not None for p in graph.parameters())


def test_it_exports_without_a_factorisation():
    model, image = small(depths=(1, 1, 1, 1)), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        exported = torch.export.export(model, (image,))
        torch.testing.assert_close(exported.module()(image), model(image), rtol=1e-4, atol=1e-5)
    assert not any("cholesky" in str(node.target) for node in exported.graph.nodes)
