"""What can be said of the weights of an encoder before torch is imported and a model built."""

from __future__ import annotations

import os
from pathlib import Path

from medsoft.errors import InputError
from medsoft.slides.recipes import Recipe, find_recipe
from medsoft.weights_folder import VARIABLE, find_weights


def weights_file(given: str) -> Path:
    """The file that ``--weights`` means, absolute, as other processes may run in other folders.

    Raises:
        InputError: there is none, or it is listed with another hash.
    """
    file = find_weights(given).absolute()
    if not file.is_file():
        raise InputError(f"{file}: these weights cannot be read: no such file; nothing is downloaded")
    return file


def check_said(encoder: str, weights: str | None) -> None:
    """Check that an encoder of a recipe can have weights at all.

    Raises:
        InputError: none are named, none come with a package, and there is no folder of weights to look into.
    """
    recipe = find_recipe(encoder)
    if recipe is not None and weights is None and not recipe.weights and not os.environ.get(VARIABLE):
        raise needs_weights(encoder, recipe)


def needs_weights(encoder: str, recipe: Recipe) -> InputError:
    """What is to be said where an encoder's weights are missing."""
    where_from = f" (see {recipe.source})" if recipe.source else ""
    return InputError(
        f"--encoder {encoder} needs its weights: --weights FILE|NAME{where_from}. Nothing is downloaded. "
        "To try things out without: --encoder-init random"
    )
