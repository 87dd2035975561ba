"""The same content through every container, codec and way in gives the same numbers, or the same refusal.

A new format, codec or transfer syntax joins by a line in ``tests/builders/containers.py``; the last tests here find
one that is missing.
"""

import gzip
import os
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import AllTransferSyntaxes, JPEGBaseline8Bit

import medsoft.data.dicom.header  # noqa: F401 (registers the decoders)
from medsoft.data.features.names import PICTURES as SLIDE_PICTURES
from medsoft.data.features.names import SCANNED
from medsoft.data.images.decode import FORMATS
from medsoft.data.images.read import read_image
from medsoft.data.volumes.read import NIFTI, NRRD, read_volume
from medsoft.errors import ReadError, SlideError
from medsoft.slides.reading.slide import open_slide
from tests.builders import containers as written
from tests.builders.containers import AFFINE, HEIGHT, PICTURE_WAYS, PICTURES, VOLUME_WAYS, VOLUMES, WIDTH, Way
from tests.builders.dicom import write

ELSEWHERE = {".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".czi", ".dcm"}
"""Formats of scanners, which no library here writes; real files of them are read by test_slide_reading.py."""

NOT_OF_OPENSLIDE = ("LZMA", "LERC", "PNG", "JPEG 2000", "WebP")


def named(ways: tuple[Way, ...], contents: dict[str, np.ndarray]) -> list[object]:
    return [
        pytest.param(way, content, id=f"{way.name}-{content}")
        for way in ways
        for content in contents
        if content in way.contents
    ]


def close(found: np.ndarray, content: str, way: Way) -> None:
    expected = PICTURES[content].astype(float).reshape(HEIGHT, WIDTH, -1)
    assert found.shape[:2] == expected.shape[:2]
    error = np.abs(found.astype(float) - expected).max()
    most = 4095 if content == "grey 12" else np.iinfo(PICTURES[content].dtype).max
    assert error <= way.tolerance * most, f"{error} of {most}"


# --- pictures ---


@pytest.mark.parametrize(("way", "content"), named(PICTURE_WAYS, PICTURES))
def test_a_picture_is_the_same_through_every_container_and_codec(tmp_path, way, content):
    close(read_image(way.file(content, tmp_path)), content, way)


@pytest.mark.parametrize("way", [way for way in PICTURE_WAYS if way.slide], ids=lambda way: way.name)
@pytest.mark.parametrize("content", ["grey 8", "RGB 8", "grey 16", "RGB 16"])
def test_a_slide_is_the_picture_or_is_refused_as_one(tmp_path, way, content):
    if content not in way.contents:
        pytest.skip("this way cannot hold it")
    path = way.file(content, tmp_path)
    if "16" in content:  # no colours of a stain: said alike of every container
        with pytest.raises(SlideError, match=r"bits per channel|Unsupported TIFF compression"):
            open_slide(Path(path), mpp=0.5)
        return
    if any(f"TIFF {codec}, tiles" == way.name for codec in NOT_OF_OPENSLIDE):
        pytest.skip("OpenSlide refuses tiles of this codec, loudly")
    with open_slide(Path(path), mpp=0.5) as slide:
        assert slide.size_px0 == (WIDTH, HEIGHT)
        found = slide.levels.read(0, 0, 0, WIDTH, HEIGHT)
    np.testing.assert_array_equal(found, np.broadcast_to(read_image(path), found.shape))


@pytest.mark.parametrize("content", ["grey 8", "RGB 8"])
def test_one_jpeg_is_the_same_pixels_in_every_container(tmp_path, content):
    data = written.jpeg_bytes(PICTURES[content])
    (tmp_path / "a.jpg").write_bytes(data)
    expected = read_image(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(written.tiff_of_jpeg(data, tmp_path / "strip.tif")), expected)
    dicom = next(way for way in PICTURE_WAYS if "Baseline" in way.name).file(content, tmp_path)
    # The standard has the conversion from YBR rounded once more.
    assert np.abs(read_image(dicom).astype(int) - expected).max() <= (1 if content == "RGB 8" else 0)


DAMAGE = {
    "cut short": lambda data: data[: len(data) * 2 // 3],
    "ends too early": lambda data: data[: len(data) * 2 // 3] + b"\xff\xd9" + data[len(data) * 2 // 3 :],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_jpeg_is_refused_in_every_container(tmp_path, damage):
    data = DAMAGE[damage](written.jpeg_bytes())
    (tmp_path / "a.jpg").write_bytes(data)
    paths = [tmp_path / "a.jpg", written.tiff_of_jpeg(data, tmp_path / "strip.tif")]
    elements = {"TransferSyntaxUID": JPEGBaseline8Bit, "PhotometricInterpretation": "YBR_FULL_422"}
    paths.append(write(tmp_path / "a.dcm", PICTURES["RGB 8"], PixelData=encapsulate([data]), **elements))
    for path in paths:
        with pytest.raises(ReadError, match=r"damaged|cut short"):
            read_image(path)
    for path in paths[:2]:
        with pytest.raises(SlideError, match=r"damaged|cut short"), open_slide(path, mpp=0.5) as slide:
            slide.levels.read(0, 0, 0, WIDTH, HEIGHT)


@pytest.mark.parametrize("way", [way for way in PICTURE_WAYS if way.checksum == "all"], ids=lambda way: way.name)
def test_one_changed_bit_anywhere_is_never_another_picture(tmp_path, way):
    path = way.file("RGB 8" if "RGB 8" in way.contents else way.contents[0], tmp_path)
    before = read_image(path)
    file = Path(path.partition("#")[0])
    whole = file.read_bytes()
    for index, position in enumerate(np.linspace(0, len(whole) - 1, 60, dtype=int)):
        changed = bytearray(whole)
        changed[position] ^= 1 << index % 8
        other = file.with_name(f"{index}{file.suffix}")
        other.write_bytes(changed)
        try:
            after = read_image(path.replace(str(file), str(other)))
        except ReadError:
            continue
        np.testing.assert_array_equal(after, before)


# --- volumes ---


@pytest.mark.parametrize(("way", "content"), named(VOLUME_WAYS, VOLUMES))
def test_a_volume_is_the_same_numbers_at_the_same_place_through_every_container(tmp_path, way, content):
    volume = read_volume(way.file(content, tmp_path))
    np.testing.assert_array_equal(volume.array[0], VOLUMES[content])
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)
    assert volume.meta.get("orientation") != "unknown"


def unoriented(folder: Path) -> dict[str, str]:
    """One volume in the containers that need not say how it lies."""
    volume = VOLUMES["int16"]
    image = nibabel.Nifti1Image(volume, np.eye(4))
    image.set_sform(np.eye(4), 0)
    image.set_qform(np.eye(4), 0)
    nibabel.save(image, folder / "a.nii.gz")
    nrrd.write(str(folder / "a.nrrd"), volume, {"spacings": [1.0, 1.0, 1.0]})
    return {
        "NIfTI": str(folder / "a.nii.gz"),
        "NRRD": str(folder / "a.nrrd"),
        "NPZ": written.npz_of_volumes(volume, folder / "a.npz"),
    }


def test_what_does_not_say_how_it_lies_is_taken_alike_by_every_container(tmp_path):
    for path in unoriented(tmp_path).values():
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.array[0], VOLUMES["int16"])
        np.testing.assert_array_equal(volume.affine, np.eye(4))  # RAS+, as the message says
        assert volume.meta["orientation"] == "unknown"


@pytest.mark.parametrize("way", [way for way in VOLUME_WAYS if way.checksum], ids=lambda way: way.name)
def test_one_changed_bit_of_compressed_data_is_never_another_volume(tmp_path, way):
    file = Path(way.file("int16", tmp_path))
    before = read_volume(file)
    whole = file.read_bytes()
    start = whole.index(b"\n\n") + 2 if way.checksum == "data" else 0
    for index, position in enumerate(np.linspace(start, len(whole) - 1, 60, dtype=int)):
        changed = bytearray(whole)
        changed[position] ^= 1 << index % 8
        file.write_bytes(changed)
        try:
            after = read_volume(file)
        except ReadError:
            continue
        np.testing.assert_array_equal(after.array, before.array)
        np.testing.assert_array_equal(after.affine, before.affine)


@pytest.mark.parametrize("way", [way for way in VOLUME_WAYS if way.suffix], ids=lambda way: way.name)
def test_a_volume_cut_short_anywhere_is_refused_by_every_container(tmp_path, way):
    file = Path(way.file("int16", tmp_path))
    kept = next((path for path in tmp_path.iterdir() if path.suffix == ".gz" and ".raw" in path.name), file)
    whole = kept.read_bytes()
    end = whole.rstrip().rindex(b"\n") if way.name == "NRRD text" else len(whole) - 1  # a cut number is a number too
    for length in np.linspace(0, end, 25, dtype=int):
        kept.write_bytes(whole[:length])
        with pytest.raises(ReadError):
            read_volume(file)


PIPE = "is a FIFO"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".dcm", ".npz#a/0"])
def test_a_pipe_or_device_is_refused_by_every_reader(tmp_path, suffix):
    path = tmp_path / f"a{suffix.partition('#')[0]}"
    os.mkfifo(path)
    for read in (read_image, read_volume):
        with pytest.raises(ReadError, match=PIPE):
            read(f"{tmp_path}/a{suffix}")


