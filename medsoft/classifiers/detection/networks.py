"""Networks for boxes: any timm pyramid below a feature pyramid network and a head of torchvision."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from medsoft.classifiers.image import create_backbone
from medsoft.classifiers.segmentation.networks import copy_weights
from medsoft.encoders.start import Start
from medsoft.errors import InputError
from medsoft.models.weights import refuse_fetching
from medsoft.specs import DataSpec

Network = Literal["retinanet", "fcos"]
"""Lin et al. 2017 (arXiv 1708.02002), with anchors; Tian et al. 2019 (arXiv 1904.01355), without."""
STRIDES = (8, 16, 32)
"""Of the backbone's feature maps that are used; two coarser ones are made of the last."""
GROUPS = 32
"""Of the group normalisation in the heads: batches are small."""
Found = list[dict[str, Tensor]]


class FeaturePyramid(nn.Module):
    """Maps of stride 8 to 128 of an image, all of one width (Lin et al. 2017, arXiv 1612.03144).

    Args:
        body: timm's network for feature maps.
        levels: which of its maps have the ``STRIDES``.
        widths: of these.
        out_channels: of the maps that come out.
    """

    def __init__(self, body: nn.Module, levels: list[int], widths: list[int], out_channels: int) -> None:
        super().__init__()
        self.body, self.levels, self.widths = body, levels, widths
        self.out_channels = out_channels
        last = LastLevelP6P7(out_channels, out_channels)
        self.fpn = FeaturePyramidNetwork(widths, out_channels, extra_blocks=last)

    def forward(self, image: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, C, H, W) to five maps (B, out_channels, H / stride, W / stride)."""
        maps = self.body(image)
        found: OrderedDict[str, Tensor] = OrderedDict()
        for name, (level, width) in enumerate(zip(self.levels, self.widths, strict=True)):
            one: Tensor = maps[level]
            found[str(name)] = one if one.shape[1] == width else one.permute(0, 3, 1, 2)  # of some channels come last
        joined: OrderedDict[str, Tensor] = self.fpn(found)
        return joined


class AsPrepared(GeneralizedRCNNTransform):
    """Images as the recipe has prepared them: neither scaled nor normalised again; padded to a multiple of 32 px."""

    def __init__(self, channels: int, size: tuple[int, ...]) -> None:
        super().__init__(min(size), max(size), [0.0] * channels, [1.0] * channels)

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        """Leave the image as it is."""
        return image, target


def build_detection_network(
    network: str,
    backbone: str,
    spec: DataSpec,
    channels: int,
    arguments: dict[str, Any],
    start: Start | None,
    least_score: float,
    most_boxes: int,
) -> nn.Module:
    """A network of torchvision: in training from images and targets to losses, else from images to boxes.

    Args:
        network: retinanet or fcos.
        backbone: name of a timm model with feature maps of the strides 8, 16 and 32.
        spec: of the images.
        channels: of the feature pyramid.
        arguments: for timm.
        start: weights of the backbone to begin with.
        least_score: boxes below it are left out.
        most_boxes: of an image.

    Raises:
        InputError: there is no such model, it has no such feature maps, it does not take such images, or the weights
            are of another network.
    """
    if channels % GROUPS or channels < 2 * GROUPS:
        raise InputError(f"model.fpn_channels {channels} must be a multiple of {GROUPS}, and at least {2 * GROUPS}")
    if not timm.is_model(backbone):
        create_backbone(backbone, spec, arguments)  # says which name is meant
    refuse_fetching("model.backbone_args", arguments, "model.pretrained")
    size = " x ".join(map(str, spec.image_size))
    try:
        body = timm.create_model(backbone, features_only=True, in_chans=spec.channels, **arguments)
        strides, widths = body.feature_info.reduction(), body.feature_info.channels()
        levels = [strides.index(stride) for stride in STRIDES]
        pyramid = FeaturePyramid(body, levels, [widths[level] for level in levels], channels)
        found: nn.Module = _of_torchvision(network, pyramid, len(spec.task.classes), least_score, most_boxes)
        found.transform = AsPrepared(spec.channels, spec.image_size)
        _try(found, spec)
    except (TypeError, ValueError, AssertionError, RuntimeError, KeyError, IndexError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"model.backbone: {backbone} gives no feature maps of the strides 8, 16 and 32 of images of {size} px, "
            f"{spec.channels} channels; it must be a pyramid, such as soft_norm_tiny or resnet18: "
            f"{type(error).__name__}: {reason}"
        ) from None
    if start is not None:
        whole = create_backbone(backbone, spec, arguments)
        start.load(whole)
        copy_weights(whole, body, start.name)
    return found


def _of_torchvision(
    network: str, pyramid: FeaturePyramid, classes: int, least_score: float, most_boxes: int
) -> RetinaNet | FCOS:
    shared: dict[str, Any] = {"score_thresh": least_score, "detections_per_img": most_boxes}
    if network == "fcos":
        return FCOS(pyramid, classes, **shared)
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    head = RetinaNetHead(
        pyramid.out_channels, anchors.num_anchors_per_location()[0], classes, norm_layer=partial(nn.GroupNorm, GROUPS)
    )
    return RetinaNet(pyramid, classes, anchor_generator=anchors, head=head, **shared)


def _try(network: nn.Module, spec: DataSpec) -> None:
    was_training = network.training
    with torch.no_grad():
        network.eval()([torch.zeros(spec.channels, *spec.image_size)])
    network.train(was_training)
