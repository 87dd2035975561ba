"""SOFT: a pyramid of four stages, three with softmax-free attention and the last with a class token.

Source: Lu et al. 2021 (arXiv 2110.11945); ``soft_norm_*`` with symmetric normalisation, Lu et al. 2024 (arXiv
2207.03341). Their code and checkpoints: https://github.com/fudan-zvg/SOFT (MIT). Written anew from the papers and the
layout of those checkpoints, which ``checkpoint_filter_fn`` maps; with ``inverse="newton"`` ``soft_*`` is then the
published model at 224 x 224.

Deviations: landmarks are averaged to 7 x 7, so that cost stays linear in the pixels above 224 x 224 (at a fixed stride
their number grows with the image); the inverse is exact unless asked otherwise; ``soft_norm_*`` inverts with the
damping and step sizes of ``soft_*`` (its published code has no damping, and one step size for a whole batch);
stochastic depth drops whole branches in all stages (theirs drops single values in the first three); any image size is
taken, and ``last_stage="seqnorm"`` leaves the model without softmax.

Multiply-adds at 224 x 224, in 10⁹: half the ``flops`` of ``medsoft benchmark backbones --sizes 224``, with the Cholesky
inverse (its own, below 0.1, left out) and with Newton's steps; beside them what is published as FLOPs. The published
small model is not the one of the published code.

    tiny 1.9 (newton 2.1; published 1.9)      medium 7.4 (8.7; 7.2)      huge 16.0 (18.7; 16.3)
    small 6.4 (7.4; 3.3)                      large 11.2 (13.2; 11.0)
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, Mlp, get_device_dtype, resample_abs_pos_embed_nhwc, to_2tuple, trunc_normal_
from timm.models import build_model_with_cfg, checkpoint, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from medsoft.layers.base import Grid
from medsoft.layers.block import Block
from medsoft.layers.soft import SoftAttention
from medsoft.ops.inverse import Inverse

SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "tiny": {"embed_dims": (64, 128, 320, 512), "depths": (1, 2, 3, 2)},
    "small": {"embed_dims": (64, 128, 320, 512), "depths": (1, 3, 20, 4)},
    "medium": {"embed_dims": (64, 128, 288, 512), "depths": (1, 3, 29, 5)},
    "large": {"embed_dims": (64, 128, 320, 512), "depths": (1, 3, 40, 5)},
    "huge": {"embed_dims": (64, 128, 352, 512), "depths": (1, 5, 49, 5)},
}
HEAD_WIDTH = 32
LANDMARK_STRIDES = (8, 4, 2)
LOCAL_KERNELS = (9, 5, 3)


class PostNormBlock(nn.Module):
    """``LN(x + attention(x))``, then ``LN(x + MLP(x))``."""

    def __init__(self, dim: int, attn: SoftAttention, proj_drop: float, drop_path: float) -> None:
        super().__init__()
        self.attn = attn
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim, act_layer=partial(nn.GELU, approximate="tanh"), drop=proj_drop)
        self.norm2 = nn.LayerNorm(dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x_BND: Tensor, mask_BN: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        x_BND = self.norm1(x_BND + self.drop_path(self.attn(x_BND, mask_BN, grid)))
        out: Tensor = self.norm2(x_BND + self.drop_path(self.mlp(x_BND)))
        return out


class Stage(nn.Module):
    """Convolutions that shrink the image, a position table, and blocks over the pixels that remain.

    Args:
        embed: images (B, C, H, W) to smaller ones with ``dim`` channels.
        dim: width of the tokens.
        grid: height and width of the position table; resampled bilinearly where the pixels are not as many.
        blocks: called as ``block(x_BND, None, grid)``.
        class_token: put one in front; the stage then gives tokens (B, 1 + N, D) instead of an image.
    """

    def __init__(
        self, embed: nn.Module, dim: int, grid: Grid, blocks: Sequence[nn.Module], class_token: bool = False
    ) -> None:
        super().__init__()
        self.embed = embed
        self.pos_embed = nn.Parameter(torch.empty(1, *grid, dim))
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if class_token else None
        self.cls_pos_embed = nn.Parameter(torch.empty(1, 1, dim)) if class_token else None
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def embed_tokens(self, x_BCHW: Tensor) -> tuple[Tensor, Grid]:
        """What the first block takes, (B, N, D) or with a class token (B, 1 + N, D), and the shape (H, W) of the N."""
        x = self.embed(x_BCHW)
        B, _, H, W = x.shape
        x = x.flatten(2).transpose(1, 2) + _resized(self.pos_embed, (H, W)).flatten(1, 2)
        if self.cls_token is not None and self.cls_pos_embed is not None:
            x = torch.cat(((self.cls_token + self.cls_pos_embed).expand(B, -1, -1), x), dim=1)
        return x, (H, W)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Image to image, or to tokens with a class token in front."""
        x, grid = self.embed_tokens(x_BCHW)
        for block in self.blocks:
            x = checkpoint(block, x, None, grid) if self.grad_checkpointing else block(x, None, grid)
        tokens_or_image: Tensor = x if self.cls_token is not None else x.transpose(1, 2).reshape(x.shape[0], -1, *grid)
        return tokens_or_image


