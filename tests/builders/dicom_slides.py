"""Small whole slides as DICOM: a series of levels, each a file of tiled frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import simplejpeg
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)

FRAME_PX = 64

SYNTAXES: dict[str, tuple[str, str, Callable[[np.ndarray], bytes]]] = {
    "jpeg": (JPEGBaseline8Bit, "YBR_FULL_422", lambda frame: simplejpeg.encode_jpeg(frame, 90, colorsubsampling="422")),
    "jpeg2000": (JPEG2000Lossless, "YBR_RCT", lambda frame: imagecodecs.jpeg2k_encode(frame, codecformat="j2k")),
    "plain": (ExplicitVRLittleEndian, "RGB", np.ndarray.tobytes),
}
"""Transfer syntax, colours, and how a frame is encoded."""


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Stained spots on glass, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    image = np.full((size[1], size[0], 3), (240, 238, 242), np.uint8)
    for x, y in rng.integers(0, size, (40, 2)).tolist():
        cv2.circle(image, (x, y), 14, rng.integers(60, 200, 3).tolist(), cv2.FILLED)
    return image


def write_dicom_slide(
    folder: Path,
    image: np.ndarray,
    syntax: str = "jpeg",
    levels: int = 2,
    offsets: str = "basic",
    mpp: float = 0.5,
    **elements: Any,
) -> Path:
    """Write a series, each level half as wide as the one before.

    Args:
        folder: of the files.
        image: (H, W, 3) uint8.
        syntax: a key of ``SYNTAXES``.
        levels: how many.
        offsets: where frames are said to lie: basic, extended or none.
        mpp: µm per pixel of the first level.
        elements: of all files, or a function of the level.

    Returns:
        The first level's file.
    """
    series, study, frame_of_reference = generate_uid(), generate_uid(), generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    for level in range(levels):
        size = image.shape[1] >> level, image.shape[0] >> level
        dataset = _header(cv2.resize(image, size, interpolation=cv2.INTER_AREA), syntax, offsets, mpp * 2**level)
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID = series, study
        dataset.FrameOfReferenceUID, dataset.InstanceNumber = frame_of_reference, level + 1
        dataset.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED" if level else "NONE"]
        for keyword, value in elements.items():
            setattr(dataset, keyword, value(level) if callable(value) else value)
        dataset.save_as(folder / f"level{level}.dcm", enforce_file_format=True)
    return folder / "level0.dcm"


def _header(image: np.ndarray, syntax: str, offsets: str, mpp: float) -> FileDataset:
    uid, colours, encode = SYNTAXES[syntax]
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.DimensionOrganizationType = "SM", "TILED_FULL"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, colours, 0
    dataset.Rows = dataset.Columns = FRAME_PX
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = image.shape[1], image.shape[0]
    dataset.ImagedVolumeWidth, dataset.ImagedVolumeHeight = image.shape[1] * mpp / 1000, image.shape[0] * mpp / 1000
    dataset.SpecimenLabelInImage = "NO"
    dataset.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    dataset.OpticalPathSequence = [Dataset()]
    measures, groups = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1000, mpp / 1000], 0.001
    groups.PixelMeasuresSequence = [measures]
    dataset.SharedFunctionalGroupsSequence = [groups]
    frames = [encode(np.ascontiguousarray(frame)) for frame in _frames(image)]
    dataset.NumberOfFrames = len(frames)
    if syntax == "plain":
        dataset.PixelData = b"".join(frames)
    elif offsets == "extended":
        data, table, lengths = encapsulate_extended(frames)
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = data, table, lengths
    else:
        dataset.PixelData = encapsulate(frames, has_bot=offsets == "basic")
    dataset["PixelData"].VR = "OB"
    return dataset


def _frames(image: np.ndarray) -> list[np.ndarray]:
    """Row by row; what reaches beyond the image is white."""
    rows, columns = (-(-side // FRAME_PX) for side in image.shape[:2])
    whole = np.full((rows * FRAME_PX, columns * FRAME_PX, 3), 255, np.uint8)
    whole[: image.shape[0], : image.shape[1]] = image
    parts = whole.reshape(rows, FRAME_PX, columns, FRAME_PX, 3).swapaxes(1, 2)
    return list(parts.reshape(-1, FRAME_PX, FRAME_PX, 3))
