"""Converts a softmax vision transformer into one without softmax: what is kept, and how the rest is initialised.

What carries over: everything but the normalisation inside attention, that is patch embedding, positions, tokens, norms,
MLPs, and W_q, W_k, W_v and W_o of every block.

``seqnorm``: the biases of queries, keys and values cancel in its normalisation, so that they are dropped; the one of
the values, which softmax passes on as it is (its weights sum to 1), goes into the output's: b_o ← b_o + W_o b_v.
New are the scales, γ = 1, and shifts, β = 0. ``sima``: nothing is dropped and nothing is new.

Then each attention branch is calibrated on a few images, first block to last, with the converted blocks before it: its
output gets the scale that the softmax branch has there. The scale is the root mean square over images, tokens and
channels about each image's own mean over tokens; it goes into γ_v (``seqnorm``) or W_o (``sima``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Attention as TimmAttention
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from medsoft.errors import InputError
from medsoft.layers.block import Block
from medsoft.layers.softmax import SoftmaxAttention
from medsoft.models.vit import PATCH_SIZES, SIZES, VisionTransformer

TARGETS = ("seqnorm", "sima")


@dataclass(frozen=True)
class BranchScale:
    """Root mean square of one block's attention branch on the calibration images, about its mean over tokens."""

    softmax: float
    carried: float
    """After the weights carried over, before calibration."""
    calibrated: float


def rebuild(source: nn.Module) -> VisionTransformer:
    """Copy a softmax ViT of timm (or of medsoft) into medsoft's own blocks, without its head.

    Raises:
        InputError: it is no such ViT, or it has options that medsoft's blocks do not have; they are named.
    """
    problems = _unsupported(source)
    if problems:
        raise InputError(f"this model cannot be converted: {'; '.join(problems)}")
    vit: Any = source
    try:
        twin = VisionTransformer(attention="softmax", **_settings(vit))
        twin.load_state_dict({key: value for key, value in vit.state_dict().items() if not key.startswith("head.")})
    except (ValueError, RuntimeError) as error:
        raise InputError(f"this model cannot be converted: {' '.join(str(error).split())}") from None
    image = torch.randn(1, vit.patch_embed.proj.in_channels, *vit.patch_embed.img_size)
    with torch.inference_mode():
        expected, found = vit.eval().forward_features(image), twin.eval().forward_features(image)
    if not torch.allclose(found, expected, rtol=0, atol=1e-3 * float(expected.abs().max())):
        raise InputError("this model cannot be converted: it has an option that medsoft's vision transformer lacks")
    return twin


def convert(softmax: VisionTransformer, attention: str) -> VisionTransformer:
    """Carry the weights of a softmax ViT over to another mechanism; uncalibrated.

    Args:
        softmax: as ``rebuild`` gives it.
        attention: ``seqnorm`` or ``sima``.

    Returns:
        The same model with the other attention, in evaluation mode.

    Raises:
        ValueError: no conversion to this mechanism is known.
        InputError: seqnorm cannot have the model's pooling.
    """
    if attention not in TARGETS:
        raise ValueError(f"no conversion to {attention!r} is known: one of {', '.join(TARGETS)}")
    try:
        converted = VisionTransformer(attention=attention, **_settings(softmax))
    except ValueError as error:
        raise InputError(f"this model cannot be converted to {attention}: {error}") from None
    state = softmax.state_dict()
    if attention == "seqnorm":
        fresh = converted.state_dict()  # γ and β at their first values
        for index in range(len(softmax.blocks)):
            name = f"blocks.{index}.attn"
            state |= {key: fresh[key] for key in (f"{name}.qkv_norm.weight", f"{name}.qkv_norm.bias")}
            qkv_bias = state.pop(f"{name}.qkv.bias", None)
            if qkv_bias is not None:
                b_v = qkv_bias.chunk(3)[2]
                state[f"{name}.proj.bias"] = state[f"{name}.proj.bias"] + state[f"{name}.proj.weight"] @ b_v
    converted.load_state_dict(state)
    converted.eval()
    return converted


@torch.no_grad()
def calibrate(softmax: VisionTransformer, converted: VisionTransformer, images_BCHW: Tensor) -> list[BranchScale]:
    """Give the output of each attention branch of ``converted`` the scale of the softmax branch's, in place.

    Args:
        softmax: the model that was converted.
        converted: as ``convert`` gives it.
        images_BCHW: calibration images, prepared as for the model.

    Returns:
        One entry a block.

    Raises:
        InputError: a branch is constant or not finite on these images, in one model and not in the other.
    """
    softmax.eval()
    converted.eval()
    x, grid = softmax.embed_tokens(images_BCHW)
    z, _ = converted.embed_tokens(images_BCHW)
    scales = []
    for index, (old, new) in enumerate(zip(softmax.blocks, converted.blocks, strict=True)):
        normed = new.norm1(z)
        before = _spread(old.attn(old.norm1(x), None, grid)), _spread(new.attn(normed, None, grid))
        if before == (0.0, 0.0):
            factor = 1.0  # a branch that is switched off
        elif not all(0 < scale < math.inf for scale in before):
            raise InputError(
                f"block {index}: its attention has a scale of {before[0]:g} with softmax and of {before[1]:g} after "
                "conversion on the calibration images; give images with content, and check the weights"
            )
        else:
            factor = before[0] / before[1]
        if hasattr(new.attn, "qkv_norm"):
            new.attn.qkv_norm.weight.chunk(3)[2].mul_(factor)
        else:
            new.attn.proj.weight.mul_(factor)
        scales.append(BranchScale(*before, _spread(new.attn(normed, None, grid))))
        x, z = old(x, None, grid), new(z, None, grid)
    return scales


