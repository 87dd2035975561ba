"""A transformer over the tiles of a slide with a class token, and any of medsoft's attention mechanisms.

    tiles: Linear F → D, LayerNorm, + coordinate embedding (optional)
    class token + tiles → depth − 1 pre-norm blocks → pre-norm attention without an MLP → LayerNorm → head, class token

The layout is that of Vaswani et al. 2017 and Dosovitskiy et al. 2021 (arXiv 2010.11929) with two deviations. Encoders'
features differ in scale by orders of magnitude: the first LayerNorm brings tiles to the scale of the coordinate
embedding. And the last layer ends with its attention: an MLP after it would mix the tiles' parts, which then could not
be told apart. So a logit is a sum over tiles, once the scale of the final LayerNorm is held constant (``explain``).

Tokens have no position but their coordinates: without these the order of the tiles does not matter, except to soft and
soft_norm, whose landmarks are means of segments in the order of the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medsoft.layers.attention import build_attention
from medsoft.layers.attribution import contributions_of, token_contributions
from medsoft.layers.base import Attention, zero_padding
from medsoft.layers.block import Block
from medsoft.layers.coordinates import CoordinateEmbedding
from medsoft.layers.seqnorm import SeqNormAttention
from medsoft.models.aggregators.base import Aggregator, ChunkedBag, Explanation


class _State(Protocol):
    def merge(self, other: Any) -> Any: ...


class _StreamingAttention(Attention, Protocol):
    def state(self, x_BND: Tensor) -> _State: ...

    def attend(self, x_BND: Tensor, state: _State) -> Tensor: ...

    def chunk_contributions(self, x_BND: Tensor, query_B1D: Tensor, state: _State) -> tuple[Tensor, Tensor]: ...


class TransformerAggregator(Aggregator):
    """Attention between tiles, read out by a class token.

    A bag without real tiles gives what the class token finds in itself: finite, and the same for every such bag.

    Args:
        num_features: features F of a tile.
        num_classes: logits C.
        dim: width D.
        num_heads: attention heads.
        depth: attention layers, the last one without an MLP.
        attention: name of the mechanism, a key of ``medsoft.layers.attention.ATTENTION``.
        attention_options: passed to every attention module.
        coordinates: add a ``CoordinateEmbedding``: True for one in µm, or the name of its frame; bags must then come
            with coordinates.
        mlp_ratio: width of the MLP's hidden layer over D.
        drop: dropout after attention and inside the MLP in training.

    Raises:
        ValueError: unknown mechanism, ``depth`` below 1, D not divisible by the heads (by 4 for coordinates).
    """

    has_class_token = True

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        dim: int = 512,
        num_heads: int = 8,
        depth: int = 2,
        attention: str = "seqnorm",
        attention_options: dict[str, Any] | None = None,
        coordinates: bool | str = False,
        mlp_ratio: float = 4.0,
        drop: float = 0.0,
    ) -> None:
        super().__init__(num_features, num_classes, dim)
        if depth < 1:
            raise ValueError(f"depth {depth}: at least one attention layer is needed")
        options = attention_options or {}
        self.attention = attention
        self._group: dist.ProcessGroup | None = None
        self.tile = nn.Sequential(nn.Linear(num_features, dim), nn.LayerNorm(dim))
        frame = "um" if coordinates is True else coordinates
        self.coordinates = CoordinateEmbedding(dim, frame) if frame else None
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, attention, mlp_ratio, proj_drop=drop, **options) for _ in range(depth - 1)
        )
        self.last_norm = nn.LayerNorm(dim, eps=1e-6)
        self.last_attn = build_attention(attention, dim, num_heads, proj_drop=drop, **options)
        self.streams = hasattr(self.last_attn, "state")
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.streams = hasattr(self.last_attn, "state")
        self.frame = None if self.coordinates is None else self.coordinates.frame

    def embed(self, x_BNF: Tensor, mask_BN: Tensor | None = None, coords_BNA: Tensor | None = None) -> Tensor:
        """Slide embeddings (B, D): the class token after the final LayerNorm.

        Raises:
            ValueError: a tensor of the wrong shape, or no coordinates where the model embeds them.
        """
        if self._group is not None:
            return self._embed_divided(x_BNF, mask_BN, coords_BNA)
        x_BND, mask = self._before_last(x_BNF, mask_BN, coords_BNA)
        branch_BD = self.last_attn(self.last_norm(x_BND), mask)[:, 0]
        embedding_BD: Tensor = self.norm(x_BND[:, 0] + branch_BD)
        return embedding_BD

    def divide(self, group: dist.ProcessGroup | None) -> None:
        """Let each process of ``group`` hold some of every bag's tiles, so that a bag may be larger than a device.

        All processes call the model with the same bags, each with its own tiles, and get the same logits. The moments
        of the tokens are summed once a layer; nothing else travels. With the same loss in every process, the mean of
        the processes' gradients, as DDP takes it, is the gradient of the whole bag.

        Args:
            group: the processes; None: this process holds whole bags.

        Raises:
            ValueError: another attention than seqnorm, or dropout, which would differ between the processes.
        """
        if group is not None and self.attention != "seqnorm":
            raise ValueError(f"{self.attention} attention cannot divide a bag over processes: seqnorm can")
        if group is not None and any(module.p for module in self.modules() if isinstance(module, nn.Dropout)):
            raise ValueError("dropout differs between the processes that a bag is divided over: set drop to 0")
        self._group = group
        for attention in (*(block.attn for block in self._blocks()), self.last_attn):
            if isinstance(attention, SeqNormAttention):
                attention.group = group

    def _embed_divided(self, x_BNF: Tensor, mask_BN: Tensor | None, coords_BNA: Tensor | None) -> Tensor:
        """``embed`` of bags of which this process has some of the tiles."""
        x_BND = self._first(x_BNF, mask_BN, coords_BNA)
        counted_BN = torch.ones(x_BND.shape[:2], dtype=torch.bool, device=x_BND.device)
        if mask_BN is not None:
            counted_BN[:, 1:] = mask_BN
        # Every process carries the class token along, but one token it is.
        counted_BN[:, 0] = dist.get_rank(self._group) == 0
        for block in self._blocks():
            state = cast(SeqNormAttention, block.attn).state(block.norm1(x_BND), counted_BN)
            x_BND = _through(block, x_BND, state)
        state = cast(SeqNormAttention, self.last_attn).state(self.last_norm(x_BND), counted_BN)
        embedding_BD: Tensor = self.norm(self._last_layer(x_BND[:, :1], state))[:, 0]
        return embedding_BD

    def _check_whole(self) -> None:
        if self._group is not None:
            raise ValueError("the tiles of a bag are divided over processes: call divide(None) for whole bags")

    @torch.no_grad()
    def explain(
        self, x_1NF: Tensor, class_index: int, mask_1N: Tensor | None = None, coords_1NA: Tensor | None = None
    ) -> Explanation:
        """One bag's logit of one class, taken apart by tile: each one's part in the last attention of the class token.

        Raises:
            ValueError: more than one bag, no such class, a model in training mode, or coordinates missing.
        """
        self.check_class(class_index)
        self.check_one_bag(x_1NF, mask_1N, coords_1NA)
        self._check_whole()
        x_1ND, mask = self._before_last(x_1NF, mask_1N, coords_1NA)
        tokens_1ND = self.last_norm(x_1ND)
        cls_1D = x_1ND[:, 0]
        after_1D = cls_1D + self.last_attn(tokens_1ND, mask)[:, 0]
        gradient_1D = self._gradient(after_1D, class_index)
        contributions_1N = token_contributions(cast(Attention, self.last_attn), tokens_1ND, gradient_1D, 0, mask)
        return self._explanation(class_index, cls_1D, after_1D, gradient_1D, contributions_1N)

    def embed_chunks(self, bag: ChunkedBag) -> Tensor:
        """The embedding (1, D) of a bag that is read in chunks, once a layer.

        Raises:
            ValueError: the attention cannot be streamed.
        """
        cls_11D, states = self._read(bag)
        embedding_1D: Tensor = self.norm(self._last_layer(cls_11D, states[-1]))[:, 0]
        return embedding_1D

    def explain_chunks(self, bag: ChunkedBag, class_index: int) -> Explanation:
        """As ``explain``, of a bag that is read in chunks, once a layer and once more."""
        cls_11D, states = self._read(bag)
        after_1D = self._last_layer(cls_11D, states[-1])[:, 0]
        gradient_1D = self._gradient(after_1D, class_index)
        last = self._streaming()[-1]
        query_11D = self.last_norm(cls_11D)

        def contributions_of_chunk(x_1nD: Tensor) -> Tensor:
            parts = last.chunk_contributions(self.last_norm(x_1nD), query_11D, states[-1])
            return contributions_of(*parts, gradient_1D, last)[0]

        tokens = chain([cls_11D], self._chunks(bag, states[:-1]))
        contributions_1M = bag.gather(map(contributions_of_chunk, tokens), more=1)[None]
        return self._explanation(class_index, cls_11D[:, 0], after_1D, gradient_1D, contributions_1M)

    def _tokens(self, x_BNF: Tensor, coords_BNA: Tensor | None) -> Tensor:
        x_BND: Tensor = self.tile(x_BNF)
        if self.coordinates is None:
            return x_BND
        if coords_BNA is None:
            raise ValueError(
                f"this model embeds the tiles' coordinates: give coords_BNA, in {self.coordinates.frame.unit}"
            )
        if coords_BNA.shape[-1] != self.coordinates.frame.axes:
            raise ValueError(
                f"this model embeds coordinates of {self.coordinates.frame.axes} axes, not {coords_BNA.shape[-1]}"
            )
        places_BND: Tensor = self.coordinates(coords_BNA)
        return x_BND + places_BND.to(x_BND.dtype)

    def _before_last(
        self, x_BNF: Tensor, mask_BN: Tensor | None, coords_BNA: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Class token and tiles (B, 1 + N, D) before the last layer, and their mask."""
        x_BND = self._first(x_BNF, mask_BN, coords_BNA)
        mask = None
        if mask_BN is not None:
            mask = torch.cat([mask_BN.new_ones(len(mask_BN), 1), mask_BN], dim=1)
        for block in self.blocks:
            x_BND = block(x_BND, mask)
        return x_BND, mask

    def _first(self, x_BNF: Tensor, mask_BN: Tensor | None, coords_BNA: Tensor | None) -> Tensor:
        """Class token and tiles (B, 1 + N, D) before the first layer."""
        self.check_bags(x_BNF, mask_BN, coords_BNA)
        if coords_BNA is not None:
            coords_BNA = zero_padding(coords_BNA, mask_BN)
        tiles_BND = self._tokens(zero_padding(x_BNF, mask_BN), coords_BNA)
        # shape[0], and not len(), which would fix the number of bags of an exported model.
        cls_B1D = self.cls_token.to(tiles_BND.dtype).expand(tiles_BND.shape[0], -1, -1)
        return torch.cat([cls_B1D, tiles_BND], dim=1)

    def _gradient(self, after_1D: Tensor, class_index: int) -> Tensor:
        """Gradient of a logit at the final LayerNorm's input, the LayerNorm's scale held constant."""
        scale = torch.rsqrt(after_1D.var(dim=-1, correction=0, keepdim=True) + self.norm.eps)
        gradient_1D: Tensor = self.head.weight[class_index] * self.norm.weight * scale
        return gradient_1D - gradient_1D.mean(dim=-1, keepdim=True)  # the LayerNorm subtracts the mean

    def _explanation(
        self, class_index: int, cls_1D: Tensor, after_1D: Tensor, gradient_1D: Tensor, contributions_1N: Tensor
    ) -> Explanation:
        g_D = gradient_1D[0]
        attention = cast(Attention, self.last_attn)
        head_bias = self.head.bias[class_index] + self.head.weight[class_index] @ self.norm.bias
        return Explanation.of_parts(
            logit=self.head(self.norm(after_1D))[0, class_index],
            bias=head_bias + g_D @ attention.proj.bias,
            residual=g_D @ cls_1D[0],
            cls_contribution=contributions_1N[0, 0],
            contributions_N=contributions_1N[0, 1:],
        )

    def _streaming(self) -> list[_StreamingAttention]:
        """The attention of each layer, where it can be streamed."""
        if not hasattr(self.last_attn, "state"):
            raise ValueError(
                f"{self.attention} attention needs all tiles of a bag at once, it cannot read them in chunks: give the "
                "whole bag, or train a model with seqnorm, sima or relu_linear"
            )
        return cast(list[_StreamingAttention], [*(block.attn for block in self._blocks()), self.last_attn])

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def _read(self, bag: ChunkedBag) -> tuple[Tensor, list[_State]]:
        """The class token before the last layer (1, 1, D), and the state of each layer's attention over the bag."""
        self._check_whole()
        attentions = self._streaming()
        norms = [*(block.norm1 for block in self._blocks()), self.last_norm]
        cls_11D: Tensor = self.cls_token
        states: list[_State] = []
        for layer, (attn, norm) in enumerate(zip(attentions, norms, strict=True)):
            state = attn.state(norm(cls_11D))
            for x_1nD in self._chunks(bag, states):
                state = state.merge(attn.state(norm(x_1nD)))
            states.append(state)
            if layer < len(self.blocks):
                cls_11D = _through(self._blocks()[layer], cls_11D, state)
        return cls_11D, states

    def _chunks(self, bag: ChunkedBag, states: list[_State]) -> Iterator[Tensor]:
        """One reading: tokens (1, n, D) after as many blocks as there are states."""
        for x_1nF, coords_1nA in bag:
            x_1nD = self._tokens(x_1nF, coords_1nA)
            for block, state in zip(self._blocks(), states, strict=False):  # as many as there are states
                x_1nD = _through(block, x_1nD, state)
            yield x_1nD

    def _last_layer(self, cls_11D: Tensor, state: _State) -> Tensor:
        return cls_11D + self._streaming()[-1].attend(self.last_norm(cls_11D), state)


def _through(block: Block, x_1nD: Tensor, state: _State) -> Tensor:
    """A block in inference at some of a bag's tokens, given its attention's state over the whole bag."""
    x_1nD = x_1nD + cast(_StreamingAttention, block.attn).attend(block.norm1(x_1nD), state)
    out: Tensor = x_1nD + block.mlp(block.norm2(x_1nD))
    return out
