"""From a file to the encoder's input, with the readers and recipes of ``medsoft fit``, and where its pixels lie."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from medsoft.data.features.provenance import Unit
from medsoft.data.images.read import read_sample
from medsoft.data.sample_hash import joined_hash
from medsoft.data.transforms.base import Placement, Transforms
from medsoft.errors import InputError, ReadError
from medsoft.inference.images.options import NATIVE, PreparationSettings, Size
from medsoft.inference.images.samples import ImageSample
from medsoft.parsing.configurations import find_configuration, read_configuration
from medsoft.registry import DEFAULTS, find_class

VOLUME = "volume"
"""The recipe for volumes."""
TOO_LARGE = "(max_pixels)"
AS_IT_IS = Placement((0.0, 0.0), (1.0, 1.0))
SIZED = ("resize", "centre")
"""Steps of recipes that only bring an image to its size, which is recorded by itself."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where pictures lie in their original, and how its cells are counted.

    Attributes:
        size: (width, height) of the original in pixels, or (X, Y, Z) of the volume in voxels.
        unit: of coordinates.
        affine: of a volume, see ``ImageProvenance``; () of an image.
    """

    size: tuple[int, ...]
    unit: Unit
    affine: tuple[float, ...] = ()

    def cells(self, grid: tuple[int, ...], cell_px: tuple[float, ...]) -> tuple[np.ndarray, tuple[float, ...]]:
        """Corners (N, D) and size of the cells of all pictures' tokens.

        Args:
            grid: (h, w) of one picture's map, or (d, h, w) of a volume's.
            cell_px: size of a token in prepared pixels, in the order of ``grid``.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class InImage(Place):
    """Of a picture."""

    placement: Placement = AS_IT_IS

    def cells(self, grid: tuple[int, ...], cell_px: tuple[float, ...]) -> tuple[np.ndarray, tuple[float, ...]]:
        """See :meth:`Place.cells`."""
        cell = (self.placement.scale[0] * cell_px[1], self.placement.scale[1] * cell_px[0])
        rows, columns = (axis.ravel() for axis in np.indices(grid))
        corners = np.stack([columns, rows], axis=1) * np.array(cell) + np.array(self.placement.corner)
        return corners.astype(np.float32), cell


@dataclass(frozen=True, eq=False)
class Ready:
    """A sample as the encoder sees it.

    Attributes:
        place: where it lies.
        views: for the image as it is, and for each augmented view, its pictures: of an image one, (H, W, C) uint8; of a
            volume its slices, or one volume (D, H, W, C) float32.
    """

    place: Place
    views: list[list[np.ndarray]]


class Preparation(Protocol):
    """How samples are prepared; may be called from several threads at once."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the input, besides the original; plain values, ready for JSON."""

    @property
    def augmentation(self) -> dict[str, Any]:
        """What decides the augmented views, besides; plain values."""

    @property
    def in_words(self) -> str:
        """For the terminal."""

    def ready(self, sample: ImageSample, seeds: Sequence[int]) -> Ready:
        """Read and prepare a sample, and one augmented view a seed.

        Raises:
            ReadError: it cannot be read.
            ValueError: it cannot be prepared.
        """


def view_seeds(content: str, seed: int, number: int) -> list[int]:
    """Seeds of an image's views: of its content and not of its place in a table."""
    return [int(joined_hash([str(seed), content, str(view)])[:12], 16) for view in range(number)]


