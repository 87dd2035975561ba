"""MONAI's networks for volumes as encoders: pooled features and a map, under the methods that timm's models have.

Imported only when such a network is built: MONAI takes seconds. Sources: ``monai.networks.nets.resnet`` after Hara,
Kataoka and Satoh 2018 (arXiv 1711.09577), with the dilated last stages of MedicalNet (Chen, Ma and Zheng 2019, arXiv
1904.00625); ``monai.networks.nets.swin_unetr`` after Hatamizadeh et al. 2022 (arXiv 2201.01266);
``monai.networks.nets.segresnet_ds`` after Myronenko 2018 (arXiv 1810.11654).
"""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

from monai.networks.nets import resnet, segresnet_ds, swin_unetr
from torch import Tensor, nn

DILATIONS = {"layer3": 2, "layer4": 4}
"""Of MedicalNet's last stages, in place of strides: its map is an eighth of the volume, not a thirty-second."""


RAS = "RAS"
"""The axes of a volume here: X to the right, Y to the front, Z to the head."""
DIRECTIONS = "RLAPSI"
"""Right and left, anterior and posterior, superior and inferior: letters of one axis stand side by side."""


def turned(x_BCXYZ: Tensor, axes: str) -> Tensor:
    """A volume of the axes RAS with other axes, as a network was trained with.

    Args:
        x_BCXYZ: the volume, or a map of it.
        axes: towards where each axis runs, such as SPL.
    """
    places = [2 + DIRECTIONS.index(letter) // 2 for letter in axes]
    reversed_axes = [2 + place for place, letter in enumerate(axes) if letter not in RAS]
    return x_BCXYZ.permute(0, 1, *places).flip(reversed_axes)


def turned_back(x: Tensor, axes: str) -> Tensor:
    """A map with these axes to one (B, C, X, Y, Z) of the axes RAS: the inverse of ``turned``."""
    reversed_axes = [2 + place for place, letter in enumerate(axes) if letter not in RAS]
    places = [DIRECTIONS.index(letter) // 2 for letter in axes]
    return x.flip(reversed_axes).permute(0, 1, *(2 + places.index(axis) for axis in range(3)))


class VolumeResNet(resnet.ResNet):
    """MONAI's 3D residual network.

    Args:
        dilated: the last two stages are dilated and keep the size of their input, as in MedicalNet.
        axes: that volumes had in its training; given to it are volumes of RAS.
        **kwargs: of MONAI's ``ResNet``.
    """

    pretrained_cfg = {"classifier": "fc", "first_conv": "conv1"}  # noqa: RUF012 (timm's attribute)

    def __init__(self, dilated: bool = False, axes: str = RAS, **kwargs: Any) -> None:
        super().__init__(block_inplanes=resnet.get_inplanes(), spatial_dims=3, **kwargs)
        self.axes = axes
        for name, dilation in DILATIONS.items() if dilated else ():
            for block in getattr(self, name):
                _dilate(block, dilation)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers in their order, as timm's method of this name gives them."""
        return {"stem": r"^(?:conv1|bn1)\.", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    def forward_features(self, x_BCDHW: Tensor) -> Tensor:
        """Volumes to the last stage's map (B, F, d, h, w)."""
        x: Tensor = self.act(self.bn1(self.conv1(turned(x_BCDHW, self.axes))))
        x = x if self.no_max_pool else self.maxpool(x)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return turned_back(x, self.axes)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The map to its mean (B, F), or to logits where there is a head."""
        pooled: Tensor = self.avgpool(x).flatten(1)
        return pooled if self.fc is None or pre_logits else self.fc(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Volumes to pooled features, or logits."""
        return self.forward_head(self.forward_features(x))


def _dilate(block: Any, dilation: int) -> None:
    """Give a residual block a dilation in place of its stride."""
    for name, module in block.named_modules():
        if not isinstance(module, nn.Conv3d):
            continue
        module.stride = (1, 1, 1)
        if module.kernel_size == (3, 3, 3) and not name.startswith("downsample"):
            module.dilation = module.padding = (dilation,) * 3
    if isinstance(block.downsample, partial):  # no weights: the shortcut of type A
        block.downsample = partial(block.downsample.func, **block.downsample.keywords | {"stride": 1})


class VolumeSwin(swin_unetr.SwinTransformer):
    """The Swin transformer of MONAI's SwinUNETR, whose last map is pooled by its mean."""

    def __init__(self, in_chans: int, embed_dim: int = 48, **kwargs: Any) -> None:
        sizes: dict[str, Any] = {"window_size": (7, 7, 7), "patch_size": (2, 2, 2)}
        stages: dict[str, Any] = {"depths": (2, 2, 2, 2), "num_heads": (3, 6, 12, 24)}
        super().__init__(in_chans=in_chans, embed_dim=embed_dim, spatial_dims=3, **sizes | stages | kwargs)

    def forward_features(self, x_BCDHW: Tensor) -> Tensor:
        """Volumes to the last stage's map (B, F, d, h, w), normalised over its channels."""
        maps: list[Tensor] = super().forward(x_BCDHW, normalize=True)
        return maps[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The map to its mean (B, F)."""
        return x.mean(dim=(2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Volumes to pooled features."""
        return self.forward_head(self.forward_features(x))


class VolumeSegRes(segresnet_ds.SegResEncoder):
    """The encoder of MONAI's SegResNet, whose last map is pooled by its mean.

    Args:
        in_chans: of the volumes.
        axes: that volumes had in its training; given to it are volumes of RAS.
        **kwargs: of MONAI's ``SegResEncoder``.
    """

    def __init__(self, in_chans: int, axes: str = RAS, **kwargs: Any) -> None:
        super().__init__(spatial_dims=3, in_channels=in_chans, **kwargs)
        self.axes = axes

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers in their order, as timm's method of this name gives them."""
        return {"stem": r"^conv_init\.", "blocks": r"^layers\.(\d+)"}

    def forward_features(self, x_BCDHW: Tensor) -> Tensor:
        """Volumes to the last level's map (B, F, d, h, w)."""
        maps: list[Tensor] = super().forward(turned(x_BCDHW, self.axes))
        return turned_back(maps[-1], self.axes)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The map to its mean (B, F)."""
        return x.mean(dim=(2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Volumes to pooled features."""
        return self.forward_head(self.forward_features(x))


RESNETS = {
    "resnet10_3d": (resnet.ResNetBlock, (1, 1, 1, 1)),
    "resnet18_3d": (resnet.ResNetBlock, (2, 2, 2, 2)),
    "resnet34_3d": (resnet.ResNetBlock, (3, 4, 6, 3)),
    "resnet50_3d": (resnet.ResNetBottleneck, (3, 4, 6, 3)),
    "resnet152_3d": (resnet.ResNetBottleneck, (3, 8, 36, 3)),
}


def build(name: str, num_classes: int, in_chans: int, **kwargs: Any) -> nn.Module:
    """A network of ``medsoft.models.resnet3d`` by its name; volumes of any size are taken."""
    for option in ("img_size", "spatial_dims"):
        kwargs.pop(option, None)
    if name not in RESNETS and num_classes:
        raise ValueError(f"{name} has no head: num_classes 0")
    if name == "segres_3d":
        return VolumeSegRes(in_chans, **kwargs)
    if name == "swin_tiny_3d":
        if importlib.util.find_spec("einops") is None:
            raise ValueError("MONAI's Swin transformer needs the package einops: pip install 'medsoft[swin]'")
        return VolumeSwin(in_chans, **kwargs)
    block, layers = RESNETS[name]
    head = {"num_classes": num_classes} if num_classes else {"feed_forward": False}
    return VolumeResNet(block=block, layers=list(layers), n_input_channels=in_chans, **head, **kwargs)
