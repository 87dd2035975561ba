"""Compressed pixel data for pydicom, decoded by imagecodecs, which medsoft needs anyway.

pydicom itself decodes what is not compressed, deflated and RLE. docs/radiology.md says what the alternatives read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

PLUGIN = "imagecodecs"
_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
_HTJ2K = (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
_END = b"\xff\xd9"
SYNTAXES = (*_JPEG, *uid.JPEGLSTransferSyntaxes, *_JPEG_2000, *_HTJ2K)
"""Transfer syntaxes that this plugin decodes."""

DECODER_DEPENDENCIES = dict.fromkeys(SYNTAXES, ("imagecodecs",))
"""Part of pydicom's contract for a plugin."""


def is_available(syntax: str) -> bool:
    """Part of pydicom's contract for a plugin: whether it decodes a transfer syntax."""
    return syntax in SYNTAXES


def register() -> None:
    """Add the plugin to pydicom's decoders; a second call changes nothing."""
    for syntax in SYNTAXES:
        decoder = get_decoder(syntax)
        if PLUGIN not in decoder.available_plugins:
            decoder.add_plugin(PLUGIN, (__name__, "decode_frame"))


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame, part of pydicom's contract for a plugin.

    Colour in JPEG stays as it is stored (pydicom converts YBR to RGB afterwards); JPEG 2000's own transforms of
    colour are undone by its decoder.

    Args:
        source: the frame's compressed bytes.
        runner: what the header says of the frame; told what the decoder returns.

    Returns:
        The samples, colour by pixel, in the machine's byte order.

    Raises:
        ValueError: the compressed picture is cut short, or not of the size that the header states.
    """
    if _END not in source[-16:]:  # a few bytes of padding may follow; decoders fill what is missing with grey
        raise ValueError("the compressed picture is cut short")
    frame = _decode(source, runner)
    expected = (runner.rows, runner.columns, runner.samples_per_pixel)
    if frame.shape not in (expected, expected[: 2 + (expected[2] > 1)]):
        raise ValueError("the compressed picture has another size than its header")
    runner.set_option("bits_allocated", 8 * frame.dtype.itemsize)
    runner.set_option("planar_configuration", 0)
    return frame.tobytes()


def _decode(source: bytes, runner: DecodeRunner) -> np.ndarray:
    import imagecodecs
    from pydicom.pixels.common import PhotometricInterpretation as Photometric

    syntax = runner.transfer_syntax
    frame: np.ndarray
    if syntax in _JPEG:
        # Colour of lossless JPEG is never transformed; of the others, neither the decoder's guess is wanted.
        colours = "YCBCR" if runner.samples_per_pixel == 3 and syntax not in _JPEG[2:] else None
        frame = imagecodecs.jpeg8_decode(source, colorspace=colours, outcolorspace=colours)
    elif syntax in uid.JPEGLSTransferSyntaxes:
        frame = imagecodecs.jpegls_decode(source)
    else:
        frame = (imagecodecs.jpeg2k_decode if syntax in _JPEG_2000 else imagecodecs.htj2k_decode)(source)
        if runner.photometric_interpretation in (Photometric.YBR_ICT, Photometric.YBR_RCT):
            runner.set_option("photometric_interpretation", Photometric.RGB)
    return frame
