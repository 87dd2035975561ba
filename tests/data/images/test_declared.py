"""What a header declares is held against the bytes that are there, before memory is taken; damage is told."""

import gzip
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import imagecodecs
import nrrd
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medsoft.data.formats.arrays import npz_array, npz_shapes
from medsoft.data.formats.jpeg import MAX_SCANS, check_jpeg, decode_jpeg_strict
from medsoft.data.formats.png import check_png
from medsoft.data.images.read import read_image
from medsoft.data.tables.reading import load_source
from medsoft.data.volumes.read import read_volume
from medsoft.errors import InputError, ReadError
from medsoft.storage.files import open_regular_file
from tests.builders.containers import RGB_8, RGB_16, VOLUME_16, jpeg_bytes, nifti_bytes

BOMB = 10**9


def refused(read, path: object, match: str) -> str:
    with pytest.raises(ReadError, match=match) as caught:
        read(path)
    return caught.value.reason


# --- PNG ---


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, pixels: bytes, colour: int = 0, interlaced: int = 0, end: bool = True) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, interlaced)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"") if end else b""]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 20), height=st.integers(1, 20), mode=st.sampled_from(["1", "L", "P", "RGB", "RGBA", "LA"]))
def test_a_whole_png_of_any_kind_passes(width, height, mode):
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).convert(mode).save(file, "PNG")
    check_png(file.getvalue())
    check_png(file.getvalue() + b"what follows is no part of the picture")


def test_an_interlaced_png_is_as_long_as_its_seven_passes():
    width, height, rows = 9, 7, 0
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        columns = len(range(x, width, dx))
        rows += len(range(y, height, dy)) * (1 + columns) if columns else 0
    check_png(png(width, height, bytes(rows), interlaced=1))
    with pytest.raises(ReadError, match="fewer pixels"):
        check_png(png(width, height, bytes(rows - 1), interlaced=1))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (png(4, 4, bytes(19)), "fewer pixels"),
        (png(4, 4, bytes(21)), "checksum"),
        (png(4, 4, bytes(20), end=False), "cut short"),
        (png(20_000, 4_000, bytes(20)), "fewer pixels"),
        (png(4, 4, bytes(20), colour=5), "makes no sense"),
    ],
)
def test_a_png_whose_pixels_are_not_as_many_as_stated_is_refused(tmp_path, data, match):
    with pytest.raises(ReadError, match=match):
        check_png(data)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ReadError):
        read_image(tmp_path / "a.png")


def test_a_chunk_left_out_is_found_by_the_checksum_of_the_pixels(tmp_path):
    pixels = zlib.compress(np.random.default_rng(0).bytes(20 * 21))
    parts = [chunk(b"IDAT", pixels[:100]), chunk(b"IDAT", pixels[100:200]), chunk(b"IDAT", pixels[200:])]
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 20, 20, 8, 0, 0, 0, 0))
    check_png(head + b"".join(parts) + chunk(b"IEND", b""))
    with pytest.raises(ReadError, match="checksum"):
        check_png(head + parts[0] + parts[2] + chunk(b"IEND", b""))


# --- JPEG ---


def test_strict_decoding_gives_what_pillow_gives(tmp_path):
    for pixels, colours in ((RGB_8, "RGB"), (RGB_8[..., 0], "GRAY")):
        data = jpeg_bytes(np.ascontiguousarray(pixels))
        expected = np.asarray(Image.open(io.BytesIO(data))).reshape(*pixels.shape[:2], -1)
        np.testing.assert_array_equal(decode_jpeg_strict(data, colours), expected)
        check_jpeg(data)
    Image.fromarray(RGB_8).convert("CMYK").save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").shape == RGB_8.shape


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_jpeg_cut_short_with_its_end_put_back_is_refused(tmp_path, mode, share):
    Image.fromarray(RGB_8).convert(mode).save(tmp_path / "a.jpg", quality=95)
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: int(share * len(whole))] + b"\xff\xd9")
    refused(read_image, tmp_path / "a.jpg", "damaged")


def test_what_follows_a_jpeg_is_no_part_of_it(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes() + b"trailer of a camera" * 9)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), decode_jpeg_strict(jpeg_bytes(), "RGB"))


