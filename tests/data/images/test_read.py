"""Pictures come out as they are, upright; what cannot be read says so in one sentence."""

import multiprocessing
import os
import pickle
import resource
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile, ImageOps

from medsoft.data.formats import arrays
from medsoft.data.images.read import MIN_SIDE, check_images, locate, npz_shapes, read_image
from medsoft.errors import ReadError
from tests.builders.waiting import LIMIT_SECONDS

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def noise(shape: tuple[int, ...], dtype: type[np.unsignedinteger] = np.uint8, seed: int = 0) -> np.ndarray:
    """Every value of a type of pixels, the same for the same arguments."""
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


GREY, RGB = noise((20, 30)), noise((20, 30, 3), seed=1)
GREY_16, RGB_16 = noise((20, 30), np.uint16, seed=2), noise((20, 30, 3), np.uint16, seed=3)


def save(image: np.ndarray | Image.Image, path: Path, **options: object) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


# --- what comes out ---


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "ppm"])
def test_grey_and_colour_come_out_as_stored(tmp_path: Path, suffix: str) -> None:
    grey, colour = read_image(save(GREY, tmp_path / f"g.{suffix}")), read_image(save(RGB, tmp_path / f"c.{suffix}"))
    assert grey.dtype == colour.dtype == np.uint8
    np.testing.assert_array_equal(grey, GREY[..., np.newaxis])
    np.testing.assert_array_equal(colour, RGB)
    grey[:] = 0  # writable: torch.from_numpy warns otherwise


@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "zstd", "jpeg2000"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("pixels", [GREY_16, RGB_16], ids=["grey", "rgb"])
def test_tiff_keeps_16_bits(
    tmp_path: Path, compression: str | None, tile: tuple[int, int] | None, pixels: np.ndarray
) -> None:
    photometric = "rgb" if pixels.ndim == 3 else "minisblack"
    options = {"reversible": True} if compression == "jpeg2000" else None
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric=photometric, compression=compression, compressionargs=options, tile=tile
    )
    image = read_image(tmp_path / "a.tif")
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, pixels.reshape(20, 30, -1))


@pytest.mark.parametrize("pixels", [GREY_16, RGB_16], ids=["grey", "rgb"])
def test_png_keeps_16_bits(tmp_path: Path, pixels: np.ndarray) -> None:
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, pixels.reshape(20, 30, -1))


def test_pgm_keeps_16_bits(tmp_path: Path) -> None:
    image = read_image(save(GREY_16, tmp_path / "a.pgm"))
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image[..., 0], GREY_16)


def test_tiff_planes_big_endian_and_bigtiff(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", RGB_16.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", byteorder=">"
    )
    tifffile.imwrite(tmp_path / "b.tif", RGB_16, photometric="rgb", bigtiff=True)
    for name in ("a.tif", "b.tif"):
        image = read_image(tmp_path / name)
        assert image.dtype.isnative
        np.testing.assert_array_equal(image, RGB_16)


def test_tiff_of_other_kinds(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "white0.tif", 255 - GREY, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "white0.tif")[..., 0], GREY)

    save(Image.fromarray(RGB).quantize(16), tmp_path / "palette.tif")
    np.testing.assert_array_equal(
        read_image(tmp_path / "palette.tif"), Image.fromarray(RGB).quantize(16).convert("RGB")
    )

    save(Image.fromarray(RGB).convert("CMYK"), tmp_path / "cmyk.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "cmyk.tif"), RGB)

    save(Image.fromarray(GREY > 99), tmp_path / "bits.tif", compression="group4")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.tif")[..., 0], (GREY > 99) * 255)

    tifffile.imwrite(tmp_path / "float.tif", GREY.astype(np.float64) / 3)
    image = read_image(tmp_path / "float.tif")
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[..., 0], GREY / 3, rtol=1e-6)


def test_tiff_jpeg_is_rgb(tmp_path: Path) -> None:
    smooth = np.tile(np.linspace(0, 255, 32, dtype=np.uint8)[:, None, None], (1, 48, 3)) // np.array(
        [1, 2, 4], np.uint8
    )
    tifffile.imwrite(tmp_path / "a.tif", smooth, photometric="rgb", compression="jpeg")
    assert abs(read_image(tmp_path / "a.tif").astype(int) - smooth).max() < 12


