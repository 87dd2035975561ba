"""Tiny DICOM files: slices of a series in any order, enhanced multi-frame files, and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = [1, 0, 0, 0, 1, 0]
SECRET = {
    "PatientName": "Doe^Jane", "PatientID": "HOSP-4711", "PatientBirthDate": "19610203", "AccessionNumber": "ACC-99812",
    "ReferringPhysicianName": "Quack^Donald", "InstitutionName": "St Nowhere", "StudyDate": "20240229",
}  # fmt: skip
"""Identifying elements that every file here carries."""


def write(path: Path, pixels: np.ndarray, **elements: Any) -> Path:
    """Write uint8, uint16 or int16 pixels (H, W), (H, W, 3) or (F, H, W); a series of its own unless told."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = elements.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    syntax = UID(meta.TransferSyntaxUID)
    encoding = {"is_implicit_VR": syntax.is_implicit_VR, "is_little_endian": syntax.is_little_endian}
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128, **encoding)
    dataset.SOPClassUID = elements.pop("SOPClassUID", CTImageStorage)
    dataset.SOPInstanceUID = elements.pop("SOPInstanceUID", generate_uid())
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = generate_uid()
    dataset.Modality = "CT"
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    if pixels.ndim == 3 and not colour:
        dataset.NumberOfFrames = len(pixels)
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    for keyword, value in (SECRET | elements).items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def phantom(shape: tuple[int, ...] = (5, 6, 4)) -> np.ndarray:
    """Numbers that differ at every voxel: (X, Y, Z), int16."""
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape) - 50


def write_series(
    folder: Path,
    voxels: np.ndarray,
    *,
    spacing: tuple[float, float, float] = (0.8, 0.7, 2.5),
    origin: tuple[float, float, float] = (-10.0, -20.0, 30.0),
    orientation: list[float] = AXIAL,
    shuffle: int = 0,
    keep: slice | list[int] = slice(None),
    prefix: str = "",
    **elements: Any,
) -> list[Path]:
    """Write voxels (X, Y, Z) as a series, one file a slice, the names in another order than the slices."""
    elements = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()} | elements
    normal = np.cross(orientation[:3], orientation[3:])
    names = np.random.default_rng(shuffle).permutation(voxels.shape[2])
    paths = []
    for z in np.arange(voxels.shape[2])[keep]:
        position = np.array(origin) + z * spacing[2] * normal
        paths.append(
            write(
                folder / f"{prefix}im{names[z]:03d}.dcm",
                np.ascontiguousarray(voxels[:, :, z].T),
                **{
                    "ImagePositionPatient": [f"{value:.5f}" for value in position],
                    "ImageOrientationPatient": orientation,
                    "PixelSpacing": [spacing[1], spacing[0]],
                    "SliceThickness": spacing[2],
                    "InstanceNumber": int(names[z]),
                    "RescaleSlope": 1,
                    "RescaleIntercept": 0,
                }
                | elements,
            )
        )
    return paths


def item(**elements: Any) -> Dataset:
    """A dataset of these elements, for sequences."""
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def write_enhanced(path: Path, voxels: np.ndarray, order: list[int], slopes: list[float], phases: int = 1) -> Path:
    """Write (X, Y, Z) as one enhanced file, its slices in ``order``, each with a slope of its own."""
    groups = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 3.0 * z])],
            PixelValueTransformationSequence=[item(RescaleSlope=slopes[z], RescaleIntercept=1, RescaleType="US")],
            FrameContentSequence=[item(TemporalPositionIndex=t + 1)],
        )
        for t in reversed(range(phases))
        for z in order
    ]
    frames = [voxels[:, :, z].T + 1000 * t for t in reversed(range(phases)) for z in order]
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=AXIAL)],
        PixelMeasuresSequence=[item(PixelSpacing=[0.7, 0.8], SliceThickness=3)],
        FrameAnatomySequence=[item(FrameLaterality="L")],
    )
    return write(
        path,
        np.stack(frames).astype(np.int16),
        SOPClassUID=EnhancedMRImageStorage,
        Modality="MR",
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=groups,
    )


CORONAL = [1, 0, 0, 0, 0, -1]
