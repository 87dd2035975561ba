"""Decodes the bytes of one image file: Pillow for photographs, tifffile for TIFF, pydicom for DICOM."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from medsoft.data.formats.alpha import on_white
from medsoft.errors import ReadError

CheckSize = Callable[[int, int], None]
"""Called with width and height as the header states them; raises ReadError before anything is decoded."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "WEBP")
"""What Pillow may decode. Its other plugins are kept from hostile files: the one for EPS starts a program."""

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_EXIF_ORIENTATION = 0x0112
_PILLOW_MODES = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA", "I": "I;16"}
_PILLOW_MODES |= dict.fromkeys(("P", "RGBX", "CMYK", "YCbCr", "HSV"), "RGB")
_ARRAY_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I;16L", "F")


def decode(
    stream: IO[bytes], check_size: CheckSize, voi: bool = False, note: Callable[[str], object] | None = None
) -> np.ndarray:
    """Decode a picture file to (H, W) or (H, W, C), C = 1 or 3, upright, without alpha, in its own type of number.

    Args:
        stream: the file.
        check_size: see its type.
        voi: as for ``medsoft.data.dicom.image.decode_picture``; of other formats nothing.
        note: called with what was done to the picture that its user should know.

    Raises:
        ReadError: what can be said plainly. Damaged files raise what the decoders raise.
    """
    head = stream.read(132)
    stream.seek(0)
    if not head:
        raise ReadError("is empty (0 bytes)")
    if head[128:] == b"DICM" or head.startswith((b"\x02\0", b"\x08\0")):  # old files start with group 0002 or 0008
        from medsoft.data.dicom.image import decode_picture

        try:
            return decode_picture(stream, check_size, voi=voi, note=note)
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
        if image.format in ("JPEG", "MPO"):
            return _decode_jpeg(image, _all_of(stream)), image.getexif().get(_EXIF_ORIENTATION, 1)
        if image.format == "PNG":
            from medsoft.data.formats.png import check_png

            check_png(_all_of(stream))
        image.load()
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        if image.format == "PNG" and image.mode in ("RGB", "RGBA") and ";16" in raw_modes:
            return on_white(_decode_png_16(stream)), orientation  # Pillow would give 8 bits
        if image.has_transparency_data and image.mode in ("1", "L", "P", "RGB"):
            image = image.convert("RGBA" if image.mode in ("P", "RGB") else "LA")
        else:
            image = image.convert(_PILLOW_MODES.get(image.mode, image.mode))
        if image.mode not in _ARRAY_MODES:
            raise ReadError(f"has pixels of mode {image.mode}, which is not read here")
        return on_white(np.asarray(image)), orientation


def _decode_jpeg(image: Image.Image, data: bytes) -> np.ndarray:
    from medsoft.data.formats.jpeg import check_jpeg, decode_jpeg_strict

    if image.mode in ("L", "RGB"):
        pixels = decode_jpeg_strict(data, "GRAY" if image.mode == "L" else "RGB")
        return pixels[..., 0] if image.mode == "L" else pixels
    check_jpeg(data)
    return np.asarray(image.convert("RGB"))  # CMYK


def _decode_png_16(stream: IO[bytes]) -> np.ndarray:
    import imagecodecs

    image: np.ndarray = imagecodecs.png_decode(_all_of(stream))
    return image


def _all_of(stream: IO[bytes]) -> bytes:
    """All bytes of a file; the place in it stays, as a picture may be read from it afterwards."""
    place = stream.tell()
    stream.seek(0)
    data = stream.read()
    stream.seek(place)
    return data


def _decode_tiff(stream: IO[bytes], check_size: CheckSize) -> tuple[np.ndarray, int]:
    from medsoft.data.tiff.layout import layout_of, open_tiff
    from medsoft.data.tiff.pixels import check_segments, whole_picture

    def read(offset: int, count: int) -> bytes:
        stream.seek(offset)
        return stream.read(count)

    with open_tiff(stream) as tiff:
        first: Any = tiff.pages[0]
        check_size(first.imagewidth, first.imagelength)
        layout = layout_of(tiff)
        check_size(*layout.levels[0].size_px)
        if layout.levels[0].page.is_tiled:
            check_size(*layout.levels[0].segment_px)
        check_segments(layout.levels[0], tiff.filehandle.size)
        return whole_picture(layout, read), layout.orientation
