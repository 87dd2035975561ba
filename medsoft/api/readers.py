"""Opens what medsoft reads: slides, bags of features and volumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from medsoft.data.features.bag import Bag
    from medsoft.data.volumes.read import Volume
    from medsoft.slides.reading.slide import Slide


def open_slide(path: str | Path, mpp: float | None = None) -> Slide:
    """Open a whole slide, or a plain picture.

    Args:
        path: the file, or its address in an object store (``s3://bucket/a.svs``).
        mpp: µm per pixel of level 0, which goes before what the file says.

    Raises:
        medsoft.slides.errors.SlideError: the file cannot be read, or has no resolution and none is stated.
    """
    from medsoft.slides.reading.slide import open_slide

    return open_slide(path, mpp)


def open_bag(path: str | Path) -> Bag:
    """Open a file of features: of medsoft, TRIDENT, CLAM or STAMP, ``.npy``, ``.npz``, Parquet, or ``TABLE#BAG``.

    Raises:
        medsoft.data.features.errors.BagError: the file cannot be read.
    """
    from medsoft.data.features.open import open_bag

    return open_bag(path)


def read_volume(path: str | Path, time: Literal["refuse", "phases", "subtractions", "both"] = "refuse") -> Volume:
    """Read a volume: a folder of a DICOM series, NIfTI, NRRD, or ``file.npz#key/index``.

    Args:
        path: the file or folder.
        time: what becomes of several time points.

    Raises:
        medsoft.data.volumes.errors.VolumeError: it cannot be read.
    """
    from medsoft.data.volumes.read import read_volume

    return read_volume(path, time=time)
