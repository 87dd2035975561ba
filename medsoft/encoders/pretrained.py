"""The folder that ``medsoft pretrain`` leaves, as an encoder: weights, their recipe, and which images were seen."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from medsoft.encoders.recipes import Recipe, own_recipe, recipe_of
from medsoft.errors import InputError
from medsoft.storage.files import replacing
from medsoft.storage.own_files import read_json_object, require_file, value_of

WEIGHTS = "backbone.safetensors"
RECIPE = "encoder.json"
SEEN = ".seen.csv"
"""Behind the name of a file of weights, without its suffix: which images the network was shown."""


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Write a recipe beside its weights."""
    values = {"name": recipe.name, "recipe": own_recipe(recipe)}
    with replacing(folder / RECIPE) as temporary:
        temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def find_pretrained(name: str) -> tuple[Recipe, Path] | None:
    """The recipe and the weights in the folder of a pretraining; None where it is no such folder.

    Raises:
        InputError: the pretraining has not finished, or its recipe is damaged.
    """
    folder = Path(name)
    file = folder / RECIPE
    if not file.is_file():
        return None
    values = read_json_object(file)
    recipe = recipe_of(value_of(values, "name", str, file), value_of(values, "recipe", dict, file), str(file))
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder}: the weights {WEIGHTS} of this pretraining are missing")
    return recipe, folder / WEIGHTS


def seen_file(weights: Path) -> Path:
    """Where it stands which images some weights were pretrained on."""
    return weights.with_name(weights.stem + SEEN)


def seen_in_pretraining(weights: Path) -> dict[str, str]:
    """Hashes of the images that were shown to a network in its pretraining, and the part that each was in.

    Args:
        weights: its file.

    Returns:
        Empty where nothing is recorded beside the weights.

    Raises:
        InputError: the record is damaged.
    """
    file = seen_file(weights)
    if not file.is_file():
        return {}
    require_file(file)
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    try:
        return {row["content"]: row["part"] for row in rows}
    except KeyError:
        raise InputError(f"{file}: this is no record of a pretraining (content, part)") from None
