"""What is measured of a predicted mask, on the grid of the input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from medsoft.data.masks.read import BACKGROUND, IGNORED, Mask

FloatArray = npt.NDArray[np.float64]


def measure(
    predicted: Mask,
    truth: Mask | None,
    classes: int,
    spacing: Sequence[float],
    tolerance: float,
    surfaces: bool = True,
) -> FloatArray:
    """Overlap, distances of surfaces and sizes, in the order of ``Segmentation.p_columns``.

    Dice and IoU by MONAI. A class that neither mask has is undefined (NaN); where one of the two alone has it they are
    0. The Hausdorff distance (95th percentile) needs both; the surface Dice is 0 where one alone has it. Pixels that
    are ignored are background in both.

    Args:
        predicted: (H, W) or (X, Y, Z) uint8, see ``medsoft.data.masks.read``.
        truth: of the same shape; None, or all of it ignored: nothing is known.
        classes: beside the background, C.
        spacing: between pixels along each axis: mm, or 1 where that is not known.
        tolerance: of the surface Dice, in the same unit.
        surfaces: whether to measure distances, which takes longer; they are NaN otherwise.

    Returns:
        (1 + 7 C,) of each class area (volume) and true area, in the unit of the spacing to the power of the dimensions,
        and connected components; then the Dice of all classes; then of each class Dice, IoU, Hausdorff distance and
        surface Dice.
    """
    from scipy.ndimage import label

    unit = float(np.prod(spacing))
    found_C = [predicted == BACKGROUND + 1 + index for index in range(classes)]
    whole_rank = np.ones((3,) * predicted.ndim)
    area = [float(found.sum()) * unit for found in found_C]
    components = [float(label(found, whole_rank)[1]) for found in found_C]
    undefined = np.full(classes, np.nan)
    dice, iou, distance, surface, true_area = (undefined.copy() for _ in range(5))
    if truth is not None and (truth != IGNORED).any():
        known = truth != IGNORED
        true_C = [truth == BACKGROUND + 1 + index for index in range(classes)]
        found_C = [found & known for found in found_C]
        true_area = np.array([float(true.sum()) * unit for true in true_C])
        dice, iou = _overlaps(found_C, true_C)
        if surfaces:
            for index, (found, true) in enumerate(zip(found_C, true_C, strict=True)):
                distance[index], surface[index] = _surfaces(found, true, spacing, tolerance)
    together = np.nanmean(dice) if not np.isnan(dice).all() else np.nan
    return np.concatenate([area, true_area, components, [together], dice, iou, distance, surface])


def _overlaps(
    found_C: Sequence[npt.NDArray[np.bool_]], true_C: Sequence[npt.NDArray[np.bool_]]
) -> tuple[FloatArray, FloatArray]:
    from monai.metrics import compute_dice, compute_iou

    found, true = (torch.from_numpy(np.stack(masks)[None]) for masks in (found_C, true_C))
    there = (found | true).flatten(2).any(dim=2)[0].numpy()
    values = [
        compute(found.float(), true.float(), include_background=True, ignore_empty=False)[0].double().numpy()
        for compute in (compute_dice, compute_iou)
    ]
    dice, iou = (np.where(there, value, np.nan) for value in values)
    return dice, iou


def _surfaces(
    found: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_], spacing: Sequence[float], tolerance: float
) -> tuple[float, float]:
    """Of one class: the 95th percentile of the Hausdorff distance, and the surface Dice."""
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    if not found.any() or not true.any():
        return np.nan, 0.0 if found.any() or true.any() else np.nan
    box = _box(found | true)
    pair = [torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None].float() for mask in (found, true)]
    between = list(map(float, spacing))
    distance = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=between)
    surface = compute_surface_dice(*pair, class_thresholds=[tolerance], include_background=True, spacing=between)
    return float(distance[0, 0]), float(surface[0, 0])


def _box(there: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """Around what is there, with a margin of a pixel, so that the edge of the image does not cut outlines open."""
    places = [np.flatnonzero(there.any(axis=tuple(set(range(there.ndim)) - {axis}))) for axis in range(there.ndim)]
    return tuple(slice(max(0, int(at[0]) - 1), int(at[-1]) + 2) for at in places)
