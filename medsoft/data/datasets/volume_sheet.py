"""Contact sheets of volumes: three planes and a montage of each sample as read, prepared and augmented."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_erosion

from medsoft.data.datasets.contact_sheet import contact_sheet
from medsoft.data.datasets.volume_dataset import UNREADABLE, VolumeReader, reason_of
from medsoft.data.volumes.planes import montage, three_planes, to_grey
from medsoft.data.volumes.rows import VolumeRow
from medsoft.data.volumes.transforms.geometry import located, oriented
from medsoft.data.volumes.volume import Volume

AUGMENTATIONS = 2
SLICES = 16
AS_DRAWN = "RAS"
OUTLINE = (255, 190, 0)


class UnreadableError(Exception):
    """A sample cannot be drawn.

    Attributes:
        number: which of those to draw, from 0.
        reason: why, without the name of a file.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(number, reason)
        self.number, self.reason = number, reason


def volumes_sheet(
    rows: Sequence[VolumeRow], captions: Sequence[str], reader: VolumeReader, title: str, out: Path
) -> None:
    """Draw a row for each sample: planes as read, planes and montage as prepared, and random variants of that.

    As read is the first channel of the first volume, turned to RAS in steps of 90°, where there is a mask with its
    outline, and through the slices that hold most of it. Of what is prepared, planes show
    the first and the last channel, the montage the first. Planes are axial, coronal and sagittal; the patient's right
    is on the left.

    Args:
        rows: the samples.
        captions: one per sample.
        reader: reads and prepares.
        title: above the page.
        out: the file.

    Raises:
        UnreadableError: a sample cannot be read or prepared.
    """
    cells, texts = [], []
    for number, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        try:
            read = reader.read(next(filter(None, row.paths)))
            inside = reader.outlined(row, read)
            prepared = reader.prepared(row)
        except UNREADABLE as error:
            raise UnreadableError(number, reason_of(error)) from None
        image = _turned(prepared.image.numpy(), reader)
        spacing = " × ".join(f"{mm:.3g}" for mm in read.spacing_mm)
        size = " × ".join(map(str, prepared.image.shape[1:]))
        shown = "1 channel" if len(image) == 1 else f"channels 1 and {len(image)}"
        cells += [_as_read(read, inside), _planes(image), montage(image[0], SLICES)]
        texts += [f"{caption}\nas read, {spacing} mm", f"prepared, {size}\n{shown}", f"prepared\n{SLICES} slices"]
        for seed in range(number * AUGMENTATIONS, (number + 1) * AUGMENTATIONS):
            cells.append(_planes(_turned(reader.transforms.augment(prepared.image, seed).numpy(), reader)))
            texts.append(f"augmented\nseed {seed}")
    contact_sheet(cells, texts, 3 + AUGMENTATIONS, title, out)


def _as_read(volume: Volume, inside_XYZ: np.ndarray | None) -> np.ndarray:
    """Three planes of the first channel, (H, W, 1) uint8; with the outline of a mask (H, W, 3)."""
    shown = np.asarray(oriented(located(volume.array[:1], volume.affine), AS_DRAWN))
    if inside_XYZ is None:
        return _planes(shown)
    inside = np.asarray(oriented(located(inside_XYZ[np.newaxis], volume.affine), AS_DRAWN))[0] > 0
    x, y, z = (int(inside.sum(axis=others).argmax()) for others in ((1, 2), (0, 2), (0, 1)))
    drawn = np.repeat(three_planes(to_grey(shown[0]), (x, y, z))[..., np.newaxis], 3, axis=-1)
    area = three_planes(inside, (x, y, z))
    drawn[area & ~binary_erosion(area)] = OUTLINE
    return drawn


def _turned(image_CXYZ: np.ndarray, reader: VolumeReader) -> np.ndarray:
    """A prepared volume, whose axes run as the recipe says, to RAS for drawing."""
    axes = reader.transforms.orientation
    order = [next(i for i, code in enumerate(axes) if code in pair) for pair in ("RL", "AP", "SI")]
    turned = image_CXYZ.transpose(0, *(1 + axis for axis in order))
    backwards = [1 + i for i, axis in enumerate(order) if axes[axis] in "LPI"]
    flipped: np.ndarray = np.flip(turned, tuple(backwards))
    return flipped


def _planes(image_CXYZ: np.ndarray) -> np.ndarray:
    """Three planes of the first and of the last channel, one below the other, (H, W, 1) uint8."""
    shown = image_CXYZ if len(image_CXYZ) < 3 else image_CXYZ[[0, -1]]
    return np.concatenate([three_planes(to_grey(channel)) for channel in shown])[..., np.newaxis]