# --- nothing is left out ---


def test_every_format_that_pictures_are_read_of_is_here():
    assert {way.format for way in PICTURE_WAYS} == {*FORMATS, "TIFF", "DICOM", "NPZ"}


def test_every_transfer_syntax_that_is_read_is_here_as_picture_and_as_volume():
    def is_read(syntax) -> bool:
        try:
            return bool(get_decoder(syntax).is_available)
        except NotImplementedError:
            return False

    readable = {syntax for syntax in AllTransferSyntaxes if is_read(syntax)}
    assert {way.syntax for way in PICTURE_WAYS if way.syntax} == readable
    assert {way.syntax for way in VOLUME_WAYS if way.syntax} == readable - set(written.LOSSY)


def test_every_suffix_of_volumes_and_slides_is_here():
    assert {way.suffix for way in VOLUME_WAYS if way.suffix} == {*NIFTI, *NRRD}
    assert {way.suffix for way in PICTURE_WAYS if way.slide} | ELSEWHERE == {*SCANNED, *SLIDE_PICTURES}


def test_every_codec_of_tiff_that_is_read_here_is_here():
    """tifffile reads more, of microscopes and raw cameras; these are the codecs of slides and of export programs."""
    names = {way.name.removeprefix("TIFF ").removesuffix(", tiles") for way in PICTURE_WAYS if way.format == "TIFF"}
    assert names >= {"none", "deflate", "LZW", "PackBits", "Zstandard", "LZMA", "JPEG", "JPEG 2000", "WebP", "PNG"}


def test_a_name_says_nothing_of_compression(tmp_path):
    data = written.nifti_bytes(VOLUMES["int16"])
    for name, stored in {"a.nii": gzip.compress(data), "b.nii.gz": data}.items():
        (tmp_path / name).write_bytes(stored)
        np.testing.assert_array_equal(read_volume(tmp_path / name).array[0], VOLUMES["int16"])


def test_the_tiles_of_a_tiff_are_its_strips(tmp_path):
    for name, options in {"a": {"tile": (16, 16)}, "b": {"rowsperstrip": 8}}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", PICTURES["RGB 16"], photometric="rgb", **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), read_image(tmp_path / "b.tif"))
