"""NIfTI volumes, read by nibabel."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from medsoft.data.decode import ReadError
from medsoft.data.volumes.volume import Time, Volume, check_affine, check_size, check_values, over_time

logging.getLogger("nibabel").addHandler(logging.NullHandler())
MM_OF_UNIT = {"meter": 1000.0, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}
"""The standard has no default; programs take a file that states no unit to be in mm."""


def read_nifti(path: str, *, time: Time = "refuse", max_voxels: int) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 file, ``.nii`` or ``.nii.gz``; its slope and intercept are applied.

    Raises:
        ReadError: it is damaged, has more than one number a voxel, time points that were not announced, values that
            are not finite, or a spacing of zero.
    """
    import nibabel
    from nibabel.openers import ImageOpener

    with Path(path).open("rb"):
        pass  # or nibabel would hide what the operating system says
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image: Any = nibabel.load(path)
            with ImageOpener(path) as file:
                header = image.header_class.from_fileobj(file, check=False)  # nibabel makes 1 of a spacing of 0
        shape = tuple(map(int, image.shape))
        spacings = np.asarray(header["pixdim"][1:4], float)
        unit = image.header.get_xyzt_units()[0]
        stated = int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0
    except Exception as error:  # hostile bytes raise anything
        raise ReadError(f"is a damaged NIfTI file ({type(error).__name__})") from None
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or image.get_data_dtype().kind not in "iuf":
        raise ReadError(f"has the shape {image.shape} of {image.get_data_dtype()}: a volume has one number a voxel")
    check_size(shape, max_voxels)
    if (spacings == 0).any():
        raise ReadError("has a spacing of zero between voxels: correct the header")
    try:
        array = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    except MemoryError:
        raise
    except Exception as error:
        raise ReadError(f"is damaged or cut short ({type(error).__name__})") from None
    phases = array[np.newaxis] if array.ndim == 3 else np.moveaxis(array, -1, 0)
    channels, names = over_time(check_values(phases), time)
    affine = np.diag([MM_OF_UNIT.get(unit, 1.0)] * 3 + [1.0]) @ check_affine(image.affine)
    return Volume(np.ascontiguousarray(channels), affine, names, meta={} if stated else {"orientation": "unknown"})
