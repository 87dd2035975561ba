"""What a pretraining leaves: weights with their recipe, and which images were seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import save_file
from torch import nn

from medsoft.data.transforms.base import Transforms
from medsoft.encoders.pretrained import WEIGHTS, seen_file
from medsoft.encoders.recipes import Images, Recipe, own_recipe, recipe_of, recipes
from medsoft.errors import InputError
from medsoft.parsing.options import Settings
from medsoft.pretraining.networks import measured, takes_any_size
from medsoft.pretraining.options import ImageOptions, NetworkOptions
from medsoft.runs.run_folder import RunFolder
from medsoft.storage.files import replacing
from medsoft.storage.weights_folder import Weights, WeightsFolder, check_name, sha256

SUMMARY = "pretrain.json"
CONFIG = "pretrain.yaml"
KINDS: dict[str, Images] = {
    "fundus": "fundus",
    "dermoscopy": "dermoscopy",
    "chest_xray": "radiograph",
    "histology": "histology",
}
"""What images a network is for, by the transforms that it has learnt with; photographs otherwise."""


@dataclass(frozen=True)
class ResultOptions(Settings):
    """Where the result goes.

    Attributes:
        out: Folder of this pretraining, instead of runs/pretrain/TIME.
        name: Name under which other verbs find the result (--encoder NAME), in the folder of weights.
        folder: Folder of weights, instead of the one that MEDSOFT_WEIGHTS names.
        licence: Licence of the result; by default it names that of the teacher.
        overwrite: Replace weights of this name if there are any.
    """

    out: str | None = None
    name: str | None = None
    folder: str | None = None
    licence: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.folder is not None and self.name is None:
            raise InputError("--folder is for weights with a name: give --name too")


class PretrainFolder(RunFolder):
    """The folder of a pretraining: that of a run, but for a configuration that no other verb takes for its own."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.config = path / CONFIG

    @classmethod
    def stopped(cls, path: str) -> PretrainFolder:
        """The folder of a pretraining that was stopped.

        Raises:
            InputError: it is none, or has nothing to go on from.
        """
        run = cls(Path(path))
        if not run.config.is_file():
            raise InputError(f"{path}: no folder of a pretraining (it has no {CONFIG})")
        if not run.last.is_file():
            raise InputError(f"{path}: has no checkpoint to go on from; start it again in another folder")
        return run

    def require_same_images(self, seen: pd.DataFrame) -> None:
        """Check that a resumed run goes on with the images that it began with.

        Raises:
            InputError: some are others, or held out that were not before.
        """
        before = pd.read_csv(self.split, dtype=str, keep_default_na=False)
        if list(zip(before["id"], before["split"], strict=True)) != list(zip(seen["id"], seen["part"], strict=True)):
            raise InputError(
                f"{self.path}: the images are not those that this pretraining began with ({len(before)} then, "
                f"{len(seen)} now, or other parts): put them back, or start anew with another --out"
            )


def recipe_of_result(images: ImageOptions, network: NetworkOptions, transforms: Transforms, name: str) -> Recipe:
    """The network as an encoder: how it is built, and what it must be shown.

    Raises:
        InputError: its arguments name what the recipe says otherwise.
    """
    arguments = dict(network.backbone_args or {})
    if given := sorted(arguments.keys() & {"img_size", "in_chans", "num_classes"}):
        raise InputError(f"--backbone-args: {given[0]} follows from --size and --transforms; leave it out")
    values = {
        "architecture": network.backbone,
        "arguments": arguments,
        "mean": list(transforms.mean),
        "std": list(transforms.std),
        "input_px": images.px,
        "tile_px": images.px,
        "pooling": "model",
        "images": [KINDS.get(images.transforms or "", "photograph")],
        "channels": transforms.channels,
        "checked": "own",
        "checked_how": "made by medsoft pretrain",
    }
    return recipe_of(name, values, "medsoft pretrain")


