"""Tiled and untiled TIFF, OME-TIFF and DICOM: the same picture gives the same pixels, or the same refusal."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from medsoft.data.images.read import read_image
from medsoft.data.tiff.ome import parse_ome
from medsoft.errors import ReadError, SlideError, TileError
from medsoft.slides.reading.slide import open_slide

SIZE = (90, 150)  # height, width: neither is a multiple of the tiles
HALF_UM = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}


def picture() -> np.ndarray:
    """(H, W, 3) uint8, no two places alike."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([x + 60, 2 * y + 20, (x + y) % 200], axis=-1).astype(np.uint8)


RGB = picture()
GREY = RGB[..., 0]
ON_WHITE = np.rint(RGB.astype(np.float32) * 0.4 + 255 * 0.6).astype(np.uint8)
PALETTE = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 7)]).astype(np.uint16) * 257


def planes(order: str, **metadata) -> dict:
    """Grey planes of an OME-TIFF; ``order`` says which colour each holds."""
    channels = [RGB[..., "RGB".index(letter)] for letter in order]
    return {
        "data": np.stack(channels),
        "photometric": "minisblack",
        "metadata": {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, **metadata},
        "ome": True,
    }


def deep(bits: int | None, form: str = "rgb") -> dict:
    """16-bit samples that use ``bits`` of them."""
    most = 2 ** (bits or 12) - 1
    data = np.rint(RGB.astype(np.float64) / 255 * most).astype(np.uint16)
    said = {} if bits is None else {"SignificantBits": bits}
    metadata = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, **said}
    if form == "rgb":
        return {"data": data, "photometric": "rgb", "metadata": metadata, "ome": bits is not None}
    names = {"Channel": {"Name": ["Red", "Green", "Blue"]}}
    return {
        "data": np.moveaxis(data, -1, 0),
        "photometric": "minisblack",
        "metadata": {"axes": "CYX", **metadata, **names},
        "ome": True,
    }


NAMED = {"Channel": {"Name": ["blue", "R", "Green"]}}
COLOURED = {"Channel": {"Color": [65535, -16776961, 16711935]}}
CONTENTS = {
    "rgb": ({"data": RGB, "photometric": "rgb"}, RGB),
    "rgb in OME": ({"data": RGB, "photometric": "rgb", "ome": True, "metadata": {"PhysicalSizeX": 0.5}}, RGB),
    "rgb, separate planes": (
        {"data": np.moveaxis(RGB, -1, 0), "photometric": "rgb", "planarconfig": "separate"}, RGB,
    ),
    "rgb, deflate": ({"data": RGB, "photometric": "rgb", "compression": "zlib", "predictor": True}, RGB),
    "rgb, zstd": ({"data": RGB, "photometric": "rgb", "compression": "zstd"}, RGB),
    "rgba": (
        {"data": np.dstack([RGB, np.full(SIZE, 102, np.uint8)]), "photometric": "rgb", "extrasamples": ["unassalpha"]},
        ON_WHITE,
    ),
    "grey": ({"data": GREY, "photometric": "minisblack"}, GREY),
    "grey, white is 0": ({"data": 255 - GREY, "photometric": "miniswhite"}, GREY),
    "1 bit": ({"data": GREY > 128, "photometric": "minisblack"}, np.where(GREY > 128, 255, 0).astype(np.uint8)),
    "palette": (
        {"data": GREY, "photometric": "palette", "colormap": PALETTE}, (PALETTE.T >> 8).astype(np.uint8)[GREY],
    ),
    "planes with names": (planes("BRG", **NAMED), RGB),
    "planes with colours": (planes("BRG", **COLOURED), RGB),
    "12 of 16 bits": (deep(12), RGB),
    "16 of 16 bits": (deep(16), RGB),
    "planes of 10 bits": (deep(10, "planes"), RGB),
}  # fmt: skip
REFUSED = {
    "planes without a word": (planes("RGB"), "does not say that they are RGB.*name them Red, Green and Blue"),
    "planes of two colours": (planes("RGG", Channel={"Name": ["red", "green", "green"]}), "does not say"),
    "four channels": (
        {**planes("RGBR"), "data": np.stack([GREY] * 4)}, r"4 channels \(fluorescence\?\).*save it as RGB",
    ),
    "two pages": ({"data": np.stack([GREY, GREY]), "photometric": "minisblack"}, "holds 2 pictures of one size"),
    "16 bits without a word": (deep(None), "does not say how many of them are used.*save it as RGB"),
    "more than it says": (
        {**deep(12), "data": RGB.astype(np.uint16) * 256}, "above the 12 bits",
    ),
    "signed": ({"data": RGB.astype(np.int16), "photometric": "rgb"}, "type int16"),
    "floating": ({"data": GREY.astype(np.float32), "photometric": "minisblack"}, "type float32"),
    "turned": ({"data": RGB, "photometric": "rgb", "extratags": [(274, 3, 1, 3, True)]}, "Orientation 3.*upright"),
    "focal planes": (
        {"data": np.stack([RGB, RGB]), "photometric": "rgb", "ome": True, "metadata": {"axes": "ZYXS"}},
        "2 focal planes",
    ),
}  # fmt: skip


