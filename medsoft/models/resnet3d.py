"""MONAI's networks for volumes, registered with timm: ``resnet18_3d`` and others, SwinUNETR's encoder, SegResNet's.

They take volumes of any size. The networks are in ``medsoft.models.volume_networks``.
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from torch import nn

NAMES = ("resnet10_3d", "resnet18_3d", "resnet34_3d", "resnet50_3d", "resnet152_3d", "swin_tiny_3d", "segres_3d")


def _register(name: str) -> None:
    def entry(pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **kwargs: Any) -> nn.Module:
        from medsoft.models import volume_networks  # MONAI: seconds to import, which only these names are worth

        if pretrained:
            raise ValueError("weights come from a file: model.pretrained")
        for option in ("cache_dir", "pretrained_cfg", "pretrained_cfg_overlay"):  # which timm passes to all
            kwargs.pop(option, None)
        return volume_networks.build(name, num_classes, in_chans, **kwargs)

    entry.__name__ = name
    entry.__module__ = __name__
    entry.__doc__ = f"MONAI's {name} for volumes."
    globals()[name] = entry
    register_model(entry)


for _name in NAMES:
    _register(_name)

__all__ = ["NAMES", *NAMES]