def test_palette_one_bit_and_cmyk(tmp_path: Path) -> None:
    palette = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(read_image(save(palette, tmp_path / "p.png")), palette.convert("RGB"))
    np.testing.assert_array_equal(
        read_image(save(Image.fromarray(GREY > 99), tmp_path / "b.png"))[..., 0], (GREY > 99) * 255
    )
    flat = Image.new("CMYK", (30, 20), (0, 255, 255, 0))
    image = read_image(save(flat, tmp_path / "c.jpg", quality=95))
    assert image.shape == (20, 30, 3)
    assert abs(image.astype(int) - [255, 0, 0]).max() < 8


# --- transparency: shown on white ---


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_is_white_and_opaque_is_unchanged(tmp_path: Path, mode: str) -> None:
    pixels = GREY[..., np.newaxis] if mode == "LA" else RGB
    alpha = np.full((20, 30, 1), 255, np.uint8)
    opaque = read_image(save(np.concatenate([pixels, alpha], axis=-1), tmp_path / "o.png"))
    np.testing.assert_array_equal(opaque, pixels)
    alpha[:10] = 0
    alpha[10, 0] = 128
    image = read_image(save(np.concatenate([pixels, alpha], axis=-1), tmp_path / "t.png"))
    assert (image[:10] == 255).all()
    np.testing.assert_array_equal(image[11:], pixels[11:])
    expected = 255 - (255 - pixels[10, 0].astype(int)) * 128 / 255
    np.testing.assert_allclose(image[10, 0], expected, atol=0.51)


def test_transparent_palette_entry_is_white(tmp_path: Path) -> None:
    palette = Image.fromarray(RGB).quantize(4)
    image = read_image(save(palette, tmp_path / "p.png", transparency=2))
    clear = np.asarray(palette) == 2
    assert clear.any()
    assert (image[clear] == 255).all()
    np.testing.assert_array_equal(image[~clear], np.asarray(palette.convert("RGB"))[~clear])


@pytest.mark.parametrize("channels", [2, 4])
def test_transparent_16_bit_png(tmp_path: Path, channels: int) -> None:
    pixels = noise((20, 30, channels), np.uint16)
    pixels[:10, :, -1], pixels[10:, :, -1] = 0, 65535
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint16
    assert (image[:10] == 65535).all()
    np.testing.assert_array_equal(image[10:], pixels[10:, :, :-1])


def test_tiff_alpha_of_both_kinds(tmp_path: Path) -> None:
    alpha = np.full((20, 30, 1), 51, np.uint8)  # one fifth
    straight = np.concatenate([RGB, alpha], axis=-1)
    multiplied = np.concatenate([np.rint(RGB / 5).astype(np.uint8), alpha], axis=-1)
    tifffile.imwrite(tmp_path / "s.tif", straight, photometric="rgb", extrasamples=["unassalpha"])
    tifffile.imwrite(tmp_path / "m.tif", multiplied, photometric="rgb", extrasamples=["assocalpha"])
    for name in ("s.tif", "m.tif"):
        np.testing.assert_allclose(read_image(tmp_path / name), 204 + RGB / 5, atol=1.01)
    tifffile.imwrite(tmp_path / "u.tif", straight, photometric="rgb", extrasamples=["unspecified"])
    with pytest.raises(ReadError, match="4 channels"):
        read_image(tmp_path / "u.tif")


# --- orientation ---


