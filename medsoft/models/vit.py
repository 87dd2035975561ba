"""Vision transformer whose attention is chosen by name.

Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), in timm's implementation (Apache-2.0), whose patch embedding,
position table and its resampling, pooling and checkpoint layout are used as they are. Deviations: the blocks' attention
is one of ``medsoft.layers.attention``; any image size and aspect is taken (position table resampled, borders padded).

Pooling: ``global_pool="token"`` (class token, default) or ``"map"`` (attention pooling). Average pooling of ``seqnorm``
is refused: centred queries average to zero over the tokens, so that the mean keeps only what comes of their shift β_Q.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers import Mlp
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn

from medsoft.layers.block import Block

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}
MECHANISMS = ("softmax", "seqnorm")
PATCH_SIZES = (8, 16)


class VisionTransformer(TimmVisionTransformer):
    """timm's ViT over blocks with any attention of the family.

    Args:
        attention: name of the mechanism, ``seqnorm`` or ``softmax``.
        attention_options: passed to every attention module.
        global_pool: ``token`` or ``map``; ``avg`` with softmax only.
        **kwargs: of timm's VisionTransformer: ``img_size``, ``patch_size``, ``in_chans``, ``num_classes``,
            ``embed_dim``, ``depth``, ``num_heads``, ``drop_rate``, ``drop_path_rate`` …

    Raises:
        ValueError: unknown mechanism, or average pooling of seqnorm.
    """

    def __init__(
        self,
        attention: str = "seqnorm",
        attention_options: dict[str, float] | None = None,
        global_pool: str = "token",
        dynamic_img_size: bool = True,
        dynamic_img_pad: bool = True,
        **kwargs: Any,
    ) -> None:
        if attention == "seqnorm" and global_pool.startswith("avg"):
            raise ValueError(
                f"global_pool={global_pool!r} loses what seqnorm attention computes (centred queries average to zero): "
                "use 'token' or 'map'"
            )
        super().__init__(
            global_pool=global_pool,
            dynamic_img_size=dynamic_img_size,
            dynamic_img_pad=dynamic_img_pad,
            block_fn=partial(_block, attention=attention, attention_options=attention_options or {}),
            **kwargs,
        )


def _block(
    dim: int,
    num_heads: int,
    mlp_ratio: float,
    proj_drop: float,
    drop_path: float,
    mlp_layer: type[nn.Module],
    attention: str,
    attention_options: dict[str, float],
    **timm_options: Any,
) -> Block:
    """Our block from the arguments that timm's ViT gives its blocks; options of timm's own block are refused."""
    for option in ("qk_norm", "scale_attn_norm", "scale_mlp_norm", "init_values"):
        if timm_options.get(option):
            raise ValueError(f"{option} is not an option of this vision transformer")
    if mlp_layer is not Mlp:
        raise ValueError("mlp_layer is not an option of this vision transformer")
    if attention == "softmax":
        given_by_timm = {"attn_drop": timm_options["attn_drop"], "qkv_bias": timm_options["qkv_bias"]}
        attention_options = given_by_timm | attention_options
    return Block(dim, num_heads, attention, mlp_ratio, proj_drop, drop_path, **attention_options)


def _default_cfg(patch_size: int) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
    }


def _register(name: str, attention: str, size: str, patch_size: int) -> None:
    def entry(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
        settings = SIZES[size] | {"patch_size": patch_size, "attention": attention} | kwargs
        out_indices = settings.pop("out_indices", 3)
        model: VisionTransformer = build_model_with_cfg(
            VisionTransformer,
            name,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
            **settings,
        )
        return model

    entry.__name__ = name
    entry.__module__ = __name__
    entry.__doc__ = f"ViT-{size.capitalize()}/{patch_size} with {attention} attention."
    globals()[name] = entry
    register_model(entry)


_NAMES = {
    f"vit_{attention}_{size}_patch{patch}_224": (attention, size, patch)
    for attention in MECHANISMS
    for size in SIZES
    for patch in PATCH_SIZES
}
default_cfgs = generate_default_cfgs({name: _default_cfg(patch) for name, (_, _, patch) in _NAMES.items()})
for _name, (_attention, _size, _patch) in _NAMES.items():
    _register(_name, _attention, _size, _patch)

__all__ = ["VisionTransformer", *_NAMES]
