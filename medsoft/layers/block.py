"""The pre-norm transformer block around any attention of the family."""

from __future__ import annotations

from typing import Any

from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from medsoft.layers.attention import build_attention
from medsoft.layers.base import Grid


class Block(nn.Module):
    """``x + attention(LN(x))``, then ``x + MLP(LN(x))``; names of weights as in timm's ViT.

    Args:
        dim: model width D.
        num_heads: attention heads.
        attention: name of the mechanism, a key of ``medsoft.layers.attention.ATTENTION``.
        mlp_ratio: width of the MLP's hidden layer over D.
        proj_drop: dropout after attention and inside the MLP.
        drop_path: stochastic depth, the chance that a sample skips a branch in training.
        **attention_options: passed to the mechanism.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attention: str = "seqnorm",
        mlp_ratio: float = 4.0,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
        **attention_options: Any,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = build_attention(attention, dim, num_heads, proj_drop=proj_drop, **attention_options)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=proj_drop)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x_BND: Tensor, mask_BN: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """(B, N, D) to (B, N, D); ``mask_BN`` is True where a token is real, ``grid`` the tokens' shape in space."""
        x_BND = x_BND + self.drop_path1(self.attn(self.norm1(x_BND), mask_BN, grid))
        out: Tensor = x_BND + self.drop_path2(self.mlp(self.norm2(x_BND)))
        return out
