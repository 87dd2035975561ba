"""Inference over bags that are read in chunks, several times if necessary, so that they need not fit in memory.

``read_chunks()`` starts a reading of the whole bag and gives ``(features (n, F), coordinates (n, axes) or None)``,
real tiles only, in chunks of any size. mean, max and abmil read a bag once; a transformer with seqnorm, sima or
relu_linear once a layer, because a layer must have seen all tokens before the next can begin. An explanation takes one
reading more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medsoft.models.aggregators.base import Aggregator, ChunkedBag, Explanation, ReadChunks


def can_stream(aggregator: Aggregator) -> bool:
    """Whether bags can be read in chunks; softmax, soft and soft_norm attention, and torchmil's models, cannot."""
    return aggregator.streams


@torch.no_grad()
def stream_logits(aggregator: Aggregator, read_chunks: ReadChunks) -> Tensor:
    """Logits (1, C) of one bag; equal to those of the whole bag at once, to rounding, whatever the chunks.

    Memory grows with the chunks, not with the bag. Chunks are brought to the model's device and precision.

    Raises:
        ValueError: the model is in training mode, its attention cannot be streamed (softmax, soft, soft_norm), or
            ``read_chunks`` does not give the same number of tiles each time.
    """
    aggregator.check_eval()
    return aggregator.logits_chunks(ChunkedBag(read_chunks, aggregator))


@torch.no_grad()
def stream_explain(aggregator: Aggregator, read_chunks: ReadChunks, class_index: int) -> Explanation:
    """The logit of a class, taken apart by tile, as ``aggregator.explain`` does it with the whole bag at once.

    Beside the chunks, one number a tile is held: ``contributions_N``, in the order of reading.

    Raises:
        ValueError: as ``stream_logits``; no such class.
    """
    aggregator.check_class(class_index)
    return aggregator.explain_chunks(ChunkedBag(read_chunks, aggregator), class_index)


@torch.no_grad()
def read_logits(aggregator: Aggregator, read_chunks: ReadChunks) -> Tensor:
    """Logits (1, C) of one bag: in chunks where the aggregator can do so, else with all its tiles in memory at once.

    Raises:
        ValueError: the features do not fit the model, or coordinates are missing that it needs.
    """
    if can_stream(aggregator):
        return stream_logits(aggregator, read_chunks)
    logits_1C: Tensor = aggregator(*_whole(aggregator, read_chunks))
    return logits_1C


@torch.no_grad()
def read_explanation(aggregator: Aggregator, read_chunks: ReadChunks, class_index: int) -> Explanation:
    """The logit of a class, taken apart by tile, from a bag that is read as by ``read_logits``; raises as that does."""
    if can_stream(aggregator):
        return stream_explain(aggregator, read_chunks, class_index)
    x_1NF, mask, coords_1NA = _whole(aggregator, read_chunks)
    return aggregator.explain(x_1NF, class_index, mask, coords_1NA)


@torch.no_grad()
def read_attention(aggregator: Aggregator, read_chunks: ReadChunks) -> Tensor:
    """The attention (N,) of each tile of one bag, with all of them in memory at once.

    Raises:
        ValueError: the aggregator does not say it (``gives_attention``); else as by ``read_logits``.
    """
    x_1NF, _, coords_1NA = _whole(aggregator, read_chunks)
    return aggregator.attention_of_tiles(x_1NF, coords_1NA)


def _whole(aggregator: Aggregator, read_chunks: ReadChunks) -> tuple[Tensor, None, Tensor | None]:
    """Features (1, N, F), no mask, places (1, N, axes) or None: what an aggregator takes."""
    weight = aggregator.head.weight
    features, places = zip(*read_chunks(), strict=True)
    x_1NF = torch.cat(features)[None].to(weight.device, weight.dtype)
    return x_1NF, None, None if places[0] is None else torch.cat(places)[None].to(weight.device)