def test_a_jpeg_of_thousands_of_scans_is_refused_at_once(tmp_path):
    Image.fromarray(RGB_8).save(tmp_path / "a.jpg", progressive=True)
    whole = (tmp_path / "a.jpg").read_bytes()
    last = whole.rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(whole[:last] + whole[last:-2] * (MAX_SCANS + 1) + whole[-2:])
    refused(read_image, tmp_path / "a.jpg", f"more than {MAX_SCANS} scans")


# --- arrays ---


def write_npz(path: Path, header: str, body: bytes, name: str = "train_images.npy", packed: bool = True) -> Path:
    text = header.encode("latin1").ljust(117) + b"\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        archive.writestr(name, member)
    return path


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((BOMB, 8, 8), "|u1"),
        ((1, 8, 9), "|u1"),
        ((1, 8, 7), "|u1"),
        ((-1, 8, -8), "|u1"),
        ((2**62, 2**62, 8), "|u1"),
        ((BOMB, 8, 8), "|O"),
        ((1.0, 8, 8), "|u1"),
    ],
)
def test_an_array_that_declares_other_sizes_than_it_has_is_refused_everywhere(tmp_path, shape, kind, packed):
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}"
    path = write_npz(tmp_path / "a.npz", header, bytes(64), packed=packed)
    for read in (read_image, read_volume):
        refused(read, f"{path}#train_images/0", "array|damaged")
    with pytest.raises(ReadError):
        npz_shapes(path)
    with pytest.raises(InputError, match=r"a\.npz"):
        load_source(path)


def test_an_array_of_objects_runs_nothing_and_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trap"),)

    np.savez(tmp_path / "a.npz", train_images=np.array([Trap()] * 3, dtype=object).reshape(3, 1, 1))
    with pytest.raises(ReadError, match="Python objects"):
        npz_array(str(tmp_path / "a.npz"), "train_images")
    assert not (tmp_path / "trap").exists()


def test_an_array_larger_than_memory_is_refused_before_it_is_taken(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", train_images=np.zeros((10, 100, 100), np.uint8))
    monkeypatch.setattr("medsoft.data.formats.arrays.total_memory", lambda: 99_999)
    refused(read_image, f"{tmp_path}/a.npz#train_images/0", "more than this machine's memory")


@pytest.mark.parametrize("packed", [True, False])
def test_a_changed_bit_of_an_array_is_found(tmp_path, packed):
    path = tmp_path / "a.npz"
    (np.savez_compressed if packed else np.savez)(path, train_images=RGB_16[np.newaxis])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    refused(read_image, f"{path}#train_images/0", "damaged")


def test_an_array_by_columns_and_of_big_endian_keeps_its_order(tmp_path):
    images = np.asfortranarray(np.arange(60, dtype=">u2").reshape(3, 4, 5))
    np.savez(tmp_path / "a.npz", train_images=images)
    np.testing.assert_array_equal(read_image(f"{tmp_path}/a.npz#train_images/2")[..., 0], images[2])


def test_one_array_under_the_name_of_several_says_so(tmp_path):
    np.save(tmp_path / "a.npy", RGB_8)
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    refused(read_image, f"{tmp_path}/a.npz#a/0", "numpy.savez")
    refused(read_volume, f"{tmp_path}/a.npz#a/0", "numpy.savez")


# --- NIfTI ---


def nifti_with(**fields: object) -> bytes:
    data = bytearray(nifti_bytes(VOLUME_16))
    places = {"dim": (40, "<8h"), "vox_offset": (108, "<f"), "pixdim": (76, "<8f"), "xyzt_units": (123, "<B")}
    places |= {"magic": (344, "4s"), "datatype": (70, "<h"), "scl": (112, "<2f"), "bitpix": (72, "<h")}
    for name, value in fields.items():
        at, form = places[name]
        struct.pack_into(form, data, at, *(value if isinstance(value, tuple) else (value,)))
    return bytes(data)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"dim": (3, 700, 600, 500, 1, 1, 1, 1)}, "cannot hold|are there"),
        ({"dim": (3, 7, 6, 6, 1, 1, 1, 1)}, "are there|cannot hold"),
        ({"dim": (3, 7, 6, 4, 1, 1, 1, 1)}, "more data than its header states"),
        ({"dim": (3, -7, -6, 5, 1, 1, 1, 1)}, "dimensions"),
        ({"dim": (3, 7, 0, 5, 1, 1, 1, 1)}, "dimensions"),
        ({"dim": (99, 7, 6, 5, 1, 1, 1, 1)}, "damaged"),
        ({"vox_offset": 3e9}, "skips|begins at byte"),
        ({"vox_offset": 352.5}, "begins at byte|damaged"),
        ({"vox_offset": -1.0}, "begins at byte|damaged"),
        ({"pixdim": (1, -1, 1, 1, 0, 0, 0, 0)}, "negative"),
        ({"pixdim": (1, np.nan, 1, 1, 0, 0, 0, 0)}, "not a number"),
        ({"xyzt_units": 5}, "unit of length that does not exist"),
        ({"magic": b"ni1\0"}, "pair of NIfTI files"),
        ({"magic": b"\0\0\0\0"}, "ANALYZE"),
        ({"datatype": 999}, "damaged"),
        ({"scl": (np.inf, 0)}, "slope or intercept"),
    ],
)
def test_a_nifti_header_that_lies_is_refused(tmp_path, fields, match, zipped):
    data = nifti_with(**fields)
    (tmp_path / "a.nii").write_bytes(gzip.compress(data) if zipped else data)
    refused(read_volume, tmp_path / "a.nii", match)


