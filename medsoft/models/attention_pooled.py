"""A vision transformer whose tokens are pooled by one learned query, as the vision towers of CONCH are.

Source: Lu et al. 2024, *A visual-language foundation model for computational pathology* (Nature Medicine), after CoCa
(Yu et al. 2022, arXiv 2205.01917). The trunk is timm's; the query attends to all tokens, the class token among them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AttentionPooledVit", "checkpoint_filter_fn", "vit_base_patch16_query", "vit_large_patch16_query"]


class QueryPool(nn.Module):
    """Multi-head attention of one learned query to all tokens.

    Args:
        dim: of the result.
        token_dim: of the tokens.
        heads: of the attention.
        bias: whether the projections have biases.
    """

    def __init__(self, dim: int, token_dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(1, dim) * 0.02)
        self.ln_q, self.ln_k = nn.LayerNorm(dim), nn.LayerNorm(token_dim)
        self.to_q = nn.Linear(dim, dim, bias=bias)
        self.to_kv = nn.Linear(token_dim, 2 * dim, bias=bias)
        self.to_out = nn.Linear(dim, dim, bias=bias)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Tokens (B, N, token_dim) to (B, dim)."""
        q = self.to_q(self.ln_q(self.query)).expand(len(x_BND), 1, -1)
        k, v = self.to_kv(self.ln_k(x_BND)).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        out: Tensor = self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out[:, 0]


class AttentionPooledVit(TimmVisionTransformer):
    """timm's vision transformer with ``QueryPool`` and a norm in place of its pooling.

    Args:
        query_dim: of the pooled features.
        query_heads: of the pooling's attention.
        query_bias: whether its projections have biases.
        **kwargs: of timm's VisionTransformer.
    """

    def __init__(
        self,
        query_dim: int = 512,
        query_heads: int = 8,
        query_bias: bool = True,
        global_pool: Literal["token"] = "token",
        **kwargs: Any,
    ) -> None:
        if kwargs.get("num_classes"):
            raise ValueError("this vision transformer has no head: num_classes 0")
        super().__init__(global_pool=global_pool, **kwargs | {"num_classes": 0})
        self.query_pool = QueryPool(query_dim, self.embed_dim, query_heads, query_bias)
        self.query_norm = nn.LayerNorm(query_dim)
        self.num_features = self.head_hidden_size = query_dim

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, 1 + N, D) to pooled features (B, query_dim)."""
        pooled: Tensor = self.query_norm(self.query_pool(x))
        return pooled


def _build(name: str, pretrained: bool, **kwargs: Any) -> AttentionPooledVit:
    built: AttentionPooledVit = build_model_with_cfg(
        AttentionPooledVit, name, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs
    )
    return built


default_cfgs = generate_default_cfgs(
    {
        name: {"url": "", "first_conv": "patch_embed.proj", "classifier": "head"}
        for name in ("vit_base_patch16_query", "vit_large_patch16_query")
    }
)


def vit_base_patch16_query(pretrained: bool = False, **kwargs: Any) -> AttentionPooledVit:
    """ViT-B/16 pooled by a learned query."""
    sizes: dict[str, Any] = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
    return _build("vit_base_patch16_query", pretrained, **sizes | kwargs)


def vit_large_patch16_query(pretrained: bool = False, **kwargs: Any) -> AttentionPooledVit:
    """ViT-L/16 pooled by a learned query."""
    sizes: dict[str, Any] = {"patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16}
    return _build("vit_large_patch16_query", pretrained, **sizes | kwargs)


for _entry in (vit_base_patch16_query, vit_large_patch16_query):
    register_model(_entry)
