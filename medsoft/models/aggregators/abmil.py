"""Gated attention-based pooling (ABMIL): each tile gets a weight, and the weights of a bag sum to 1.

    a_n = softmax_n( w · (tanh(V h_n) ⊙ σ(U h_n)) )        z = Σ_n a_n h_n

Source: Ilse, Tomczak and Welling 2018 (arXiv 1802.04712), section 2.4. Decided here: V and U have biases, w has none
(the softmax cancels it). A tile's contribution to a logit is a_n times its value through the head. That the weights
depend on the tiles as well, each through the softmax on all, is not in it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medsoft.models.aggregators.pooling import Pooling, RunningPool
from medsoft.ops.tensors import accumulation_dtype, no_autocast


class AbmilAggregator(Pooling):
    """Gated attention pooling.

    Args:
        num_features: features F of a tile.
        num_classes: logits C.
        dim: width D of the layer that each tile passes first; None leaves it out.
        attention_dim: width of V and U.
        drop: dropout after the tiles' layer in training.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        dim: int | None = 512,
        attention_dim: int = 128,
        drop: float = 0.0,
    ) -> None:
        super().__init__(num_features, num_classes, dim, drop)
        width = self.head.in_features
        self.attention_value = nn.Linear(width, attention_dim)
        self.attention_gate = nn.Linear(width, attention_dim)
        self.attention_score = nn.Linear(attention_dim, 1, bias=False)

    def scores(self, h: Tensor) -> Tensor:
        """(…, D) to (…): the logarithm of a tile's attention weight, up to a constant of the bag."""
        scores: Tensor = self.attention_score(self.attention_value(h).tanh() * self.attention_gate(h).sigmoid())
        return scores.squeeze(-1)

    def pool(self, h_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        """Σ a_n h_n over real tiles (B, D)."""
        dtype = accumulation_dtype(h_BND)
        scores_BN = self.scores(h_BND).to(dtype)
        if mask_BN is None:
            weights_BN = scores_BN.softmax(dim=1)
        else:
            # A softmax over no tile at all is 0/0: such a bag has weights first, and loses them again.
            empty_B1 = ~mask_BN.any(dim=1, keepdim=True)
            weights_BN = scores_BN.masked_fill(~(mask_BN | empty_B1), -torch.inf).softmax(dim=1)
            weights_BN = torch.where(mask_BN, weights_BN, 0)
        with no_autocast(h_BND):
            return (weights_BN.unsqueeze(1) @ h_BND.to(dtype)).squeeze(1)

    def running(self) -> RunningPool:
        """Sums of exp(score) and of exp(score) h over the tiles seen."""
        return _RunningAttention(self)


class _RunningAttention(RunningPool):
    def __init__(self, aggregator: AbmilAggregator) -> None:
        self.scores = aggregator.scores
        weight = aggregator.head.weight
        self.total_D = weight.new_zeros(weight.shape[1], dtype=torch.float64)
        self.total = self.total_D.new_zeros(())
        self.largest = self.total_D.new_full((), -torch.inf)

    def update(self, h_nD: Tensor) -> None:
        scores_n = self.scores(h_nD).double()
        largest = torch.maximum(self.largest, scores_n.max())
        rescale = (self.largest - largest).exp()  # what was summed so far was relative to a smaller score
        weights_n = (scores_n - largest).exp()
        self.total_D = self.total_D * rescale + weights_n @ h_nD.double()
        self.total = self.total * rescale + weights_n.sum()
        self.largest = largest

    def embedding_D(self) -> Tensor:
        return torch.where(self.total > 0, self.total_D / self.total, 0)

    def parts_nD(self, h_nD: Tensor, start: int) -> Tensor:
        weights_n = (self.scores(h_nD).double() - self.largest).exp() / self.total
        return weights_n[:, None] * h_nD.double()