def backbone_of(model: VisionTransformer) -> tuple[str, dict[str, Any]]:
    """The registered name and the keywords that make this model with ``timm.create_model``.

    Image size and channels are left out, as weights are adapted to those. The depth is always said: configurations set
    one.
    """
    settings = _settings(model)
    patch = settings.pop("patch_size")
    size = next((name for name, known in SIZES.items() if known["embed_dim"] == settings["embed_dim"]), "base")
    named_patch = next((known for known in PATCH_SIZES if set(patch) == {known}), 16)
    usual = _USUAL | SIZES[size] | {"depth": None} | {"fc_norm": settings["global_pool"] in ("avg", "avgmax", "max")}
    keywords = {key: value for key, value in settings.items() if key in usual and value != usual[key]}
    if model.attention == "seqnorm":
        keywords.pop("qkv_bias", None)
    if set(patch) != {named_patch}:
        keywords["patch_size"] = patch[0] if len(set(patch)) == 1 else list(patch)
    return f"vit_{model.attention}_{size}_patch{named_patch}_224", keywords


_USUAL: dict[str, Any] = {
    "spatial_dims": 2,
    "global_pool": "token",
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "class_token": True,
    "reg_tokens": 0,
    "no_embed_class": False,
    "pos_embed": "learn",
    "pre_norm": False,
    "final_norm": True,
}


def _settings(vit: Any) -> dict[str, Any]:
    """Arguments of ``VisionTransformer`` but ``attention``, read off a model of timm or of medsoft; without a head."""
    block = vit.blocks[0]
    return {
        "spatial_dims": getattr(vit, "spatial_dims", 2),
        "img_size": vit.patch_embed.img_size,
        "patch_size": vit.patch_embed.patch_size,
        "in_chans": vit.patch_embed.proj.in_channels,
        "num_classes": 0,
        "global_pool": vit.global_pool,
        "embed_dim": vit.embed_dim,
        "depth": len(vit.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": block.mlp.fc1.out_features / vit.embed_dim,
        "qkv_bias": block.attn.qkv.bias is not None,
        "class_token": vit.cls_token is not None,
        "reg_tokens": vit.num_reg_tokens,
        "no_embed_class": vit.no_embed_class,
        "pos_embed": "none" if vit.pos_embed is None else "learn",
        "pre_norm": not isinstance(vit.norm_pre, nn.Identity),
        "final_norm": not (isinstance(vit.norm, nn.Identity) and isinstance(vit.fc_norm, nn.Identity)),
        "fc_norm": not isinstance(vit.fc_norm, nn.Identity),
    }


def _unsupported(source: nn.Module) -> list[str]:
    """What of a model medsoft's vision transformer does not have, by the names of timm's options."""
    if not isinstance(source, TimmVisionTransformer):
        return [f"{type(source).__name__} is not a vision transformer of timm or medsoft"]
    block: Any = source.blocks[0]
    if isinstance(block, Block):
        return [] if isinstance(block.attn, SoftmaxAttention) else [f"its attention is {source.attention}, not softmax"]
    if type(block) is not TimmBlock:
        return [f"block_fn: its blocks are {type(block).__name__}"]
    lacking = {
        "attn_layer": type(block.attn) is not TimmAttention,
        "qk_norm": _is_used(block.attn, "q_norm"),
        "scale_attn_norm": _is_used(block.attn, "norm"),
        "init_values (layer scale)": _is_used(block, "ls1"),
        "mlp_layer": type(block.mlp) is not Mlp,
        "act_layer": type(getattr(block.mlp, "act", None)) is not nn.GELU,
        "scale_mlp_norm": _is_used(block.mlp, "norm"),
        "norm_layer (or its ε)": not isinstance(block.norm1, nn.LayerNorm) or block.norm1.eps != 1e-6,
    }
    return [f"medsoft has no {option} in its vision transformer" for option, present in lacking.items() if present]


def _is_used(module: nn.Module, name: str) -> bool:
    return not isinstance(getattr(module, name, nn.Identity()), nn.Identity)


def _spread(y_BND: Tensor) -> float:
    """Root mean square about each image's own mean over tokens; 0 where there is only rounding."""
    spread = float((y_BND - y_BND.mean(dim=1, keepdim=True)).square().mean().sqrt())
    return 0.0 if spread <= 1e-6 * float(y_BND.square().mean().sqrt()) else spread
