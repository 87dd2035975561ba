"""Draws an attribution map over the slices of its volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from medsoft.data.volumes.planes import axial, chosen_slices, montage_of, to_grey
from medsoft.evaluation.figures.style import caption, new_figure, save, shortened, styled

COLOURS = colormaps["RdBu_r"]
SLICES, COLUMNS = 12, 4
OPACITY = 0.6


def write_montage(
    volume_XYZ: np.ndarray,
    map_XYZ: np.ndarray,
    mm: tuple[float, float],
    quantity: str,
    title: str,
    facts: str,
    note: str,
    path: Path,
) -> Path:
    """Write twelve axial slices that hold the map, grey below and with the map over them.

    Args:
        volume_XYZ: the volume, axes to the right, to the front and upwards.
        map_XYZ: contributions on the same voxels.
        mm: distances of voxels along X and Y.
        quantity: what the contributions add up to, such as ``logit of tumour``.
        title: of the picture.
        facts: below the title.
        note: below the panels.
        path: the file.
    """
    return save(_figure(volume_XYZ, map_XYZ, mm, quantity, title, facts, note), path)


@styled
def _figure(
    volume_XYZ: np.ndarray,
    map_XYZ: np.ndarray,
    mm: tuple[float, float],
    quantity: str,
    title: str,
    facts: str,
    note: str,
) -> Figure:
    grey = to_grey(volume_XYZ)
    limit = float(np.abs(map_XYZ).max()) or 1.0
    seen = np.flatnonzero((map_XYZ != 0).any(axis=(0, 1)))
    first, last = (int(seen[0]), int(seen[-1])) if len(seen) else (0, map_XYZ.shape[2] - 1)
    slices = [first + z for z in chosen_slices(last - first + 1, SLICES)]
    plain = montage_of([axial(grey, z) for z in slices], COLUMNS)
    over = montage_of([_over(axial(grey, z), axial(map_XYZ, z), limit) for z in slices], COLUMNS)
    height, width = over.shape[0] * mm[1], over.shape[1] * mm[0]
    figure = new_figure(9.6, 4.6 * height / width + 1.2)
    for place, picture in enumerate((plain, over), start=1):
        axes = figure.add_subplot(1, 2, place, xticks=[], yticks=[])
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, aspect=mm[1] / mm[0])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(ScalarMappable(Normalize(-limit, limit), COLOURS), ax=figure.axes, fraction=0.03, pad=0.01)
    bar.set_label(f"contribution of a cell to the {shortened(quantity, 44, 1)}")
    caption(figure, title, facts, note)
    return figure


def _over(grey: np.ndarray, contributions: np.ndarray, limit: float) -> np.ndarray:
    """The map over a grey slice: the larger the contribution, the less of the slice shows through. (H, W, 3) uint8."""
    colours = COLOURS(Normalize(-limit, limit)(contributions))[..., :3] * 255
    strength = (OPACITY * np.minimum(np.abs(contributions) / limit, 1) ** 0.5)[..., np.newaxis]
    mixed: np.ndarray = np.round(strength * colours + (1 - strength) * grey[..., np.newaxis]).astype(np.uint8)
    return mixed
