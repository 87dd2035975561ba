"""Images of volumes for display: three planes, and montages of slices.

Arrays are (X, Y, Z) with axes that run to the right, to the front and upwards (RAS), and are drawn as radiologists hold
them: the patient's right on the left of the picture; the front, or the head, on top.
"""

from __future__ import annotations

import numpy as np


def axial(volume_XYZ: np.ndarray, z: int) -> np.ndarray:
    """A slice across the body, (Y, X): the front on top, the patient's right on the left."""
    return volume_XYZ[::-1, ::-1, z].T


def coronal(volume_XYZ: np.ndarray, y: int) -> np.ndarray:
    """A slice from side to side, (Z, X): the head on top, the patient's right on the left."""
    return volume_XYZ[::-1, y, ::-1].T


def sagittal(volume_XYZ: np.ndarray, x: int) -> np.ndarray:
    """A slice from front to back, (Z, Y): the head on top, the front on the left."""
    return volume_XYZ[x, ::-1, ::-1].T


def three_planes(volume_XYZ: np.ndarray, at: tuple[int, int, int] | None = None) -> np.ndarray:
    """Axial, coronal and sagittal slice side by side through a voxel, by default the middle one.

    Returns:
        (H, W) of the volume's type, filled up with its lowest value.
    """
    x, y, z = at or tuple(side // 2 for side in volume_XYZ.shape)
    return beside([axial(volume_XYZ, z), coronal(volume_XYZ, y), sagittal(volume_XYZ, x)])


def beside(slices: list[np.ndarray]) -> np.ndarray:
    """Pictures side by side, filled up to the tallest with their lowest value."""
    height, lowest = max(len(one) for one in slices), min(one.min() for one in slices)
    filled = []
    for one in slices:
        above = (height - len(one)) // 2
        rows = ((above, height - len(one) - above), (0, 0))
        filled.append(np.pad(one, rows, constant_values=lowest))
    return np.concatenate(filled, axis=1)


def chosen_slices(depth: int, slices: int) -> list[int]:
    """So many slices at even distances, without the outermost; all where there are fewer."""
    if slices >= depth:
        return list(range(depth))
    return [int((index + 0.5) * depth / slices) for index in range(slices)]


def montage_of(pictures: list[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of one size (H, W, ...) in rows; what is left over stays 0."""
    rows = -(-len(pictures) // columns)
    height, width = pictures[0].shape[:2]
    page = np.zeros((rows * height, columns * width, *pictures[0].shape[2:]), pictures[0].dtype)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        page[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    return page


def montage(volume_XYZ: np.ndarray, slices: int) -> np.ndarray:
    """Axial slices from the feet upwards, (H, W, 1) uint8."""
    grey = to_grey(volume_XYZ)
    pictures = [axial(grey, z) for z in chosen_slices(volume_XYZ.shape[2], slices)]
    return montage_of(pictures, columns=int(np.ceil(np.sqrt(len(pictures)))))[..., np.newaxis]


def to_grey(volume: np.ndarray) -> np.ndarray:
    """uint8 between the volume's 0.5th and 99.5th percentile."""
    low, high = np.percentile(volume, [0.5, 99.5])
    if high <= low:
        low, high = float(volume.min()), float(volume.max())
    scaled = (volume - low) * (255 / ((high - low) or 1.0))
    grey: np.ndarray = np.clip(np.round(scaled), 0, 255).astype(np.uint8)
    return grey
