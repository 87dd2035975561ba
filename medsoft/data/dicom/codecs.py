"""Decodes compressed pixel data for pydicom with imagecodecs.

pydicom itself decodes what is not compressed, deflated and RLE. docs/reference/dicom.md says what the
alternatives read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder

from medsoft.data.dicom.codestream import Codestream, describe
from medsoft.data.formats.jpeg import check_jpeg

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

PLUGIN = "imagecodecs"
_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
_HTJ2K = (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
_END = b"\xff\xd9"
_OVERSHOOT = 1 / 16
"""How far beyond the range of the stored bits lossy compression may carry a number, as a part of that range."""

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

    Colour in JPEG stays as it is stored (YBR is converted to RGB afterwards); JPEG 2000's own transforms of
    colour are undone by its decoder.

    Args:
        source: the frame's compressed bytes.
        runner: what the header says of the frame. Its option ``high_bit`` is the highest of the stored bits, and
            ``reasons`` a list that takes the message of a ValueError raised here, which pydicom wraps in its own.

    Returns:
        The samples, colour by pixel, in the machine's byte order, as wide as BitsAllocated. Their stored bits lie where
        the header says; what else they hold is left to ``medsoft.data.dicom.pixels.stored_values``.

    Raises:
        ValueError: the compressed picture is cut short, or not of the size or the bits that the header states.
    """
    try:
        return _decode_frame(source, runner)
    except ValueError as error:
        runner.get_option("reasons", []).append(str(error))
        raise


def _decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    if _END not in source[-16:]:  # a few bytes of padding may follow; decoders fill what is missing with grey
        raise ValueError("the compressed picture is cut short")
    code = describe(source)
    expected = (runner.rows, runner.columns, runner.samples_per_pixel)
    if (code.rows, code.columns, code.samples) != expected:
        raise ValueError("the compressed picture has another size than its header")
    if code.precision > max(8, runner.bits_allocated):
        raise ValueError(f"the compressed picture has {code.precision} bits, its header allocates fewer")
    frame = _decode(source, runner)
    if frame.shape not in (expected, expected[: 2 + (expected[2] > 1)]):
        raise ValueError("the compressed picture has another size than its header")
    frame = _as_stored(frame, code, runner)
    runner.set_option("planar_configuration", 0)
    return frame.astype(f"{'ui'[runner.pixel_representation]}{max(8, runner.bits_allocated) // 8}").tobytes()


def _as_stored(frame: np.ndarray, code: Codestream, runner: DecodeRunner) -> np.ndarray:
    """The numbers of a picture whose precision may be another than the header's BitsStored.

    More bits than are stored hold what lies in the unused bits, or the sign once more; lossy compression overshoots
    into them. Fewer bits hold the numbers themselves, but a sign only where the codestream says so.

    Raises:
        ValueError: the two do not fit together.
    """
    stored = runner.bits_stored
    if runner.get_option("high_bit", stored - 1) != stored - 1 and code.precision <= runner.get_option("high_bit"):
        raise ValueError("the compressed picture has fewer bits than its HighBit says")
    if code.precision < stored:
        # Of a signed number only the lower bits were kept: whether the highest of them is the sign, nobody knows.
        unclear = frame.max() >= 2 ** (code.precision - 1) if not code.signed else False
        if runner.pixel_representation and unclear:
            raise ValueError(f"signed numbers of {stored} bits are compressed as unsigned ones of {code.precision}")
        if not runner.pixel_representation and code.signed and frame.min() < 0:
            raise ValueError("unsigned numbers are compressed as signed ones that are negative")
    elif code.precision > stored and not code.lossless:
        lowest, highest = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if code.signed else (0, 2**stored - 1)
        beyond = _OVERSHOOT * 2**stored
        if (
            runner.pixel_representation != code.signed
            or frame.min() < lowest - beyond
            or frame.max() > highest + beyond
        ):
            raise ValueError("lossy compression has mixed the unused bits (overlays, a sign) with the stored ones")
        frame = np.clip(frame, lowest, highest)
    return frame


def _decode(source: bytes, runner: DecodeRunner) -> np.ndarray:
    import imagecodecs
    from pydicom.pixels.common import PhotometricInterpretation as Photometric

    syntax = runner.transfer_syntax
    frame: np.ndarray
    if syntax in _JPEG:
        if syntax not in _JPEG[2:] and runner.bits_stored <= 8:
            check_jpeg(source)  # whose warnings the decoder keeps to itself
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
