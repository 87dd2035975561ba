"""A trained medsoft model as a tile encoder: its backbone, shown what it was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from medsoft.data.transforms.base import Transforms
from medsoft.data.transforms.histology import Histology
from medsoft.data.transforms.plain import Plain
from medsoft.deploy.encoder_weights import load_strictly
from medsoft.errors import InputError
from medsoft.models.weights import read_weights
from medsoft.slides.recipes import Recipe

TRANSFORMS: dict[str, type[Transforms]] = {
    "medsoft.data.transforms.histology.Histology": Histology,
    "medsoft.data.transforms.plain.Plain": Plain,
}
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

    def recipe(self) -> tuple[Recipe, Transforms]:
        """What the backbone is and is shown, and the transforms that prepare a tile as in training.

        Raises:
            InputError: it was trained on something else than tiles.
        """
        kind = self.config.get("use", {}).get("transforms", "medsoft.data.transforms.plain.Plain")
        if kind not in TRANSFORMS or not isinstance(self.config.get("model", {}).get("backbone"), str):
            raise InputError(
                f"--encoder {self.checkpoint}: this run was not trained on tiles ({kind.rpartition('.')[2]}): "
                "encoders come from medsoft fit --config histo_tiles or histology"
            )
        transforms = TRANSFORMS[kind](**self.config["transforms"])
        height, width = transforms.size
        if height != width or transforms.channels != 3:
            raise InputError(
                f"--encoder {self.checkpoint}: its input is {width} x {height} px of {transforms.channels} channel(s), "
                "but tiles are square and have colours"
            )
        model = self.config["model"]
        recipe = Recipe(
            name=model["backbone"],
            architecture=model["backbone"],
            arguments=dict(model.get("backbone_args") or {}),
            mean=(transforms.mean[0], transforms.mean[1], transforms.mean[2]),
            std=(transforms.std[0], transforms.std[1], transforms.std[2]),
            input_px=height,
            tile_px=height,
            pooling="model",
        )
        return recipe, transforms


def find_run(name: str) -> Run | None:
    """The run whose folder or checkpoint this is; None if it is neither.

    Raises:
        InputError: a folder or checkpoint without what is needed of a run.
    """
    path = Path(name)
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
    try:
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{config}: cannot be read: {error}") from None
    if not isinstance(values, dict) or "transforms" not in values:
        raise InputError(f"{config}: this is no configuration of a run on images")
    return Run(checkpoint, values)


def load_run(model: nn.Module, checkpoint: Path) -> None:
    """Load the backbone of a checkpoint.

    Raises:
        InputError: it cannot be read, or is of another backbone than its run's configuration says.
    """
    state = read_weights(checkpoint)  # of a medsoft checkpoint the backbone's
    load_strictly(model, state, checkpoint)
