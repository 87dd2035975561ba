"""Slices of a volume with its masks, side by side, as the pictures of a report take them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medsoft.data.masks.read import BACKGROUND, Mask
from medsoft.data.volumes.planes import axial, chosen_slices, montage_of, to_grey
from medsoft.data.volumes.transforms.geometry import located, oriented
from medsoft.data.volumes.volume import Volume

SLICES, COLUMNS = 4, 2
SIDE_PX = 160
"""Longer side of a slice."""
MARGIN_MM = 10.0
"""What is shown around the structures at least."""


def slices_through(volume: Volume, truth: Mask, predicted: Mask) -> tuple[npt.NDArray[np.uint8], Mask, Mask]:
    """Four axial slices at even distances through what either mask has, from the feet upwards.

    Turned to RAS in steps of 90° and cut to the surroundings of the structures; drawn with square pixels.

    Args:
        volume: its first channel is drawn.
        truth: (X, Y, Z), see ``medsoft.data.masks.read``, on the volume's voxels.
        predicted: likewise.

    Returns:
        (H, W, 3) picture, and (H, W) of both masks.
    """
    import cv2

    layers = np.stack([to_grey(volume.array[0]).astype(np.float32), truth, predicted])
    turned = oriented(located(layers, volume.affine), "RAS")
    spacing = np.linalg.norm(np.asarray(turned.affine, np.float64)[:3, :3], axis=0)
    grey, *masks = np.asarray(turned).round().astype(np.uint8)
    box = _surroundings((masks[0] > BACKGROUND) | (masks[1] > BACKGROUND), spacing)
    grey, *masks = (layer[box[0], box[1]] for layer in (grey, *masks))
    sides_mm = np.array(grey.shape[:2]) * spacing[:2]
    width, height = np.maximum(1, np.round(sides_mm * SIDE_PX / sides_mm.max())).astype(int).tolist()

    def drawn(layer_XYZ: npt.NDArray[np.uint8], how: int) -> npt.NDArray[np.uint8]:
        slices = [box[2].start + z for z in chosen_slices(box[2].stop - box[2].start, SLICES)]
        pictures = [np.ascontiguousarray(axial(layer_XYZ, z)) for z in slices]
        return montage_of([cv2.resize(one, (width, height), interpolation=how) for one in pictures], COLUMNS)

    picture = np.repeat(drawn(grey, cv2.INTER_LINEAR)[..., None], 3, axis=2)
    return picture, drawn(masks[0], cv2.INTER_NEAREST), drawn(masks[1], cv2.INTER_NEAREST)


def _surroundings(there_XYZ: npt.NDArray[np.bool_], spacing: npt.NDArray[np.float64]) -> tuple[slice, slice, slice]:
    """What is shown along X and Y, with a margin of half the structures' size, and along Z without one."""
    parts = []
    for axis, side in enumerate(there_XYZ.shape):
        at = np.flatnonzero(there_XYZ.any(axis=tuple({0, 1, 2} - {axis})))
        first, last = (int(at[0]), int(at[-1])) if len(at) else (0, side - 1)
        margin = 0 if axis == 2 else int(max(MARGIN_MM / spacing[axis], (last - first) / 2))
        parts.append(slice(max(0, first - margin), min(side, last + 1 + margin)))
    return parts[0], parts[1], parts[2]
