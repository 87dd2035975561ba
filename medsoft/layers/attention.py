"""The attention family by name; ``medsoft.layers.base`` says what all of them keep."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from medsoft.layers.relu_linear import ReluLinearAttention
from medsoft.layers.seqnorm import SeqNormAttention
from medsoft.layers.sima import SimaAttention
from medsoft.layers.soft import SoftAttention
from medsoft.layers.softmax import SoftmaxAttention

ATTENTION: dict[str, Callable[..., nn.Module]] = {
    "softmax": SoftmaxAttention,
    "seqnorm": SeqNormAttention,
    "sima": SimaAttention,
    "relu_linear": ReluLinearAttention,
    "soft": partial(SoftAttention, symmetric=False),
    "soft_norm": partial(SoftAttention, symmetric=True),
}


def build_attention(name: str, dim: int, num_heads: int, **options: Any) -> nn.Module:
    """An attention module by name.

    Raises:
        ValueError: no mechanism of this name; the known ones are listed.
    """
    if name not in ATTENTION:
        raise ValueError(f"unknown attention {name!r}: one of {', '.join(ATTENTION)}")
    return ATTENTION[name](dim, num_heads, **options)
