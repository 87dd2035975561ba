"""What places of the last map add to a logit."""

import pytest
import timm
import torch

from medsoft.layers.attribution import token_contributions
from medsoft.models.attribution.maps import ends_in_a_map, map_contributions
from medsoft.models.attribution.patches import can_be_attributed, patch_contributions
from medsoft.models.vit import VisionTransformer


def network(name: str, **arguments):
    return timm.create_model(name, num_classes=0, **arguments).eval()


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_of_a_mean_below_a_linear_head_places_and_bias_are_the_logit(name):
    model, head = network(name), torch.nn.Linear(96 if "resnet" in name else 256, 2)
    image = torch.randn(2, 3, 96, 64)
    found = map_contributions(model, image, lambda features: head(features)[:, 1])
    assert found.shape == (2, 3, 2)
    with torch.no_grad():
        logits, plain = (
            head(model(image))[:, 1],
            torch.einsum("bchw,c->bhw", features_before_mean(model, image), head.weight[1]),
        )
    torch.testing.assert_close(found.sum(dim=(1, 2)), logits - head.bias[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found, plain / found[0].numel(), atol=1e-4, rtol=1e-4)


def features_before_mean(model, image):
    """The map below the mean, by a hook on the pooling."""
    held = []
    handle = model.global_pool.register_forward_pre_hook(lambda module, given: held.append(given[0]))
    model(image)
    handle.remove()
    return held[0]


def test_the_places_of_window_transformers_lie_as_in_the_picture():
    torch.manual_seed(0)
    model = network(
        "swin_tiny_patch4_window7_224",
        img_size=(64, 96),
        window_size=2,
        embed_dim=16,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 1, 1),
    )
    found = map_contributions(model, torch.randn(1, 3, 64, 96), lambda features: features.sum(dim=1))
    assert found.shape == (1, 2, 3)


def test_networks_of_tokens_and_training_mode_are_told_apart():
    assert ends_in_a_map(network("test_resnet"))
    assert not ends_in_a_map(network("test_vit", img_size=32, patch_size=8))
    assert not ends_in_a_map(VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2))
    assert not ends_in_a_map(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="training mode"):
        map_contributions(network("test_resnet").train(), torch.zeros(1, 3, 32, 32), lambda features: features[:, 0])


@pytest.mark.parametrize("arguments", [{}, {"last_stage": "seqnorm"}])
def test_patches_of_a_pyramid_add_up_to_what_its_last_attention_adds(arguments):
    """To first order: at a small step along the branch's output the logit changes by the contributions' sum."""
    torch.manual_seed(0)
    model = network("soft_tiny", embed_dims=(32, 32, 32, 64), depths=(1, 1, 1, 2), **arguments).double()
    image, direction = torch.randn(1, 3, 96, 64, dtype=torch.float64), torch.randn(64, dtype=torch.float64)
    assert can_be_attributed(model)
    found = patch_contributions(model, image, lambda features: features @ direction)
    assert found.shape == (1, 3, 2)
    attention = model.stages[-1].blocks[-1].attn
    held = {}
    handle = attention.register_forward_hook(lambda module, given, out: held.update(x=given[0], out=out))
    with torch.no_grad():
        model(image)
    handle.remove()

    def logit(scale: float) -> float:
        def scaled(module, given, out):
            changed = out.clone()
            changed[:, 0] += scale * (out[:, 0] - module.proj.bias)
            return changed

        handle = attention.register_forward_hook(scaled)
        with torch.no_grad():
            value = (model(image) @ direction).item()
        handle.remove()
        return value

    slope = (logit(1e-5) - logit(-1e-5)) / 2e-5
    of_class = patch_contributions_of_all(model, held["x"], image, direction)
    torch.testing.assert_close(of_class.sum(), torch.tensor(slope, dtype=torch.float64), rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(of_class[0, 1:].reshape(3, 2), found[0])


def patch_contributions_of_all(model, tokens, image, direction):
    """With the class token's own, from the gradient at the branch's output."""
    attention, last = model.stages[-1].blocks[-1].attn, model.stages[-1].blocks[-1]
    held = {}
    handle = last.register_forward_pre_hook(lambda module, given: held.update(x=given[0]))
    with torch.no_grad():
        model(image)
        branch = attention(tokens, None, (3, 2))[:, 0]
    handle.remove()
    branch.requires_grad_()
    x = held["x"][:, 0] + branch
    x = x + last.mlp(last.norm2(x))
    (gradient,) = torch.autograd.grad((model.norm(x) @ direction).sum(), branch)
    with torch.no_grad():
        return token_contributions(attention, tokens, gradient, 0, None, (3, 2))
