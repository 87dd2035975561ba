"""Mean and maximum pooling of tiles, and what all pooling aggregators have in common.

A tile passes one layer of its own, h = ReLU(W x + b). The slide embedding is a sum over tiles, Σ_n p_n ⊙ h_n, with
weights p that sum to 1 in each channel: 1/N for the mean, 1 at the largest tile for the maximum, the attention weights
for ABMIL. The head being linear, tile n's contribution to a logit is w · (p_n ⊙ h_n), and the contributions add up to
it.

A bag without real tiles has the embedding 0, so that its logits are the head's bias.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from medsoft.layers.base import zero_padding
from medsoft.models.aggregators.base import Aggregator, ChunkedBag, Explanation
from medsoft.ops.tensors import accumulation_dtype


class RunningPool(ABC):
    """The pooled embedding of a bag of which one part after the other is seen; a few times D numbers, in float64."""

    @abstractmethod
    def update(self, h_nD: Tensor) -> None:
        """See the next tiles."""

    @abstractmethod
    def embedding_D(self) -> Tensor:
        """The embedding of all tiles seen; 0 where there was none."""

    @abstractmethod
    def parts_nD(self, h_nD: Tensor, start: int) -> Tensor:
        """What each of these tiles, the first being number ``start`` of the bag, adds to the embedding of all seen."""


class Pooling(Aggregator):
    """A layer for each tile, then a weighted sum over tiles, then a linear head. Coordinates are ignored.

    Args:
        num_features: features F of a tile.
        num_classes: logits C.
        dim: width D of the layer; None leaves it out and pools the features as they are.
        drop: dropout after the layer in training.
    """

    def __init__(self, num_features: int, num_classes: int, dim: int | None = 512, drop: float = 0.0) -> None:
        super().__init__(num_features, num_classes, num_features if dim is None else dim)
        self.tile = nn.Identity()
        if dim is not None:
            self.tile = nn.Sequential(nn.Linear(num_features, dim), nn.ReLU(), nn.Dropout(drop))

    @abstractmethod
    def pool(self, h_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        """Tiles (B, N, D), finite at padding too, to (B, D) in ``accumulation_dtype``."""

    @abstractmethod
    def running(self) -> RunningPool:
        """The same pooling for a bag in chunks."""

    def embed(self, x_BNF: Tensor, mask_BN: Tensor | None = None, coords_BNA: Tensor | None = None) -> Tensor:
        """Slide embeddings (B, D); 0 for a bag without real tiles. Sums over tiles are taken in float32 at least."""
        self.check_bags(x_BNF, mask_BN, coords_BNA)
        h_BND: Tensor = self.tile(zero_padding(x_BNF, mask_BN))
        return self.pool(h_BND, mask_BN).to(h_BND.dtype)

    @torch.no_grad()
    def explain(
        self, x_1NF: Tensor, class_index: int, mask_1N: Tensor | None = None, coords_1NA: Tensor | None = None
    ) -> Explanation:
        """One bag's logit of one class, taken apart by tile: ``logit = bias + Σ contributions``.

        Raises:
            ValueError: more than one bag, no such class, or a model in training mode.
        """
        self.check_class(class_index)
        self.check_one_bag(x_1NF, mask_1N, coords_1NA)
        x_NF = x_1NF[0]
        if mask_1N is None:
            return self.explain_chunks(ChunkedBag(lambda: [(x_NF, None)], self), class_index)
        real_N = mask_1N[0]
        found = self.explain_chunks(ChunkedBag(lambda: [(x_NF[real_N], None)], self), class_index)
        contributions_N = found.contributions_N.new_zeros(len(x_NF)).masked_scatter_(real_N, found.contributions_N)
        return Explanation.of_parts(found.logit, found.bias, contributions_N)

    def embed_chunks(self, bag: ChunkedBag) -> Tensor:
        """The embedding (1, D) of a bag that is read in chunks; one reading."""
        return self._read(bag).embedding_D()[None].to(self.head.weight.dtype)

    def explain_chunks(self, bag: ChunkedBag, class_index: int) -> Explanation:
        """As ``explain``, of a bag that is read in chunks; two readings."""
        pool = self._read(bag)
        weight_D = self.head.weight[class_index].double()

        def contributions() -> Iterator[Tensor]:
            start = 0
            for x_1nF, _ in bag:
                h_nD = self.tile(x_1nF)[0]
                yield pool.parts_nD(h_nD, start) @ weight_D
                start += len(h_nD)

        dtype = self.head.weight.dtype
        logit = self.head(pool.embedding_D()[None].to(dtype))[0, class_index]
        return Explanation.of_parts(logit, self.head.bias[class_index], bag.gather(contributions()).to(dtype))

    def _read(self, bag: ChunkedBag) -> RunningPool:
        pool = self.running()
        for x_1nF, _ in bag:
            pool.update(self.tile(x_1nF)[0])
        return pool


class MeanAggregator(Pooling):
    """The mean of the tiles: what every other aggregator must beat."""

    def pool(self, h_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        """The mean over real tiles (B, D)."""
        total_BD = zero_padding(h_BND, mask_BN).sum(dim=1, dtype=accumulation_dtype(h_BND))
        if mask_BN is None:
            return total_BD / max(h_BND.shape[1], 1)
        return total_BD / mask_BN.sum(dim=1, keepdim=True).clamp(min=1)

    def running(self) -> RunningPool:
        """The sum and number of the tiles seen."""
        return _RunningMean(self.head.weight)


class _RunningMean(RunningPool):
    def __init__(self, like: Tensor) -> None:
        self.total_D = like.new_zeros(like.shape[1], dtype=torch.float64)
        self.count = 0

    def update(self, h_nD: Tensor) -> None:
        self.total_D += h_nD.sum(dim=0, dtype=torch.float64)
        self.count += len(h_nD)

    def embedding_D(self) -> Tensor:
        return self.total_D / max(self.count, 1)

    def parts_nD(self, h_nD: Tensor, start: int) -> Tensor:
        return h_nD.double() / self.count


class MaxAggregator(Pooling):
    """The maximum over tiles in each channel; where tiles are level in a channel, the first has its contribution."""

    def pool(self, h_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        """The maximum over real tiles (B, D); 0 where there is none."""
        if h_BND.shape[1] == 0:
            return h_BND.sum(dim=1)  # no maximum of nothing: 0
        if mask_BN is None:
            return h_BND.max(dim=1).values
        largest_BD = h_BND.masked_fill(~mask_BN.unsqueeze(-1), -torch.inf).max(dim=1).values
        return torch.where(mask_BN.any(dim=1, keepdim=True), largest_BD, 0)

    def running(self) -> RunningPool:
        """The largest value of each channel seen, and the tile that has it."""
        return _RunningMax(self.head.weight)


class _RunningMax(RunningPool):
    def __init__(self, like: Tensor) -> None:
        self.largest_D = like.new_full((like.shape[1],), -torch.inf, dtype=torch.float64)
        self.winner_D = torch.full_like(self.largest_D, -1, dtype=torch.int64)
        self.count = 0

    def update(self, h_nD: Tensor) -> None:
        h_nD = h_nD.double()
        largest_D = h_nD.amax(dim=0)
        # Which of several equal ones max() names is not promised; the first of equal tiles is the first True here.
        first_D = (h_nD == largest_D).cumsum(dim=0).eq(0).sum(dim=0)
        wins_D = largest_D > self.largest_D
        self.winner_D = torch.where(wins_D, first_D + self.count, self.winner_D)
        self.largest_D = torch.where(wins_D, largest_D, self.largest_D)
        self.count += len(h_nD)

    def embedding_D(self) -> Tensor:
        return torch.where(self.winner_D >= 0, self.largest_D, 0)

    def parts_nD(self, h_nD: Tensor, start: int) -> Tensor:
        numbers_n1 = torch.arange(start, start + len(h_nD), device=h_nD.device)[:, None]
        return torch.where(numbers_n1 == self.winner_D, h_nD.double(), 0)