def described(recipe: Recipe, backbone: nn.Module, licence: str, source: str) -> Recipe:
    """The recipe of the result, with what is known once the network is there."""
    features, side = measured(backbone, recipe, recipe.input_px)
    return replace(
        recipe,
        licence=licence,
        source=source,
        features=features,
        stride=round(recipe.input_px / side),
        any_size=takes_any_size(backbone, recipe),
        parameters=round(sum(parameter.numel() for parameter in backbone.parameters()) / 1e6, 2),
    )


@dataclass(frozen=True)
class Destination:
    """Where the weights go besides the run's own folder.

    Attributes:
        folder: of weights; None: nowhere else.
        name: in it; "" for none.
        options: what was asked for.
    """

    folder: WeightsFolder | None
    name: str
    options: ResultOptions

    @classmethod
    def of(cls, options: ResultOptions) -> Destination:
        """What the options ask for, checked before anything is trained.

        Raises:
            InputError: no folder of weights is named, or the name is taken.
        """
        if options.name is None:
            return cls(None, "", options)
        check_name(options.name)
        chosen = WeightsFolder.chosen(options.folder)
        if options.name.lower() in recipes():
            raise InputError(f"--name {options.name}: is a recipe of medsoft; choose another name")
        if options.name in chosen.listed and not options.overwrite:
            raise InputError(f"{chosen.path}: already has weights {options.name!r}; --overwrite true replaces them")
        file = f"{options.name}.safetensors"
        if any(entry.file == file for name, entry in chosen.listed.items() if name != options.name):
            raise InputError(f"{chosen.path}: {file} is the file of other weights; choose another --name")
        return cls(chosen, options.name, options)

    def take(self, run: Path, recipe: Recipe, seen: pd.DataFrame) -> str:
        """Store the weights under their name.

        The record of images that lies beside them holds hashes alone: ids stay in the run's own folder.

        Returns:
            How they are used, in words.
        """
        file = run / WEIGHTS
        if self.folder is None:
            return f"Use it with --encoder {show(run)} or --model.encoder {show(run)}"
        folder = WeightsFolder(self.folder.path)  # as it is now: others may have been added meanwhile
        path = folder.path
        path.mkdir(parents=True, exist_ok=True)
        target = path / f"{self.name}.safetensors"
        with replacing(target) as temporary:
            shutil.copyfile(file, temporary)
        write_seen(seen[["part", "content"]], target)
        facts = (target.name, sha256(target), target.stat().st_size, recipe.licence, recipe.source)
        before = folder.listed.get(self.name)
        folder.add(self.name, Weights(*facts, recipe=self.name, own_recipe=own_recipe(recipe)))
        if before is not None and before.file != target.name:
            (path / before.file).unlink(missing_ok=True)
        return f"Use it with --encoder {self.name} or --model.encoder {self.name} (MEDSOFT_WEIGHTS={path})"


def show(path: Path) -> str:
    """Relative to where the user is, if it lies below."""
    return str(path.resolve().relative_to(Path.cwd())) if path.resolve().is_relative_to(Path.cwd()) else str(path)


def write_backbone(backbone: nn.Module, recipe: Recipe, folder: Path) -> Path:
    """Write the weights of a network without its head, whole or not at all; the header says how images are scaled."""
    file = folder / WEIGHTS
    scaling = {"mean": json.dumps(list(recipe.mean)), "std": json.dumps(list(recipe.std))}
    state = {name: value.detach().cpu().contiguous().clone() for name, value in backbone.state_dict().items()}
    with replacing(file) as temporary:
        save_file(state, temporary, metadata=scaling)
    return file


def write_seen(seen: pd.DataFrame, weights: Path) -> None:
    """Write which images a network was shown, beside its weights: ``part``, ``content`` and, if known, ``id``."""
    with replacing(seen_file(weights)) as temporary:
        seen.to_csv(temporary, index=False)


def write_summary(values: Mapping[str, Any], folder: Path) -> None:
    """Write what was done and how close the network came."""
    with replacing(folder / SUMMARY) as temporary:
        temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