def write(path: Path, content: dict, tiled: bool) -> Path:
    options = {"metadata": None, "ome": False, **content}
    data = options.pop("data")
    form = {"tile": (32, 48)} if tiled else {"rowsperstrip": 7}
    tifffile.imwrite(path, data, **HALF_UM, **form, **options)
    return path


def read_all(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.5)
        tiles = dict(slide.read_tiles(np.array([[0, 0], [64, 0], [100, 30]]), 64, 0.5))
        whole = slide.levels.read(0, 0, 0, *slide.size_px0)
        for row, (x, y) in enumerate([(0, 0), (64, 0), (100, 30)]):
            if isinstance(tiles[row], TileError):
                raise tiles[row]
            inside = whole[y : y + 64, x : x + 64]
            assert np.array_equal(tiles[row][: inside.shape[0], : inside.shape[1]], inside)
        return whole


@pytest.mark.parametrize("name", CONTENTS)
def test_tiled_and_untiled_twins_have_the_same_pixels(tmp_path, name):
    content, expected = CONTENTS[name]
    expected = np.repeat(expected[..., None], 3, axis=2) if expected.ndim == 2 else expected
    for tiled in (True, False):
        got = read_all(write(tmp_path / f"{tiled}.ome.tif", content, tiled))
        assert np.array_equal(got, expected), (tiled, np.abs(got.astype(int) - expected).max())


@pytest.mark.parametrize(
    "name", [name for name, (content, _) in CONTENTS.items() if content["data"].dtype != np.uint16]
)
def test_as_a_picture_for_training_it_has_them_too(tmp_path, name):
    content, expected = CONTENTS[name]
    for tiled in (True, False):
        got = read_image(write(tmp_path / f"{tiled}.ome.tif", content, tiled))
        assert np.array_equal(got, expected if expected.ndim == 3 else expected[..., None])


