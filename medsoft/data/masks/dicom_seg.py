"""Masks as DICOM SEG, which refers to the series that it is of; written by highdicom, an optional extra."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsoft import __version__
from medsoft.data.dicom.frames import Frame
from medsoft.data.masks.read import BACKGROUND, Mask
from medsoft.data.volumes.read import NIFTI, NRRD, locate_series
from medsoft.errors import InputError, ReadError, RunError
from medsoft.storage.files import replacing

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom import Dataset

SERIES_NUMBER = 900
"""Of the series that a mask becomes: beyond those of scanners."""

MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
"""Elements of type 2 (PS3.3, C.7.1.1 and C.7.2.1) that a SEG takes from its source."""


def check_seg_available() -> None:
    """Check that DICOM SEG can be written.

    Raises:
        InputError: highdicom is not installed.
    """
    if importlib.util.find_spec("highdicom") is None:
        raise InputError(
            "data.dicom_seg: DICOM SEG is written by highdicom, which is not installed: pip install "
            "'medsoft[dicom_seg]'"
        )


def is_dicom_series(path: str) -> bool:
    """Whether a path names a DICOM series, or a DICOM file: not NIfTI, NRRD or an array."""
    place, _ = locate_series(path)
    return bool(place) and not place.lower().endswith((*NIFTI, *NRRD)) and ".npz#" not in place.lower()


def why_no_seg(path: str, select: Sequence[str]) -> str:
    """Why no DICOM SEG can refer to what a path names, in words that go on from "the volume"; "" where one can.

    Args:
        path: as for ``read_volume``.
        select: as for ``read_volume``.
    """
    from medsoft.data.dicom.header import open_dicom, word
    from medsoft.data.volumes.dicom import slices_of

    if not is_dicom_series(path):
        return "is no DICOM series, to which a DICOM SEG could refer"
    try:
        place, series = locate_series(path)
        header = open_dicom(slices_of(Path(place), series, select)[0].file, tags=("FrameOfReferenceUID",))
    except (ReadError, OSError):
        return ""  # told of where it is read
    return "" if word(header, "FrameOfReferenceUID") else "states no FrameOfReferenceUID, which a DICOM SEG needs"


def write_dicom_seg(path: Path, mask_XYZ: Mask, classes: Sequence[str], source: str, select: Sequence[str]) -> None:
    """Write a mask as a binary DICOM SEG with a segment for each class; the folder is made.

    Patient, study and frame of reference are those of the source, whose images every frame names. The classes' names
    become the segments' labels; their codes say "tissue", as nothing more is known of them.

    Args:
        path: of the file.
        mask_XYZ: (X, Y, Z) as ``medsoft.data.masks.read`` keeps masks, on the voxels of the source as read.
        classes: names beside the background.
        source: path of the series, as for ``read_volume``.
        select: as for ``read_volume``.

    Raises:
        RunError: the series cannot be read, or lacks what a SEG must have.
        OSError: the file cannot be written.
    """
    from highdicom.seg import Segmentation, SegmentationTypeValues
    from pydicom.uid import generate_uid

    from medsoft.data.dicom.header import open_dicom
    from medsoft.data.volumes.dicom import slices_of

    logging.getLogger("highdicom").setLevel(logging.ERROR)  # that a segment is empty is no news here
    try:
        place, series = locate_series(source)
        frames = slices_of(Path(place), series, select)
        files = list(dict.fromkeys(frame.file for frame in frames))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values in the source that pydicom would write otherwise
            images = [_complete(open_dicom(file, pixels=False)) for file in files]
            written = Segmentation(
                source_images=images,
                pixel_array=_as_frames(mask_XYZ, frames, len(images), images[0].get("NumberOfFrames", 1)),
                segmentation_type=SegmentationTypeValues.BINARY,
                segment_descriptions=[_segment(number, name) for number, name in enumerate(classes, start=1)],
                series_instance_uid=generate_uid(),
                series_number=SERIES_NUMBER,
                sop_instance_uid=generate_uid(),
                instance_number=1,
                manufacturer="medsoft",
                manufacturer_model_name="medsoft",
                software_versions=__version__,
                device_serial_number="0",
                omit_empty_frames=bool((mask_XYZ > BACKGROUND).any()),
            )
            with replacing(path) as temporary:
                written.save_as(temporary)
    except ReadError as error:
        raise RunError(f"no DICOM SEG can be written of a series: it {error.reason}") from None
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise RunError(f"no DICOM SEG can be written of a series: {type(error).__name__}: {error}") from None


def _complete(header: Dataset) -> Dataset:
    """A header with the elements that any DICOM image must have, empty where files without names lack them."""
    for keyword in MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, None)
    if not header.get("SpecificCharacterSet", "ISO_IR 100"):
        del header.SpecificCharacterSet
    return header


def _as_frames(mask_XYZ: Mask, frames: Sequence[Frame], files: int, frames_of_file: int) -> np.ndarray:
    """(frames, rows, columns) numbers of segments in the order of the source's images."""
    labels = np.where(mask_XYZ > BACKGROUND, mask_XYZ - BACKGROUND, 0).astype(np.uint8)
    slices = np.ascontiguousarray(labels.transpose(2, 1, 0))
    if files == len(frames):
        return slices
    if files > 1:
        raise ValueError("its slices lie in several files of several frames")
    placed = np.zeros((int(frames_of_file), *slices.shape[1:]), np.uint8)
    for frame, one in zip(frames, slices, strict=True):
        placed[frame.index] = one
    return placed


def _segment(number: int, name: str) -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    return SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name="medsoft", family=codes.DCM.ArtificialIntelligence, version=__version__
        ),
    )
