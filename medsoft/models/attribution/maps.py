"""Attribution in networks that average a map: what each place of the last map adds to a logit.

A convolutional network ends in a map (channels at places), whose mean over the places goes into a linear head. So a
logit is a sum over places: each adds its activations times the head's weights over the number of places, and the bias
belongs to none (class activation mapping: B. Zhou et al., CVPR 2016, section 2). Activation times gradient, summed over
the channels, is that, and has a meaning where more stands between map and logit: then it is exact for the tangent at
this image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from medsoft.models.soft_pyramid import SoftTransformer
from medsoft.models.vit import VisionTransformer


def ends_in_a_map(model: nn.Module) -> bool:
    """Whether a network of pictures ends in a map that is pooled: convolutional networks, and transformers of windows.

    Those that read a class token or leave a sequence of tokens do not.
    """
    if isinstance(model, VisionTransformer | SoftTransformer) or not hasattr(model, "feature_info"):
        return False
    in_parts = all(hasattr(model, name) for name in ("forward_features", "forward_head"))
    return in_parts and not hasattr(model, "cls_token") and not hasattr(model, "num_prefix_tokens")


def map_contributions(model: nn.Module, image_BCHW: Tensor, logit_of: Callable[[Tensor], Tensor]) -> Tensor:
    """The contribution of every place of the last map.

    Args:
        model: in evaluation mode, one for which ``ends_in_a_map`` holds.
        image_BCHW: pictures.
        logit_of: from pooled features (B, D) to the logit in question (B,).

    Returns:
        (B, h, w), in the unit of the logit; place (0, 0) is the upper left corner.

    Raises:
        ValueError: the network gives no map after all, or is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode, where dropout is random: call .eval() first")
    with torch.no_grad():
        map_ = model.forward_features(image_BCHW)  # type: ignore[operator]
    if not isinstance(map_, Tensor) or map_.ndim != 4:
        raise ValueError(f"{type(model).__name__} gives no map of channels at places")
    with torch.enable_grad():
        map_ = map_.detach().requires_grad_()
        logit_B = logit_of(model.forward_head(map_))  # type: ignore[operator]
        (gradient,) = torch.autograd.grad(logit_B.sum(), map_)
    channels = -1 if str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC") else 1
    return (map_.detach() * gradient).sum(dim=channels)
