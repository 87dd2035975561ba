"""Networks for masks of volumes: any size, attention of every kind, and arguments that are refused."""

import numpy as np
import pytest
import torch

from medsoft.classifiers.segmentation.volume_segmenter import build_volume_network
from medsoft.data.masks.read import MaskValues
from medsoft.errors import InputError
from medsoft.layers.attention import ATTENTION
from medsoft.models.segmentation.volume_unet import NETWORKS
from medsoft.specs import SegmentationSpec
from medsoft.task import Task

SMALL = {
    "unet": {"channels": [8, 16, 16], "strides": [2, 2], "num_res_units": 1},
    "swin_unetr": {"feature_size": 12, "depths": [1, 1, 1, 1]},
}
U = {"widths": [8, 16, 32], "depth": 1, "conv_levels": 1}


def spec(size=(12, 10, 9), channels=2):
    task = Task.of("segmentation_volume", ("ball", "core"))
    return SegmentationSpec(task, channels, size, np.zeros(0), MaskValues(task.classes))


def test_the_attention_of_medsoft_is_offered_by_name():
    assert {f"unet_{name}" for name in ATTENTION} < set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_volumes_of_any_size_get_logits_of_their_size_and_every_weight_learns(name):
    if name == "swin_unetr":
        pytest.importorskip("einops", reason="the extra swin is not installed")
    torch.manual_seed(0)
    network = build_volume_network(name, spec(), 3, SMALL.get(name, U))
    assert network.training
    for size in ((7, 16, 5),) if name in SMALL else ((12, 10, 9), (7, 16, 5)):
        found = network(torch.randn(1, 2, *size))
        assert found.shape == (1, 3, *size)
    (found * torch.randn_like(found)).sum().backward()
    without = [key for key, one in network.named_parameters() if one.grad is None]
    assert not [key for key in without if "swinViT.norm" not in key]


def test_a_voxel_far_away_counts_at_the_coarse_levels():
    """What convolutions alone do not see: with the positions off, only attention reaches across the patch."""
    torch.manual_seed(0)
    network = build_volume_network(
        "unet_seqnorm", spec((48, 8, 8), 1), 2, {"widths": [8, 16], "depth": 1, "conv_levels": 1}
    )
    x = torch.randn(1, 1, 48, 8, 8, requires_grad=True)
    for module in network.modules():  # statistics over the patch would reach it too
        if isinstance(module, torch.nn.InstanceNorm3d):
            module.forward = lambda x: x
    network(x)[0, 1, 0, 0, 0].backward()
    assert bool((x.grad[0, 0, 40:] != 0).any())


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("unet_seqnrm", {}, "did you mean unet_seqnorm"),
        ("unet_soft", {"widths": [8, 20], "conv_levels": 1}, "multiples of 16"),
        ("unet_soft", {"conv_levels": 4}, "conv_levels 4: from 1 to 3"),
        ("unet_soft", {"width": 3}, "has no width"),
        ("unet", {"chanels": [8]}, "unet cannot be built"),
    ],
)
def test_what_cannot_be_built_is_said(name, arguments, said):
    with pytest.raises(InputError, match=said):
        build_volume_network(name, spec(), 3, arguments)
