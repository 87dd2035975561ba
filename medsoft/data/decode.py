"""Bytes of one picture file to pixels: Pillow for photographs, tifffile for TIFF, pydicom for DICOM."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

CheckSize = Callable[[int, int], None]
"""Called with width and height as the header states them; raises ReadError before anything is decoded."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "WEBP")
"""What Pillow may decode. Its other plugins are kept from hostile files: the one for EPS starts a program."""

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_EXIF_ORIENTATION = 0x0112
_PILLOW_MODES = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA", "I": "I;16"}
_PILLOW_MODES |= dict.fromkeys(("P", "RGBX", "CMYK", "YCbCr", "HSV"), "RGB")
_ARRAY_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I;16L", "F")


# For a damaged file tifffile would print a line a tag; ReadError says it in one.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class ReadError(Exception):
    """A picture cannot be read.

    Attributes:
        reason: what is wrong with the file, without its name.
        path: the file, or ``file.npz#key/index``.
    """

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason, path)
        self.reason = reason
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


def decode(stream: IO[bytes], check_size: CheckSize, voi: bool = False) -> np.ndarray:
    """Decode a picture file to (H, W) or (H, W, C), C = 1 or 3, upright, without alpha, in its own type of number.

    Args:
        stream: the file.
        check_size: see its type.
        voi: as for ``medsoft.data.dicom.picture.decode_picture``; of other formats nothing.

    Raises:
        ReadError: what can be said plainly. Damaged files raise what the decoders raise.
    """
    head = stream.read(132)
    stream.seek(0)
    if not head:
        raise ReadError("is empty (0 bytes)")
    if head[128:] == b"DICM" or head.startswith((b"\x02\0", b"\x08\0")):  # old files start with group 0002 or 0008
        from medsoft.data.dicom.picture import decode_picture

        try:
            return decode_picture(stream, check_size, voi=voi)
        except (ReadError, MemoryError):
            raise
        except Exception as error:  # its words may quote the header
            raise ReadError(f"is a damaged DICOM file ({type(error).__name__})") from None
    image, orientation = (_decode_tiff if head.startswith(_TIFF_MAGIC) else _decode_with_pillow)(stream, check_size)
    return upright(image, orientation)


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 to 8, Exif 2.3, table 6); any other value is no orientation."""
    if 5 <= orientation <= 8:  # rows and columns are exchanged, and what is left is 1 to 4
        image, orientation = image.swapaxes(0, 1), orientation - 4
    if orientation in (2, 3):
        image = image[:, ::-1]
    if orientation in (3, 4):
        image = image[::-1]
    return image


def _decode_with_pillow(stream: IO[bytes], check_size: CheckSize) -> tuple[np.ndarray, int]:
    # Other libraries set this global to let a picture that was cut short pass, its rest grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image: Image.Image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        raise ReadError(f"is not a picture, or not of a kind read here ({', '.join(FORMATS)}, TIFF, DICOM)") from None
    with image:
        check_size(*image.size)
        if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: previews behind a phone's photograph
            raise ReadError("holds several pictures: save the wanted one by itself")
        raw_modes = str([tile[3] for tile in getattr(image, "tile", [])])
        image.load()
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        if image.format == "PNG" and image.mode in ("RGB", "RGBA") and ";16" in raw_modes:
            return _on_white(_decode_png_16(stream)), orientation  # Pillow would give 8 bits
        if image.has_transparency_data and image.mode in ("1", "L", "P", "RGB"):
            image = image.convert("RGBA" if image.mode in ("P", "RGB") else "LA")
        else:
            image = image.convert(_PILLOW_MODES.get(image.mode, image.mode))
        if image.mode not in _ARRAY_MODES:
            raise ReadError(f"has pixels of mode {image.mode}, which is not read here")
        return _on_white(np.asarray(image)), orientation


def _decode_png_16(stream: IO[bytes]) -> np.ndarray:
    import imagecodecs

    stream.seek(0)
    image: np.ndarray = imagecodecs.png_decode(stream.read())
    return image


def _decode_tiff(stream: IO[bytes], check_size: CheckSize) -> tuple[np.ndarray, int]:
    import tifffile

    with tifffile.TiffFile(stream) as tiff:
        page: Any = tiff.pages[0]
        check_size(page.imagewidth, page.imagelength)
        if page.is_tiled:
            check_size(page.tilewidth, page.tilelength)
        if page.axes not in ("YX", "YXS", "SYX") or page.samplesperpixel > 4:
            raise ReadError(f"is a TIFF of shape {page.shape} ({page.axes}), not one picture")
        if len(tiff.pages) > 1 and tiff.pages[1].shape == page.shape:
            raise ReadError(f"holds {len(tiff.pages)} pictures of one size: save the wanted one by itself")
        _check_segments(page, tiff.filehandle.size)
        image = page.asarray(maxworkers=1)
        if page.axes == "SYX":
            image = np.moveaxis(image, 0, -1)
        orientation = page.tags.valueof(274, 1)
        return _tiff_to_grey_or_rgb(image, page), int(orientation)


def _check_segments(page: Any, size: int) -> None:
    """Refuse missing strips and tiles, which tifffile fills with zeros and its JPEG decoder with grey."""
    offsets, counts = page.dataoffsets, page.databytecounts
    whole = len(offsets) == len(counts) > 0 and 0 not in counts
    if not whole or max(map(sum, zip(offsets, counts, strict=True))) > size:
        raise ReadError("is damaged or cut short (strips or tiles are missing)")


def _tiff_to_grey_or_rgb(image: np.ndarray, page: Any) -> np.ndarray:
    from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC

    colours = page.photometric
    if colours == PHOTOMETRIC.PALETTE:
        colours_of_index: np.ndarray = (page.colormap.T >> 8).astype(np.uint8)
        shown: np.ndarray = colours_of_index[image]
        return shown
    if page.bitspersample < 8:
        image = image.astype(np.uint8) * (255 // (2**page.bitspersample - 1))
    if colours == PHOTOMETRIC.SEPARATED and image.shape[-1] == 4 and image.dtype == np.uint8:
        return np.asarray(Image.fromarray(image, "CMYK").convert("RGB"))
    if colours == PHOTOMETRIC.MINISWHITE and image.dtype.kind == "u":
        return np.iinfo(image.dtype).max - image
    in_jpeg = page.compression in (COMPRESSION.OJPEG, COMPRESSION.JPEG)  # its decoder returns RGB
    if colours in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB) or (colours == PHOTOMETRIC.YCBCR and in_jpeg):
        plain = image.ndim == 2 or image.shape[-1] in (1, 3)
        if plain and not page.extrasamples:
            return image
        if page.extrasamples in ((EXTRASAMPLE.UNASSALPHA,), (EXTRASAMPLE.ASSOCALPHA,)) and image.dtype.kind == "u":
            return _on_white(image, premultiplied=page.extrasamples == (EXTRASAMPLE.ASSOCALPHA,))
    raise ReadError(
        f"is a TIFF with {page.samplesperpixel} channels of {image.dtype} ({colours.name}), neither grey, RGB nor CMYK"
    )


def _on_white(image: np.ndarray, *, premultiplied: bool = False) -> np.ndarray:
    """Show (H, W, 2) or (H, W, 4) pixels of an unsigned type on white; others are returned as they are."""
    if image.ndim == 2 or image.shape[-1] not in (2, 4):
        return image
    white = np.iinfo(image.dtype).max
    pixels, alpha = image[..., :-1], image[..., -1:]
    if (alpha == white).all():
        return pixels
    opacity = alpha.astype(np.float32) / white
    shown = pixels if premultiplied else pixels * opacity
    return np.clip(np.rint(shown + white * (1 - opacity)), 0, white).astype(image.dtype)
