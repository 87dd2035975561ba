"""A vision transformer for images and volumes, whose attention is chosen by name.

Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), in timm's implementation (Apache-2.0), whose patch embedding,
position table and its resampling, pooling and checkpoint layout are used as they are. Deviations: the blocks' attention
is one of ``medsoft.layers.attention`` and is told the grid of the tokens; any image size and aspect is taken (position
table resampled, borders padded); ``spatial_dims=3`` takes volumes.

Pooling: ``global_pool="token"`` (class token, default) or ``"map"`` (attention pooling). Average pooling of ``seqnorm``
is refused: centred queries average to zero over the tokens, so that the mean keeps only what comes of their shift β_Q.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
from timm.layers import LayerNorm, Mlp, PatchEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.vision_transformer import Attention as TimmAttention
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn as timm_checkpoint_filter_fn
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medsoft.errors import InputError
from medsoft.layers.attention import ATTENTION
from medsoft.layers.base import Grid
from medsoft.layers.block import Block
from medsoft.layers.embeddings import VolumePatchEmbed, grid_of, resample_positions, to_sizes

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}
MECHANISMS = tuple(ATTENTION)
PATCH_SIZES = (8, 16)


class VisionTransformer(TimmVisionTransformer):
    """timm's ViT over blocks with any attention of the family, for pictures (B, C, H, W) or volumes (B, C, D, H, W).

    Args:
        attention: name of the mechanism, a key of ``medsoft.layers.attention.ATTENTION``.
        attention_options: passed to every attention module.
        form: ``auto``, ``reordered`` or ``moments``; of ``seqnorm`` alone.
        inverse: ``converged`` or ``newton``; of ``soft`` and ``soft_norm`` alone.
        spatial_dims: 2 for pictures, 3 for volumes.
        img_size: the size that the position table is made for, one number or one an axis; any other is taken too.
        patch_size: likewise.
        global_pool: ``token`` or ``map``; ``avg`` with mechanisms other than seqnorm.
        class_token: a token in front that stands for the whole image.
        reg_tokens: further tokens in front that stand for no place.
        **kwargs: of timm's VisionTransformer: ``in_chans``, ``num_classes``, ``embed_dim``, ``depth``, ``num_heads``,
            ``drop_rate``, ``drop_path_rate`` …

    Raises:
        ValueError: unknown mechanism, an option that the mechanism does not have, or average pooling of seqnorm.
    """

    pos_embed: nn.Parameter | None

    def __init__(
        self,
        attention: str = "seqnorm",
        attention_options: dict[str, Any] | None = None,
        form: str | None = None,
        inverse: str | None = None,
        spatial_dims: Literal[2, 3] = 2,
        img_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 16,
        global_pool: str = "token",
        class_token: bool = True,
        reg_tokens: int = 0,
        **kwargs: Any,
    ) -> None:
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims={spatial_dims} must be 2 (pictures) or 3 (volumes)")
        for option in ("dynamic_img_size", "dynamic_img_pad"):
            if option in kwargs:
                raise ValueError(f"{option} is not an option of this vision transformer: it takes images of any size")
        _check_pooling(attention, global_pool)
        patch = to_sizes(patch_size, spatial_dims)
        options = _own_options(attention, form, inverse)
        if attention in ("soft", "soft_norm"):
            if kwargs.get("patch_drop_rate"):
                raise ValueError(f"patch_drop_rate leaves no grid, which {attention} attention needs")
            options |= {
                "spatial_dims": spatial_dims,
                "num_prefix_tokens": int(class_token) + reg_tokens,
                # One landmark kernel spans about 32 pixels, as in the third stage of the paper's pyramid.
                "landmark_stride": max(1, 32 // max(patch)),
            }
        super().__init__(
            # Below one patch timm's table would have no place at all.
            img_size=tuple(map(max, to_sizes(img_size, spatial_dims), patch)),
            patch_size=patch,
            global_pool=global_pool,
            class_token=class_token,
            reg_tokens=reg_tokens,
            dynamic_img_size=True,
            dynamic_img_pad=True,
            embed_layer=PatchEmbed if spatial_dims == 2 else VolumePatchEmbed,
            block_fn=partial(_block, attention=attention, attention_options=options | (attention_options or {})),
            **kwargs,
        )
        self.attention = attention
        self.spatial_dims = spatial_dims

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head, and the pooling where one is named.

        Raises:
            ValueError: average pooling of seqnorm.
        """
        _check_pooling(self.attention, global_pool or "")
        super().reset_classifier(num_classes, global_pool)

    def set_input_size(
        self, img_size: int | Sequence[int] | None = None, patch_size: int | Sequence[int] | None = None
    ) -> None:
        """Resample the position table to another image size, and for pictures the kernels to another patch size.

        Raises:
            ValueError: another patch size for volumes.
        """
        if self.spatial_dims == 2:
            super().set_input_size(img_size, patch_size)
            return
        old_grid = self.patch_embed.grid_size
        self.patch_embed.set_input_size(img_size, patch_size)
        if self.pos_embed is not None:
            self.pos_embed = nn.Parameter(
                resample_positions(self.pos_embed.data, old_grid, self.patch_embed.grid_size, self._prefix_positions),
                requires_grad=self.pos_embed.requires_grad,
            )

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits (B, num_classes), or to pooled features where there is no head."""
        logits: Tensor = self.forward_head(self.forward_features(x))
        return logits

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to all tokens after the last norm (B, prefix tokens + places, D)."""
        x_BND, grid = self.embed_tokens(x)
        for block in self.blocks:
            x_BND = self._run(block, x_BND, grid)
        out: Tensor = self.norm(x_BND)
        return out

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """Features of several blocks, as timm's method of this name gives them.

        Args:
            x: images.
            indices: the last n blocks where it is a number, these blocks where it is a list, all where it is None.
            return_prefix_tokens: pair each feature with its prefix tokens (B, prefix tokens, D).
            norm: apply the last norm to all of them.
            stop_early: leave out the blocks behind the last one asked for.
            output_fmt: ``NCHW``: features (B, D, *grid), for volumes too; ``NLC``: (B, places, D).
            intermediates_only: without the last features.
            output_dict: a dictionary with ``image_intermediates``, ``image_intermediates_prefix``, ``image_features``.

        Returns:
            (last features, list of features), the list alone, or the dictionary.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt {output_fmt!r} must be NCHW or NLC")
        taken, last = feature_take_indices(len(self.blocks), indices)
        x_BND, grid = self.embed_tokens(x)
        found = []
        for index, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            x_BND = self._run(block, x_BND, grid)
            if index in taken:
                found.append(self.norm(x_BND) if norm else x_BND)
        prefix = [tokens[:, : self.num_prefix_tokens] for tokens in found] if self.num_prefix_tokens else None
        features = [tokens[:, self.num_prefix_tokens :] for tokens in found]
        if output_fmt == "NCHW":
            features = [tokens.transpose(1, 2).unflatten(2, grid).contiguous() for tokens in features]

        if output_dict:
            result = {"image_intermediates": features}
            if return_prefix_tokens and prefix is not None:
                result["image_intermediates_prefix"] = prefix
            return result if intermediates_only else result | {"image_features": self.norm(x_BND)}
        pairs = list(zip(features, prefix, strict=True)) if return_prefix_tokens and prefix is not None else features
        return pairs if intermediates_only else (self.norm(x_BND), pairs)

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | list[int] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
    ) -> Any:
        """``forward_intermediates`` under the name and with the arguments that DINO's users know."""
        output_fmt = "NCHW" if reshape else "NLC"
        return self.forward_intermediates(x, n, return_prefix_tokens, norm, False, output_fmt, intermediates_only=True)

    @property
    def _prefix_positions(self) -> int:
        """Rows of the position table that belong to no place."""
        return 0 if self.no_embed_class else int(self.num_prefix_tokens)

    def embed_tokens(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Images to tokens with their positions (B, N, D), and the grid of the places among them."""
        x = self.patch_embed(x)
        grid = grid_of(x)
        x_BND: Tensor = self.norm_pre(self.patch_drop(self._pos_embed(x)))
        return x_BND, grid

    def _pos_embed(self, x: Tensor) -> Tensor:
        """(B, *grid, D) to (B, N, D): prefix tokens in front, positions added."""
        prefix = [token.expand(x.shape[0], -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        places_BND = x.flatten(1, -2)
        if self.pos_embed is None:
            x_BND = torch.cat([*prefix, places_BND], dim=1)
        else:
            table = resample_positions(self.pos_embed, self.patch_embed.grid_size, grid_of(x), self._prefix_positions)
            if self.no_embed_class:
                x_BND = torch.cat([*prefix, places_BND + table], dim=1)
            else:
                x_BND = torch.cat([*prefix, places_BND], dim=1) + table
        out: Tensor = self.pos_drop(x_BND)
        return out

    def _run(self, block: nn.Module, x_BND: Tensor, grid: Grid) -> Tensor:
        if self.grad_checkpointing:
            return cast(Tensor, checkpoint(block, x_BND, None, grid, use_reentrant=False))
        return cast(Tensor, block(x_BND, None, grid))


def checkpoint_filter_fn(state_dict: dict[str, Any], model: VisionTransformer) -> dict[str, Any]:
    """Fit weights from a file to a model: timm's key map, kernels and position table resampled to the model's size.

    Of a volume model's weights only the position table is resampled, and only from a cube: a file does not say the
    shape of its grid. (A model made for the file's own size takes any, and can then be given another size with
    ``set_input_size``.)

    Raises:
        InputError: the position table is not of the model's grid, nor of a square or cube.
    """
    state = state_dict.get("state_dict", state_dict)
    table = state.get("pos_embed")
    dims = model.spatial_dims
    if table is not None and model.pos_embed is not None and table.shape[1] != model.pos_embed.shape[1]:
        places = table.shape[1] - model._prefix_positions
        side = round(max(places, 0) ** (1 / dims))
        if side == 0 or side**dims != places:
            raise InputError(
                f"the position embedding of these weights has {places} places, not those of a "
                f"{'square' if dims == 2 else 'cube'}: make the model with the img_size that they were trained with"
            )
        if dims == 3:
            grids = (side,) * 3, model.patch_embed.grid_size
            state = state | {"pos_embed": resample_positions(table, *grids, model._prefix_positions)}
    if dims == 3:
        return dict(state)
    filtered: dict[str, Any] = timm_checkpoint_filter_fn(state, model)
    return filtered


def _check_pooling(attention: str, global_pool: str) -> None:
    if attention == "seqnorm" and global_pool.startswith("avg"):
        raise ValueError(
            f"global_pool={global_pool!r} loses what seqnorm attention computes (centred queries average to zero): "
            "use 'token' or 'map'"
        )


def _own_options(attention: str, form: str | None, inverse: str | None) -> dict[str, Any]:
    """The options that only some mechanisms have, where they are given."""
    options: dict[str, Any] = {}
    for name, value, owners in (("form", form, ("seqnorm",)), ("inverse", inverse, ("soft", "soft_norm"))):
        if value is None:
            continue
        if attention not in owners:
            raise ValueError(f"{name} is an option of {' and '.join(owners)} attention; {attention} has none")
        options[name] = value
    return options


def _block(
    dim: int,
    num_heads: int,
    mlp_ratio: float,
    proj_drop: float,
    drop_path: float,
    attention: str,
    attention_options: dict[str, Any],
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    **timm_options: Any,
) -> nn.Module:
    """Our block from the arguments that timm's ViT gives its blocks; options of timm's own block are refused."""
    fixed = {"mlp_layer": Mlp, "attn_layer": TimmAttention, "act_layer": nn.GELU, "norm_layer": LayerNorm}
    refused = [option for option, value in fixed.items() if timm_options.get(option, value) is not value]
    absent = ("qk_norm", "scale_attn_norm", "scale_mlp_norm", "init_values")
    refused += [option for option in absent if timm_options.get(option)]
    if not timm_options.get("proj_bias", True):
        refused.append("proj_bias")
    if attention in ("softmax", "sima", "relu_linear"):
        attention_options = {"qkv_bias": timm_options["qkv_bias"]} | attention_options
    elif attention != "seqnorm" and not timm_options["qkv_bias"]:  # seqnorm has none either way
        refused.append("qkv_bias")
    if attention == "softmax":
        attention_options = {"attn_drop": timm_options["attn_drop"]} | attention_options
    elif timm_options["attn_drop"]:
        refused.append("attn_drop_rate")
    if refused:
        raise ValueError(f"{', '.join(refused)} is not an option of this vision transformer ({attention} attention)")
    block = Block(dim, num_heads, attention, mlp_ratio, proj_drop, drop_path, **attention_options)
    return block.to(device=device, dtype=dtype)


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
        settings: dict[str, Any] = SIZES[size] | {"patch_size": patch_size, "attention": attention} | kwargs
        out_indices = settings.pop("out_indices", 3)
        model_cls: Any = VisionTransformer
        if settings.get("spatial_dims") == 3 and "img_size" in settings:
            # timm's builder reads an img_size as (height, width), and so is not shown a volume's.
            model_cls = partial(VisionTransformer, img_size=settings.pop("img_size"))
        model: VisionTransformer = build_model_with_cfg(
            model_cls,
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
