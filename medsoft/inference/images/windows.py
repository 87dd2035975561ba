"""Maps of tokens of images larger than an encoder's input, from overlapping windows.

Windows overlap, and each gives the tokens in its middle: between two neighbours the border lies in the middle of what
they share. A mean over both (blending) would mix tokens that saw a window's edge, where a convolution sees zeros and a
transformer nothing, into tokens that did not. So where a network's receptive field is smaller than the overlap, the
joined map is that of the whole image, up to rounding.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from medsoft.errors import InputError

CONVOLUTIONAL_PX, CONVOLUTIONAL_OVERLAP_PX = 1536, 512
"""Windows of networks that take any size. Smaller ones would need less memory, but a smaller overlap shows: on fundus
photographs, the smoothest of images, the tokens of EfficientNet-Lite0 differ from those of the whole by 0.4 % on
average (and 9 % at most) with an overlap of 512 px, by 10 % with 256, and not at all with 768, which takes a quarter
more time."""
OVERLAP = 0.25
"""Of windows whose side is given by the encoder, as a fraction of it."""


class MapEncoder(Protocol):
    """What is needed of an encoder (``medsoft.encoders.encoder.Encoder``)."""

    name: str
    sha256: str
    init: str
    precision: str
    num_features: int
    settings: Any
    recipe: Any

    @property
    def engine(self) -> str:
        """What computed the last images, such as ``torch``."""

    def expect(self, images: int, of_own_size: bool = True) -> None:
        """So many more images are to come, all of the recipe's size or not."""

    @property
    def grid(self) -> tuple[int, ...]:
        """Of the tokens of an image of the recipe's size."""

    @property
    def num_token_features(self) -> int:
        """Length of a token's features."""

    def __call__(self, images_BHWC: np.ndarray, /) -> np.ndarray:
        """Pooled vectors (B, P)."""

    def pooled_and_tokens(self, images_BHWC: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
        """Pooled vectors (B, P), and maps (B, h, w, F) or (B, d, h, w, F)."""


class Piece(NamedTuple):
    """A window along one axis, in tokens: where it lies, and which of its tokens are taken."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Windows:
    """How images are divided.

    Attributes:
        side: of a window, in tokens; the largest one where they need not be equal.
        overlap: least overlap of two neighbours, in tokens.
        stride: pixels of a token.
        fixed: whether the encoder takes windows of this very side alone.
    """

    side: int
    overlap: int
    stride: int
    fixed: bool

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the maps, in pixels."""
        return {"side": self.side * self.stride, "overlap": self.overlap * self.stride}

    def pieces(self, tokens: int) -> list[Piece]:
        """The windows along an axis of so many tokens, evenly spread."""
        if tokens <= self.side:
            stop = self.side if self.fixed else tokens
            return [Piece(0, stop, 0, tokens)]
        count = -(-(tokens - self.overlap) // (self.side - self.overlap))
        side = self.side if self.fixed else -(-(tokens + (count - 1) * self.overlap) // count)
        starts = [round(index * (tokens - side) / (count - 1)) for index in range(count)]
        borders = [(start + before + side) // 2 for before, start in itertools.pairwise(starts)]
        firsts, lasts = [0, *borders], [*borders, tokens]
        return [Piece(start, start + side, *own) for start, *own in zip(starts, firsts, lasts, strict=True)]


def windows_of(encoder: MapEncoder, is_convolutional: bool, side_px: int | None, overlap_px: int | None) -> Windows:
    """The windows of an encoder for pictures.

    Args:
        encoder: of the size at which it was built.
        is_convolutional: whether it takes any size without being built anew.
        side_px: of a window; None: the usual one.
        overlap_px: of two windows; None: the usual one.

    Raises:
        InputError: they are no multiples of the stride, or the overlap is not smaller than the side.
    """
    height, width = encoder.recipe.size
    rows, columns = encoder.grid
    stride = width // columns
    if not is_convolutional and (side_px or width) != width:
        raise InputError(f"--window {side_px}: {encoder.name} takes {width} px and no other size")
    if height != width or stride * columns != width or stride * rows != height:
        if side_px or overlap_px:
            raise InputError(f"--window: the tokens of {encoder.name} do not divide its input evenly")
        return Windows(columns, 0, max(1, stride), fixed=True)
    side = side_px or (max(CONVOLUTIONAL_PX, width) // stride * stride if is_convolutional else width)
    usual = CONVOLUTIONAL_OVERLAP_PX if is_convolutional else OVERLAP * side
    overlap = max(1, round(min(usual, side / 2) / stride)) * stride if overlap_px is None else overlap_px
    for option, value in (("window", side), ("overlap", overlap)):
        if value % stride:
            raise InputError(f"--{option} {value}: not a multiple of the {stride} px of a token of {encoder.name}")
    if not 0 <= overlap < side:
        raise InputError(f"--overlap {overlap}: must be smaller than the window ({side} px)")
    return Windows(side // stride, overlap // stride, stride, fixed=not is_convolutional)


def encode_map(
    encoder: MapEncoder, image_HWC: np.ndarray, windows: Windows, pools_by_mean: bool, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """The pooled vector and the map of an image of any size; black is added up to whole tokens.

    Args:
        encoder: of the windows.
        image_HWC: prepared, uint8.
        windows: how it is divided.
        pools_by_mean: whether the encoder's pooled vector is the mean of its map; the image's then is that of the
            joined map. Else it is the mean of the windows' vectors, weighted by the tokens that each gives.
        batch: windows that are encoded together.

    Returns:
        (P,) and (h, w, F), float32.
    """
    shape = tuple(-(-side // windows.stride) for side in image_HWC.shape[:2])
    axes = [windows.pieces(tokens) for tokens in shape]
    padded = filled_up(image_HWC, [max(piece.stop for piece in pieces) * windows.stride for pieces in axes])
    map_hwF = np.empty((*shape, encoder.num_token_features), np.float32)
    pooled_P = np.zeros(encoder.num_features)
    places = list(itertools.product(*axes))
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        inputs = np.stack([padded[_of(y, windows.stride), _of(x, windows.stride)] for y, x in some])
        vectors, maps = encoder.pooled_and_tokens(inputs)
        for (y, x), vector, one_hwF in zip(some, vectors, maps, strict=True):
            own = one_hwF[y.first - y.start : y.last - y.start, x.first - x.start : x.last - x.start]
            map_hwF[y.first : y.last, x.first : x.last] = own
            pooled_P += vector * ((y.last - y.first) * (x.last - x.first) / (shape[0] * shape[1]))
    if pools_by_mean and len(places) > 1:
        pooled_P = map_hwF.mean(axis=(0, 1), dtype=np.float64)
    return pooled_P.astype(np.float32), map_hwF


def filled_up(image_HWC: np.ndarray, size: list[int]) -> np.ndarray:
    """An image with black to the right and below, up to a (height, width)."""
    height, width = image_HWC.shape[:2]
    if (height, width) == tuple(size):
        return image_HWC
    return np.pad(image_HWC, ((0, size[0] - height), (0, size[1] - width), (0, 0)))


def _of(piece: Piece, stride: int) -> slice:
    return slice(piece.start * stride, piece.stop * stride)
