"""Attribution in vision transformers and pyramids: what each patch adds to a logit through the last attention.

The class token reads the patches in every block. What it reads in the last one is what
``medsoft.layers.attribution`` takes apart: the attention branch's output at the class token is a sum over tokens, and
the gradient of the logit there says what each summand is worth. The MLP behind it is not linear: the contributions are
those of its tangent at this image. What the class token and the patches gathered in earlier blocks is not taken apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from medsoft.layers.attribution import token_contributions
from medsoft.layers.base import Attention
from medsoft.layers.block import Block
from medsoft.models.soft_pyramid import SoftTransformer
from medsoft.models.vit import VisionTransformer


def can_be_attributed(model: object) -> bool:
    """Whether a model reads its patches out with a class token."""
    if isinstance(model, SoftTransformer):
        return model.global_pool == "token"
    return isinstance(model, VisionTransformer) and model.global_pool == "token" and model.cls_token is not None


def patch_contributions(
    model: VisionTransformer | SoftTransformer, image_BCx: Tensor, logit_of: Callable[[Tensor], Tensor]
) -> Tensor:
    """The contribution of every patch.

    Args:
        model: in evaluation mode, with a class token that is read out.
        image_BCx: pictures (B, C, H, W) or volumes (B, C, X, Y, Z).
        logit_of: from pooled features (B, D) to the logit in question (B,).

    Returns:
        (B, *grid), in the unit of the logit. A patch of an image that the patch size does not divide is padded. Of a
        pyramid the patches are those of its last stage, 32 x 32 px.

    Raises:
        ValueError: no class token is read out, or the model is in training mode.
    """
    if not can_be_attributed(model):
        raise ValueError("attributions of patches need a model with global_pool token")
    if model.training:
        raise ValueError("the model is in training mode, where dropout is random: call .eval() first")
    with torch.no_grad():
        if isinstance(model, SoftTransformer):
            for stage in model.stages[:-1]:
                image_BCx = stage(image_BCx)
            (x_BND, grid), blocks, n_prefix = model.stages[-1].embed_tokens(image_BCx), model.stages[-1].blocks, 1
        else:
            (x_BND, grid), blocks, n_prefix = model.embed_tokens(image_BCx), model.blocks, model.num_prefix_tokens
        for block in list(blocks)[:-1]:
            x_BND = block(x_BND, None, grid)
        last = cast(Block, blocks[-1])
        tokens_BND = last.norm1(x_BND)
        branch_BD = last.attn(tokens_BND, None, grid)[:, 0]
    with torch.enable_grad():
        branch_BD = branch_BD.detach().requires_grad_()
        class_BD = x_BND[:, 0] + branch_BD
        class_BD = class_BD + last.mlp(last.norm2(class_BD))
        features_BD = model.forward_head(model.norm(class_BD[:, None]), pre_logits=True)
        (gradient_BD,) = torch.autograd.grad(logit_of(features_BD).sum(), branch_BD)
    with torch.no_grad():
        contributions_BN = token_contributions(cast(Attention, last.attn), tokens_BND, gradient_BD, 0, None, grid)
    return contributions_BN[:, n_prefix:].reshape(len(contributions_BN), *grid)
