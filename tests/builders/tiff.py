"""Tiled TIFF files as scanners write them, whole and damaged."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile

APERIO = "Aperio Image Library v11.2.1 \n1x1 (256x256) J2K/KDU Q=30|MPP = 0.2500|AppMag = 40"


QUARTER_UM = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}


def scene(width: int, height: int) -> np.ndarray:
    """Smooth colours with blobs: something that JPEG keeps well, and that no two places have alike."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    channels = [128 + 60 * np.sin(x / 17 + k) + 50 * np.cos(y / (23 + 3 * k)) for k in range(3)]
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def half(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)


def write_tiff(path: Path, size=(700, 500), levels=3, tile=128, **options) -> Path:
    """A pyramid of JPEG tiles, each level half of the last."""
    image = scene(*size)
    options = {"compression": "jpeg", "photometric": "rgb", **QUARTER_UM, **options}
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            tiff.write(image, tile=(tile, tile), subfiletype=int(level > 0), metadata=None, **options)
            image = half(image)
    return path


def write_philips(path: Path, size=(700, 500), levels=3, tile=128, um=0.25) -> Path:
    """A pyramid as Philips writes it: pages filled up to whole tiles, and the sizes of pixels in XML (mm)."""

    def element(name: str, group: str, number: str, kind: str, value: str) -> str:
        return f'<Attribute Name="{name}" Group="{group}" Element="{number}" PMSVR="{kind}">{value}</Attribute>'

    def array(name: str, group: str, number: str, kind: str, items: list[str]) -> str:
        objects = "".join(f'<DataObject ObjectType="{kind}">{item}</DataObject>' for item in items)
        return element(name, group, number, "IDataObjectArray", f"<Array>{objects}</Array>")

    def spacing(level: int) -> str:
        mm = f"&quot;{um * 2**level / 1000}&quot;"
        return element("DICOM_PIXEL_SPACING", "0x0028", "0x0030", "IDoubleArray", f"{mm} {mm}")

    number = ("PIIM_PIXEL_DATA_REPRESENTATION_NUMBER", "0x1001", "0x8B02", "IUInt16")
    pixels = [spacing(level) + element(*number, str(level)) for level in range(levels)]
    slide = element("PIM_DP_IMAGE_TYPE", "0x301D", "0x1004", "IString", "WSI") + spacing(0)
    slide += array("PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE", "0x1001", "0x8B01", "PixelDataRepresentation", pixels)
    maker = element("DICOM_MANUFACTURER", "0x0008", "0x0070", "IString", "PHILIPS")
    scans = array("PIM_DP_SCANNED_IMAGES", "0x301D", "0x1003", "DPScannedImage", [slide])
    about = f'<?xml version="1.0"?><DataObject ObjectType="DPUfsImport">{maker}{scans}</DataObject>'
    image = scene(*size)
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            filling = ((0, -image.shape[0] % tile), (0, -image.shape[1] % tile), (0, 0))
            image = np.pad(image, filling, constant_values=255)
            first = {"software": "Philips DP v1.0", "description": about} if level == 0 else {"software": ""}
            kept = {"compression": "jpeg", "photometric": "rgb", "metadata": None, "subfiletype": int(level > 0)}
            tiff.write(image, tile=(tile, tile), **kept, **first)
            image = half(image)
    return path


def write_tiles(path: Path, size, encode, compression: int, description: str = APERIO, tile=256) -> Path:
    """One level of tiles encoded by hand; those of no bytes are missing from the file."""
    image = np.pad(scene(*size), ((0, -size[1] % tile), (0, -size[0] % tile), (0, 0)))
    corners = itertools.product(range(0, image.shape[0], tile), range(0, image.shape[1], tile))
    coded = [encode(image[y : y + tile, x : x + tile], i) for i, (y, x) in enumerate(corners)]
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            iter(coded),
            shape=(size[1], size[0], 3),
            dtype=np.uint8,
            tile=(tile, tile),
            compression=compression,
            photometric="rgb",
            description=description,
            metadata=None,
            **QUARTER_UM,
        )
    return path


def jpeg2000(tile: np.ndarray, _: int = 0) -> bytes:
    return imagecodecs.jpeg2k_encode(tile, level=40, codecformat="J2K", mct=True)


def jpeg2000_ycbcr(tile: np.ndarray, _: int = 0) -> bytes:
    ycbcr = cv2.cvtColor(tile, cv2.COLOR_RGB2YCrCb)[..., (0, 2, 1)]
    return imagecodecs.jpeg2k_encode(np.ascontiguousarray(ycbcr), level=40, codecformat="J2K", mct=False)


def damage(source: Path, target: Path, change) -> Path:
    """A copy in which the bytes of tile 5 of the first page went through ``change``, with no other length."""
    with tifffile.TiffFile(source) as tiff:
        offset, count = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    data = bytearray(source.read_bytes())
    data[offset : offset + count] = change(bytes(data[offset : offset + count])).ljust(count, b"\0")[:count]
    target.write_bytes(data)
    return target
