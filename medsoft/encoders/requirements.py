"""The user's choice of a tile encoder, and what can be checked before torch is imported and a model is built."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medsoft.encoders.recipes import Recipe, find_recipe
from medsoft.errors import InputError
from medsoft.parsing.options import Settings
from medsoft.storage.weights_folder import VARIABLE, find_weights


@dataclass(frozen=True)
class EncoderOptions(Settings):
    """Which encoder turns tiles into features.

    Attributes:
        encoder: Name of a recipe (docs/reference/encoders.md), the folder of a run of medsoft fit on tiles, or the name
            of a timm model.
        weights: Local file with the encoder's weights, .safetensors or a state dict; or its name in MEDSOFT_WEIGHTS.
        weights_sha256: Expected SHA-256 of that file.
        encoder_init: random uses seeded random weights, for trying things out; the feature files record it.
        mean: For a timm model without a recipe: the mean it was trained with, as R,G,B for values from 0 to 1.
        std: For a timm model without a recipe: the standard deviation it was trained with, as R,G,B.
        input_px: For a timm model without a recipe: the side of its input in pixels; the tile's by default.
        encoder_args: For a timm model without a recipe: its keyword arguments as JSON, such as {"init_values":1e-5}.
    """

    encoder: str
    weights: str | None = None
    weights_sha256: str | None = None
    encoder_init: Literal["weights", "random"] = "weights"
    mean: str | None = None
    std: str | None = None
    input_px: int | None = None
    encoder_args: str | None = None

    @property
    def name(self) -> str:
        """Of the encoder; of a run the absolute path, as other processes may run in other folders."""
        path = Path(self.encoder)
        is_run = find_recipe(self.encoder) is None and (path.is_dir() or (path.suffix == ".ckpt" and path.exists()))
        return str(path.absolute()) if is_run else self.encoder

    def file(self) -> Path | None:
        """The file of weights; None where none is named.

        Raises:
            InputError: there is no such file; or none is named, none come with a package, and there is no folder of
                weights to look into.
        """
        recipe = find_recipe(self.encoder)
        is_missing = recipe is not None and self.weights is None and not recipe.weights and not os.environ.get(VARIABLE)
        if recipe is not None and is_missing and self.encoder_init == "weights":
            raise needs_weights(self.encoder, recipe)
        return None if self.weights is None else weights_file(self.weights)


def weights_file(given: str) -> Path:
    """The file that ``--weights`` means, absolute, as other processes may run in other folders.

    Raises:
        InputError: there is none, or it is listed with another hash.
    """
    file = find_weights(given).absolute()
    if not file.is_file():
        raise InputError(f"{file}: these weights cannot be read: no such file; nothing is downloaded")
    return file


def needs_weights(encoder: str, recipe: Recipe) -> InputError:
    """What is to be said where an encoder's weights are missing."""
    where_from = f" (see {recipe.source})" if recipe.source else ""
    return InputError(
        f"--encoder {encoder} needs its weights: --weights FILE|NAME{where_from}. Nothing is downloaded. "
        "To try things out without: --encoder-init random"
    )
