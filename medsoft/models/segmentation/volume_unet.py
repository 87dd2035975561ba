"""Networks from a volume to logits of every voxel: a U whose coarse levels are attention, and two of MONAI.

``unet_<attention>`` is medsoft's own. It has the shape of a U-Net (Ronneberger et al. 2015, arXiv 1505.04597; in 3D
Çiçek et al. 2016, arXiv 1606.06650). Levels of fine resolution, where structures are edges and textures, are two
convolutions of 3 x 3 x 3 with instance normalisation and LeakyReLU, as in nnU-Net (Isensee et al. 2021). Levels of
coarse resolution are blocks of ``medsoft.layers.block`` with one of ``medsoft.layers.attention``, all linear in the
voxels but softmax: each sees all of the patch. Each of those levels begins with a depthwise convolution that is added
(a conditional position encoding, Chu et al. 2021, arXiv 2102.10882), so that there is no table of positions and patches
of any size are taken. The decoder is convolutions alone: a transposed one to the resolution of the level above,
concatenated with what the encoder has there.

``unet`` and ``swin_unetr`` are MONAI's (``monai.networks.nets``: Kerfoot et al. 2019; Hatamizadeh et al. 2022, arXiv
2201.01266), which take sides of a multiple of 8 and of 32: others are padded by repeating the outermost voxels (of a
patch that would be a single voxel at the coarsest level, the longest side to twice the multiple), and the logits cut
back.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsoft.layers.attention import ATTENTION
from medsoft.layers.block import Block
from medsoft.layers.embeddings import grid_of

HEAD_WIDTH = 16
LANDMARK_STRIDE = 2
UNET = {"channels": (16, 32, 64, 128), "strides": (2, 2, 2), "num_res_units": 2}
SWIN_MULTIPLE = 32


class AttentionUNet(nn.Module):
    """A U of convolutions above and attention below.

    Args:
        in_chans: channels of the volumes.
        outputs: K, logits of each voxel.
        attention: a key of ``medsoft.layers.attention.ATTENTION``.
        widths: channels of each level, each at half the resolution of the one before; those of attention levels must be
            divisible by 16, the width of a head.
        depth: blocks of an attention level.
        conv_levels: levels from the finest on that are convolutions; at least 1, and fewer than there are.
        mlp_ratio: width of the blocks' hidden layers over that of the level.
        drop_path: stochastic depth of every block.

    Raises:
        ValueError: no such attention, or numbers that do not fit.
    """

    def __init__(
        self,
        in_chans: int,
        outputs: int,
        attention: str = "seqnorm",
        widths: Sequence[int] = (16, 32, 64, 128),
        depth: int = 2,
        conv_levels: int = 2,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if not 1 <= conv_levels < len(widths):
            raise ValueError(
                f"conv_levels {conv_levels}: from 1 to {len(widths) - 1}, as there are {len(widths)} levels"
            )
        if depth < 1 or any(width % HEAD_WIDTH for width in widths[conv_levels:]):
            raise ValueError(f"depth is 1 or more, and widths of attention levels are multiples of {HEAD_WIDTH}")
        self.levels, self.shrink = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            before = widths[level - 1] if level else in_chans
            self.shrink.append(_Norm(nn.Conv3d(before, width, 3, 2, 1)) if level else nn.Identity())
            if level < conv_levels:
                self.levels.append(_convolutions(width if level else in_chans, width))
            else:
                options: dict[str, Any] = {"mlp_ratio": mlp_ratio, "drop_path": drop_path}
                self.levels.append(AttentionLevel(width, attention, depth, options))
        pairs = list(pairwise(widths))
        self.enlarge = nn.ModuleList(nn.ConvTranspose3d(lower, upper, 2, 2) for upper, lower in pairs)
        self.merge = nn.ModuleList(_convolutions(2 * upper, upper) for upper, _ in pairs)
        self.head = nn.Conv3d(widths[0], outputs, 1)

    def forward(self, x_BCXYZ: Tensor) -> Tensor:
        """Volumes (B, C, X, Y, Z) of any size to logits (B, K, X, Y, Z)."""
        x_BDXYZ, kept = x_BCXYZ, []
        for shrink, level in zip(self.shrink, self.levels, strict=True):
            x_BDXYZ = level(shrink(x_BDXYZ))
            kept.append(x_BDXYZ)
        kept.pop()
        for enlarge, merge in zip(reversed(self.enlarge), reversed(self.merge), strict=True):
            beside = kept.pop()
            x, y, z = beside.shape[2:]  # of odd sides the last voxel is cut off again
            x_BDXYZ = enlarge(x_BDXYZ)[:, :, :x, :y, :z]
            x_BDXYZ = merge(torch.cat([beside, x_BDXYZ], dim=1))
        logits: Tensor = self.head(x_BDXYZ)
        return logits


class AttentionLevel(nn.Module):
    """Blocks of attention over all voxels of a level, with positions by a depthwise convolution.

    Args:
        width: channels D.
        attention: name of the mechanism.
        depth: blocks.
        options: of ``Block``.
    """

    def __init__(self, width: int, attention: str, depth: int, options: dict[str, Any]) -> None:
        super().__init__()
        if attention in ("soft", "soft_norm"):
            options = options | {"spatial_dims": 3, "landmark_stride": LANDMARK_STRIDE}
        self.position = nn.Conv3d(width, width, 3, padding=1, groups=width)
        self.blocks = nn.ModuleList(Block(width, width // HEAD_WIDTH, attention, **options) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BDXYZ: Tensor) -> Tensor:
        """(B, D, x, y, z) to the same shape."""
        placed = (x_BDXYZ + self.position(x_BDXYZ)).movedim(1, -1)
        grid = grid_of(placed)
        x_BND = placed.flatten(1, 3)
        for block in self.blocks:
            x_BND = block(x_BND, None, grid)
        out: Tensor = self.norm(x_BND).unflatten(1, grid).movedim(-1, 1).contiguous()
        return out


class _Norm(nn.Module):
    """A convolution, instance normalisation and LeakyReLU; no norm of a single voxel, which has no variance."""

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.conv, self.norm = conv, nn.InstanceNorm3d(conv.out_channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.leaky_relu(self.norm(x) if x[0, 0].numel() > 1 else x, 0.01)


def _convolutions(before: int, width: int) -> nn.Sequential:
    return nn.Sequential(_Norm(nn.Conv3d(before, width, 3, padding=1)), _Norm(nn.Conv3d(width, width, 3, padding=1)))


class OfAnySize(nn.Module):
    """A network that takes sides of a multiple alone, for volumes of any size.

    Args:
        network: volumes to logits.
        multiple: of which the network takes sides.
    """

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network, self.multiple = network, multiple

    def forward(self, x_BCXYZ: Tensor) -> Tensor:
        """Volumes (B, C, X, Y, Z) to logits (B, K, X, Y, Z)."""
        size = x_BCXYZ.shape[2:]
        more = [-side % self.multiple for side in size]
        if all(side <= self.multiple for side in size):  # normalisation needs two voxels at the coarsest level
            longest = max(range(3), key=lambda axis: size[axis])
            more[longest] += self.multiple
        x = F.pad(x_BCXYZ, [part for n in reversed(more) for part in (n // 2, n - n // 2)], mode="replicate")
        found: Tensor = self.network(x)
        places = [slice(n // 2, n // 2 + side) for n, side in zip(more, size, strict=True)]
        return found[(slice(None), slice(None), *places)]


def _unet(in_chans: int, outputs: int, arguments: dict[str, Any]) -> nn.Module:
    from monai.networks.nets import UNet

    options: dict[str, Any] = UNET | arguments
    network = UNet(spatial_dims=3, in_channels=in_chans, out_channels=outputs, **options)
    multiple = 1
    for stride in options["strides"]:
        multiple *= max(stride) if isinstance(stride, Sequence) else stride
    return OfAnySize(network, multiple)


def _swin_unetr(in_chans: int, outputs: int, arguments: dict[str, Any]) -> nn.Module:
    if importlib.util.find_spec("einops") is None:
        raise ValueError("MONAI's Swin transformer needs the package einops: pip install 'medsoft[swin]'")
    from monai.networks.nets import SwinUNETR

    return OfAnySize(SwinUNETR(in_channels=in_chans, out_channels=outputs, **arguments), SWIN_MULTIPLE)


def _of_attention(attention: str) -> Callable[[int, int, dict[str, Any]], nn.Module]:
    def build(in_chans: int, outputs: int, arguments: dict[str, Any]) -> nn.Module:
        known = set(inspect.signature(AttentionUNet).parameters) - {"in_chans", "outputs", "attention"}
        if unknown := sorted(arguments.keys() - known):
            raise ValueError(f"has no {unknown[0]}; it has {', '.join(sorted(known))}")
        return AttentionUNet(in_chans, outputs, attention, **arguments)

    return build


NETWORKS: dict[str, Callable[[int, int, dict[str, Any]], nn.Module]] = {
    **{f"unet_{attention}": _of_attention(attention) for attention in ATTENTION},
    "unet": _unet,
    "swin_unetr": _swin_unetr,
}
"""By name, from channels, outputs and arguments to a network that takes volumes of any size."""
