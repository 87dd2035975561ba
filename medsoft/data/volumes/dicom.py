"""Reads a DICOM series, in one file or many, as a volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medsoft.data.dicom.frames import Frame, Instance
from medsoft.data.dicom.header import open_dicom, word
from medsoft.data.dicom.pixels import real_frames
from medsoft.data.dicom.series import choose, dicom_files, read_instances
from medsoft.data.dicom.stack import Stack, stack
from medsoft.data.volumes.volume import Time, Volume, check_affine, check_size, check_values, over_time
from medsoft.errors import ReadError


def read_dicom_volume(
    place: Path, series: str | None, *, time: Time = "refuse", max_voxels: int, select: Sequence[str] = ()
) -> Volume:
    """Read a series of a folder or of a DICOMDIR, or one file.

    Args:
        place: a folder, a DICOMDIR or a DICOM file.
        series: which series of the folder, as for ``choose``.
        time: what becomes of several time points.
        max_voxels: as for ``read_volume``.
        select: as for ``read_volume``.

    Raises:
        ReadError: see ``choose``, ``stack`` and ``real_frames``.
    """
    instances = _instances(place, series, select)
    stacked = stack([frame for instance in instances for frame in instance.frames], select)
    rows, columns = instances[0].size
    shape = (len(stacked.frames), columns, rows, len(stacked.frames[0]))
    check_size(shape, max_voxels)
    if shape[0] > 1 and time == "refuse":
        raise ReadError(
            f"holds {shape[0]} volumes, one after the other ({stacked.told_by}): announce time points (fit: "
            "--transforms.dynamic phases, subtractions or both; data check: --dynamic true), or choose one with the "
            "option select (fit: --data.select TimePoint=1; data check and index: --select TimePoint=1)"
        )
    phases, names = over_time(check_values(_decode(stacked, shape)), time)
    modality = word(instances[0].header, "Modality") or None
    return Volume(phases, check_affine(stacked.affine), names, modality, _meta(instances, stacked))


def slices_of(place: Path, series: str | None, select: Sequence[str] = ()) -> list[Frame]:
    """The frames of the slices of a volume in the order of its axis Z, as ``read_dicom_volume`` has them.

    Args:
        place: as for ``read_dicom_volume``.
        series: as for ``read_dicom_volume``.
        select: as for ``read_dicom_volume``.

    Raises:
        ReadError: see ``choose`` and ``stack``.
    """
    frames = [frame for instance in _instances(place, series, select) for frame in instance.frames]
    return stack(frames, select).frames[0]


def _instances(place: Path, series: str | None, select: Sequence[str]) -> list[Instance]:
    alone = place.is_file() and series is None
    files = [place] if alone else dicom_files(place)
    if not files:
        raise ReadError("is a folder without DICOM files")
    instances, failed, others = read_instances(files, masks=alone)
    if failed and len(files) > 1:
        raise ReadError(
            f"holds {len(files)} DICOM files of which {len(failed)} cannot be read; the first {failed[0][1]}"
        )
    if not instances:
        raise ReadError((failed or others)[0][1])
    return choose(instances, series, select)


def _decode(stacked: Stack, shape: tuple[int, ...]) -> np.ndarray:
    """(T, X, Y, Z) float32; each file is opened once."""
    array = np.empty(shape, np.float32)
    wanted: dict[Path, list[tuple[int, int, Frame]]] = {}
    for t, phase in enumerate(stacked.frames):
        for z, frame in enumerate(phase):
            wanted.setdefault(frame.file, []).append((t, z, frame))
    for file, places in wanted.items():
        indices = sorted(frame.index for _, _, frame in places)
        frames = dict(zip(indices, real_frames(open_dicom(file), set(indices)), strict=True))
        for t, z, frame in places:
            array[t, :, :, z] = frames[frame.index].T
    return array


def _meta(instances: list[Instance], stacked: Stack) -> dict[str, str | tuple[float, ...]]:
    header = instances[0].header
    meta: dict[str, str | tuple[float, ...]] = {"photometric": word(header, "PhotometricInterpretation")}
    sides = {instance.laterality for instance in instances}
    if len(sides) == 1 and (side := sides.pop()):
        meta["laterality"] = side
    scaled = all("RescaleIntercept" in instance.header or len(instance.frames) > 1 for instance in instances)
    if word(header, "Modality") == "CT" and word(header, "RescaleType") in ("", "HU") and scaled:
        meta["units"] = "HU"
    if stacked.seconds:
        meta["phase_s"] = stacked.seconds
    return meta
