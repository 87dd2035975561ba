"""What places of the last map add to a logit."""

import pytest
import timm
import torch

from medsoft.models.map_attribution import ends_in_a_map, map_contributions
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