@pytest.mark.parametrize("name", REFUSED)
def test_tiled_and_untiled_twins_are_refused_alike(tmp_path, name):
    content, reason = REFUSED[name]
    told = set()
    for tiled in (True, False):
        with pytest.raises(SlideError, match=reason) as error:
            read_all(write(tmp_path / f"{tiled}.ome.tif", content, tiled))
        told.add(error.value.reason)
    assert len(told) == 1


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_samples_of_fewer_bits_state_their_range(tmp_path, bits):
    most = 2**bits - 1
    data = np.rint(GREY.astype(float) / 255 * most).astype(np.uint16)
    for photometric, stored in (("minisblack", data), ("miniswhite", most - data)):
        path = tmp_path / f"{photometric}.tif"
        tifffile.imwrite(path, stored, bitspersample=bits, photometric=photometric, rowsperstrip=16, **HALF_UM)
        assert np.array_equal(read_all(path)[..., 0], GREY)


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("kind", ["rgb", "planes with names"])
def test_smaller_copies_below_the_pages_are_levels(tmp_path, kind, tiled):
    content, _ = CONTENTS[kind]
    options = {**content, "metadata": {**content.get("metadata", {}), "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}}
    data = options.pop("data")
    options |= {"tile": (32, 48)} if tiled else {"rowsperstrip": 8}
    options.pop("ome", None)
    names = options.pop("metadata")
    small = (slice(None), slice(None, None, 2), slice(None, None, 2)) if data.shape[0] == 3 else np.s_[::2, ::2]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        tiff.write(data, subifds=1, metadata=names, **options)
        tiff.write(data[small], subfiletype=1, **options)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.level_downsamples == pytest.approx((1, 2))
        assert np.array_equal(slide.levels.read(0, 0, 0, *slide.size_px0), RGB)
        assert np.array_equal(slide.levels.read(1, 0, 0, *slide.levels.sizes_px[1]), RGB[::2, ::2])
        assert np.array_equal(slide.read_tile(40, 20, 16, 1.0), RGB[20:52:2, 40:72:2])


@pytest.mark.parametrize(
    ("size", "unit"),
    [(0.5, "µm"), (0.5, "\u03bcm"), (0.5, None), (500, "nm"), (0.0005, "mm"), (0.00005, "cm"), (0.0000005, "m"),
     (0.5 / 25_400, "in"), (0.5 / 25.4, "thou"), (5000, "Å")],
)  # fmt: skip
def test_ome_xml_gives_the_resolution_in_every_unit(tmp_path, size, unit):
    said = {f"PhysicalSize{axis}": size for axis in "XY"}
    said |= {f"PhysicalSize{axis}Unit": unit for axis in "XY" if unit}
    tifffile.imwrite(tmp_path / "a.ome.tif", RGB, photometric="rgb", tile=(32, 32), metadata=said)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert (slide.mpp, slide.mpp_origin) == (pytest.approx(0.5), "ome-xml")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"PhysicalSizeX": 1, "PhysicalSizeXUnit": "pixel"}, "does not say its resolution"),
        ({"PhysicalSizeX": 1, "PhysicalSizeXUnit": "parsec"}, "unknown unit"),
        ({"PhysicalSizeX": -1}, "not a positive number"),
        ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.8}, "not square"),
        ({"PhysicalSizeX": 500.0}, "none of a slide"),
    ],
)
def test_a_resolution_that_ome_xml_does_not_have_must_be_stated(tmp_path, said, reason):
    said = {"PhysicalSizeY": said["PhysicalSizeX"], "PhysicalSizeYUnit": said.get("PhysicalSizeXUnit", "µm"), **said}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", tile=(32, 32), metadata=said)
    with pytest.raises(SlideError, match=f"{reason}.*--slide-mpp"):
        open_slide(path)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.mpp == 0.5


def test_tags_that_contradict_ome_xml_are_told(tmp_path):
    said = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    tifffile.imwrite(tmp_path / "a.ome.tif", RGB, photometric="rgb", metadata=said, **HALF_UM)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.mpp == 0.25
        assert slide.notes == ("0.25 µm/px is used (ome-xml), though the file says 0.5 (tiff resolution)",)


@pytest.mark.parametrize(("unit", "mpp"), [("micron", 0.5), ("nm", 0.0005), ("mm", 500), ("pixel", None)])
def test_imagej_names_the_unit_that_the_tags_lack(tmp_path, unit, mpp):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, imagej=True, resolution=(2, 2), metadata={"unit": unit})
    if mpp == 0.5:
        with open_slide(path) as slide:
            assert (slide.mpp, slide.mpp_origin) == (0.5, "tiff resolution")
    else:
        with pytest.raises(SlideError, match=f"{mpp:g} × {mpp:g} µm/px" if mpp else "does not say"):
            open_slide(path)


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        ("<OME", "damaged OME-XML"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><OME></OME>", "DOCTYPE"),
        ("<OME></OME>", "without an image"),
        ("<OME><BinaryOnly/></OME>", "several files"),
        ("<OME><Image><Pixels SizeX='x' SizeY='5'/></Image></OME>", "SizeX"),
        ("<OME><Image><Pixels SizeX='5' SizeY='5' SizeC='3'><Channel/></Pixels></Image></OME>", "contradicts itself"),
        ("<OME UUID='a'><Image><Pixels SizeX='5' SizeY='5'><TiffData><UUID>b</UUID></TiffData></Pixels></Image></OME>",
         "several files"),
        ("<OME><Image><Pixels SizeX='5' SizeY='5'/></Image><Image><Pixels SizeX='5' SizeY='5'/></Image></OME>",
         "2 images"),
        ("<OME><Image><Pixels SizeX='5' SizeY='5' SizeT='4'/></Image></OME>", "4 time points"),
    ],
)  # fmt: skip
def test_ome_xml_of_something_else_is_refused(xml, reason):
    with pytest.raises(ReadError, match=reason):
        parse_ome(xml)


def test_a_label_beside_the_slide_is_no_second_image():
    slide = "<Image Name='a'><Pixels SizeX='5' SizeY='6'/></Image>"
    label = "<Image Name='label image'><Pixels SizeX='50' SizeY='60'/></Image>"
    assert parse_ome(f"<OME>{slide}{label}</OME>").size_px == (5, 6)


