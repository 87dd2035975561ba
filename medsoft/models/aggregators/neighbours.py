"""The nearest training bags: what the k bags with the nearest mean features were labelled with.

The distance is Euclidean, between the means of the (standardised) features of a bag's tiles. Each neighbour votes with
its answers, and beside the k stands one that says what the training part says on average: no share is 0 or 1, so that
every answer has a logit. Source: Fix and Hodges 1951, for the rule; the added neighbour is the Bayesian estimate with
one prior observation.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from medsoft.models.aggregators.base import ChunkedBag, Explanation
from medsoft.models.aggregators.pooling import MeanAggregator

NO_SUM = "the answer of nearest neighbours is no sum over tiles: there are no contributions"


class Neighbours(nn.Module):
    """Logits from the nearest of some known vectors.

    Args:
        in_features: of a vector.
        out_features: outputs K.
        link: how the outputs answer: softmax, sigmoid or identity.
    """

    weight: Tensor  # as of a linear layer: device and type of the model
    values_MK: Tensor
    weights_MK: Tensor
    prior_K: Tensor
    k: Tensor

    def __init__(self, in_features: int, out_features: int, link: Literal["softmax", "sigmoid", "identity"]) -> None:
        super().__init__()
        self.in_features, self.out_features, self.link = in_features, out_features, link
        self.register_buffer("weight", torch.zeros(1, in_features))
        self.register_buffer("values_MK", torch.full((1, out_features), 0.5))
        self.register_buffer("weights_MK", torch.ones(1, out_features))
        self.register_buffer("prior_K", torch.full((out_features,), 0.5))
        self.register_buffer("k", torch.ones(1, dtype=torch.int64))

    def learn(self, x_MF: Tensor, values_MK: Tensor, weights_MK: Tensor, prior_K: Tensor, k: int) -> None:
        """Take these vectors and their answers for what is known."""
        device = self.weight.device
        self.weight, self.values_MK = x_MF.float().to(device), values_MK.float().to(device)
        self.weights_MK, self.prior_K = weights_MK.float().to(device), prior_K.float().to(device)
        self.k = torch.tensor([k], device=device)

    def forward(self, x_BF: Tensor) -> Tensor:
        """(B, F) to logits (B, K), float32."""
        distance_BM = torch.cdist(x_BF.float(), self.weight)
        nearest_Bk = distance_BM.topk(min(int(self.k), len(self.weight)), largest=False).indices
        weights_BkK = self.weights_MK[nearest_Bk]
        votes_BK = (self.values_MK[nearest_Bk] * weights_BkK).sum(dim=1) + self.prior_K
        share_BK: Tensor = votes_BK / (weights_BkK.sum(dim=1) + 1)
        if self.link == "softmax":
            return share_BK.log()
        return share_BK.logit() if self.link == "sigmoid" else share_BK

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # As many vectors as the training had; a module that was just made has one.
        for name in ("weight", "values_MK", "weights_MK"):
            if (found := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(found, device=self.weight.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class NeighboursAggregator(MeanAggregator):
    """The nearest training bags, by the mean of their tiles' features.

    Args:
        num_features: features F of a tile.
        num_classes: logits C.
        link: how the logits answer.
    """

    adds_up = False

    def __init__(
        self, num_features: int, num_classes: int, link: Literal["softmax", "sigmoid", "identity"] = "softmax"
    ) -> None:
        super().__init__(num_features, num_classes, dim=None)
        self.head = Neighbours(num_features, num_classes, link)  # type: ignore[assignment]

    def explain(
        self, x_1NF: Tensor, class_index: int, mask_1N: Tensor | None = None, coords_1NA: Tensor | None = None
    ) -> Explanation:
        """Raise a ValueError: there is nothing that adds up."""
        raise ValueError(NO_SUM)

    def explain_chunks(self, bag: ChunkedBag, class_index: int) -> Explanation:
        """Raise a ValueError: there is nothing that adds up."""
        raise ValueError(NO_SUM)
