"""Facts of a volume: its values, size and spacing, as read; and of its file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from medsoft.data.facts.pictures import Facts, scanner_of_dicom
from medsoft.data.images.read import locate
from medsoft.data.volumes.read import locate_series
from medsoft.data.volumes.volume import Volume
from medsoft.storage.walk import walk

AXES = "xyz"
VOLUME_FACTS = (
    *("mean", "deviation", "5th percentile", "95th percentile", "share of the lowest value", "detail"),
    *(f"voxels along {axis}" for axis in AXES),
    *(f"mm along {axis}" for axis in AXES),
    "channels",
)
"""Names of what ``volume_facts`` gives; sizes, spacing and detail are logarithms."""
LOOKED_AT = 2**17
FLOOR = 1e-8


def volume_facts(volume: Volume) -> np.ndarray:
    """Facts of a volume's first channel, (K,) float64 in the order of ``VOLUME_FACTS``."""
    array = volume.array[0]
    step = math.ceil(max(1.0, array.size / LOOKED_AT) ** (1 / 3))
    some = array[::step, ::step, ::step].astype(np.float64)
    low, high = np.quantile(some, [0.05, 0.95])
    lowest = float((some <= some.min() + 0.01 * (some.max() - some.min())).mean())
    scale = float(some.var()) or 1.0
    steps = [float(np.square(np.diff(some, axis=axis)).mean()) for axis in range(3) if some.shape[axis] > 1]
    detail = math.log10(float(np.mean(steps or [0.0])) / scale + FLOOR)
    values = [float(some.mean()), float(some.std()), float(low), float(high), lowest, detail]
    sizes = [math.log10(side) for side in volume.shape]
    known = volume.meta.get("spacing") != "unknown"
    spacing = [math.log10(mm) if known and mm > 0 else math.nan for mm in volume.spacing_mm]
    return np.array([*values, *sizes, *spacing, float(len(volume.array))])


def volume_file_facts(path: str) -> Facts:
    """Bytes of a volume's file or folder, its format, and the scanner of DICOM."""
    file, key, _ = locate(path)
    place = Path(locate_series(file)[0])
    facts: Facts = {"bytes of the file": math.nan, "format": "", "scanner": ""}
    if key or not place.exists():
        return facts
    files = walk(place).files if place.is_dir() else [place]
    size = sum(one.stat().st_size for one in files)
    facts["bytes of the file"] = math.log10(size) if size else math.nan
    named = place.name.lower()
    facts["format"] = "dicom" if place.is_dir() else "nii.gz" if named.endswith(".nii.gz") else named.rpartition(".")[2]
    facts["scanner"] = scanner_of_dicom(str(place)) if place.is_dir() or named.endswith(".dcm") else ""
    return facts
