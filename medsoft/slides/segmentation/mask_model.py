"""What is needed of a segmentation model; this room knows no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medsoft.errors import InputError


class MaskModel(Protocol):
    """A model that says the class of every pixel of a square of a slide.

    Attributes:
        name: of the model, for people.
        identity: what decides its answers, plain values.
        classes: beside the background, in the order of their values in a map: 1, 2, …
        side: of the square that it takes, in pixels.
        weights_hw: (side, side) float32 above 0, how much a pixel of a window counts where windows overlap.
        values_K: (K,) uint8, the value in a map that each of its scores stands for; several may stand for one.
    """

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def side(self) -> int: ...

    @property
    def weights_hw(self) -> np.ndarray: ...

    @property
    def values_K(self) -> np.ndarray: ...

    def __call__(self, images_BHWC: np.ndarray, /) -> np.ndarray:
        """Scores (B, K, side, side) float32 of uint8 RGB; the largest of a pixel decides.

        Windows are joined by the weighted mean of these scores.
        """


@dataclass(frozen=True, eq=False)
class TileModels:
    """Models that decide where tiles lie.

    Attributes:
        tissue: finds the tissue; None where thresholds do.
        artefacts: finds artefacts; None where thresholds do, or nobody looks.
        scratch: folder for maps while they are made; None: the system's.
    """

    tissue: MaskModel | None = None
    artefacts: MaskModel | None = None
    scratch: Path | None = None


def chosen_values(model: MaskModel, names: Sequence[str]) -> list[int]:
    """The values of named classes in a map; of all classes where none is named.

    Raises:
        InputError: a class is not the model's.
    """
    if unknown := [name for name in names if name not in model.classes]:
        raise InputError(f"{', '.join(unknown)}: the classes of {model.name} are {', '.join(model.classes)}")
    return [value for value, name in enumerate(model.classes, start=1) if not names or name in names]
