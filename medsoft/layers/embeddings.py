"""From volumes to tokens: patches in three dimensions, and the position table on any grid.

Pictures go through ``timm.layers.PatchEmbed``; this is its counterpart for volumes, with the same attributes and the
arguments that timm's vision transformer gives it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import repeat

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function, resample_abs_pos_embed
from torch import Tensor, nn

from medsoft.layers.base import Grid


def to_sizes(size: int | Sequence[int], dims: int) -> Grid:
    """One length for all axes, or one an axis.

    Raises:
        ValueError: neither, or a length below 1.
    """
    sizes = tuple(repeat(size, dims)) if isinstance(size, int) else tuple(size)
    if len(sizes) != dims or min(sizes) < 1:
        raise ValueError(f"size {size} must be one positive number, or {dims} of them")
    return sizes


def grid_of(x_BxD: Tensor) -> Grid:
    """The grid of tokens that are still laid out in space: (B, h, w, D) gives (h, w), (B, d, h, w, D) gives (d, h, w).

    FX does not trace through it, so that a traced model takes other sizes than the one it was traced with.
    """
    return tuple(x_BxD.shape[1:-1])


register_notrace_function(grid_of)


def resample_positions(table_1ND: Tensor, old_grid: Grid, new_grid: Grid, num_prefix_tokens: int) -> Tensor:
    """Resample a position table to another grid: in two dimensions as timm does it, in three trilinearly.

    Args:
        table_1ND: (1, num_prefix_tokens + prod(old_grid), D); class tokens come first and stay as they are.
        old_grid: (h, w) or (d, h, w) of the table.
        new_grid: (h, w) or (d, h, w) that is asked for.
        num_prefix_tokens: rows in front that belong to no place.

    Returns:
        (1, num_prefix_tokens + prod(new_grid), D), in the table's type.
    """
    if len(old_grid) == 2:
        resampled: Tensor = resample_abs_pos_embed(table_1ND, new_grid, old_grid, num_prefix_tokens)
        return resampled
    if tuple(old_grid) == tuple(new_grid):
        return table_1ND
    prefix, places = table_1ND[:, :num_prefix_tokens], table_1ND[:, num_prefix_tokens:]
    volume = places.reshape(1, *old_grid, -1).permute(0, 4, 1, 2, 3).float()
    volume = F.interpolate(volume, size=new_grid, mode="trilinear", align_corners=False)
    return torch.cat([prefix, volume.flatten(2).transpose(1, 2).to(table_1ND.dtype)], dim=1)


register_notrace_function(resample_positions)


class VolumePatchEmbed(nn.Module):
    """Non-overlapping patches of a volume (B, C, D, H, W), each projected to a token: (B, d, h, w, embed_dim).

    A volume that the patch does not divide is padded with zeros behind its far faces, so that nothing is lost.

    Args:
        img_size: depth, height and width, or one number for all three: the grid that the position table is made for.
        patch_size: likewise.
        in_chans: channels C.
        embed_dim: width of a token.
        norm_layer: applied to the tokens, if any.
        bias: of the projection.
        device: where the weights are made.
        dtype: type of the weights.
        **timm_options: what else timm's vision transformer says; a volume is always padded and of any size.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        norm_layer: type[nn.Module] | None = None,
        bias: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        **timm_options: object,
    ) -> None:
        super().__init__()
        self.patch_size = to_sizes(patch_size, 3)
        self.img_size = to_sizes(img_size, 3)
        self.strict_img_size = False
        depth, height, width = self.patch_size
        kernel = (depth, height, width)
        self.proj = nn.Conv3d(in_chans, embed_dim, kernel, kernel, bias=bias, device=device, dtype=dtype)
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

    @property
    def grid_size(self) -> Grid:
        """Patches along each axis of a volume of ``img_size``."""
        return self.dynamic_feat_size(self.img_size)

    @property
    def num_patches(self) -> int:
        """Patches of a volume of ``img_size``."""
        return math.prod(self.grid_size)

    def dynamic_feat_size(self, img_size: Sequence[int]) -> Grid:
        """Patches along each axis of a volume of any size."""
        return tuple(math.ceil(size / patch) for size, patch in zip(img_size, self.patch_size, strict=True))

    def feat_ratio(self, as_scalar: bool = True) -> int | Grid:
        """Voxels a token, along the longest axis of the patch or along each."""
        return max(self.patch_size) if as_scalar else self.patch_size

    def set_input_size(self, img_size: int | Sequence[int] | None = None, patch_size: object = None) -> None:
        """Change the size of volume that ``grid_size`` is for.

        Raises:
            ValueError: a new patch size; the kernels of a volume are not resampled.
        """
        if patch_size is not None:
            raise ValueError("the patch size of a model for volumes is fixed when it is made")
        if img_size is not None:
            self.img_size = to_sizes(img_size, 3)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        """(B, C, D, H, W) to (B, d, h, w, embed_dim)."""
        behind = [(-size) % patch for size, patch in zip(x_BCDHW.shape[2:], self.patch_size, strict=True)]
        x = F.pad(x_BCDHW, (0, behind[2], 0, behind[1], 0, behind[0]))
        out: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 4, 1))
        return out
