"""Radiographs in DICOM: black and white, windows, and what the training sees of them."""

import csv
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from medsoft.data.images.read import read_image
from medsoft.errors import ReadError
from tests.builders.dicom import SECRET, item, write

GREY_12 = (np.arange(20 * 30, dtype=np.uint16) * 6).reshape(20, 30)
DX = {"SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX", "BitsStored": 12, "HighBit": 11}


def lut(first: int, entries: list[int], bits: int) -> object:
    table = item(LUTDescriptor=[len(entries), first, bits], LUTData=entries)
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    return table


def test_more_than_8_bits_keep_their_numbers_as_float(tmp_path):
    image = read_image(write(tmp_path / "a.dcm", GREY_12, **DX))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[..., 0], GREY_12)


def test_white_as_lowest_value_is_inverted(tmp_path):
    inverse = {"PhotometricInterpretation": "MONOCHROME1"}
    image = read_image(write(tmp_path / "a.dcm", GREY_12, **DX, **inverse))
    np.testing.assert_array_equal(image[..., 0], 4095 - GREY_12)
    image = read_image(write(tmp_path / "b.dcm", (GREY_12 // 16).astype(np.uint8), **inverse))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[..., 0], 255 - GREY_12 // 16)
    scaled = {"RescaleSlope": 2, "RescaleIntercept": -100}
    image = read_image(write(tmp_path / "c.dcm", GREY_12, **DX, **inverse, **scaled))
    np.testing.assert_array_equal(image[..., 0], 2 * (4095 - GREY_12.astype(int)) - 100)
    signed = (GREY_12.astype(np.int16) - 2048).astype(np.int16)
    image = read_image(write(tmp_path / "d.dcm", signed, **DX, **inverse))
    np.testing.assert_array_equal(image[..., 0], -1 - signed)


@pytest.mark.parametrize(
    ("function", "at"),
    [
        ("LINEAR", lambda x: ((x - (2000 - 0.5)) / (1001 - 1) + 0.5).clip(0, 1)),
        ("LINEAR_EXACT", lambda x: ((x - 2000) / 1001 + 0.5).clip(0, 1)),
        ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 2000) / 1001))),
    ],
)
def test_the_files_window_runs_from_black_to_white(tmp_path, function, at):
    window = {"WindowCenter": [2000, 1], "WindowWidth": [1001, 2], "VOILUTFunction": function}
    image = read_image(write(tmp_path / "a.dcm", GREY_12, **DX, **window), voi=True)
    assert image.dtype == np.uint16
    np.testing.assert_allclose(image[..., 0], 65535 * at(GREY_12.astype(float)), atol=1)
    inverse = write(tmp_path / "b.dcm", GREY_12, **DX, **window, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(read_image(inverse, voi=True)[..., 0], 65535 * (1 - at(GREY_12.astype(float))), atol=1)


def test_a_voi_lut_comes_before_a_window_and_may_have_8_bits(tmp_path):
    entries = np.linspace(0, 255, 1000).astype(int).tolist()
    window = {"WindowCenter": 1, "WindowWidth": 2, "VOILUTSequence": [lut(500, entries, 8)]}
    image = read_image(write(tmp_path / "a.dcm", GREY_12, **DX, **window), voi=True)
    expected = np.array(entries)[np.clip(GREY_12.astype(int) - 500, 0, 999)] / 255 * 65535
    np.testing.assert_allclose(image[..., 0], expected, atol=1)


def test_a_window_that_is_not_there_or_makes_no_sense(tmp_path):
    with pytest.raises(ReadError, match="names no window"):
        read_image(write(tmp_path / "a.dcm", GREY_12, **DX), voi=True)
    with pytest.raises(ReadError, match="makes no sense"):
        read_image(write(tmp_path / "b.dcm", GREY_12, **DX, WindowCenter=5, WindowWidth=0), voi=True)
    table = lut(0, [1, 2, 3], 8)
    table.LUTDescriptor = [9, 0, 8]
    path = write(tmp_path / "c.dcm", GREY_12, **DX, VOILUTSequence=[table])
    with pytest.raises(ReadError, match=r"LUT\) that is damaged"):
        read_image(path, voi=True)
    plain = (GREY_12 // 16).astype(np.uint8)
    np.testing.assert_array_equal(read_image(write(tmp_path / "d.dcm", plain), voi=True)[..., 0], plain)


def test_colour_palette_and_colours_of_12_bits(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_image(write(tmp_path / "a.dcm", rgb)), rgb)
    deep = rgb.astype(np.uint16) * 16
    image = read_image(write(tmp_path / "b.dcm", deep, BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(image, deep * 16)
    red, green, blue = (np.random.default_rng(i).integers(0, 256, 256, dtype=np.uint8) for i in range(3))
    palette = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, values in {"Red": red, "Green": green, "Blue": blue}.items():
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        palette[f"{name}PaletteColorLookupTableData"] = values.tobytes()
    index = rgb[..., 0].copy()
    image = read_image(write(tmp_path / "c.dcm", index, **palette))
    np.testing.assert_array_equal(image, np.stack([red[index], green[index], blue[index]], axis=-1))
    del palette["BluePaletteColorLookupTableData"]
    with pytest.raises(ReadError, match="palette"):
        read_image(write(tmp_path / "d.dcm", index, **palette))


ENCODERS = {
    JPEGLosslessSV1: lambda image: imagecodecs.ljpeg_encode(image, bitspersample=16),
    JPEGLSLossless: lambda image: imagecodecs.jpegls_encode(image),
    JPEG2000Lossless: lambda image: imagecodecs.jpeg2k_encode(image, reversible=True, codecformat="j2k"),
    HTJ2KLossless: lambda image: imagecodecs.htj2k_encode(image),
}


@pytest.mark.parametrize("syntax", ENCODERS, ids=lambda uid: UID(uid).keyword)
def test_lossless_codecs(tmp_path, syntax):
    noise = np.random.default_rng(0).integers(0, 65536, (64, 48), dtype=np.uint16)
    code = bytes(ENCODERS[syntax](noise))

    def save(code: bytes, **elements: object) -> Path:
        return write(tmp_path / "a.dcm", noise, TransferSyntaxUID=syntax, PixelData=encapsulate([code]), **elements)

    np.testing.assert_array_equal(read_image(save(code))[..., 0], noise)
    with pytest.raises(ReadError, match="damaged or cut short"):
        read_image(save(code[: len(code) // 2]))
    with pytest.raises(ReadError, match="damaged or cut short"):
        read_image(save(code, Rows=32))


def test_lossy_jpeg_in_colour_and_cut_short(tmp_path):
    smooth = np.tile(np.linspace(0, 255, 32, dtype=np.uint8)[:, None, None], (1, 48, 3)) // np.array(
        [1, 2, 4], np.uint8
    )
    code = imagecodecs.jpeg8_encode(smooth, level=95)
    options = {"TransferSyntaxUID": JPEGBaseline8Bit, "PhotometricInterpretation": "YBR_FULL_422"}
    image = read_image(write(tmp_path / "a.dcm", smooth, PixelData=encapsulate([code]), **options))
    assert abs(image.astype(int) - smooth).max() < 12
    with pytest.raises(ReadError, match="damaged or cut short"):
        read_image(write(tmp_path / "a.dcm", smooth, PixelData=encapsulate([code[:-40]]), **options))


def test_a_syntax_that_is_not_read_is_named(tmp_path):
    path = write(
        tmp_path / "a.dcm", GREY_12, TransferSyntaxUID="1.2.840.10008.1.2.4.102", PixelData=encapsulate([b"ab"])
    )
    with pytest.raises(ReadError, match="MPEG-4"):
        read_image(path)


def test_deflated(tmp_path):
    path = write(tmp_path / "a.dcm", GREY_12, TransferSyntaxUID=DeflatedExplicitVRLittleEndian)
    np.testing.assert_array_equal(read_image(path)[..., 0], GREY_12)


def test_size_is_checked_before_decoding(tmp_path):
    path = write(tmp_path / "a.dcm", GREY_12, Rows=60000, Columns=60000)
    with pytest.raises(ReadError, match="more than the limit"):
        read_image(path)


def radiographs(folder: Path, n: int) -> Path:
    """12-bit radiographs whose brighter half says the label, with CheXpert's kinds of labels; every second inverted."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        left = i % 2
        pixels = rng.integers(0, 1500, (40, 48), dtype=np.uint16)
        pixels[:, : 24 if left else 48] += np.uint16(1500 * left)
        inverted = {"PhotometricInterpretation": "MONOCHROME1"} if i % 4 > 1 else {}
        stored = 4095 - pixels if inverted else pixels
        write(folder / f"{i:02d}.dcm", stored, **DX, **inverted, WindowCenter=2000, WindowWidth=4000)
        rows.append(
            {"path": f"{i:02d}.dcm", "edema": ["1", "0", "-1.0", ""][i % 4], "pneumonia": str(left), "patient": i}
        )
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "labels.csv"


def test_findings_with_uncertain_labels_are_learnt_from_dicom(tmp_path, fit):
    table = radiographs(tmp_path / "set", 24)
    out = tmp_path / "run"
    size = ["--config=chest_xray", "--data.voi=true", "--transforms.window=null", "--trainer.max_epochs=1"]
    said, _ = fit(*size, "--data.uncertain={edema: one}", f"--out={out}", on=table, label="edema,pneumonia")
    assert "edema: 6 uncertain labels (-1) count as present" in said
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["target_edema"] for row in rows} <= {"1", "0", ""}
    written = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    assert not [value for value in SECRET.values() for text in written if value.encode() in text]


def test_uncertain_labels_are_asked_for(tmp_path, medsoft):
    table = radiographs(tmp_path / "set", 12)
    code, _, err = medsoft("data", "check", table, "--label=edema,pneumonia")
    assert code == 2
    assert "unknown label (3)" in err
    assert "--data.uncertain" in err
    for rule, present in {"ignore": 3, "zero": 3, "one": 6}.items():
        code, out, _ = medsoft("data", "check", table, "--label=edema,pneumonia", f"--uncertain={rule}")
        assert code == 0
        meaning = {"ignore": "missing", "zero": "absent", "one": "present"}[rule]
        assert f"edema: 3 uncertain labels (-1) count as {meaning}" in out
        assert [line for line in out.splitlines() if "edema" in line and f" {present} " in line]
    code, _, err = medsoft("data", "check", table, "--label=edema,pneumonia", "--uncertain={oedema: one}")
    assert code == 2
    assert "oedema" in err
    code, _, err = medsoft("data", "check", table, "--label=pneumonia", "--task=binary", "--uncertain=one")
    assert "multilabel" in err
