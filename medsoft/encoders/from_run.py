"""A trained medsoft model as a tile encoder: its backbone, with the transforms of its training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from medsoft.data.transforms.base import Transforms
from medsoft.encoders.pretrained import find_pretrained
from medsoft.encoders.recipes import Recipe
from medsoft.encoders.weights import load_strictly
from medsoft.errors import InputError
from medsoft.models.weights import read_weights
from medsoft.parsing.configurations import read_configuration
from medsoft.registry import DEFAULTS, REGISTER, find_class, short_name

TRANSFORMS = ("histology", "plain")
"""Recipes for pictures that a tile can be: the others look for a photograph's border, which tiles do not have."""


@dataclass(frozen=True)
class Run:
    """A run of ``medsoft fit`` on tiles.

    Attributes:
        checkpoint: its file of weights.
        config: what it was trained with, as its ``config.yaml`` says.
    """

    checkpoint: Path
    config: dict[str, Any]

    def recipe(self, of_tiles: bool = True) -> tuple[Recipe, Transforms]:
        """What the backbone is and is shown, and the transforms that prepare an image as in training.

        Args:
            of_tiles: whether it must take tiles.

        Raises:
            InputError: it was trained on something else; or, for tiles, its input is not square and of colours.
        """
        use = self.config.get("use") or {}
        kind, data = (str(use.get(role, DEFAULTS[role])) for role in ("transforms", "data"))
        kind = short_name("transforms", kind)
        known = TRANSFORMS if of_tiles else tuple(name for name in REGISTER["transforms"] if name != "volume")
        is_of_images = short_name("data", data) == DEFAULTS["data"] and kind in known
        if not is_of_images or not isinstance(self.config.get("model", {}).get("backbone"), str):
            what = "tiles" if of_tiles else "images"
            raise InputError(
                f"--encoder {self.checkpoint}: this run was not trained on {what} ({kind}): "
                f"encoders come from medsoft fit --config histo_tiles{'' if of_tiles else ', fundus, dermoscopy …'}"
            )
        recipe_class: type[Transforms] = find_class("transforms", kind, Transforms, trusted=False)
        transforms = recipe_class(**self.config["transforms"])
        height, width = transforms.size
        if of_tiles and (height != width or transforms.channels != 3):
            raise InputError(
                f"--encoder {self.checkpoint}: its input is {width} x {height} px of {transforms.channels} channel(s), "
                "but tiles are square and have colours"
            )
        model = self.config["model"]
        recipe = Recipe(
            name=model["backbone"],
            architecture=model["backbone"],
            arguments=dict(model.get("backbone_args") or {}),
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
            input_px=height,
            tile_px=height,
            pooling="model",
            channels=1 if transforms.channels == 1 else 3,
            input_size=None if height == width else (height, width),
            checked="own",
        )
        return recipe, transforms


@dataclass(frozen=True)
class Pretrained:
    """What ``medsoft pretrain`` left in a folder.

    Attributes:
        checkpoint: its file of weights.
        own: its recipe.
    """

    checkpoint: Path
    own: Recipe

    def recipe(self, of_tiles: bool = True) -> tuple[Recipe, None]:
        """What the backbone is and is shown; tiles are prepared as the recipe says."""
        return self.own, None


def find_run(name: str) -> Run | Pretrained | None:
    """The run, or pretraining, whose folder or checkpoint this is; None if it is neither.

    Raises:
        InputError: a folder or checkpoint without what is needed of a run.
    """
    path = Path(name)
    if (pretrained := find_pretrained(name)) is not None:
        recipe, weights = pretrained
        return Pretrained(weights, recipe)
    if path.is_dir():
        folder, checkpoint = path, path / "checkpoints" / "best.ckpt"
    elif path.suffix == ".ckpt":
        folder, checkpoint = path.resolve().parent.parent, path
    else:
        return None
    config = folder / "config.yaml"
    if not checkpoint.is_file():
        raise InputError(f"--encoder {name}: there is no checkpoint {checkpoint}")
    if not config.is_file():
        raise InputError(
            f"--encoder {name}: without {config}, what tiles must look like is not known; keep the run's folder whole"
        )
    values = read_configuration(config)
    if not isinstance(values.get("transforms"), dict):
        raise InputError(f"{config}: this is not the configuration of a run on images")
    return Run(checkpoint, values)


def load_run(model: nn.Module, checkpoint: Path) -> None:
    """Load the backbone of a checkpoint.

    Raises:
        InputError: it cannot be read, or is of another backbone than its run's configuration says.
    """
    state = read_weights(checkpoint)  # of a medsoft checkpoint the backbone's
    load_strictly(model, state, checkpoint)
