"""What stands in place of timm's patch embedding in published encoders.

CTransPath is a Swin transformer with a convolutional stem: Wang et al., *Transformer-based unsupervised contrastive
learning for histopathological image classification*, Medical Image Analysis 2022,
https://doi.org/10.1016/j.media.2022.102559.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class ConvStem(nn.Module):
    """Two convolutions that halve the image, then one that sets the width: patches of 4 px.

    Takes the arguments of timm's ``PatchEmbed``, in whose place a Swin transformer builds it.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: type[nn.Module] | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        if patch_size != 4:
            raise ValueError(f"the stem makes patches of 4 px, not {patch_size}")
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid_size = (height // 4, width // 4)
        layers: list[nn.Module] = []
        for wide in (embed_dim // 8, embed_dim // 4):
            layers += [nn.Conv2d(in_chans, wide, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            in_chans = wide
        self.proj = nn.Sequential(*layers, nn.Conv2d(in_chans, embed_dim, 1))
        self.norm = norm_layer(embed_dim) if norm_layer is not None else nn.Identity()

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) to patches (B, H/4, W/4, D)."""
        patches: Tensor = self.norm(self.proj(image_BCHW).permute(0, 2, 3, 1))
        return patches
