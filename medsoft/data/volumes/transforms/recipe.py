"""The recipe for volumes: from what a scanner stored to the model's input."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from medsoft.data.transforms.base import check_percentiles
from medsoft.data.transforms.views import AS_IT_IS, AnyView, Mirrored
from medsoft.data.volumes.transforms import geometry
from medsoft.data.volumes.transforms.augment import Augmentation
from medsoft.data.volumes.transforms.intensity import (
    OF_MODALITY,
    Dynamic,
    Scaling,
    background,
    channels_of,
    scaled,
    with_subtractions,
)
from medsoft.data.volumes.transforms.scalings import OF_SLICES, WINDOW
from medsoft.data.volumes.volume import Box, Side
from medsoft.errors import InputError, check_range


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the model is shown, and where it lies.

    Attributes:
        image: (C, *size) float32.
        affine: (4, 4) float64: voxel indices to mm, RAS+, in the space of the volume as read.
        cut: (3,) float64: the share of each axis that the last step, the cut to ``size``, leaves out.
        content: what the files hold, see ``VolumeRow.known_by``; "" where that is not known.
        facts: (K,) float64 of the first volume as read, see ``medsoft.data.facts.volumes``; (0,) where they are not
            known.
    """

    image: Tensor
    affine: Tensor
    cut: Tensor
    content: str = ""
    facts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))


