"""Makes a model's computation independent of the length of its input, so that one graph serves every length."""

from __future__ import annotations

import copy

from torch import nn

from medsoft.layers.seqnorm import SeqNormAttention


def with_fixed_form(model: nn.Module) -> nn.Module:
    """A copy for inference in which ``seqnorm`` attention is in its reordered form, whatever the length."""
    fixed = copy.deepcopy(model).eval().requires_grad_(False)
    for module in fixed.modules():
        if isinstance(module, SeqNormAttention):
            module.form = "reordered"
    return fixed
