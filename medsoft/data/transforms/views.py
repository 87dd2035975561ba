"""Mirrored and rotated views of images and volumes, for test-time augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from medsoft.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Symmetry = Literal["none", "horizontal", "vertical", "both", "square"]
"""What leaves the label of a picture as it is: mirroring, or with ``square`` turning by 90 degrees too."""


class View(NamedTuple):
    """One of the eight ways to lay a square: its axes exchanged or not, then mirrored top-bottom and left-right."""

    name: str
    transposed: bool = False
    vertical: bool = False
    horizontal: bool = False

    def __call__(self, image: Tensor) -> Tensor:
        """The same picture (..., H, W) seen so; its pixels are moved and not resampled."""
        if self.transposed:
            image = image.transpose(-2, -1)
        axes = [axis for axis, mirrored in ((-2, self.vertical), (-1, self.horizontal)) if mirrored]
        return image.flip(axes) if axes else image


class Mirrored(NamedTuple):
    """A volume with one of its axes reversed."""

    name: str
    axis: int

    def __call__(self, volume: Tensor) -> Tensor:
        """The same volume (..., X, Y, Z) seen so; its voxels are moved and not resampled."""
        return volume.flip(self.axis - 3)


AnyView = View | Mirrored
AS_IT_IS = View("as it is")
_HORIZONTAL, _VERTICAL = View("left-right", horizontal=True), View("top-bottom", vertical=True)
_TURNED = View("turned by 180°", vertical=True, horizontal=True)
_SQUARE = (
    AS_IT_IS,
    _HORIZONTAL,
    _VERTICAL,
    _TURNED,
    View("transposed", transposed=True),
    View("turned by 90°", transposed=True, horizontal=True),
    View("turned by 270°", transposed=True, vertical=True),
    View("transposed the other way", transposed=True, vertical=True, horizontal=True),
)
_VIEWS: dict[Symmetry, tuple[View, ...]] = {
    "none": (AS_IT_IS,),
    "horizontal": (AS_IT_IS, _HORIZONTAL),
    "vertical": (AS_IT_IS, _VERTICAL),
    "both": (AS_IT_IS, _HORIZONTAL, _VERTICAL, _TURNED),
    "square": _SQUARE,
}


def views_of(symmetry: Symmetry, size: tuple[int, ...]) -> tuple[View, ...]:
    """All views that a symmetry allows for pictures of a size (height, width), the picture as it is first."""
    return _VIEWS["both" if symmetry == "square" and size[0] != size[1] else symmetry]


def first_views(views: Sequence[AnyView], n: int) -> tuple[AnyView, ...]:
    """The first ``n`` views.

    Raises:
        InputError: there are not so many, or fewer than 1 are asked for.
    """
    if not 1 <= n <= len(views):
        names = ", ".join(view.name for view in views)
        why = "" if len(views) > 1 else "; no mirrored or rotated view is known to keep the label"
        raise InputError(f"--tta {n}: the data's recipe allows 1 to {len(views)} views ({names}){why}")
    return tuple(views[:n])
