"""Real and malformed DICOM files: read right, equal to another decoder's pixels, or refused with the reason."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array

from medsoft.data.dicom import codecs
from medsoft.data.dicom.header import open_dicom
from medsoft.data.dicom.pixels import real_frames, stored_frames
from medsoft.data.images.read import read_image
from medsoft.data.volumes.read import read_volume
from medsoft.errors import ReadError

WHEEL, DATA, BAD = "dicom/pydicom_wheel", "dicom/pydicom_data", "malformed/dicom"

READ = {  # file: (frames, rows, columns), and whether it is a grey picture with 8 bits, more bits, or in colour
    f"{DATA}/693_J2KR.dcm": ((1, 512, 512), "more"),
    f"{DATA}/JPEG-LL.dcm": ((1, 1024, 256), "more"),
    f"{DATA}/US1_J2KI.dcm": ((1, 480, 640), "colour"),
    f"{DATA}/color-pl.dcm": ((1, 120, 256), "colour"),
    f"{DATA}/emri_small.dcm": ((10, 64, 64), "frames"),
    f"{DATA}/emri_small_RLE.dcm": ((10, 64, 64), "frames"),
    f"{DATA}/emri_small_jpeg_2k_lossless.dcm": ((10, 64, 64), "frames"),
    f"{DATA}/emri_small_jpeg_ls_lossless.dcm": ((10, 64, 64), "frames"),
    f"{WHEEL}/CT_small.dcm": ((1, 128, 128), "more"),
    f"{WHEEL}/JPEG-lossy.dcm": ((1, 1024, 256), "more"),
    f"{WHEEL}/JPGExtended.dcm": ((1, 1024, 256), "more"),
    f"{WHEEL}/MR_small.dcm": ((1, 64, 64), "more"),
    f"{WHEEL}/MR_small_RLE.dcm": ((1, 64, 64), "more"),
    f"{WHEEL}/MR_small_bigendian.dcm": ((1, 64, 64), "more"),
    f"{WHEEL}/MR_small_jp2klossless.dcm": ((1, 64, 64), "more"),
    f"{WHEEL}/MR_small_jpeg_ls_lossless.dcm": ((1, 64, 64), "more"),
    f"{WHEEL}/examples_jpeg2k.dcm": ((1, 480, 640), "colour"),
    f"{WHEEL}/examples_overlay.dcm": ((1, 300, 484), "more"),
    f"{WHEEL}/examples_palette.dcm": ((1, 350, 800), "colour"),
    f"{WHEEL}/examples_rgb_color.dcm": ((1, 240, 320), "colour"),
    f"{WHEEL}/examples_ybr_color.dcm": ((30, 240, 320), "frames"),
    f"{WHEEL}/image_dfl.dcm": ((1, 512, 512), "8 bits"),
    f"{WHEEL}/liver_1frame.dcm": ((1, 512, 512), "8 bits"),
    f"{BAD}/J2K_pixelrep_mismatch.dcm": ((1, 512, 512), "more"),
    f"{BAD}/SC_rgb_jpeg_dcmtk.dcm": ((1, 100, 100), "colour"),
    f"{BAD}/bad_sequence.dcm": ((1, 512, 512), "more"),
    f"{BAD}/explicit_VR-UN.dcm": ((1, 512, 512), "more"),
}

REFUSED = {
    f"{WHEEL}/no_meta.dcm": "is not a",
    f"{WHEEL}/rtdose.dcm": "is a radiotherapy dose",
    f"{WHEEL}/test-SR.dcm": "without a picture (Comprehensive SR Storage)",
    f"{WHEEL}/waveform_ecg.dcm": "without a picture (12-lead ECG Waveform Storage)",
    **{f"{BAD}/DICOMDIR-{name}": "is a DICOMDIR" for name in ("bigEnd", "empty.dcm", "implicit", "nooffset")},
    **{f"{BAD}/DICOMDIR-{name}": "is a DICOMDIR" for name in ("nopatient", "reordered")},
    f"{BAD}/MR_truncated.dcm": "damaged or cut short",
    f"{BAD}/UN_sequence.dcm": "no pixel data|header lacks Rows",
    f"{BAD}/badVR.dcm": "is a radiotherapy dose",
    f"{BAD}/empty_charset_LEI.dcm": "without a picture",
    f"{BAD}/emri_small_jpeg_2k_lossless_too_short.dcm": "no pixel data|position of its frames",
    f"{BAD}/meta_missing_tsyntax.dcm": "header lacks Rows|without a picture",
    f"{BAD}/nested_priv_SQ.dcm": "header lacks Rows|without a picture",
    f"{BAD}/no_meta.dcm": "is not a",
    f"{BAD}/priv_SQ.dcm": "no pixel data|header lacks Rows",
    f"{BAD}/rtplan_truncated.dcm": "without a picture (RT Plan Storage)",
}


def test_every_file_is_listed(shared_data):
    there = {
        str(path.relative_to(shared_data)) for name in (WHEEL, DATA, BAD) for path in (shared_data / name).iterdir()
    }
    assert there == READ.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", READ)
def test_pixels_are_those_of_pydicoms_own_decoders(shared_data, name):
    shape, kind = READ[name]
    dataset = open_dicom(shared_data / name)
    frames = stored_frames(dataset)
    assert frames.shape[:3] == shape
    assert (frames.ndim == 4) == ((kind == "colour" and "palette" not in name) or "ybr" in name)
    plain = pydicom.dcmread(shared_data / name)
    syntax = plain.file_meta.TransferSyntaxUID
    if syntax not in codecs.SYNTAXES:
        np.testing.assert_array_equal(frames, pixel_array(plain).reshape(frames.shape))
    elif syntax in (*codecs._JPEG[:1], *codecs._JPEG_2000):
        np.testing.assert_array_equal(frames, pixel_array(plain, decoding_plugin="pillow").reshape(frames.shape))
    if kind == "more" and "RescaleSlope" in plain:
        real = apply_modality_lut(frames, plain)
        assert real.min() != frames.min() or plain.RescaleIntercept == 0
        np.testing.assert_array_equal(real_frames(dataset), real.astype(np.float32))


@pytest.mark.parametrize("name", [name for name, (_, kind) in READ.items() if kind != "frames"])
def test_pictures(shared_data, name):
    (_, *sides), kind = READ[name]
    image = read_image(shared_data / name)
    if name.endswith("color-pl.dcm"):  # PixelAspectRatio 4 to 3
        sides = [160, 256]
    assert image.shape == (*sides, 3 if kind == "colour" else 1)
    if kind == "more":
        np.testing.assert_array_equal(image[..., 0], real_frames(open_dicom(shared_data / name))[0])
    else:
        assert image.dtype == (np.uint16 if "palette" in name else np.uint8)
    assert image.std() > 3


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("read", [read_image, read_volume])
def test_what_is_refused_says_why(shared_data, name, read):
    with pytest.raises(ReadError) as caught:
        read(shared_data / name)
    assert [part for part in REFUSED[name].split("|") if part in caught.value.reason]


@pytest.mark.parametrize("name", [name for name, (_, kind) in READ.items() if kind == "frames"])
def test_several_frames_are_no_picture_and_without_positions_no_volume(shared_data, name):
    with pytest.raises(ReadError, match=r"holds (10|30) pictures"):
        read_image(shared_data / name)
    with pytest.raises(ReadError, match="position of its frames"):
        read_volume(shared_data / name)


def test_lossless_variants_equal_the_original(shared_data):
    for original, variants in {
        f"{WHEEL}/MR_small": ("_RLE", "_bigendian", "_jp2klossless", "_jpeg_ls_lossless"),
        f"{DATA}/emri_small": ("_RLE", "_jpeg_2k_lossless", "_jpeg_ls_lossless"),
    }.items():
        frames = stored_frames(open_dicom(shared_data / f"{original}.dcm"))
        for variant in variants:
            np.testing.assert_array_equal(stored_frames(open_dicom(shared_data / f"{original}{variant}.dcm")), frames)


@pytest.mark.parametrize(
    ("lossy", "lossless", "mean"),
    [
        (f"{WHEEL}/JPEG-lossy.dcm", f"{DATA}/JPEG-LL.dcm", 2.3),
        (f"{WHEEL}/JPGExtended.dcm", f"{DATA}/JPEG-LL.dcm", 2.3),
        (f"{DATA}/US1_J2KI.dcm", f"{WHEEL}/examples_jpeg2k.dcm", 1.7),
    ],
)
def test_lossy_variants_are_near_the_original(shared_data, lossy, lossless, mean):
    frames, original = (stored_frames(open_dicom(shared_data / name)).astype(int) for name in (lossy, lossless))
    assert abs(frames - original).mean() <= mean


def test_a_single_slice_has_its_place(shared_data):
    volume = read_volume(shared_data / WHEEL / "CT_small.dcm")
    header = pydicom.dcmread(shared_data / WHEEL / "CT_small.dcm", stop_before_pixels=True)
    assert (volume.modality, volume.meta["units"], volume.array.shape) == ("CT", "HU", (1, 128, 128, 1))
    assert volume.spacing_mm == pytest.approx((*map(float, header.PixelSpacing), float(header.SliceThickness)))
    origin = np.array(list(map(float, header.ImagePositionPatient))) * [-1, -1, 1]
    np.testing.assert_allclose(volume.affine[:3, 3], origin)
    np.testing.assert_array_equal(volume.array[0, :, :, 0].T, real_frames(open_dicom(header.filename))[0])


@pytest.mark.parametrize("name", [*READ, *REFUSED])
def test_reasons_quote_no_element(shared_data, name, capfd):
    """Nothing is printed or warned of, and no reason holds an element's text."""
    path = Path(shared_data / name)
    texts = {str(e.value) for e in pydicom.dcmread(path, force=True) if e.VR in ("PN", "LO", "DA", "SH", "UI", "TM")}
    for read in (read_image, read_volume):
        reason = reason_of(read, path)
        assert not [text for text in texts if len(text) > 3 and text in reason]
    assert capfd.readouterr() == ("", "")


def test_pydicoms_warnings_are_not_shown(shared_data):
    """In a process of its own: pytest shows all warnings."""
    code = (
        "import sys; from medsoft.data.images.read import read_image; from medsoft.errors import ReadError\n"
        "from medsoft.data.volumes.read import read_volume\n"
        "for path in sys.argv[1:]:\n"
        "    for read in (read_image, read_volume):\n"
        "        try: read(path)\n"
        "        except ReadError: pass\n"
    )
    files = [str(shared_data / name) for name in (*READ, *REFUSED)]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def reason_of(read: Callable[[Path], object], path: Path) -> str:
    try:
        read(path)
    except ReadError as error:
        return error.reason
    return ""
