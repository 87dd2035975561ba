"""Reads one volume of any format, or says in one sentence why it cannot be read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np

from medsoft.data.formats.arrays import npz_array, npz_shapes
from medsoft.data.images.read import locate
from medsoft.data.volumes.volume import MAX_VOXELS, Time, Volume, check_size, check_values
from medsoft.errors import ReadError
from medsoft.storage.files import open_regular_file

__all__ = ["MAX_VOXELS", "ReadError", "Time", "Volume", "locate_series", "read_volume"]

NIFTI = (".nii", ".nii.gz")
NRRD = (".nrrd", ".nhdr")
FORMS = ("sform", "qform")
"""The orientations of a NIfTI file, behind its path where one of them is meant."""


def read_volume(
    path: str | os.PathLike[str], *, time: Time = "refuse", max_voxels: int = MAX_VOXELS, select: Sequence[str] = ()
) -> Volume:
    """Read a volume.

    Args:
        path: a folder with the files of a DICOM series, one DICOM file, NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr), or
            ``file.npz#key/index`` for one volume of an array (N, X, Y, Z), whose spacing is not known. Of a folder
            (or a DICOMDIR) with several series, ``FOLDER#3`` or ``FOLDER#1.2.840`` is the series of that number, or
            of a SeriesInstanceUID that begins so. ``file.nii#sform`` and ``file.nii#qform`` take this orientation of a
            NIfTI file whose two contradict each other.
        time: what becomes of several time points (a 4D file, or a series with several images a place): "refuse"; or
            channels of "phases", of "subtractions" (each later one minus the first), or of "both".
        max_voxels: larger volumes are refused before they are decoded.
        select: which of several DICOM images at every place, as in ``("EchoTime=20",)``; all conditions hold. See
            ``medsoft.data.dicom.tell_apart``.

    Returns:
        The volume in its own axes, with an affine to RAS+; nothing is resampled.

    Raises:
        ReadError: the file is missing, damaged, cut short, no volume, or too large; its slices do not make one
            even grid; it holds NaN, or time points that were not announced. The message holds no value of an
            identifying element.
    """
    name = os.fspath(path)
    try:
        return _read(name, time, max_voxels, select)
    except ReadError as error:
        raise ReadError(error.reason, name) from None
    except MemoryError:
        raise ReadError("does not fit into memory", name) from None
    except OSError as error:
        raise ReadError(f"cannot be opened: {error.strerror or type(error).__name__}", name) from None
    except Exception as error:  # hostile bytes raise anything, in words that may quote the header
        raise ReadError(f"is damaged ({type(error).__name__})", name) from None


def locate_series(path: str) -> tuple[str, str | None]:
    """Split a path into what lies on the disk and what of it is meant.

    ``FOLDER#3`` or ``FOLDER#1.2.840.1`` is the folder (or DICOMDIR) and the series, ``file.nii#sform`` the file and the
    orientation; others are whole.
    """
    from medsoft.data.dicom.series import SERIES_NAME

    place, _, series = path.rpartition("#")
    if series in FORMS and place.lower().endswith(NIFTI):
        return place, series
    if place and SERIES_NAME.fullmatch(series) and not Path(path).exists():
        return place, series
    return path, None


def _read(name: str, time: Time, max_voxels: int, select: Sequence[str]) -> Volume:
    file, key, index = locate(name)
    if select and (key or name.lower().endswith((*NIFTI, *NRRD))):
        raise ReadError("is not DICOM, of which alone the option select chooses images: leave it out")
    if key:
        return _read_npz(file, key, index, max_voxels)
    place, series = locate_series(name)
    if place.lower().endswith(NIFTI):
        from medsoft.data.volumes.nifti import read_nifti

        form = cast(Literal["", "sform", "qform"], series or "")
        return read_nifti(place, time=time, max_voxels=max_voxels, form=form)
    if place.lower().endswith(NRRD):
        from medsoft.data.volumes.nrrd import read_nrrd

        return read_nrrd(place, time=time, max_voxels=max_voxels)
    from medsoft.data.volumes.dicom import read_dicom_volume

    if not Path(place).is_dir():
        with open_regular_file(place) as stream:
            _check_dicom(stream.read(132))
    return read_dicom_volume(Path(place), series, time=time, max_voxels=max_voxels, select=select)


def _check_dicom(head: bytes) -> None:
    from medsoft.data.dicom.header import is_dicom

    if not head:
        raise ReadError("is empty (0 bytes)")
    if not is_dicom(head):
        raise ReadError("is not a volume of a kind read here (DICOM, .nii, .nii.gz, .nrrd, .nhdr, .npz#key/index)")


def _read_npz(file: str, key: str, index: int, max_voxels: int) -> Volume:
    shape = npz_shapes(file).get(key, ())
    if len(shape) != 4:
        raise ReadError(f"has no array {key!r} of volumes (N, X, Y, Z)")
    if index >= shape[0]:
        raise ReadError(f"has {shape[0]} volumes in the array {key!r}")
    check_size(shape[1:], max_voxels)
    array = npz_array(file, key)[index]
    return Volume(check_values(array[np.newaxis]), np.eye(4), meta={"orientation": "unknown", "spacing": "unknown"})