def test_zeros_behind_the_data_are_padding_and_other_bytes_are_not(tmp_path):
    data = nifti_bytes(VOLUME_16)
    for stored in (data + bytes(512), gzip.compress(data + bytes(512)), gzip.compress(data) + bytes(512)):
        (tmp_path / "a.nii").write_bytes(stored)
        np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array[0], VOLUME_16)
    for stored in (data + b"more", gzip.compress(data + b"more"), gzip.compress(data) + b"more"):
        (tmp_path / "a.nii").write_bytes(stored)
        refused(read_volume, tmp_path / "a.nii", "more data|damaged")


def test_several_members_of_gzip_are_one_file(tmp_path):
    data = nifti_bytes(VOLUME_16)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data[:500]) + gzip.compress(data[500:]))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array[0], VOLUME_16)


def test_a_deflate_bomb_is_not_unpacked(tmp_path):
    data = nifti_bytes(VOLUME_16)
    with gzip.open(tmp_path / "a.nii.gz", "wb") as file:
        file.write(data)
        for _ in range(64):
            file.write(bytes(2**20))
    refused(read_volume, tmp_path / "a.nii.gz", "more data than its header states")


# --- NRRD ---


def nrrd_file(path: Path, *lines: str, data: bytes = VOLUME_16.tobytes(order="F")) -> Path:
    header = ["NRRD0004", "type: int16", "dimension: 3", "sizes: 7 6 5", "spacings: 1 1 1", "endian: little"]
    replaced = {line.partition(":")[0] for line in lines}
    kept = [line for line in header if line.partition(":")[0] not in replaced]
    encoding = [] if "encoding" in replaced else ["encoding: raw"]
    path.write_bytes("\n".join([*kept, *encoding, *lines, "", ""]).encode() + data)
    return path


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["line skip: 999999999"], "skips 999999999 lines"),
        (["line skip: -1"], "line skip -1"),
        (["byte skip: 99999999"], "skips"),
        (["byte skip: -2"], "byte skip -2"),
        (["sizes: 7 6 6"], "are there"),
        (["sizes: 7 6 4"], "more data than its header states"),
        (["sizes: -7 -6 5"], "not whole numbers"),
        (["sizes: 7 0 5"], "no voxels"),
        (["sizes: 7.5 6 5"], "not whole numbers"),
        (["sizes: 700 600 500"], "cannot hold"),
        (["sizes: 99999999999999999999 1 1"], "damaged|limit"),
        (["sizes: 70000 60000 50000"], "more than the limit"),
        (["sizes: 7 6 5 1"], "dimension and sizes"),
        (["type: block"], "type 'block'"),
        (["endian: middle"], "order of its bytes"),
        (["encoding: gzip"], "not compressed with gzip"),
        (["encoding: bzip2"], "not compressed with bzip2"),
        (["encoding: hex"], "encoding"),
        (["spacings: 1 -1 1"], "negative"),
        (["spacings: 1 nan 1"], "spacing of three axes"),
        (['units: "mm" "s" "mm"'], "unit of length"),
        (["data file: /etc/passwd"], "outside the folder"),
        (["data file: ../../secret.raw"], "outside the folder"),
        (["data file: LIST"], "several files"),
        (["data file: a%03d.raw 1 3 1"], "several files"),
        (["data file: nothing.raw"], "No such file"),
    ],
)
def test_a_nrrd_header_that_lies_is_refused(tmp_path, lines, match):
    reason = refused(read_volume, nrrd_file(tmp_path / "a.nrrd", *lines), match)
    assert "\n" not in reason


