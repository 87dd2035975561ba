"""From a volume's files to slices for an encoder of pictures, or to the input of an encoder of volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import torch

from medsoft.data.datasets.volume_dataset import UNREADABLE, VolumeReader, reason_of
from medsoft.data.datasets.volume_module import channels_of_column
from medsoft.data.dicom.tell_apart import parse_select
from medsoft.data.images.read import locate
from medsoft.data.transforms import pixels
from medsoft.data.transforms.base import Placement
from medsoft.data.transforms.plain import Plain
from medsoft.data.volumes import planes
from medsoft.data.volumes.transforms.recipe import Prepared, VolumeTransforms
from medsoft.data.volumes.transforms.scalings import OF_SLICES, WINDOW
from medsoft.encoders.start import check_shows_pictures
from medsoft.errors import InputError
from medsoft.inference.images.options import NATIVE, PreparationSettings
from medsoft.inference.images.preparation import AS_IT_IS, VOLUME, Place, Ready, built, named_transforms
from medsoft.inference.images.samples import ImageSample

PLANES = {"x": planes.sagittal, "y": planes.coronal, "z": planes.axial}
AXES = {"x": 0, "y": 1, "z": 2}
IN_PLANE = {"x": (2, 1), "y": (2, 0), "z": (1, 0)}
"""Axes of the volume that run, reversed, down and to the right in a slice (``medsoft.data.volumes.planes``)."""
EQUAL = 0.01
"""Spacings that differ by less are the same."""


@dataclass(frozen=True, eq=False)
class InSlices(Place):
    """Of slices.

    Attributes:
        axis: that they are perpendicular to.
        indices: of the slices along it.
        placement: of a slice in its picture with square pixels.
        pixel_mm: side of such a pixel.
        spacing_mm: of the voxels.
    """

    axis: str = "z"
    indices: tuple[int, ...] = ()
    placement: Placement = AS_IT_IS
    pixel_mm: float = 1.0
    spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0)

    def cells(self, grid: tuple[int, ...], cell_px: tuple[float, ...]) -> tuple[np.ndarray, tuple[float, ...]]:
        """See :meth:`Place.cells`."""
        slices, rows, columns = (axis.ravel() for axis in np.indices((len(self.indices), *grid)))
        along = AXES[self.axis]
        cell, corners = np.empty(3), np.empty((len(rows), 3))
        cell[along] = self.spacing_mm[along]
        corners[:, along] = np.array(self.indices)[slices] * self.spacing_mm[along]
        for place, across, side in ((0, IN_PLANE[self.axis][1], columns), (1, IN_PLANE[self.axis][0], rows)):
            scale = self.placement.scale[place] * self.pixel_mm
            cell[across] = cell_px[1 - place] * scale
            length = self.size[across] * self.spacing_mm[across]
            end = self.placement.corner[place] * self.pixel_mm + (side + 1) * cell[across]
            corners[:, across] = length - end
        return corners.astype(np.float32), tuple(cell.tolist())


@dataclass(frozen=True, eq=False)
class InVolume(Place):
    """Of a volume that is encoded as one."""

    spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0)

    def cells(self, grid: tuple[int, ...], cell_px: tuple[float, ...]) -> tuple[np.ndarray, tuple[float, ...]]:
        """See :meth:`Place.cells`; the axes of the map are X, Y and Z."""
        cell = np.array(cell_px) * np.array(self.spacing_mm)
        corners = np.stack([axis.ravel() for axis in np.indices(grid)], axis=1) * cell
        return corners.astype(np.float32), tuple(cell.tolist())


class VolumePreparation:
    """What is common to both: reading, the recipe, and the place of the result in the patient.

    Args:
        settings: as the user gave them.
        transforms: the recipe.
        channels: of each column, as ``channels_of`` found them.
    """

    def __init__(self, settings: PreparationSettings, transforms: VolumeTransforms, channels: Sequence[int]) -> None:
        self._given, self.transforms = settings, transforms
        self.reader = VolumeReader(transforms, channels, settings.max_voxels, parse_select(settings.select))
        self.channels = transforms.channels(sum(channels))

    @property
    def settings(self) -> dict[str, Any]:
        """See :meth:`Preparation.settings`."""
        recipe = {key: list(v) if isinstance(v, tuple) else v for key, v in self.transforms.recipe().items()}
        return {"transforms": VOLUME, "recipe": recipe, "select": list(parse_select(self._given.select))}

    @property
    def augmentation(self) -> dict[str, Any]:
        """See :meth:`Preparation.augmentation`."""
        return {"augmentation": self.transforms.augmentation, **asdict(self.transforms.changes)}

    def _read(self, sample: ImageSample) -> Prepared:
        assert sample.volume is not None
        try:
            return self.reader.prepared(sample.volume)
        except UNREADABLE as error:
            raise ValueError(reason_of(error)) from None

    def _views(self, prepared: Prepared, seeds: Sequence[int]) -> list[np.ndarray]:
        """The volume as it is, and its augmented views, (C, X, Y, Z)."""
        with torch.inference_mode():
            augmented = [self.transforms.augment(prepared.image, seed) for seed in seeds]
        return [view.numpy() for view in (prepared.image, *augmented)]


def channels_of(settings: PreparationSettings, samples: Sequence[ImageSample]) -> tuple[int, ...]:
    """Channels of each column of a table of volumes, from the first that can be read; () of images.

    Raises:
        InputError: none of a column can be read.
    """
    rows = [sample.volume for sample in samples if sample.volume is not None]
    if not rows:
        return ()
    transforms = volume_transforms(settings, VolumeTransforms)
    probe = VolumeReader(transforms, (), settings.max_voxels, parse_select(settings.select))
    return tuple(channels_of_column(probe, column) for column in zip(*(row.paths for row in rows), strict=True))


def _in_patient(prepared: Prepared) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Spacing of the voxels, and the affine of mm from the corner of the first one."""
    affine = np.asarray(prepared.affine, np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    of_corner = np.diag([*(1 / spacing), 1.0])
    of_corner[:3, 3] = -0.5
    return tuple(spacing.tolist()), tuple((affine @ of_corner).ravel().tolist())


class SlicePreparation(VolumePreparation):
    """Slices for an encoder of pictures.

    Args:
        settings: as the user gave them.
        columns: channels of each column.
        channels: that the encoder takes.
        input_px: side of its input.
        stride: pixels of a token.
    """

    def __init__(
        self, settings: PreparationSettings, columns: Sequence[int], channels: int, input_px: int, stride: int
    ) -> None:
        if settings.aspect != "square":
            raise InputError("--aspect keep is for images: slices are brought to a square, or left native")
        transforms = volume_transforms(settings, VolumeTransforms, intensity=OF_SLICES)
        check_shows_pictures("--transforms-args: intensity", transforms.intensity)
        super().__init__(settings, transforms, columns)
        if self.channels not in (1, channels):
            raise InputError(
                f"volumes of {self.channels} channels have no slices of {channels}: name one volume column with --path"
            )
        self._size, self._stride, self._channels = settings.size or input_px, stride, channels

    @property
    def settings(self) -> dict[str, Any]:
        """See :meth:`Preparation.settings`."""
        found = super().settings | {"axis": self._given.axis, "step": self._given.step, "size": self._size}
        if found["recipe"]["intensity"] == OF_SLICES:  # as feature files have always called it
            found["recipe"] = found["recipe"] | {"intensity": "auto"}
        return found

    @property
    def in_words(self) -> str:
        """See :meth:`Preparation.in_words`."""
        size = "their own resolution" if self._size == NATIVE else f"{self._size} x {self._size} px"
        each = "all slices" if self._given.step == 1 else f"every {self._given.step}. slice"
        return f"{VOLUME}, {each} across {self._given.axis} at {size}"

    def ready(self, sample: ImageSample, seeds: Sequence[int]) -> Ready:
        """See :meth:`Preparation.ready`."""
        prepared = self._read(sample)
        spacing, affine = _in_patient(prepared)
        size = tuple(int(side) for side in prepared.image.shape[1:])
        axis = self._given.axis
        rows, columns = IN_PLANE[axis]
        pixel_mm = min(spacing[rows], spacing[columns])
        square = tuple(
            size[a] if spacing[a] / pixel_mm - 1 < EQUAL else max(1, round(size[a] * spacing[a] / pixel_mm))
            for a in (rows, columns)
        )
        if self._size == NATIVE and min(square) < self._stride:
            raise ValueError(
                f"has slices of {square[1]} x {square[0]} pixels, less than the {self._stride} of one token of the "
                "encoder: give a --size"
            )
        recipe = Plain(square if self._size == NATIVE else int(self._size), self._channels)  # type: ignore[arg-type]
        indices = tuple(range(0, size[AXES[axis]], self._given.step))
        placement = recipe.placement(np.empty((*square, 1), np.uint8))
        unit: Any = "px" if locate(sample.path)[1] else "mm"  # an array of .npz does not say its spacing
        place = InSlices(size, unit, affine, axis, indices, placement, pixel_mm, spacing)
        views = [
            [recipe.prepare(_picture(view, axis, index, square)) for index in indices]
            for view in self._views(prepared, seeds)
        ]
        return Ready(place, views)


class WholePreparation(VolumePreparation):
    """Volumes for an encoder of volumes.

    Args:
        settings: as the user gave them.
        columns: channels of each column.
        recipe: of the encoder.
    """

    def __init__(self, settings: PreparationSettings, columns: Sequence[int], recipe: Any) -> None:
        if settings.size == NATIVE or settings.window or settings.overlap or settings.step != 1:
            raise InputError(
                "--size native, --window, --overlap and --step are for pictures and slices: leave them out"
            )
        size = recipe.size if settings.size is None else (int(settings.size),) * 3
        transforms = volume_transforms(settings, VolumeTransforms, tuple(size), recipe.intensity, recipe.window)
        super().__init__(settings, transforms, columns)
        recipe.check_images("--encoder", self.channels, 3)

    @property
    def in_words(self) -> str:
        """See :meth:`Preparation.in_words`."""
        return f"{VOLUME}, {' x '.join(map(str, self.transforms.size))} voxels"

    def ready(self, sample: ImageSample, seeds: Sequence[int]) -> Ready:
        """See :meth:`Preparation.ready`."""
        prepared = self._read(sample)
        spacing, affine = _in_patient(prepared)
        size = tuple(int(side) for side in prepared.image.shape[1:])
        unit: Any = "px" if locate(sample.path)[1] else "mm"
        views = self._views(prepared, seeds)
        return Ready(
            InVolume(size, unit, affine, spacing),
            [[np.ascontiguousarray(np.moveaxis(view, 0, -1))] for view in views],
        )


def volume_transforms(
    settings: PreparationSettings,
    recipe_class: type[VolumeTransforms],
    size: tuple[int, int, int] | None = None,
    intensity: str = "",
    window: tuple[float, float] | None = None,
) -> VolumeTransforms:
    """The recipe for volumes with its settings; cut to ``size``, or not at all.

    Args:
        settings: as given.
        recipe_class: to make.
        size: of an encoder of volumes.
        intensity: how the encoder wants values scaled, where the user does not say it; "" for nothing.
        window: that the encoder wants, where the user does not say another; None for nothing.

    Raises:
        InputError: the recipe is one for pictures, or cannot have these settings.
    """
    name, values = named_transforms(settings, VOLUME)
    if name != VOLUME:
        raise InputError(f"--transforms {name} is for images, and these are volumes: leave it out")
    values.pop("size", None)
    if intensity and values.get("intensity", "auto") == "auto":
        values["intensity"] = intensity
    if window is not None and tuple(values.get("window", WINDOW)) == WINDOW:
        values["window"] = window
    transforms: VolumeTransforms = built(recipe_class, name, values | ({} if size is None else {"size": size}))
    return transforms.uncut() if size is None else transforms


def _picture(volume_CXYZ: np.ndarray, axis: str, index: int, square: tuple[int, ...]) -> np.ndarray:
    """A slice as radiologists hold it, (H, W, C) uint8, with square pixels."""
    slices = [PLANES[axis](channel, index) for channel in volume_CXYZ]
    picture = pixels.round_to_uint8(np.stack(slices, axis=-1) * 255)
    if picture.shape[:2] != square:
        picture = cv2.resize(picture, square[::-1], interpolation=cv2.INTER_LINEAR).reshape(*square, -1)
    return np.ascontiguousarray(picture)