def test_deep_tiles_of_a_scanner_are_refused_and_not_cut_to_their_upper_bits(tmp_path):
    text = "Aperio Image Library v11.2.1 \n1x1 (256x256)|MPP = 0.5000|AppMag = 20"
    data = np.zeros((300, 300, 3), np.uint16)
    path = tmp_path / "a.svs"
    tifffile.imwrite(path, data, photometric="rgb", tile=(256, 256), description=text, metadata=None)
    with pytest.raises(SlideError, match=r"16 bits per channel.*upper 8.*save it as RGB"):
        open_slide(path)


def test_what_lies_in_other_files_of_a_microscope_is_not_its_overview(tmp_path):
    write(tmp_path / "a.tif", CONTENTS["rgb"][0], True).rename(tmp_path / "a.vsi")
    with pytest.raises(SlideError, match=r"VSI file.*OME-TIFF"):
        open_slide(tmp_path / "a.vsi", mpp=0.5)


@pytest.mark.parametrize("tiled", [True, False])
def test_damaged_jpeg_is_never_grey(tmp_path, tiled):
    form = {"tile": (64, 64)} if tiled else {"rowsperstrip": 64}
    path = tmp_path / "a.ome.tif"
    said = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(path, RGB, photometric="rgb", compression="jpeg", metadata=said, **form)
    with open_slide(path) as slide:
        assert np.abs(slide.levels.read(0, 0, 0, 150, 90).astype(int) - RGB).mean() < 4
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[offset + count // 2 : offset + count] = bytes(count - count // 2)
    path.write_bytes(data)
    with pytest.raises((SlideError, TileError), match=r"decoded|damaged"), open_slide(path) as slide:
        slide.levels.read(0, 0, 0, 64, 64)


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("side", [2**30, 1_000_000, 5000])
def test_a_file_that_declares_more_than_it_holds_is_refused_before_memory_is_taken(tmp_path, side, tiled):
    """A page of 2**30 px a side, in tiles or strips as large, or of honest tiles that are not there."""
    content, _ = CONTENTS["grey"]
    path = write(tmp_path / "a.tif", content, tiled)
    data = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages[0].tags
        places = {code: tags[code].valueoffset for code in (256, 257, 322, 323, 278) if code in tags}
        types = {code: tags[code].dtype for code in places}
    assert all(kind in (3, 4) for kind in types.values())
    changed = bytearray(data)
    for code, place in places.items():
        if types[code] == 4:
            changed[place : place + 4] = struct.pack("<I", side)
        elif side < 65536:
            changed[place : place + 2] = struct.pack("<H", side)
    path.write_bytes(changed)
    with pytest.raises(SlideError, match=r"limit|missing|declares|can hold|damaged"):
        open_slide(path, mpp=0.5)


def test_slide_formats_that_fail_do_so_plainly(shared_data):
    formats = shared_data / "slide_formats"
    for name, reason in {
        "tiff/zero_gi.tif": "has 2 x 0 pixels",
        "tiff/lab.tif": "neither grey, RGB nor CMYK",
        "tiff/rgb-3c-16b.tiff": "16 bits per channel",
        "tiff/seq-1c-8b-multipage-adeefdcc.tiff": "3 pictures of one size",
        "tiff_orientation/test_orient3.tif": "Orientation 3",
        "ome/2048x2048_ome6_tiled.ome.tif": "3 channels",
        "ome/cells-2c.ome.tif": "2 channels",
        "ome/multifile/multifile-Z1.ome.tiff": "several files",
        "vsi/vsi-ets-test-jpg2k.vsi": "VSI file",
        "czi/RGB-8bit.czi": "OpenSlide cannot open it.*OME-TIFF",
    }.items():
        with pytest.raises(SlideError, match=reason):
            open_slide(formats / name, mpp=1.0)


@pytest.mark.parametrize(
    ("name", "size", "mpp"),
    [("ome/cells.ome.tif", (93, 131), 0.25), ("tiff/planar-rgb-u8.tif", (374, 499), None)],
)
def test_real_planes_are_colours(shared_data, name, size, mpp):
    path = shared_data / "slide_formats" / name
    with open_slide(path, None if mpp else 1.0) as slide:
        assert slide.size_px0 == size
        assert mpp is None or slide.mpp == pytest.approx(mpp)
        truth = tifffile.imread(path)
        assert np.array_equal(slide.levels.read(0, 0, 0, *size), np.moveaxis(truth, 0, -1))