def test_data_behind_a_link_out_of_the_folder_is_refused_and_beside_the_header_read(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "elsewhere.raw").write_bytes(VOLUME_16.tobytes(order="F"))
    path = nrrd_file(tmp_path / "set" / "a.nhdr", "data file: b.raw", data=b"")
    (tmp_path / "set" / "b.raw").symlink_to(tmp_path / "elsewhere.raw")
    refused(read_volume, path, "outside the folder")
    (tmp_path / "set" / "b.raw").unlink()
    (tmp_path / "elsewhere.raw").rename(tmp_path / "set" / "b.raw")
    np.testing.assert_array_equal(read_volume(path).array[0], VOLUME_16)
    (tmp_path / "link").symlink_to(tmp_path / "set")
    np.testing.assert_array_equal(read_volume(tmp_path / "link" / "a.nhdr").array[0], VOLUME_16)


@pytest.mark.parametrize("way", ["byte skip: 9", "byte skip: -1", "line skip: 2"])
def test_what_stands_before_the_data_is_passed_over(tmp_path, way):
    before = {"byte skip: 9": b"123456789", "byte skip: -1": b"any number", "line skip: 2": b"one\ntwo\n"}[way]
    path = nrrd_file(tmp_path / "a.nrrd", way, data=before + VOLUME_16.tobytes(order="F"))
    np.testing.assert_array_equal(read_volume(path).array[0], VOLUME_16)


def test_data_that_is_called_raw_and_is_compressed_is_told_by_its_first_bytes(tmp_path):
    path = nrrd_file(tmp_path / "a.nrrd", data=gzip.compress(VOLUME_16.tobytes(order="F")))
    np.testing.assert_array_equal(read_volume(path).array[0], VOLUME_16)


@pytest.mark.parametrize("text", ["1 2 3", "x " * 210, "0.5 " * 210, "99999 " * 210, "nan " * 210])
def test_numbers_as_text_that_are_not_those_stated_are_refused(tmp_path, text):
    path = nrrd_file(tmp_path / "a.nrrd", "encoding: ascii", data=text.encode())
    refused(read_volume, path, "numbers|hold")


def test_what_pynrrd_writes_is_read_with_every_type(tmp_path):
    for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">i2", ">f4"):
        array = (np.arange(24).reshape(2, 3, 4) + 3).astype(kind)
        nrrd.write(str(tmp_path / "a.nrrd"), array)
        np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd").array[0], array)


# --- files ---


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, match in (
        (tmp_path / "fifo", "is a FIFO"),
        ("/dev/zero", "is a device"),
        (tmp_path, "direct"),
    ):
        with pytest.raises(OSError, match=match):
            open_regular_file(path)
    with pytest.raises(FileNotFoundError):
        open_regular_file(tmp_path / "missing")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"x")
    with open_regular_file(tmp_path / "link") as file:
        assert file.read() == b"x"


def test_a_webp_or_a_tiff_with_checksums_is_refused_when_a_bit_of_its_pixels_changes(tmp_path):
    for compression in ("deflate", "lzma"):
        path = tmp_path / f"{compression}.tif"
        tifffile.imwrite(path, RGB_8, photometric="rgb", compression=compression)
        with tifffile.TiffFile(path) as tiff:
            place = tiff.pages[0].dataoffsets[0] + tiff.pages[0].databytecounts[0] // 2
        data = bytearray(path.read_bytes())
        data[place] ^= 16
        path.write_bytes(data)
        refused(read_image, path, "damaged")
    (tmp_path / "a.webp").write_bytes(imagecodecs.webp_encode(RGB_8, lossless=True)[:-50])
    refused(read_image, tmp_path / "a.webp", "damaged")
