"""An aggregator that stands on a linear probe: the probe's logits, and what an aggregator adds to them.

    logits = w · mean_n(x_n) + b + aggregator(x)

The probe is solved first and stays as it is. The aggregator's last layer begins at zero, so that the sum begins as the
probe itself, and what is learnt is what the mean of a bag's features leaves unexplained: stagewise regression, of two
stages (Friedman 2001, Annals of Statistics 29, section 2). Both parts are sums over tiles, and so is their sum.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from medsoft.layers.standardise import Standardise
from medsoft.models.aggregators.base import Aggregator, ChunkedBag, Explanation
from medsoft.models.aggregators.pooling import MeanAggregator


class OnProbe(Aggregator):
    """The sum of a linear probe on the mean of a bag's features, and of an aggregator.

    Args:
        learnt: the aggregator that is trained; its head is set to zero.
    """

    def __init__(self, learnt: Aggregator) -> None:
        nn.Module.__init__(self)  # its layers are those of its parts
        self.num_features = learnt.num_features
        self.learnt = learnt
        self.probe = MeanAggregator(learnt.num_features, learnt.head.out_features, dim=None).requires_grad_(False)
        self.probe.tile = nn.Sequential(Standardise(learnt.num_features), self.probe.tile)
        self.streams, self.frame = learnt.streams, learnt.frame
        self.has_class_token = learnt.has_class_token
        nn.init.zeros_(learnt.head.weight)
        nn.init.zeros_(learnt.head.bias)
        nn.init.zeros_(self.probe.head.weight)  # until it is solved, it says nothing
        nn.init.zeros_(self.probe.head.bias)

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]
        """The last layer of the part that learns: what it reads is the bag's embedding."""
        return self.learnt.head

    @property
    def tile(self) -> nn.Module:  # type: ignore[override]
        """What each tile passes first, in the part that learns."""
        return self.learnt.tile

    @torch.no_grad()
    def solve(self, mean_F: np.ndarray, sd_F: np.ndarray, weight_CF: np.ndarray, bias_C: np.ndarray) -> None:
        """Give the probe its solution: weights of features that are standardised by these means and deviations."""
        first: Any = self.probe.tile
        cast(Standardise, first[0]).learn(torch.from_numpy(mean_F), torch.from_numpy(sd_F))
        self.probe.head.weight.copy_(torch.from_numpy(weight_CF))
        self.probe.head.bias.copy_(torch.from_numpy(bias_C))

    def forward(self, x_BNF: Tensor, mask_BN: Tensor | None = None, coords_BNA: Tensor | None = None) -> Tensor:
        learnt_BC: Tensor = self.learnt(x_BNF, mask_BN, coords_BNA)
        probed_BC: Tensor = self.probe(x_BNF, mask_BN)
        return probed_BC + learnt_BC

    def embed(self, x_BNF: Tensor, mask_BN: Tensor | None = None, coords_BNA: Tensor | None = None) -> Tensor:
        """Embeddings (B, D) of the part that learns."""
        return self.learnt.embed(x_BNF, mask_BN, coords_BNA)

    @torch.no_grad()
    def explain(
        self, x_1NF: Tensor, class_index: int, mask_1N: Tensor | None = None, coords_1NA: Tensor | None = None
    ) -> Explanation:
        """One bag's logit of one class, taken apart by tile: the sum of what the parts say.

        Raises:
            ValueError: as the part that learns.
        """
        learnt = self.learnt.explain(x_1NF, class_index, mask_1N, coords_1NA)
        return learnt + self.probe.explain(x_1NF, class_index, mask_1N)

    def embed_chunks(self, bag: ChunkedBag) -> Tensor:
        """The embedding (1, D) of the part that learns."""
        return self.learnt.embed_chunks(bag)

    def logits_chunks(self, bag: ChunkedBag) -> Tensor:
        """Logits (1, C) of a bag that is read in chunks, once more than the part that learns needs."""
        return self.learnt.logits_chunks(bag) + self.probe.logits_chunks(bag)

    def explain_chunks(self, bag: ChunkedBag, class_index: int) -> Explanation:
        return self.learnt.explain_chunks(bag, class_index) + self.probe.explain_chunks(bag, class_index)
