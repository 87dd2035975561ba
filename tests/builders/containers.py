"""One table of every container and codec that is read: writers of the same content, for parity tests and for fuzzing.

A new format, codec or DICOM transfer syntax gets a line here, and is then held against all others.
"""

from __future__ import annotations

import copy
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import nrrd
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder

from tests.builders.dicom import AXIAL, write, write_series

HEIGHT, WIDTH = 56, 40
"""Not a multiple of the tiles' 16 pixels."""
_Y, _X = np.mgrid[:HEIGHT, :WIDTH]


def _depth(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth with a little noise, to be seen by lossy codecs and to fill lossless ones: grey, and RGB."""
    ramps = np.stack([_X / WIDTH, _Y / HEIGHT, (_X + _Y) / (WIDTH + HEIGHT)], axis=-1)
    noisy = np.clip(ramps * 0.9 + 0.05 + np.random.default_rng(bits).normal(0, 0.01, ramps.shape), 0, 1)
    rgb = np.rint(noisy * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    return np.ascontiguousarray(rgb[..., 2]), rgb


GREY_8, RGB_8 = _depth(8)
GREY_16, RGB_16 = _depth(16)
GREY_12 = GREY_16 >> 4
PICTURES = {"grey 8": GREY_8, "RGB 8": RGB_8, "grey 16": GREY_16, "RGB 16": RGB_16, "grey 12": GREY_12}

VOLUME_16 = (np.arange(7 * 6 * 5).reshape(7, 6, 5) * 37 % 2000 - 900).astype(np.int16)
VOLUME_F = (VOLUME_16 / 7).astype(np.float32)
AFFINE = np.array([[-0.8, 0, 0, 10], [0, -0.7, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]])
"""Of the series of ``write_series``: its axes run to the left, to the back and up."""
VOLUMES = {"int16": VOLUME_16, "float32": VOLUME_F}


@dataclass(frozen=True)
class Way:
    """One way to store a content.

    Attributes:
        name: container, and codec.
        format: of ``medsoft.data.images.decode.FORMATS``, or TIFF, DICOM, NPZ, NIfTI, NRRD.
        suffix: of the file.
        contents: names of what it can hold, of ``PICTURES`` or ``VOLUMES``.
        write: writes the pixels to a path that it is given.
        tolerance: largest error of a lossy codec, as a part of the range.
        syntax: DICOM transfer syntax.
        slide: whether ``open_slide`` reads it too.
        checksum: which bytes a checksum covers: all of the file, its "segments" (of TIFF), its "data" (behind the
            header of NRRD), or none.
    """

    name: str
    format: str
    suffix: str
    contents: tuple[str, ...]
    write: Callable[[np.ndarray, Path], Any]
    tolerance: float = 0.0
    syntax: str = ""
    slide: bool = False
    checksum: str = ""

    def file(self, content: str, folder: Path) -> str:
        """Write a content, and return the path that the readers take."""
        pixels = (PICTURES | VOLUMES)[content]
        path = folder / f"{self.name} {content}".replace(" ", "_").replace("/", "_").replace(",", "").lower()
        path = path.with_name(path.name + self.suffix)
        written = self.write(pixels, path)
        return str(written or path)


GREY_AND_RGB_8 = ("grey 8", "RGB 8")
ALL = (*GREY_AND_RGB_8, "grey 16", "RGB 16")


def _pillow(pixels: np.ndarray, path: Path, **options: Any) -> None:
    Image.fromarray(pixels).save(path, **options)


def _bytes(encode: Callable[[np.ndarray], bytes], pixels: np.ndarray, path: Path) -> None:
    path.write_bytes(encode(np.ascontiguousarray(pixels)))


def _tiff(pixels: np.ndarray, path: Path, **options: Any) -> None:
    photometric = "rgb" if pixels.ndim == 3 else "minisblack"
    if options.pop("planes", False) and pixels.ndim == 3:
        pixels, options["planarconfig"] = np.moveaxis(pixels, -1, 0), "separate"
    options = copy.deepcopy({"rowsperstrip": 24} | options)  # tifffile adds to the arguments of a codec
    tifffile.imwrite(path, pixels, photometric=photometric, **options)


def _npz(pixels: np.ndarray, path: Path, compressed: bool) -> str:
    (np.savez_compressed if compressed else np.savez)(path, images=np.stack([pixels[::-1], pixels]))
    return f"{path}#images/1"


def _dicom(pixels: np.ndarray, path: Path, syntax: str, **elements: Any) -> Path:
    """One picture; float-free grey of 16 bits comes out as numbers of the modality."""
    bits = 12 if pixels is GREY_12 else 8 * pixels.dtype.itemsize
    return _in_syntax(write(path, pixels, **_encoded(pixels, syntax, bits), **elements), syntax)


def _in_syntax(path: Path, syntax: str) -> Path:
    """Big endian is written by force: pydicom has no other way to make it of little endian."""
    if syntax == uid.ExplicitVRBigEndian:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        words = np.frombuffer(dataset.PixelData, "<u2" if dataset.BitsAllocated == 16 else "u1")
        dataset.PixelData = words.astype(words.dtype.newbyteorder(">")).tobytes()
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=False, force_encoding=True)
    return path


def _encoded(pixels: np.ndarray, syntax: str, bits: int) -> dict[str, Any]:
    """The elements of a picture in a transfer syntax."""
    kept = uid.ExplicitVRLittleEndian if syntax == uid.ExplicitVRBigEndian else syntax
    elements: dict[str, Any] = {"TransferSyntaxUID": kept, "BitsStored": bits, "HighBit": bits - 1}
    colour = pixels.ndim == 3
    codec = ENCODERS.get(syntax)
    if syntax == uid.RLELossless:
        described = {"rows": pixels.shape[0], "columns": pixels.shape[1], "samples_per_pixel": 3 if colour else 1}
        described |= {"bits_allocated": 8 * pixels.dtype.itemsize, "bits_stored": bits, "number_of_frames": 1}
        described |= {"pixel_representation": int(pixels.dtype.kind == "i"), "planar_configuration": 0}
        described |= {"photometric_interpretation": "RGB" if colour else "MONOCHROME2"}
        frame = RLELosslessEncoder.encode(pixels, **described)
        elements |= {"PixelData": encapsulate([frame]), "PlanarConfiguration": 1 if colour else None}
    elif codec is not None:
        unsigned = pixels.view(np.uint16) if pixels.dtype == np.int16 else pixels
        elements["PixelData"] = encapsulate([codec(np.ascontiguousarray(unsigned))])
        if syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit) and colour:
            elements["PhotometricInterpretation"] = "YBR_FULL_422"
    return elements


def _jpeg_lossless(pixels: np.ndarray, predictor: int) -> bytes:
    """With the precision of the type: left to the encoder, it would be that of the largest value."""
    bits = 8 * pixels.dtype.itemsize
    return imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor, bitspersample=bits)


_jpeg = partial(imagecodecs.jpeg8_encode, level=95, subsampling="444")
ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    uid.JPEGBaseline8Bit: _jpeg,
    uid.JPEGExtended12Bit: partial(imagecodecs.jpeg8_encode, level=98, bitspersample=12),
    uid.JPEGLossless: partial(_jpeg_lossless, predictor=4),
    uid.JPEGLosslessSV1: partial(_jpeg_lossless, predictor=1),
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEGLSNearLossless: partial(imagecodecs.jpegls_encode, level=2),
    uid.JPEG2000Lossless: partial(imagecodecs.jpeg2k_encode, codecformat="j2k", reversible=True, level=0),
    uid.JPEG2000: partial(imagecodecs.jpeg2k_encode, codecformat="j2k", level=60),
    uid.HTJ2KLossless: partial(imagecodecs.htj2k_encode, reversible=True),
    uid.HTJ2KLosslessRPCL: partial(imagecodecs.htj2k_encode, reversible=True),
    uid.HTJ2K: partial(imagecodecs.htj2k_encode, reversible=True),
}
"""One frame to the bytes of a compressed transfer syntax."""
NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian)
NATIVE = (*NATIVE, uid.ExplicitVRBigEndian, uid.RLELossless)
_GREY_DICOM = ("grey 8", "grey 16", "grey 12")
LOSSY = {uid.JPEGBaseline8Bit: 0.05, uid.JPEGExtended12Bit: 0.05, uid.JPEGLSNearLossless: 0.02, uid.JPEG2000: 0.1}
"""Largest errors of the syntaxes that lose something, as parts of the range."""


def _dicom_ways() -> list[Way]:
    ways = []
    for syntax in (*NATIVE, *ENCODERS):
        contents = (*_GREY_DICOM, "RGB 8")
        if syntax == uid.JPEGBaseline8Bit:
            contents = GREY_AND_RGB_8
        elif syntax == uid.JPEGExtended12Bit:
            contents = ("grey 12",)
        ways.append(
            Way(
                f"DICOM {syntax.name[:60]}",
                "DICOM",
                ".dcm",
                contents,
                partial(_dicom, syntax=syntax),
                LOSSY.get(syntax, 0.0),
                syntax,
            )
        )
    return ways


_LOSSLESS_J2K = partial(imagecodecs.jpeg2k_encode, codecformat="jp2", reversible=True, level=0)
_TIFF_CODECS: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "none": ({}, ALL, ""),
    "deflate": ({"compression": "deflate"}, ALL, "segments"),
    "deflate, predictor": ({"compression": "deflate", "predictor": True}, ALL, "segments"),
    "LZW": ({"compression": "lzw"}, ALL, ""),
    "PackBits": ({"compression": "packbits"}, ALL, ""),
    "Zstandard": ({"compression": "zstd"}, ALL, ""),
    "LZMA": ({"compression": "lzma"}, ALL, "segments"),
    "LERC": ({"compression": "lerc"}, ("grey 8", "grey 16"), "segments"),
    "PNG": ({"compression": "png"}, ALL, ""),
    "JPEG 2000": ({"compression": "jpeg2000", "compressionargs": {"reversible": True, "level": 0}}, ALL, ""),
    "WebP": ({"compression": "webp", "compressionargs": {"lossless": True}}, ("RGB 8",), ""),
    "JPEG": ({"compression": "jpeg", "compressionargs": {"level": 95}, "subsampling": (1, 1)}, GREY_AND_RGB_8, ""),
}


def _tiff_ways() -> list[Way]:
    ways = []
    for codec, (options, contents, checksum) in _TIFF_CODECS.items():
        for tiled in (False, True):
            tiles = {"tile": (16, 16), "rowsperstrip": None} if tiled else {}
            name = f"TIFF {codec}{', tiles' if tiled else ''}"
            write_ = partial(_tiff, **options, **tiles)
            tolerance = 0.05 if codec == "JPEG" else 0.0
            ways.append(Way(name, "TIFF", ".tif", contents, write_, tolerance, slide=True, checksum=checksum))
    planes = partial(_tiff, planes=True)
    ways.append(Way("TIFF by planes", "TIFF", ".tiff", ("RGB 8", "RGB 16"), planes, slide=True))
    big = partial(_tiff, bigtiff=True, byteorder=">")
    ways.append(Way("BigTIFF big endian", "TIFF", ".tif", ALL, big, slide=True))
    return ways


_progressive = partial(_pillow, quality=95, progressive=True, subsampling=0)

PICTURE_WAYS: tuple[Way, ...] = (
    Way("PNG", "PNG", ".png", ALL, partial(_bytes, imagecodecs.png_encode), slide=True, checksum="all"),
    Way("PNG of Pillow", "PNG", ".png", (*GREY_AND_RGB_8, "grey 16"), _pillow, slide=True, checksum="all"),
    Way("JPEG", "JPEG", ".jpg", GREY_AND_RGB_8, partial(_bytes, _jpeg), 0.05, slide=True),
    Way("JPEG progressive", "JPEG", ".jpeg", GREY_AND_RGB_8, _progressive, 0.05, slide=True),
    Way("BMP", "BMP", ".bmp", GREY_AND_RGB_8, _pillow),
    Way("GIF", "GIF", ".gif", ("grey 8",), _pillow),
    Way("PPM", "PPM", ".ppm", (*GREY_AND_RGB_8, "grey 16"), partial(_pillow, format="PPM")),
    Way("WebP lossless", "WEBP", ".webp", ("RGB 8",), partial(_pillow, lossless=True)),
    Way("WebP lossy", "WEBP", ".webp", ("RGB 8",), partial(_pillow, quality=95), 0.1),
    Way("AVIF", "AVIF", ".avif", ("RGB 8",), partial(_pillow, quality=95), 0.1),
    Way("JPEG 2000", "JPEG2000", ".jp2", (*GREY_AND_RGB_8, "grey 16"), partial(_bytes, _LOSSLESS_J2K), slide=True),
    Way("NPZ", "NPZ", ".npz", ALL, partial(_npz, compressed=False), checksum="all"),
    Way("NPZ compressed", "NPZ", ".npz", ALL, partial(_npz, compressed=True), checksum="all"),
    *_tiff_ways(),
    *_dicom_ways(),
)


def nifti_bytes(volume: np.ndarray, of: Any = nibabel.Nifti1Image, affine: np.ndarray = AFFINE) -> bytes:
    """A NIfTI file in mm, both of whose orientations are set."""
    image = of(volume, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    found: bytes = image.to_bytes()
    return found


def _nifti(volume: np.ndarray, path: Path, zipped: bool = False, of: Any = nibabel.Nifti1Image) -> None:
    data = nifti_bytes(volume, of)
    path.write_bytes(gzip.compress(data, mtime=0) if zipped else data)


def _nifti_big(volume: np.ndarray, path: Path) -> None:
    image = nibabel.Nifti1Image(volume, AFFINE)
    header = image.header.as_byteswapped(">")
    path.write_bytes(nibabel.Nifti1Image(volume, AFFINE, header).to_bytes())


def _nifti_scaled(volume: np.ndarray, path: Path) -> None:
    """Stored as half of the numbers above 3, with the slope that gives them back."""
    image = nibabel.Nifti1Image((volume - 3).astype(volume.dtype), AFFINE)
    image.header.set_slope_inter(1.0, 3.0)
    image.set_sform(AFFINE, 1)
    data = bytearray(image.to_bytes())
    data[112:120] = np.array([1.0, 3.0], "<f4").tobytes()  # which nibabel leaves to the array
    path.write_bytes(data)


NRRD_HEADER = {
    "space": "left-posterior-superior",
    "space directions": np.diag([0.8, 0.7, 2.5]),
    "space origin": [-10.0, -20.0, 30.0],
}
"""The same place as ``AFFINE``, in the space that the format has from DICOM."""


def _nrrd(volume: np.ndarray, path: Path, header: dict[str, Any] | None = None, **options: Any) -> None:
    nrrd.write(str(path), volume, dict(NRRD_HEADER if header is None else header) | options)


def _nrrd_in_cm(volume: np.ndarray, path: Path) -> None:
    header = NRRD_HEADER | {
        "space directions": np.diag([0.08, 0.07, 0.25]),
        "space origin": [-1.0, -2.0, 3.0],
        "space units": ["cm", "cm", "cm"],
    }
    _nrrd(volume, path, header)


def _nrrd_in_ras(volume: np.ndarray, path: Path) -> None:
    header = {"space": "RAS", "space directions": AFFINE[:3, :3].T, "space origin": AFFINE[:3, 3]}
    _nrrd(volume, path, header, encoding="raw")


def _nrrd_zipped(volume: np.ndarray, path: Path) -> None:
    inner = path.with_suffix(".inner.nrrd")
    _nrrd(volume, inner, encoding="raw")
    path.write_bytes(gzip.compress(inner.read_bytes(), mtime=0))
    inner.unlink()


def _nifti_in(unit: str, factor: float, volume: np.ndarray, path: Path) -> None:
    affine = np.diag([1 / factor] * 3 + [1.0]) @ AFFINE
    image = nibabel.Nifti1Image(volume, affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)


def _series(volume: np.ndarray, path: Path, syntax: str) -> Path:
    folder = path.with_suffix("")
    written = write_series(folder, volume)
    if syntax != uid.ExplicitVRLittleEndian:
        for file in written:
            dataset = pydicom.dcmread(file)
            frame = np.frombuffer(dataset.PixelData, np.int16).reshape(volume.shape[1], volume.shape[0])
            keep = ("ImagePositionPatient", "PixelSpacing", "SliceThickness", "SeriesInstanceUID", "StudyInstanceUID")
            same = {keyword: dataset[keyword].value for keyword in (*keep, "RescaleSlope", "RescaleIntercept")}
            write(file, frame, ImageOrientationPatient=AXIAL, **same, **_encoded(frame, syntax, 16))
            _in_syntax(file, syntax)
    return folder


_INT = ("int16",)
_BOTH = ("int16", "float32")
VOLUME_WAYS: tuple[Way, ...] = (
    Way("NIfTI", "NIfTI", ".nii", _BOTH, _nifti),
    Way("NIfTI gzip", "NIfTI", ".nii.gz", _BOTH, partial(_nifti, zipped=True), checksum="all"),
    Way("NIfTI gzip, named plain", "NIfTI", ".nii", _INT, partial(_nifti, zipped=True), checksum="all"),
    Way("NIfTI plain, named gzip", "NIfTI", ".nii.gz", _INT, _nifti),
    Way("NIfTI-2", "NIfTI", ".nii", _BOTH, partial(_nifti, of=nibabel.Nifti2Image)),
    Way("NIfTI big endian", "NIfTI", ".nii", _BOTH, _nifti_big),
    Way("NIfTI with a slope", "NIfTI", ".nii", _INT, _nifti_scaled),
    Way("NIfTI in m", "NIfTI", ".nii", _BOTH, partial(_nifti_in, "meter", 1000.0)),
    Way("NIfTI in µm", "NIfTI", ".nii", _BOTH, partial(_nifti_in, "micron", 1e-3)),
    Way("NRRD raw", "NRRD", ".nrrd", _BOTH, partial(_nrrd, encoding="raw")),
    Way("NRRD gzip", "NRRD", ".nrrd", _BOTH, partial(_nrrd, encoding="gzip"), checksum="data"),
    Way("NRRD bzip2", "NRRD", ".nrrd", _BOTH, partial(_nrrd, encoding="bzip2"), checksum="data"),
    Way("NRRD text", "NRRD", ".nrrd", _INT, partial(_nrrd, encoding="ascii")),
    Way("NRRD zipped as a whole", "NRRD", ".nrrd", _INT, _nrrd_zipped, checksum="all"),
    Way("NRRD detached", "NRRD", ".nhdr", _BOTH, partial(_nrrd, encoding="gzip")),
    Way("NRRD in cm", "NRRD", ".nrrd", _BOTH, _nrrd_in_cm),
    Way("NRRD in RAS", "NRRD", ".nrrd", _BOTH, _nrrd_in_ras),
    *(
        Way(
            f"DICOM series {uid.UID(syntax).name[:40]}", "DICOM", "", _INT, partial(_series, syntax=syntax), 0.0, syntax
        )
        for syntax in (*NATIVE, *ENCODERS)
        if syntax not in LOSSY
    ),
)


def npz_of_volumes(volume: np.ndarray, path: Path) -> str:
    """An array of volumes, which have no place in the patient, and the path of the second."""
    return _npz(volume, path, compressed=True)


def jpeg_bytes(pixels: np.ndarray = RGB_8) -> bytes:
    """A JPEG, the same that the containers of parity tests hold."""
    return bytes(_jpeg(pixels))


def tiff_of_jpeg(data: bytes, path: Path) -> Path:
    """A TIFF whose only strip is this JPEG of ``RGB_8`` or ``GREY_8``."""
    colour = data.find(b"\xff\xc0") >= 0 and data[data.find(b"\xff\xc0") + 9] == 3
    tifffile.imwrite(
        path,
        iter([data]),
        shape=(HEIGHT, WIDTH, 3) if colour else (HEIGHT, WIDTH),
        dtype=np.uint8,
        photometric="ycbcr" if colour else "minisblack",
        compression="jpeg",
        rowsperstrip=HEIGHT,
        subsampling=(1, 1) if colour else None,
    )
    return path