class ImagePreparation:
    """Of pictures, by a recipe for pictures.

    Args:
        settings: as the user gave them.
        transforms: the recipe; its size does not matter.
        name: of the recipe.
        input_size: (height, width) of the encoder's input.
        stride: pixels of a token.
    """

    def __init__(
        self,
        settings: PreparationSettings,
        transforms: Transforms,
        name: str,
        input_size: tuple[int, int],
        stride: int,
    ) -> None:
        self._given, self._transforms, self._name, self._stride = settings, transforms, name, stride
        self._size: Size | tuple[int, int] = settings.size or input_size[0]
        if settings.aspect == "square" and isinstance(self._size, int):
            self._size = (self._size, self._size) if settings.size else input_size

    @property
    def settings(self) -> dict[str, Any]:
        """See :meth:`Preparation.settings`."""
        steps = [step for step in self._transforms.steps() if step["step"] not in SIZED]
        return {
            "transforms": self._name,
            "size": list(self._size) if isinstance(self._size, tuple) else self._size,
            "aspect": self._given.aspect if self._size != NATIVE else "keep",
            "fit": self._transforms.fit,
            "steps": [{"step": step["step"], **step["options"]} for step in steps],
            **({"voi": True} if self._given.voi else {}),
        }

    @property
    def augmentation(self) -> dict[str, Any]:
        """See :meth:`Preparation.augmentation`."""
        return plain_options(self._transforms)

    @property
    def in_words(self) -> str:
        """See :meth:`Preparation.in_words`."""
        if isinstance(self._size, tuple):
            size = f"{self._size[1]} x {self._size[0]} px"
        elif self._size == NATIVE:
            size = "the original's resolution"
        else:
            size = f"a short side of {self._size} px"
        return f"{self._name}, {size}"

    def ready(self, sample: ImageSample, seeds: Sequence[int]) -> Ready:
        """See :meth:`Preparation.ready`."""
        try:
            image = read_sample(sample.path, max_pixels=self._given.max_pixels, voi=self._given.voi)
        except ReadError as error:
            if TOO_LARGE not in error.reason:
                raise
            advice = "a picture this large is a slide: medsoft slides encode reads it tile by tile"
            raise ReadError(f"{error.reason}; {advice}") from None
        transforms = self._transforms.of_size(self._target(image))
        prepared = transforms.prepare(image)
        place = InImage((image.shape[1], image.shape[0]), "px", placement=transforms.placement(image))
        views = [prepared, *(transforms.augment(prepared, seed) for seed in seeds)]
        return Ready(place, [[view] for view in views])

    def _target(self, image: np.ndarray) -> tuple[int, int]:
        """(height, width) to prepare it to."""
        if isinstance(self._size, tuple):
            return self._size
        _, _, width, height = self._transforms.box(image)
        if not isinstance(self._size, int):
            if min(width, height) < self._stride:
                raise ValueError(
                    f"shows {width} x {height} pixels, less than the {self._stride} of one token of the encoder: "
                    "give a --size"
                )
            return height, width
        factor = self._size / min(width, height)
        return max(1, round(height * factor)), max(1, round(width * factor))


def image_transforms(settings: PreparationSettings, channels: int) -> tuple[Transforms, str]:
    """The recipe for pictures that the user names, with its settings, and its name.

    Args:
        settings: as given.
        channels: that the encoder takes.

    Raises:
        InputError: there is none, it is for volumes, or it makes other channels than the encoder takes.
    """
    name, values = named_transforms(settings, DEFAULTS["transforms"])
    if name == VOLUME:
        raise InputError(f"--transforms {name} is for volumes, and these are images: name a recipe for images")
    recipe_class: type[Transforms] = find_class("transforms", name, Transforms, trusted=False)
    takes = inspect.signature(recipe_class).parameters
    if "channels" in takes:
        values = {"channels": channels} | values
    return built(recipe_class, name, {key: value for key, value in values.items() if key != "size"}), name


def named_transforms(settings: PreparationSettings, default: str) -> tuple[str, dict[str, Any]]:
    """The name of the recipe and its settings, as the configuration and the options say.

    Raises:
        InputError: no such configuration, or it is for another recipe than --transforms names.
    """
    name, values = default, {}
    if settings.config is not None:
        found = read_configuration(find_configuration(settings.config))
        use = found.get("use") or {}
        of_volumes = use.get("data") == "volume"
        name = VOLUME if of_volumes else str(use.get("transforms", DEFAULTS["transforms"]))
        values = dict(found.get("transforms") or {})
        if settings.transforms not in (None, name):
            raise InputError(f"--config {settings.config} is of {name}, not {settings.transforms}: leave one out")
    for option in ("mean", "std"):  # the encoder's recipe has them
        values.pop(option, None)
    values |= settings.transforms_args or {}
    if "size" in (settings.transforms_args or {}):
        raise InputError("--transforms-args: size is an option of its own: --size")
    return settings.transforms or name, values


def resolved(settings: PreparationSettings, default: str) -> PreparationSettings:
    """The same preparation without a configuration's file, which may not be there another day."""
    name, values = named_transforms(settings, default)
    values.pop("size", None)
    return replace(settings, transforms=name, transforms_args=values or None, config=None)


def built(recipe_class: type[Any], name: str, values: Mapping[str, Any]) -> Any:
    """A recipe with settings.

    Raises:
        InputError: it has no such setting, or a value that it cannot have.
    """
    takes = inspect.signature(recipe_class).parameters
    if unknown := sorted(values.keys() - takes.keys()):
        raise InputError(f"--transforms-args: {name} has no {unknown[0]}; it has {', '.join(takes)}")
    lists = {key: tuple(value) if isinstance(value, list) and key not in ("mask_values",) else value
             for key, value in values.items()}  # fmt: skip
    try:
        return recipe_class(**lists)
    except (TypeError, ValueError) as error:
        raise InputError(f"--transforms-args: {name} cannot have these settings: {error}") from None


def plain_options(transforms: object) -> dict[str, Any]:
    """The settings of a recipe that only its augmentation can depend on, and some besides."""
    apart = ("size", "mean", "std", "channels", "fit")
    kept = {name: value for name, value in vars(transforms).items() if name not in apart and not name.startswith("_")}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in kept.items() if _is_plain(v)}


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(inner) for inner in value)
    return value is None or isinstance(value, str | int | float | bool)
