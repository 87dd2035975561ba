"""The stored bits of DICOM: every transfer syntax gives the numbers that raw pixel data gives, or is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder

from medsoft.data.dicom import codecs, header
from medsoft.data.dicom.stated import MAX_FRAMES
from medsoft.data.images.read import is_constant, read_image
from medsoft.data.volumes.read import read_volume
from medsoft.errors import ReadError, SlideError
from medsoft.slides.reading.slide import open_slide
from tests.builders.dicom import AXIAL, item, write

SHAPE = (20, 30)


def rle(frame: np.ndarray, bits: int) -> bytes:
    return get_encoder(uid.RLELossless).encode(
        frame.tobytes(), rows=frame.shape[0], columns=frame.shape[1], samples_per_pixel=1, number_of_frames=1,
        bits_allocated=8 * frame.itemsize, bits_stored=8 * frame.itemsize, pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
    )  # fmt: skip


def jpeg(frame: np.ndarray, bits: int, **options: object) -> bytes:
    return imagecodecs.jpeg8_encode(frame, lossless=True, bitspersample=bits, **options)


def jpeg_2000(frame: np.ndarray, bits: int) -> bytes:
    return imagecodecs.jpeg2k_encode(frame, reversible=True, codecformat="j2k", bitspersample=bits)


def htj2k(frame: np.ndarray, bits: int) -> bytes:
    return imagecodecs.htj2k_encode(frame, reversible=True)


def jpeg_ls(frame: np.ndarray, bits: int) -> bytes:
    return imagecodecs.jpegls_encode(frame)


LOSSLESS: dict[str, Callable[[np.ndarray, int], bytes] | None] = {
    uid.ImplicitVRLittleEndian: None,
    uid.ExplicitVRLittleEndian: None,
    uid.ExplicitVRBigEndian: None,
    uid.DeflatedExplicitVRLittleEndian: None,
    uid.RLELossless: rle,
    uid.JPEGLossless: lambda frame, bits: jpeg(frame, bits, predictor=4),
    uid.JPEGLosslessSV1: lambda frame, bits: jpeg(frame, bits, predictor=1),
    uid.JPEGLSLossless: jpeg_ls,
    uid.JPEGLSNearLossless: jpeg_ls,
    uid.JPEG2000Lossless: jpeg_2000,
    uid.JPEG2000: jpeg_2000,
    uid.HTJ2KLossless: htj2k,
    uid.HTJ2KLosslessRPCL: htj2k,
    uid.HTJ2K: htj2k,
}
LOSSY: dict[str, tuple[Callable[[np.ndarray, int], bytes], int]] = {
    uid.JPEGBaseline8Bit: (lambda frame, bits: imagecodecs.jpeg8_encode(frame, level=98), 8),
    uid.JPEGExtended12Bit: (lambda frame, bits: imagecodecs.jpeg8_encode(frame, level=98, bitspersample=12), 12),
    uid.JPEGLSNearLossless: (lambda frame, bits: imagecodecs.jpegls_encode(frame, level=2), 16),
    uid.JPEG2000: (lambda f, bits: imagecodecs.jpeg2k_encode(f, level=60, codecformat="j2k", bitspersample=bits), 12),
    uid.HTJ2K: (lambda frame, bits: imagecodecs.htj2k_encode(frame, reversible=False, level=0.0005), 16),
}
by_name = {"ids": lambda syntax: uid.UID(syntax).keyword}


def save(
    path: Path, syntax: str, held: np.ndarray, encode: Callable | None, precision: int, **elements: object
) -> Path:
    """Write unsigned numbers (F, H, W) as they are held, with a place in the patient; one frame as a plain file."""
    place = {"PixelSpacing": [1, 1], "ImageOrientationPatient": AXIAL, "SliceThickness": 2}
    if len(held) > 1:
        shared = item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=AXIAL)],
            PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=2)],
        )
        frames = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2 * z])]) for z in range(len(held))]
        place = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    else:
        held, place = held[0], place | {"ImagePositionPatient": [0, 0, 0]}
    if encode is not None:
        frames = held if held.ndim == 3 else held[np.newaxis]
        place["PixelData"] = encapsulate([bytes(encode(np.ascontiguousarray(frame), precision)) for frame in frames])
    elif syntax == uid.ExplicitVRBigEndian:
        place["PixelData"] = held.astype(held.dtype.newbyteorder(">")).tobytes()
    return write(path, held, TransferSyntaxUID=syntax, **place | elements)


def as_held(values: np.ndarray, stored: int, allocated: int, seed: int | None) -> np.ndarray:
    """Numbers in their stored bits; above them zeros, or with a seed whatever there may be."""
    held = values.astype(np.int64) & (2**stored - 1)
    if seed is not None:
        held |= np.random.default_rng(seed).integers(0, 2 ** (allocated - stored), values.shape) << stored
    return held.astype(f"u{allocated // 8}")


def equal_everywhere(path: Path, values: np.ndarray, tolerance: float = 0) -> None:
    """Read as a volume, and as a picture where it is one."""
    volume = read_volume(path).array[0].transpose(2, 1, 0)
    assert abs(volume - values).max() <= tolerance
    if len(values) == 1:
        assert abs(read_image(path)[..., 0].astype(float) - values[0]).max() <= tolerance


def refused(path: Path) -> set[str]:
    """The reasons of both ways in."""
    reasons = set()
    for read in (read_image, read_volume):
        with pytest.raises(ReadError) as caught:
            read(path)
        reasons.add(caught.value.reason)
    return reasons


def test_every_syntax_that_is_decoded_here_stands_in_the_grid():
    assert {*codecs.SYNTAXES, uid.RLELossless} <= LOSSLESS.keys() | LOSSY.keys()


@pytest.mark.parametrize("syntax", LOSSLESS, **by_name)
def test_every_lossless_syntax_gives_the_stored_bits(tmp_path, syntax):
    encode = LOSSLESS[syntax]
    grid = product([(8, 8), (8, 16), (10, 16), (12, 16), (16, 16)], [False, True], [None, 1], [1, 3])
    for number, ((stored, allocated), signed, dirty, frames) in enumerate(grid):
        lowest = -(2 ** (stored - 1)) if signed else 0
        values = np.random.default_rng(number).integers(lowest, lowest + 2**stored, (frames, *SHAPE))
        held = as_held(values, stored, allocated, dirty)
        bits = {"BitsStored": stored, "HighBit": stored - 1, "PixelRepresentation": int(signed)}
        precision = max(8, stored if dirty is None else allocated)
        if encode and encode is not rle and precision == 8:  # a codestream of 8 bits, whatever is allocated
            held, bits = held.astype(np.uint8), bits | {"BitsAllocated": allocated}
        equal_everywhere(save(tmp_path / f"{number}.dcm", syntax, held, encode, precision, **bits), values)


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.HTJ2KLossless], **by_name)
def test_a_signed_codestream_gives_the_same_numbers(tmp_path, syntax):
    values = np.random.default_rng(0).integers(-2048, 2048, (1, *SHAPE)).astype(np.int16)
    for number, (precision, stored) in enumerate([(12, 12), (16, 12), (16, 16), (12, 16)]):
        bits = {"BitsStored": stored, "HighBit": stored - 1, "PixelRepresentation": 1}
        equal_everywhere(save(tmp_path / f"{number}.dcm", syntax, values, LOSSLESS[syntax], precision, **bits), values)
    unsigned = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}
    path = save(tmp_path / "u.dcm", syntax, values, LOSSLESS[syntax], 12, **unsigned)
    equal_everywhere(path, values & 0xFFF)  # the header decides


@pytest.mark.parametrize("syntax", LOSSY, **by_name)
def test_every_lossy_syntax_comes_near_and_does_not_wrap(tmp_path, syntax):
    encode, precision = LOSSY[syntax]
    ramp = np.tile(np.linspace(0, 1, SHAPE[1]), (1, SHAPE[0], 1))
    for number, stored in enumerate({min(precision, 12), min(precision, 10)}):
        values = np.rint(ramp * (2**stored - 1)).astype(int)  # black and white, where compression overshoots
        values[:, 5:9, 5:9] = 2**stored - 1
        values[:, 12:15, 5:9] = 0
        held = as_held(values, stored, 8 if precision == 8 else 16, None)
        bits = {"BitsStored": stored, "HighBit": stored - 1}
        path = save(tmp_path / f"{number}.dcm", syntax, held, encode, precision, **bits)
        equal_everywhere(path, values, tolerance=0.04 * 2**stored)


@pytest.mark.parametrize("syntax", [uid.JPEG2000, uid.JPEGLSNearLossless, uid.HTJ2K], **by_name)
def test_lossy_compression_of_overlays_is_refused(tmp_path, syntax):
    values = np.random.default_rng(0).integers(0, 4096, (1, *SHAPE))
    held = as_held(values, 12, 16, seed=1)
    path = save(tmp_path / "a.dcm", syntax, held, LOSSY[syntax][0], 16, BitsStored=12, HighBit=11)
    (reason,) = refused(path)
    assert "mixed the unused bits" in reason


def test_a_sign_that_compression_left_out_is_not_guessed(tmp_path):
    for syntax in (uid.JPEGLosslessSV1, uid.JPEG2000Lossless):
        bits = {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
        values = np.random.default_rng(0).integers(0, 2048, (1, *SHAPE))
        path = save(tmp_path / "a.dcm", syntax, values.astype(np.uint16), LOSSLESS[syntax], 12, **bits)
        equal_everywhere(path, values)
        path = save(tmp_path / "b.dcm", syntax, (values + 2048).astype(np.uint16), LOSSLESS[syntax], 12, **bits)
        (reason,) = refused(path)
        assert "signed numbers of 16 bits are compressed as unsigned ones of 12" in reason


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLSLossless], **by_name)
def test_stored_bits_may_lie_high(tmp_path, syntax):
    values = np.random.default_rng(0).integers(-2048, 2048, (1, *SHAPE))
    held = (as_held(values, 12, 16, None) << 4) | np.uint16(9)  # an overlay below
    bits = {"BitsStored": 12, "HighBit": 15, "PixelRepresentation": 1}
    equal_everywhere(save(tmp_path / "a.dcm", syntax, held, LOSSLESS[syntax], 16, **bits), values)


@pytest.mark.parametrize(
    ("bits", "said"),
    [
        ({"BitsStored": 12, "HighBit": 7}, "do not fit together"),
        ({"BitsStored": 12, "HighBit": 16}, "do not fit together"),
        ({"BitsStored": 17, "HighBit": 16}, "do not fit together"),
        ({"BitsStored": None}, "BitsStored"),
        ({"PixelRepresentation": 2}, "PixelRepresentation"),
        ({"PixelRepresentation": None}, "PixelRepresentation"),
    ],
)
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless], **by_name)
def test_bits_that_contradict_each_other_are_refused(tmp_path, syntax, bits, said):
    held = np.random.default_rng(0).integers(0, 4096, (1, *SHAPE)).astype(np.uint16)
    assert all(
        said in reason for reason in refused(save(tmp_path / "a.dcm", syntax, held, LOSSLESS[syntax], 12, **bits))
    )


# --- scales ---


@pytest.mark.parametrize(
    ("element", "value"), [("RescaleSlope", "0"), ("RescaleSlope", "NaN"), ("RescaleIntercept", "inf")]
)
@pytest.mark.parametrize("lut", [False, True])
def test_a_scale_that_makes_no_sense_is_refused_everywhere(tmp_path, medsoft, element, value, lut):
    held = np.random.default_rng(0).integers(0, 4096, (1, *SHAPE)).astype(np.uint16)
    elements = {"RescaleSlope": "1", "RescaleIntercept": "0"} | {element: value}
    if lut:
        table = item(LUTDescriptor=[4, 10, 16], LUTData=[100, 200, 300, 400], ModalityLUTType="US")
        table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
        elements["ModalityLUTSequence"] = [table]
    path = save(tmp_path / "set" / "a.dcm", uid.ExplicitVRLittleEndian, held, None, 16, **elements)
    assert all(element in reason for reason in refused(path))
    code, *_ = medsoft("data", "index", tmp_path / "set", "--out=i.csv", "--salt=salt")
    assert (code, element in Path("i.errors.csv").read_text()) == (3, True)


def test_a_frames_own_scale_is_checked_too(tmp_path):
    held = np.random.default_rng(0).integers(0, 4096, (2, *SHAPE)).astype(np.uint16)
    path = save(tmp_path / "a.dcm", uid.ExplicitVRLittleEndian, held, None, 16)
    dataset = pydicom.dcmread(path)
    dataset.PerFrameFunctionalGroupsSequence[1].PixelValueTransformationSequence = [
        item(RescaleSlope=0, RescaleIntercept=0)
    ]
    dataset.save_as(path)
    with pytest.raises(ReadError, match="RescaleSlope of 0"):
        read_volume(path)


def test_what_shows_nothing_is_a_problem_of_its_row(tmp_path, medsoft):
    flat, varied = np.full((1, *SHAPE), 7, np.uint16), np.arange(600, dtype=np.uint16).reshape(1, *SHAPE)
    for name, held in (("flat", flat), ("fine", varied)):
        save(tmp_path / f"{name}.dcm", uid.ExplicitVRLittleEndian, held, None, 16)
    imagecodecs.imwrite(str(tmp_path / "flat.png"), flat[0].astype(np.uint8))
    Path("t.csv").write_text("path,label\nfine.dcm,a\nflat.dcm,b\nflat.png,b\n")
    code, _, err = medsoft("data", "check", "t.csv", "--positive=a")
    assert code == 2
    assert "constant picture (2)" in err
    Path("t.csv").write_text("path,label\nfine.dcm,a\nflat.dcm,b\n")
    code, _, err = medsoft("data", "check", "t.csv", "--positive=a", "--kind=volume")
    assert code == 2
    assert "row 2: has the same value in every voxel" in err


def test_constant_along_the_axes_of_a_picture_or_a_volume():
    colour = np.tile(np.array([1, 2, 3], np.uint8), (9, 9, 1))
    assert is_constant(colour)
    assert not is_constant(colour, axes=3)
    colour[8, 8, 2] = 4
    assert not is_constant(colour)


# --- sizes that are stated ---


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless], **by_name)
def test_frames_are_counted_before_memory_is_taken(tmp_path, syntax, medsoft):
    held = np.random.default_rng(0).integers(0, 4096, (1, *SHAPE)).astype(np.uint16)
    path = save(tmp_path / "set" / "a.dcm", syntax, held, LOSSLESS[syntax], 16, NumberOfFrames=2_000_000_000)
    assert all("header states 2000000000 frames" in reason for reason in refused(path))
    code, *_ = medsoft("data", "index", tmp_path / "set", "--out=i.csv", "--salt=salt")
    assert (code, "header states 2000000000 frames" in Path("i.errors.csv").read_text()) == (3, True)


def test_more_frames_than_fragments_and_more_than_the_limit(tmp_path):
    held = np.random.default_rng(0).integers(0, 4096, (3, *SHAPE)).astype(np.uint16)
    for number, frames in enumerate((2, 4)):
        path = save(
            tmp_path / f"{number}.dcm", uid.JPEG2000Lossless, held, jpeg_2000, 16, NumberOfFrames=frames,
            PerFrameFunctionalGroupsSequence=None,
            ImagePositionPatient=[0, 0, 0],
        )  # fmt: skip
        with pytest.raises(ReadError, match=f"states {frames} frames"):
            read_image(path)
    tiny = np.zeros((MAX_FRAMES + 1, 1, 1), np.uint8)
    with pytest.raises(ReadError, match=f"more than the limit of {MAX_FRAMES}"):
        read_volume(write(tmp_path / "many.dcm", tiny))


def test_a_compressed_picture_larger_than_its_header_is_not_decoded(tmp_path, monkeypatch):
    held = np.random.default_rng(0).integers(0, 4096, (1, *SHAPE)).astype(np.uint16)
    for syntax, at in ((uid.JPEG2000Lossless, 8), (uid.JPEGLosslessSV1, None), (uid.JPEGLSLossless, None)):
        code = bytearray(LOSSLESS[syntax](held[0], 16))
        at = at or next(i for i in range(len(code)) if code[i : i + 2] in (b"\xff\xc3", b"\xff\xf7")) + 5
        code[at : at + 2] = b"\xf0\x00"
        path = save(tmp_path / "a.dcm", syntax, held, lambda *_, code=code: bytes(code), 16)
        for decoder in ("jpeg2k_decode", "jpeg8_decode", "jpegls_decode"):
            monkeypatch.setattr(imagecodecs, decoder, lambda *_, **__: pytest.fail("was decoded"))
        assert all("another size than its header" in reason for reason in refused(path))


def test_a_deflated_bomb_is_not_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr(header, "SMALL_BYTES", 2**16)
    path = save(tmp_path / "a.dcm", uid.DeflatedExplicitVRLittleEndian, np.zeros((1, 1000, 1000), np.uint16), None, 16)
    assert all("times its size when it is inflated" in reason for reason in refused(path))


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ({"NumberOfFrames": 2_000_000_000}, "header states 2000000000 frames"),
        ({"Rows": 60_000, "Columns": 60_000}, "frames of 60000 x 60000 pixels"),
        ({"BitsStored": 7, "HighBit": 6}, "7 bits of 8"),
        ({"HighBit": 6}, "do not fit together"),
        ({"PixelRepresentation": 1}, "signed"),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_slides_keep_the_same_rules(shared_data, tmp_path, elements, said, beside):
    """Also where another file of the slide's series is the bad one: OpenSlide opens it too."""
    good = shared_data / "wsi" / "multi_frame_jpeg_camelyon_challenge_image.dcm"
    bad = pydicom.dcmread(good)
    for keyword, value in elements.items():
        setattr(bad, keyword, value)
    bad.save_as(tmp_path / "bad.dcm")
    if beside:
        shutil.copy(good, tmp_path / "good.dcm")
    with pytest.raises(SlideError, match=said):
        open_slide(tmp_path / ("good.dcm" if beside else "bad.dcm"))
