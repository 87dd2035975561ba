"""The interface of slide aggregators: logits of a bag of encoded tiles, and each tile's contribution to them.

Axes: ``B`` bags, ``N`` tiles, ``F`` features per tile as the encoder gives them, ``D`` width of the slide embedding,
``C`` classes; ``n`` tiles of one chunk of a bag.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from medsoft.layers.coordinates import Frame

Chunk = tuple[Tensor, Tensor | None]
"""Features (n, F) of some of a bag's tiles, and their coordinates (n, axes) where there are any."""

Criterion = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, C) and targets (B, …) to a loss."""

ReadChunks = Callable[[], Iterable[Chunk]]
"""Starts a new reading of a whole bag each time it is called; the same tiles in the same order."""


@dataclass(frozen=True)
class Explanation:
    """A logit taken apart: ``logit = bias + residual + cls_contribution + Σ contributions_N + remainder``.

    Every part has the logit's unit. The contribution of a tile is what it adds to this class's logit, given the
    statistics that depend on all tiles (attention weights, normalisations): leaving the tile out changes those as well.

    Attributes:
        logit: of the class that was asked for (0-dim), as the forward pass gives it.
        bias: what any bag would get given those statistics: biases of the head, norms and projections.
        residual: of the class token's residual stream, which carries what earlier layers gathered; 0 when pooling.
        cls_contribution: the class token's contribution in the attention to itself; 0 when pooling.
        contributions_N: of each tile; 0 at padding.
        remainder: what rounding leaves.
    """

    logit: Tensor
    bias: Tensor
    residual: Tensor
    cls_contribution: Tensor
    contributions_N: Tensor
    remainder: Tensor

    @classmethod
    def of_parts(
        cls,
        logit: Tensor,
        bias: Tensor,
        contributions_N: Tensor,
        residual: Tensor | None = None,
        cls_contribution: Tensor | None = None,
    ) -> Explanation:
        """An explanation whose remainder is what the parts leave of the logit."""
        residual = torch.zeros_like(logit) if residual is None else residual
        cls_contribution = torch.zeros_like(logit) if cls_contribution is None else cls_contribution
        remainder = logit - (bias + residual + cls_contribution + contributions_N.sum())
        return cls(logit, bias, residual, cls_contribution, contributions_N, remainder)

    def __add__(self, other: Explanation) -> Explanation:
        """Of the sum of two logits of one bag."""
        return Explanation(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


class Aggregator(nn.Module, ABC):
    """A bag of encoded tiles to logits. Bags of unequal size are padded and come with a mask.

    Args:
        num_features: features F of a tile.
        num_classes: logits C.
        dim: width D of the slide embedding.

    Attributes:
        tile: what each tile passes by itself first.
        adds_up: whether logits are sums over tiles, which ``explain`` takes apart.
        gives_attention: whether it gives each tile an attention weight in place of a contribution.
        streams: whether bags can be read in chunks.
        needs_coordinates: whether every bag must come with the places of its tiles.
        two_classes_only: why the aggregator can learn no other task than to tell two classes; empty where it can.
        has_class_token: whether a logit has parts of a class token beside those of the tiles.
        frame: what places are counted in, where they are embedded; else None.
    """

    tile: nn.Module
    adds_up: bool = True
    gives_attention: bool = False
    streams: bool = True
    needs_coordinates: bool = False
    two_classes_only: str = ""
    has_class_token: bool = False
    frame: Frame | None = None

    def __init__(self, num_features: int, num_classes: int, dim: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x_BNF: Tensor, mask_BN: Tensor | None = None, coords_BNA: Tensor | None = None) -> Tensor:
        """Logits (B, C).

        Args:
            x_BNF: features of the tiles; padded rows may hold anything, NaN included, and change nothing.
            mask_BN: True where a tile is real; None where all are.
            coords_BNA: the tiles' places in their slide, image or volume, (x, y) or (x, y, z) in the frame of
                ``CoordinateEmbedding``; aggregators without an embedding of them ignore them.

        Raises:
            ValueError: a tensor of the wrong shape.
        """
        logits_BC: Tensor = self.head(self.embed(x_BNF, mask_BN, coords_BNA))
        return logits_BC

    @abstractmethod
    def embed(self, x_BNF: Tensor, mask_BN: Tensor | None = None, coords_BNA: Tensor | None = None) -> Tensor:
        """Slide embeddings (B, D), which the head turns into logits; finite for a bag without real tiles too."""

    def with_own_losses(self, loss: Tensor, criterion: Criterion, target_B: Tensor) -> Tensor:
        """The loss of a training step: the task's, and what the aggregator adds to it, which here is nothing.

        Args:
            loss: of the task, for the bags that the model has just seen.
            criterion: the task's loss.
            target_B: targets of the bags.
        """
        return loss

    @abstractmethod
    def explain(
        self,
        x_1NF: Tensor,
        class_index: int,
        mask_1N: Tensor | None = None,
        coords_1NA: Tensor | None = None,
    ) -> Explanation:
        """One bag's logit of one class, taken apart by tile. Without gradient.

        Raises:
            ValueError: more than one bag, no such class, or a model in training mode.
        """

    def attention_of_tiles(self, x_1NF: Tensor, coords_1NA: Tensor | None = None) -> Tensor:
        """The attention (N,) of one bag's tiles, of an aggregator that ``gives_attention``.

        Raises:
            ValueError: it does not.
        """
        raise ValueError(f"{type(self).__name__} gives no attention of its tiles: its contributions say more")

    @abstractmethod
    def embed_chunks(self, bag: ChunkedBag) -> Tensor:
        """The embedding (1, D) of a bag that is read in chunks; memory does not depend on its length."""

    def logits_chunks(self, bag: ChunkedBag) -> Tensor:
        """Logits (1, C) of a bag that is read in chunks."""
        logits_1C: Tensor = self.head(self.embed_chunks(bag))
        return logits_1C

    @abstractmethod
    def explain_chunks(self, bag: ChunkedBag, class_index: int) -> Explanation:
        """As ``explain``, of a bag that is read in chunks; one number a tile is kept."""

    def check_bags(self, x_BNF: Tensor, mask_BN: Tensor | None, coords_BNA: Tensor | None) -> None:
        """Raise a ValueError where shapes do not fit each other or the model."""
        if x_BNF.ndim != 3 or x_BNF.shape[-1] != self.num_features:
            raise ValueError(f"features must be (bags, tiles, {self.num_features}), not {tuple(x_BNF.shape)}")
        if mask_BN is not None and mask_BN.shape != x_BNF.shape[:2]:
            raise ValueError(f"mask {tuple(mask_BN.shape)} does not fit features {tuple(x_BNF.shape)}")
        if coords_BNA is not None and coords_BNA.shape not in [(*x_BNF.shape[:2], axes) for axes in (2, 3)]:
            raise ValueError(f"coordinates {tuple(coords_BNA.shape)} do not fit features {tuple(x_BNF.shape)}")

    def check_one_bag(self, x_1NF: Tensor, mask_1N: Tensor | None, coords_1NA: Tensor | None) -> None:
        """Raise a ValueError where there is more than one bag, or shapes do not fit."""
        self.check_bags(x_1NF, mask_1N, coords_1NA)
        if len(x_1NF) != 1:
            raise ValueError(f"only one bag at a time can be explained, not {len(x_1NF)}")

    def check_class(self, class_index: int) -> None:
        """Raise a ValueError where there is no such class, or dropout would make an explanation random."""
        if not 0 <= class_index < self.head.out_features:
            raise ValueError(f"class {class_index} of a model with {self.head.out_features} classes, counted from 0")
        self.check_eval()

    def check_eval(self) -> None:
        """Raise a ValueError in training mode."""
        if self.training:
            raise ValueError("the model is in training mode, where dropout is random: call .eval() first")


class ChunkedBag:
    """A bag that is read in chunks as often as needed, each chunk brought to the model's device and precision.

    Args:
        read_chunks: starts a reading.
        aggregator: the model that will see the chunks.
    """

    def __init__(self, read_chunks: ReadChunks, aggregator: Aggregator) -> None:
        self._read_chunks = read_chunks
        self._aggregator = aggregator
        self._num_tiles: int | None = None

    def __iter__(self) -> Iterator[Chunk]:
        """Chunks as bags of their own: features (1, n, F) and coordinates (1, n, 2) or None; none of them empty.

        Raises:
            ValueError: a chunk of the wrong shape, or a reading that gave another number of tiles than the first.
        """
        weight = self._aggregator.head.weight
        num_tiles = 0
        for x_nF, coords_nA in self._read_chunks():
            x_1nF = x_nF.to(weight.device, weight.dtype)[None]
            coords = None if coords_nA is None else coords_nA.to(weight.device)[None]
            self._aggregator.check_bags(x_1nF, None, coords)
            num_tiles += x_1nF.shape[1]
            if self._num_tiles is not None and num_tiles > self._num_tiles:
                break
            if x_1nF.shape[1]:
                yield x_1nF, coords
        if self._num_tiles is not None and num_tiles != self._num_tiles:
            raise ValueError(
                f"the first reading of the bag gave {self._num_tiles} tiles, a later one "
                f"{'more' if num_tiles > self._num_tiles else num_tiles}: "
                "read_chunks must start a new reading each time it is called"
            )
        self._num_tiles = num_tiles

    def gather(self, parts: Iterable[Tensor], more: int = 0) -> Tensor:
        """One number a tile, (N,), from the pieces (n,) of a later reading than the first.

        Each piece is copied as it comes. Kept as they are, the small pieces would lie between large ones that are done
        with, and hold up the memory around them: 1.7 kB a tile were measured.

        Args:
            parts: the pieces, in order.
            more: numbers beside those of the tiles.
        """
        if self._num_tiles is None:
            raise RuntimeError("the bag must be read once before its results are collected")
        gathered_N, start = self._aggregator.head.weight.new_empty(0), 0
        for part_n in parts:
            if not start:
                gathered_N = part_n.new_empty(self._num_tiles + more)
            gathered_N[start : start + len(part_n)] = part_n
            start += len(part_n)
        return gathered_N
