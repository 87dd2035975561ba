"""Recipes of published tile encoders: what a file of weights alone does not say.

An architecture's default preprocessing in timm is not that of the weights that somebody trained with it, and nothing
fails when it is used: the features are merely worse. So what the authors state is written down once, in
``recipes.yaml``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from PIL import Image

from medsoft.errors import InputError

RECIPES = Path(__file__).with_name("recipes.yaml")
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Recipe:
    """How a tile encoder is built, and what it must be shown.

    Attributes:
        name: as ``--encoder`` takes it.
        architecture: name of a timm model.
        mean: one value a channel (RGB), for values from 0 to 1.
        std: one value a channel, for values from 0 to 1.
        input_px: side of the square that the model takes.
        tile_px: side of the tiles that its authors cut.
        pooling: ``cls``: class token; ``mean``: over all positions; ``cls+mean``: both, one after the other, without
            the register tokens; ``model``: whatever the model gives.
        source: address of the page that says all this.
        licence: of the weights.
        arguments: keyword arguments of ``timm.create_model``; ``mlp_layer`` and ``embed_layer`` as names.
        tile_mpp: resolution of the authors' tiles in µm per pixel; None where the source names none.
        fit: how a tile of another size becomes the input: its middle (``crop``) or all of it (``resize``).
        interpolation: ``bilinear`` or ``bicubic``, of ``resize``.
        weights: name of an installed package that carries the weights; "" where the user must have them.
    """

    name: str
    architecture: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_px: int
    tile_px: int
    pooling: Literal["cls", "mean", "cls+mean", "model"]
    source: str = ""
    licence: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    tile_mpp: float | None = None
    fit: Literal["crop", "resize"] = "resize"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    weights: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the features besides weights and tiles; plain values, ready for JSON."""
        deciding = ("architecture", "arguments", "mean", "std", "input_px", "fit", "interpolation", "pooling")
        values = asdict(self)
        return {key: list(values[key]) if isinstance(values[key], tuple) else values[key] for key in deciding}

    def check_tile(self, tile_px: int) -> None:
        """Check that tiles of this side can be prepared.

        Raises:
            InputError: they are smaller than the part of them that the model takes.
        """
        if self.fit == "crop" and tile_px < self.input_px:
            raise InputError(
                f"--tile {tile_px}: {self.name} takes the middle {self.input_px} px of a tile: none may be smaller"
            )

    def prepare(self, tile_HWC: np.ndarray) -> np.ndarray:
        """A tile as the model's input; one that has its size is returned as it is.

        Resizing is Pillow's, with 8 bits in and out, as in the authors' own code.

        Args:
            tile_HWC: (S, S, 3) uint8.

        Returns:
            (input_px, input_px, 3) uint8.
        """
        side = len(tile_HWC)
        if side == self.input_px:
            return tile_HWC
        if self.fit == "crop":
            start = (side - self.input_px) // 2
            return tile_HWC[start : start + self.input_px, start : start + self.input_px]
        size = (self.input_px, self.input_px)
        return np.asarray(Image.fromarray(tile_HWC).resize(size, RESAMPLING[self.interpolation]))


@cache
def recipes() -> dict[str, Recipe]:
    """All recipes by name."""
    entries = yaml.safe_load(RECIPES.read_text(encoding="utf-8"))
    return {
        name: Recipe(name=name, **{**entry, "mean": tuple(entry["mean"]), "std": tuple(entry["std"])})
        for name, entry in entries.items()
    }


def find_recipe(name: str) -> Recipe | None:
    """The recipe of this name, whatever its capitals; None if there is none."""
    return recipes().get(name.lower())