class SoftTransformer(nn.Module):
    """The pyramid, with timm's interface.

    Args:
        symmetric: False for ``soft_*``, True for ``soft_norm_*``.
        embed_dims: width of each stage, in heads of 32.
        depths: blocks of each stage.
        inverse: ``converged``, or ``newton`` for published weights.
        last_stage: attention of the last stage: ``softmax`` as published (quadratic in its tokens, one for 32 x 32
            pixels), or ``seqnorm``.
        form: ``auto``, ``reordered`` or ``moments``, where the last stage is ``seqnorm``.
        img_size: the size that the position tables are made for; any other is taken too.
        in_chans: channels of the images.
        num_classes: outputs of the head; 0 for none.
        global_pool: ``token`` for the class token, ``avg`` for the mean of the others, or empty for all of them.
        drop_rate: dropout before the head.
        proj_drop_rate: dropout in attention's output and in the MLPs.
        drop_path_rate: stochastic depth of the last block; rises linearly from 0 at the first.
        device: where the weights live.
        dtype: their precision.

    Raises:
        ValueError: an unknown choice, or average pooling of a ``seqnorm`` stage.
    """

    def __init__(
        self,
        symmetric: bool,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        inverse: Inverse = "converged",
        last_stage: Literal["softmax", "seqnorm"] = "softmax",
        form: str | None = None,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if last_stage not in ("softmax", "seqnorm"):
            raise ValueError(f"last_stage={last_stage!r} must be softmax or seqnorm")
        if form is not None and last_stage != "seqnorm":
            raise ValueError("form is an option of last_stage='seqnorm' alone")
        self.last_stage = last_stage
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"} for i, dim in enumerate(embed_dims)
        ]
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        grid = tuple((size + 1) // 2 for size in to_2tuple(img_size))
        stages: list[Stage] = []
        for i, (dim, depth) in enumerate(zip(embed_dims, depths, strict=True)):
            grid = tuple((size + 1) // 2 for size in grid)  # as the convolutions do: nothing at a border is lost
            if i == 0:
                embed = nn.Sequential(*_conv(in_chans, 32, 2), *_conv(32, 32, 1), *_conv(32, dim, 2))
            else:
                embed = nn.Sequential(*_conv(embed_dims[i - 1], dim, 2))
            heads, last = dim // HEAD_WIDTH, i == len(depths) - 1
            blocks: list[nn.Module] = []
            for rate in (next(rates) for _ in range(depth)):
                if last:
                    options = {} if form is None else {"form": form}
                    blocks.append(Block(dim, heads, last_stage, 4.0, proj_drop_rate, rate, **options))
                else:
                    attn = SoftAttention(
                        dim,
                        heads,
                        symmetric,
                        inverse,
                        spatial_dims=2,
                        landmark_stride=LANDMARK_STRIDES[i],
                        local_kernel=LOCAL_KERNELS[i],
                        average=False,
                        proj_drop=proj_drop_rate,
                    )
                    blocks.append(PostNormBlock(dim, attn, proj_drop_rate, rate))
            stages.append(Stage(embed, dim, grid, blocks, class_token=last))
        self.stages = cast(Sequence[Stage], nn.ModuleList(stages))
        self.norm: nn.Module = nn.LayerNorm(embed_dims[-1], eps=1e-6)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self.apply(_init_weights)
        self.to(device=device, dtype=dtype)

    def no_weight_decay(self) -> set[str]:
        """Position tables and the class token."""
        return {name for name, _ in self.named_parameters() if name.endswith(("pos_embed", "cls_token"))}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers in their order, for rates that decay with depth: stages if ``coarse``, else blocks."""
        blocks = [
            (r"^stages\.(\d+)\.(?:embed|pos_embed|cls_token)", (0,)),  # with the first block
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (99999,)),  # with the last one
        ]
        return {"stem": r"^stages\.0\.(?:embed|pos_embed)", "blocks": r"^stages\.(\d+)" if coarse else blocks}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute each block again in the backward instead of keeping what it computed."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head, and the pooling where one is named.

        Raises:
            ValueError: unknown pooling, or one that this model cannot have.
        """
        if global_pool is not None:
            if global_pool not in ("token", "avg", ""):
                raise ValueError(f"global_pool={global_pool!r} must be 'token', 'avg' or ''")
            if global_pool == "token" and self.stages[-1].cls_token is None:
                raise ValueError("global_pool='token': the stage with the class token was pruned")
            if global_pool == "avg" and self.last_stage == "seqnorm":
                raise ValueError(
                    "global_pool='avg' loses what seqnorm attention computes (centred queries average to zero): "
                    "use 'token'"
                )
            self.global_pool = global_pool
        self.num_classes = num_classes
        placed = get_device_dtype(self)
        self.head = nn.Linear(self.num_features, num_classes, **placed) if num_classes > 0 else nn.Identity()
        self.head.train(self.training)

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Images (B, C, H, W) of any size to tokens (B, 1 + N, D), the class token first."""
        x = x_BCHW
        for stage in self.stages:
            x = stage(x)
        out: Tensor = self.norm(x)
        return out

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooling and head; only pooling if ``pre_logits``."""
        if self.global_pool == "token":
            x = x[:, 0]
        elif self.global_pool == "avg":
            x = x.mean(dim=(2, 3)) if self.stages[-1].cls_token is None else x[:, 1:].mean(dim=1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits, or to features where there is no head."""
        return self.forward_head(self.forward_features(x_BCHW))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The stages' outputs as images (B, C, H, W), the class token left out.

        Args:
            x: images.
            indices: stages to give; all if None, the last n if a number.
            norm: apply the final LayerNorm to the last stage's.
            stop_early: compute no stage behind the last one given.
            output_fmt: ``NCHW``, the only one.
            intermediates_only: without the model's features.

        Returns:
            The list of images; unless ``intermediates_only`` a pair of ``forward_features``' output and that list.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt={output_fmt!r} must be NCHW")
        take, deepest = feature_take_indices(len(self.stages), indices)
        images = []
        for i, stage in enumerate(self.stages[: deepest + 1] if stop_early else self.stages):
            height, width = ((size + 1) // 2 for size in x.shape[-2:])
            image = x = stage(x)
            if stage.cls_token is not None:
                tokens, x = x, self.norm(x)
                image = (x if norm else tokens)[:, 1:].transpose(1, 2).reshape(len(x), -1, height, width)
            if i in take:
                images.append(image)
        return images if intermediates_only else (x, images)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the stages asked for do not need; gives their indices."""
        take, deepest = feature_take_indices(len(self.stages), indices)
        cut = deepest < len(self.stages) - 1
        self.stages = self.stages[: deepest + 1]
        if cut:
            self.num_features = self.head_hidden_size = self.feature_info[deepest]["num_chs"]
        if cut or prune_norm:
            self.norm = nn.Identity()
        if cut or prune_head:
            self.reset_classifier(0, "")
        kept: list[int] = take
        return kept


def _resized(table_1HWD: Tensor, size: Sequence[int]) -> Tensor:
    resized: Tensor = resample_abs_pos_embed_nhwc(table_1HWD, size, interpolation="bilinear", antialias=False)
    return resized


def _conv(in_chans: int, out_chans: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(in_chans, out_chans, 3, stride, padding=1), nn.BatchNorm2d(out_chans), nn.ReLU()


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Stage):
        for parameter in module.parameters(recurse=False):
            trunc_normal_(parameter, std=0.02)


_PUBLISHED_NAMES = {  # in the order in which they are replaced
    r"\.patch_embed\.proj\.": ".embed.",
    r"\.block\.": ".blocks.",
    r"\.att\.mha\.attn\.Qlandmark_op\.": ".attn.landmark_conv.",
    r"\.att\.mha\.attn\.Qnorm_act\.0\.": ".attn.landmark_norm.",
    r"\.att\.mha\.attn\.conv\.": ".attn.local.",
    r"\.att\.mha\.W_([qv])\.": r".attn.\1.",
    r"\.att\.mha\.ff\.": ".attn.proj.",
    r"\.att\.ff([12])\.": r".mlp.fc\1.",
    r"\.att\.norm([12])\.": r".norm\1.",
    r"^cls_token$": "stages.3.cls_token",
}


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: SoftTransformer) -> dict[str, Tensor]:
    """Weights in the published layout, or in ours, for ``model.load_state_dict``.

    Published names become ours, the last stage's queries, keys and values one matrix; position tables get their two
    axes back (they are square) and the class token's place its own entry. Tables are resized to the model's.
    """
    state = {}
    for key, value in state_dict.items():
        key = re.sub(r"^(patch_embed|pos_embed|block)(\d)", lambda m: f"stages.{int(m[2]) - 1}.{m[1]}", key)
        for published, name in _PUBLISHED_NAMES.items():
            key = re.sub(published, name, key)
        state[key] = value
    for kv in [key for key in state if ".attn.kv." in key]:
        q = state.pop(kv.replace(".kv.", ".q."))
        state[kv.replace(".kv.", ".qkv.")] = torch.cat((q, state.pop(kv)))
    for i, stage in enumerate(model.stages):
        key = f"stages.{i}.pos_embed"
        if key in state and state[key].ndim == 3:
            table = state[key]
            if i == 3:
                state["stages.3.cls_pos_embed"], table = table[:, :1], table[:, 1:]
            side = math.isqrt(table.shape[1])
            state[key] = table.reshape(1, side, side, -1)
        if key in state:
            state[key] = _resized(state[key], stage.pos_embed.shape[1:3])
    return state


def _default_cfg() -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stages.0.embed.0",
        "classifier": "head",
        "license": "apache-2.0",
    }


def _register(name: str, symmetric: bool, size: str) -> None:
    def entry(pretrained: bool = False, **kwargs: Any) -> SoftTransformer:
        settings = SIZES[size] | kwargs
        model: SoftTransformer = build_model_with_cfg(
            SoftTransformer,
            name,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
            symmetric=symmetric,
            **settings,
        )
        return model

    entry.__name__ = name
    entry.__module__ = __name__
    entry.__doc__ = f"SOFT-{size.capitalize()}{', symmetrically normalised' if symmetric else ''}."
    globals()[name] = entry
    register_model(entry)


_NAMES = {f"{kind}_{size}": (kind == "soft_norm", size) for kind in ("soft", "soft_norm") for size in SIZES}
default_cfgs = generate_default_cfgs({name: _default_cfg() for name in _NAMES})
for _name, (_symmetric, _size) in _NAMES.items():
    _register(_name, _symmetric, _size)

__all__ = ["SoftTransformer", *_NAMES]