class VolumeTransforms:
    """``augment(prepare(…).image, seed)``, ``augment`` in training only.

    The steps of ``prepare``: box, orientation, half, foreground or mask, spacing, mirror, values, subtractions, size.

    Args:
        size: Size of the model's input in voxels along X, Y and Z, or one number for all three.
        spacing_mm: Voxel spacing to resample to in mm, one number or three; null keeps the spacing.
        orientation: Directions of the axes, such as RAS: right, anterior, superior.
        fit: pad crops or pads around the centre; stretch resizes each axis separately.
        crop: what to crop to: none, foreground, box (needs data.box) or mask (needs data.mask).
        margin_mm: Margin in mm that is kept around the foreground, box or mask.
        mask_values: Mask values that count as foreground, such as those of one organ; all values above 0 if not given.
        foreground_above: Voxels brighter than this are foreground; Otsu's threshold if not given.
        half: Keep the half of the volume on the side that data.laterality names: one sample per breast.
        intensity: how intensities are scaled: zscore, window, percentiles or none; auto is zscore for MR and window for
            CT, and an error for anything else; picture is window for CT and percentiles for anything else, so that
            slices are between black and white, as an encoder of pictures takes them.
        window: Values that become 0 and 1 if intensity is window; for CT in HU.
        percentiles: Percentiles of the values that become 0 and 1 if intensity is percentiles.
        dynamic: Channels are the phases of one dynamic series, the first before contrast, and are scaled together; the
            model sees the phases, the subtractions of the first from the later ones, or both. With none, each channel
            is scaled separately.
        sides: keep never mirrors left to right; flip mirrors half of the training volumes, if the side does not matter;
            mirror turns right-sided samples (data.laterality) into left ones, in training and prediction.
        flips: Axes along which half of the training volumes are mirrored, such as XY; for tasks in which the direction
            does not matter, as for the places of lesions.
        augmentation: Whether training volumes are augmented.
        rotation: Largest random rotation about each axis in degrees.
        zoom: Largest random enlargement or reduction, as a fraction of the size.
        shift: Largest random shift along each axis, as a fraction of its length.
        jitter: Largest random change of contrast, and of brightness in standard deviations.
        noise: Largest standard deviation of random noise, in units of the volume's standard deviation.
        bias: Largest coefficient of a random smooth bias field, such as the coils of MR scanners cause.
    """

    def __init__(
        self,
        size: int | tuple[int, int, int] = 64,
        spacing_mm: float | tuple[float, float, float] | None = None,
        orientation: str = "RAS",
        fit: Literal["pad", "stretch"] = "pad",
        crop: Literal["none", "foreground", "box", "mask"] = "none",
        margin_mm: float = 0.0,
        mask_values: list[int] | None = None,
        foreground_above: float | None = None,
        half: bool = False,
        intensity: Literal["auto", "zscore", "window", "percentiles", "none", "picture"] = "auto",
        window: tuple[float, float] = WINDOW,
        percentiles: tuple[float, float] = (1.0, 99.0),
        dynamic: Literal["none", "phases", "subtractions", "both"] = "none",
        sides: Literal["keep", "flip", "mirror"] = "keep",
        flips: str = "",
        augmentation: bool = True,
        rotation: float = 10.0,
        zoom: float = 0.1,
        shift: float = 0.05,
        jitter: float = 0.1,
        noise: float = 0.05,
        bias: float = 0.0,
    ) -> None:
        self.size: tuple[int, int, int] = (size, size, size) if isinstance(size, int) else size
        if min(self.size) < 1:
            raise InputError(f"transforms.size {size} must be 1 or more")
        spacing = (spacing_mm,) * 3 if isinstance(spacing_mm, int | float) else spacing_mm
        if spacing is not None and min(spacing) <= 0:
            raise InputError(f"transforms.spacing_mm {spacing_mm} must be above 0")
        _check_orientation(orientation)
        check_range("transforms.margin_mm", margin_mm, 0)
        check_percentiles(percentiles)
        if mask_values is not None and crop != "mask":
            raise InputError("transforms.mask_values needs transforms.crop mask")
        if mask_values is not None and (not mask_values or min(mask_values) < 1):
            raise InputError(f"transforms.mask_values {mask_values}: numbers from 1 on; 0 is the background")
        if window[0] >= window[1]:
            raise InputError(f"transforms.window {window[0]:g}, {window[1]:g} must rise")
        for name, value, high in (
            ("rotation", rotation, 180),
            ("zoom", zoom, 0.9),
            ("shift", shift, 1),
            ("jitter", jitter, 1),
            ("noise", noise, 10),
            ("bias", bias, 1),
        ):
            check_range(f"transforms.{name}", value, 0, high)
        self.is_uncut = False
        self.spacing_mm, self.orientation, self.fit = spacing, orientation, fit
        self.crop, self.margin_mm, self.foreground_above, self.half = crop, margin_mm, foreground_above, half
        self.mask_values = mask_values
        self.intensity, self.window, self.percentiles = intensity, window, percentiles
        self.dynamic: Dynamic = dynamic
        self.sides, self.augmentation = sides, augmentation
        axes = {geometry.left_right_axis(orientation)} if sides == "flip" else set()
        axes |= {"XYZ".index(axis) for axis in _checked_flips(flips)}
        self.flips = flips
        self.changes = Augmentation(tuple(sorted(axes)), rotation, zoom, shift, jitter, noise, bias, dynamic)

    @property
    def needs_laterality(self) -> bool:
        """Whether the side of every sample must be known."""
        return self.half or self.sides == "mirror"

    def uncut(self) -> VolumeTransforms:
        """The same recipe, but for the last step: volumes keep the number of voxels that they have by then."""
        other = copy.copy(self)
        other.is_uncut = True
        return other

    def channels(self, read: int) -> int:
        """Channels that the model sees where so many were read.

        Raises:
            InputError: subtractions need two phases.
        """
        if self.dynamic != "none" and read < 2:
            raise InputError(
                f"transforms.dynamic {self.dynamic}: a dynamic series has two phases or more, and {read} was found; "
                "name the columns of all phases with data.path"
            )
        return channels_of(read, self.dynamic)

    @property
    def views(self) -> tuple[AnyView, ...]:
        """A volume as it is, and where ``sides`` is flip its mirror image from left to right."""
        if self.sides != "flip":
            return (AS_IT_IS,)
        return (AS_IT_IS, Mirrored("left-right", geometry.left_right_axis(self.orientation)))

    def scaling(self, modality: str) -> Scaling:
        """How values of a modality are scaled.

        Raises:
            ValueError: ``intensity`` is auto, and the modality has no customary scale.
        """
        if self.intensity == OF_SLICES:
            return "window" if modality == "CT" else "percentiles"
        if self.intensity != "auto":
            return self.intensity
        if modality not in OF_MODALITY:
            of = f"of modality {modality}" if modality else "of unknown modality (NIfTI does not say it)"
            choices = "zscore, window, percentiles or none"
            raise ValueError(f"values {of} have no customary scale: set transforms.intensity to {choices}")
        return OF_MODALITY[modality]

    def recipe(self) -> dict[str, Any]:
        """What decides ``prepare``: plain values."""
        apart = ("augmentation", "changes", "flips", "is_uncut", *(("size", "fit") if self.is_uncut else ()))
        settings = {name: value for name, value in vars(self).items() if name not in apart}
        return settings | {"sides": "mirror" if self.sides == "mirror" else "keep"}

    def prepare(
        self,
        volumes: Sequence[MetaTensor | int],
        modalities: Sequence[str],
        box: Box | None,
        side: Side,
        mask: MetaTensor | None = None,
    ) -> Prepared:
        """Make what the model is shown, without any randomness.

        Args:
            volumes: of one sample, each (C, X, Y, Z) on a grid of its own; all are brought to the grid of the first.
                A number stands for a missing one with so many channels, which are 0 after scaling.
            modalities: of each volume, such as MR or CT; "" where unknown.
            box: in voxels of the first volume.
            side: of the patient that the sample is of, "" where it does not matter.
            mask: (1, X, Y, Z) on the voxels of the first volume, for ``crop`` mask.

        Raises:
            ValueError: there is nothing to show, such as an empty box; the message has no file name.
        """
        there: list[Any] = [volume for volume in volumes if not isinstance(volume, int)]
        grid = there[0]
        stack = torch.cat([geometry.on_grid_of(volume, grid).as_tensor() for volume in there])
        together = MetaTensor(stack, affine=grid.affine)
        if self.crop == "box" and box is not None:
            together = geometry.crop_box(together, box, self.margin_mm)
        together = geometry.oriented(together, self.orientation)
        mask = None if mask is None else geometry.oriented(mask, self.orientation)
        if self.half:
            together = geometry.half(together, self.orientation, side)
            mask = None if mask is None else geometry.half(mask, self.orientation, side)
        if self.crop == "foreground":
            together = geometry.crop_foreground(together, self.foreground_above, self.margin_mm)
        elif self.crop == "mask" and mask is not None:
            together = geometry.crop_mask(together, mask, self.margin_mm)
        if self.spacing_mm is not None:
            together = geometry.to_spacing(together, self.spacing_mm)
        if self.sides == "mirror" and side == "right":
            together = geometry.mirrored(together, self.orientation)
        together = self._with_scaled_values(together, volumes, modalities)
        size = tuple(together.shape[1:]) if self.is_uncut else self.size
        if self.is_uncut:
            shown = together
        elif self.fit == "stretch":
            shown = geometry.stretched(together, self.size)
        else:
            shown = geometry.padded(together, self.size, background(together.as_tensor(), self.dynamic))
        kept = 1.0 if self.fit == "stretch" else np.array(size) / together.shape[1:]
        cut = np.maximum(0.0, 1.0 - kept) * np.ones(3)
        image = shown.as_tensor().float().contiguous()
        return Prepared(image, torch.as_tensor(np.asarray(shown.affine, np.float64)), torch.from_numpy(cut))

    def _with_scaled_values(
        self, together: MetaTensor, volumes: Sequence[MetaTensor | int], modalities: Sequence[str]
    ) -> MetaTensor:
        """Channels of all volumes in order, the missing ones 0."""
        if self.dynamic != "none":
            rest = scaled(together, self.scaling(modalities[0]), self.window, self.percentiles, by_first=True)
            return with_subtractions(rest, self.dynamic)
        values, parts, at = together.as_tensor(), [], 0
        for volume, modality in zip(volumes, modalities, strict=True):
            if isinstance(volume, int):
                parts.append(values.new_zeros(volume, *values.shape[1:]))
                continue
            own = MetaTensor(values[at : at + len(volume)], affine=together.affine)
            parts.append(scaled(own, self.scaling(modality), self.window, self.percentiles, by_first=False).as_tensor())
            at += len(volume)
        return MetaTensor(torch.cat(parts), affine=together.affine)

    def augment(self, image_CXYZ: Tensor, seed: int) -> Tensor:
        """Change a prepared volume at random: the same volume and seed give the same result anywhere."""
        return self.changes(image_CXYZ, seed) if self.augmentation else image_CXYZ

    def augment_with_mask(self, image_CXYZ: Tensor, mask_XYZ: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """As ``augment``, with a mask (X, Y, Z) uint8 that is mirrored, turned and scaled as the volume is.

        What comes in from outside is 0 in the mask.
        """
        if not self.augmentation:
            return image_CXYZ, mask_XYZ
        image, mask = self.changes.with_mask(image_CXYZ, mask_XYZ, seed)
        assert mask is not None
        return image, mask


def _checked_flips(axes: str) -> str:
    """Raise InputError where the letters name other axes than X, Y and Z."""
    if len(set(axes)) != len(axes) or not set(axes) <= set("XYZ"):
        raise InputError(f"transforms.flips {axes!r}: axes of the volume as the model sees it, each once, such as XY")
    return axes


def _check_orientation(axes: str) -> None:
    """Raise InputError where the letters do not name three directions of the body."""
    directions = ["LR", "AP", "IS"]
    if len(axes) != 3 or sorted(next((i for i, d in enumerate(directions) if c in d), -1) for c in axes) != [0, 1, 2]:
        raise InputError(
            f"transforms.orientation {axes!r}: three letters, one each of R or L, A or P, S or I, such as RAS"
        )
