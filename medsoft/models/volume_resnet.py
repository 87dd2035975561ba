"""MONAI's three-dimensional residual networks under names that timm knows, as baselines for volumes.

Source: MONAI (Apache-2.0), ``monai.networks.nets.resnet``, after Hara, Kataoka and Satoh 2018 (arXiv 1711.09577). Used
as they are, without their heads; ``resnet18_3d``, ``resnet34_3d`` and ``resnet50_3d`` take volumes of any size.
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from torch import nn

NAMES = {"resnet18_3d": "resnet18", "resnet34_3d": "resnet34", "resnet50_3d": "resnet50"}


def _register(name: str, monai_name: str) -> None:
    def entry(pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **kwargs: Any) -> nn.Module:
        from monai.networks.nets import resnet  # seconds to import, which only these names are worth

        if pretrained:
            raise ValueError("weights come from a file: model.pretrained")
        for option in ("cache_dir", "pretrained_cfg", "pretrained_cfg_overlay"):  # which timm passes to all
            kwargs.pop(option, None)
        head = {"num_classes": num_classes} if num_classes else {"feed_forward": False}
        network: nn.Module = getattr(resnet, monai_name)(
            pretrained=False, spatial_dims=3, n_input_channels=in_chans, **head, **kwargs
        )
        return network

    entry.__name__ = name
    entry.__module__ = __name__
    entry.__doc__ = f"MONAI's {monai_name} for volumes."
    globals()[name] = entry
    register_model(entry)


for _name, _monai_name in NAMES.items():
    _register(_name, _monai_name)

__all__ = ["NAMES", *NAMES]