@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 do not exist
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(RGB, tmp_path / f"a.{suffix}", exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as stored:
        upright = ImageOps.exif_transpose(stored)
        np.testing.assert_array_equal(read_image(path), np.asarray(upright.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_orientation(tmp_path: Path, orientation: int) -> None:
    tifffile.imwrite(
        tmp_path / "16.tif", RGB.astype(np.uint16) * 257, photometric="rgb", extratags=[(274, 3, 1, orientation, True)]
    )
    save(RGB, tmp_path / "8.tif", tiffinfo={274: orientation})
    with Image.open(tmp_path / "8.tif") as stored:
        upright = np.asarray(stored)  # Pillow turns a TIFF by itself, but has 8 bits only
    np.testing.assert_array_equal(read_image(tmp_path / "8.tif"), upright)
    np.testing.assert_array_equal(read_image(tmp_path / "16.tif"), upright.astype(np.uint16) * 257)


# --- what is refused ---


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "webp", "gif", "jp2"])
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_cut_short(tmp_path: Path, suffix: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as other libraries do
    pixels = noise((100, 120, 3))
    path = save(pixels, tmp_path / f"a.{suffix}")
    read_image(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ReadError):
        read_image(path)


@pytest.mark.parametrize("compression", ["jpeg", "deflate", None])
def test_tiff_cut_short(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", compression=compression, rowsperstrip=20)
    os.truncate(path, path.stat().st_size * 3 // 4)
    with pytest.raises(ReadError, match="cut short"):
        read_image(path)


def test_size_limit_is_checked_before_decoding(tmp_path: Path) -> None:
    path = save(RGB, tmp_path / "a.png")
    os.truncate(path, 60)  # header only: decoding would fail
    with pytest.raises(ReadError, match="30 x 20 pixels, more than the limit of 599"):
        read_image(path, max_pixels=599)
    read_image(save(RGB, path), max_pixels=600)
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb")
    with pytest.raises(ReadError, match="more than the limit of 599"):
        read_image(tmp_path / "a.tif", max_pixels=599)


def test_bomb(tmp_path: Path) -> None:
    save(Image.new("1", (20_000, 20_000)), tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ReadError, match=r"more pixels than the limit of 89478485 \(max_pixels\)"):
            read_image(tmp_path / "a.png")
        with pytest.raises(ReadError, match="more pixels than the limit of 178956970 of Pillow"):
            read_image(tmp_path / "a.png", max_pixels=10**9)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_too_narrow(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(ReadError, match=f"at least {MIN_SIDE}"):
        read_image(save(Image.new("RGB", size), tmp_path / "a.png"))
    read_image(save(Image.new("RGB", (2, 50)), tmp_path / "b.png"))


def test_no_picture(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not found")
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n")
    (tmp_path / "dicom.jpg").write_bytes(bytes(128) + b"DICM" + bytes(50))
    for name, reason in {
        "missing.jpg": "No such file",
        "empty.jpg": "empty",
        "text.jpg": "not a picture",
        "script.eps": "not a picture",
        "dicom.jpg": "is a DICOM object without a picture",
        ".": "Is a directory",
    }.items():
        with pytest.raises(ReadError, match=reason) as caught:
            read_image(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name)), "the message names the file"
        assert "\n" not in str(caught.value)


def test_several_pictures(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(RGB, i, axis=0)) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([GREY] * 3), photometric="minisblack")
    for name in ("a.gif", "stack.tif"):
        with pytest.raises(ReadError, match="pictures"):
            read_image(tmp_path / name)


def test_smaller_pages_of_a_tiff_are_previews(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(RGB, photometric="rgb")
        tiff.write(RGB[::2, ::2], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(tmp_path: Path, value: float) -> None:
    pixels = GREY.astype(np.float32)
    pixels[3, 4] = value
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with pytest.raises(ReadError, match="NaN or infinite"):
        read_image(tmp_path / "a.tif")


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ReadError("is empty", "a.jpg")))
    assert str(error) == "a.jpg: is empty"


# --- arrays ---


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    images = {"train_images": noise((5, 8, 9)), "val_images": RGB[np.newaxis]}
    np.savez_compressed(path, **images, volumes=np.zeros((2, 4, 4, 4)), words=np.array(["a"], dtype=object))
    np.testing.assert_array_equal(read_image(f"{path}#train_images/3")[..., 0], images["train_images"][3])
    np.testing.assert_array_equal(read_image(f"{path}#val_images/0"), RGB)
    for place, reason in {
        "train_images/5": "has 5 pictures",
        "test_images/0": "train_images, val_images, volumes, words",
        "volumes/0": r"\(2, 4, 4, 4\)",
        "words/0": "shape",
    }.items():
        with pytest.raises(ReadError, match=reason):
            read_image(f"{path}#{place}")
    with pytest.raises(ReadError, match="more than the limit"):
        read_image(f"{path}#train_images/0", max_pixels=71)


def test_npz_is_read_once_by_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise((64, 8, 9))
    np.savez(tmp_path / "a.npz", train_images=images)
    loads: list[object] = []
    load = arrays.read_exactly
    monkeypatch.setattr(arrays, "read_exactly", lambda *given: loads.append(given) or load(*given))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda i: read_image(f"{tmp_path}/a.npz#train_images/{i}"), range(64)))
    np.testing.assert_array_equal(np.stack(read)[..., 0], images)
    assert len(loads) == 1


def test_npz_shapes_without_decompressing(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", train_images=np.zeros((100, 300, 300), np.uint8), n=3)
    assert npz_shapes(tmp_path / "a.npz") == {"train_images": (100, 300, 300), "n": ()}


def test_locate() -> None:
    assert locate("/a/b.npz#train_images/12") == ("/a/b.npz", "train_images", 12)
    for plain in ("/a/b.png", "/a#1/b.png", "/a/b.npz", "/a/b.npz#x", "/a/b.npz#x/y"):
        assert locate(plain) == (plain, "", 0)


# --- many files ---


def test_check_images_lists_failures_in_order(tmp_path: Path) -> None:
    paths = [str(save(GREY, tmp_path / f"{i}.png")) for i in range(20)]
    for i in (3, 11):
        Path(paths[i]).write_bytes(b"nothing")
    done: list[None] = []
    failures = check_images(paths, threads=4, progress=lambda: done.append(None))
    assert list(failures.columns) == ["path", "stage", "reason"]
    assert failures["path"].tolist() == [paths[3], paths[11]]
    assert set(failures["stage"]) == {"read"}
    assert failures["reason"].str.contains("not a picture").all()
    assert len(done) == 20
    assert check_images([], threads=2).empty


# --- real and hostile files ---


def _read_all_bounded(paths: list[str], queue: "multiprocessing.Queue[dict[str, str]]") -> None:
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    warnings.simplefilter("ignore")
    results = {}
    for path in paths:
        try:
            image = read_image(path)
            assert image.ndim == 3
            assert image.shape[2] in (1, 3)
            results[path] = "read"
        except ReadError as error:
            results[path] = str(error)
    queue.put(results)


def test_hostile_files_are_read_or_refused_in_bounded_time_and_memory() -> None:
    folders = [
        "malformed/pillow",
        "malformed/dicom",
        "malformed/openslide",
        "dicom/pydicom_wheel",
        "dicom/pydicom_data",
    ]
    paths = [str(path) for folder in folders for path in (SHARED / folder).glob("*")]
    if not paths:
        pytest.skip("no ../shared/data/malformed here")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_read_all_bounded, args=(paths, queue))
    process.start()
    try:
        results = queue.get(timeout=LIMIT_SECONDS)  # a crash or a hang of a decoder ends here
    finally:
        process.kill()
        process.join()
    assert results.keys() == set(paths)
    for name in ("truncated_jpeg.jpg", "truncated_image.png", "decompression_bomb.gif", "broken_data_stream.png"):
        assert results[str(SHARED / "malformed/pillow" / name)] != "read"


@pytest.mark.parametrize(
    ("pattern", "channels"),
    [
        ("fundus/idrid_512/images/*", 3),
        ("derm/isic_uda1_512/images/*", 3),
        ("cxr/kermany_224/images/*", 3),
        ("radiology2d/medical_mnist/images/*", 1),
        ("histo_tiles/idc_patches/images/*", 3),
        ("histo_tiles/crc_val_he_7k/images/*", 3),
        ("wsi/CMU-1-Small-Region.svs", 3),
    ],
)
def test_real_pictures_equal_pillow(pattern: str, channels: int) -> None:
    paths = sorted(SHARED.glob(pattern))[:5]
    if not paths:
        pytest.skip("no ../shared/data here")
    for path in paths:
        image = read_image(path)
        with Image.open(path) as stored:
            plain = np.asarray(stored)
        assert image.shape == (*plain.shape[:2], channels)
        difference = abs(image.astype(int) - plain.reshape(image.shape))
        assert difference.max() <= (0 if path.suffix != ".svs" else 4)  # two JPEG decoders inside TIFF
