"""Slides: what is read is what OpenSlide reads, at the resolution that was asked for, or is said to be unreadable."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from medsoft.errors import SlideError, TileError
from medsoft.slides.reading import overview as overview_module
from medsoft.slides.reading.direct import tiff as tiff_tiles
from medsoft.slides.reading.levels import read_padded
from medsoft.slides.reading.openslide_reader import OpenSlideLevels, flatten
from medsoft.slides.reading.overview import overview_size, read_overview
from medsoft.slides.reading.read_tiles import read_tiles
from medsoft.slides.reading.resample import best_level, box_of_tile, resample
from medsoft.slides.reading.resolution import TAG_LIMITS, choose, from_properties, from_tiff_tags
from medsoft.slides.reading.slide import open_slide
from medsoft.slides.reading.tile_cache import TileCache
from tests.builders.tiff import damage, jpeg2000, jpeg2000_ycbcr, scene, write_philips, write_tiff, write_tiles
from tests.builders.waiting import wait_until


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory) -> Path:
    return write_tiff(tmp_path_factory.mktemp("slides") / "größe 1.tif")


def bare(path: Path, level: int, x_px0: int, y_px0: int, width: int, height: int) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((x_px0, y_px0), level, (width, height)).convert("RGB"))


class Array:
    """Levels in memory; ``hole`` is a box (x, y, width, height) of level 0 that cannot be read."""

    def __init__(self, image: np.ndarray, hole=None) -> None:
        self.image, self.hole, self.largest = image, hole, 0
        self.sizes_px, self.downsamples = ((image.shape[1], image.shape[0]),), (1.0,)

    def read(self, level, x, y, width, height):
        assert 0 <= x < x + width <= self.sizes_px[0][0]
        assert 0 <= y < y + height <= self.sizes_px[0][1]
        self.largest = max(self.largest, width * height)
        if self.hole:
            left, top, wide, high = self.hole
            if x < left + wide and left < x + width and y < top + high and top < y + height:
                raise TileError("a hole")
        return self.image[y : y + height, x : x + width].copy()

    def close(self) -> None:
        pass


# ---- resolution


def test_a_resolution_is_taken_from_what_is_stated_then_from_the_file():
    assert choose(None, "option", (0.25, 0.25), "openslide.mpp-x").mpp == 0.25
    stated = choose(0.5, "table", (0.25, 0.25), "openslide.mpp-x")
    assert (stated.mpp, stated.origin) == (0.5, "table")
    assert "0.25" in stated.notes[0]
    assert "table" in stated.notes[0]
    assert choose(0.251, "option", (0.25, 0.25), "openslide.mpp-x").notes == ()
    assert choose(0.25, "option", (352.8, 352.8), "tiff resolution").notes == ()  # 72 dpi contradicts nobody


def test_it_is_never_guessed_from_a_magnification():
    found, origin = from_properties({"openslide.vendor": "aperio", "openslide.objective-power": "40"})
    with pytest.raises(SlideError, match=r"does not say its resolution.*--slide-mpp"):
        choose(None, "option", found, origin)


@pytest.mark.parametrize("dpi", [72, 96, 150, 300, 600, 1200])
def test_dots_for_printing_are_no_microscope(dpi):
    found = from_tiff_tags((dpi, 1), (dpi, 1), 2)
    with pytest.raises(SlideError, match="none of a slide"):
        choose(None, "option", found, "tiff resolution")


@pytest.mark.parametrize("mpp", [(0.0, 0.0), (0.01, 0.01), (90.0, 90.0), (float("nan"), 0.5), (float("inf"),) * 2])
def test_an_absurd_resolution_of_a_file_is_refused(mpp):
    with pytest.raises(SlideError, match="none of a slide"):
        choose(None, "option", mpp, "openslide.mpp-x")


@pytest.mark.parametrize("mpp", [0.0, -0.25, 0.001, 5000.0, float("nan"), float("inf")])
def test_an_absurd_statement_is_refused(mpp):
    with pytest.raises(SlideError, match="stated resolution"):
        choose(mpp, "option", None, "")


def test_pixels_that_are_not_square_are_refused_unless_the_user_says_so():
    with pytest.raises(SlideError, match="not square"):
        choose(None, "option", (0.25, 0.5), "openslide.mpp-x")
    assert choose(None, "option", (28.969, 28.968), "openslide.mpp-x").mpp == pytest.approx(28.9685, abs=1e-4)
    assert choose(0.25, "option", (0.25, 0.5), "openslide.mpp-x").mpp == 0.25


@given(mpp=st.floats(*TAG_LIMITS), unit=st.sampled_from([2, 3]))
def test_tiff_tags_give_the_resolution_in_both_units(mpp, unit):
    fraction = (round({2: 25_400, 3: 10_000}[unit] / mpp * 1000), 1000)
    x, y = from_tiff_tags(fraction, fraction, unit)
    assert x == y == pytest.approx(mpp, rel=1e-3)


def test_tiff_tags_without_a_unit_say_nothing():
    assert from_tiff_tags((40_000, 1), (40_000, 1), 1) is None
    assert from_tiff_tags((0, 1), (1, 0), 2) is None
    assert from_tiff_tags(None, (1, 1), 2) is None


# ---- sampling

PYRAMIDS = st.lists(st.floats(1.5, 70), max_size=4).map(lambda rest: (1.0, *sorted(rest)))
MPP = st.floats(0.1, 2)


@given(downsamples=PYRAMIDS, mpp0=MPP, factor=st.floats(0.5, 40))
def test_the_best_level_is_the_coarsest_that_is_fine_enough(downsamples, mpp0, factor):
    wanted = mpp0 * factor
    level = best_level(downsamples, mpp0, wanted)
    if level:
        assert downsamples[level] * mpp0 <= wanted * 1.0100001
    for coarser in downsamples[level + 1 :]:
        assert coarser * mpp0 > wanted or coarser == downsamples[level]


@given(
    downsamples=PYRAMIDS,
    mpp0=MPP,
    factor=st.floats(0.5, 40),
    size=st.integers(50, 1024),
    x=st.integers(-1000, 200_000),
)
def test_a_tile_covers_what_was_asked_for_within_one_per_cent(downsamples, mpp0, factor, size, x):
    assume(size * factor >= 50)
    wanted = mpp0 * factor
    box = box_of_tile(downsamples, mpp0, x, 2 * x, size, wanted)
    level_mpp = mpp0 * downsamples[box.level]
    assert box.size_px * level_mpp == pytest.approx(size * wanted, rel=0.0101)
    assert abs(box.x_px * downsamples[box.level] - x) <= downsamples[box.level] / 2 + 1e-6
    assert abs(box.y_px * downsamples[box.level] - 2 * x) <= downsamples[box.level] / 2 + 1e-6


def test_resampling_takes_means():
    image = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
    means = image.reshape(4, 2, 3, 2, 3).mean((1, 3))
    assert np.abs(resample(image, 3, 4) - means).max() <= 0.5
    assert resample(image, 6, 8) is image


# ---- one slide


def test_a_generated_pyramid_is_decoded_directly_and_equals_openslide(pyramid):
    with open_slide(pyramid) as slide:
        assert slide.reader == "tiff tiles"
        assert slide.notes == ()
        assert (slide.name, slide.size_px0, slide.bounds_px0) == ("größe 1.tif", (700, 500), (0, 0, 700, 500))
        assert slide.mpp == pytest.approx(0.25)
        assert slide.mpp_origin == "tiff resolution"
        assert slide.level_downsamples == (1.0, 2.0, 4.0)
        for level, (x, y, size) in itertools.product(range(3), [(0, 0, 50), (37, 21, 60), (300, 201, 130)]):
            scale = 2**level
            tile = slide.read_tile(x * scale, y * scale, size, slide.mpp * scale)
            inside = bare(pyramid, level, x * scale, y * scale, size, size)
            width, height = (max(0, min(size, side // scale - c)) for side, c in zip((700, 500), (x, y), strict=True))
            assert np.array_equal(tile[:height, :width], inside[:height, :width])


@pytest.mark.parametrize("options", [{"subsampling": (1, 1)}, {"subsampling": (2, 2)}, {"subsampling": (2, 1)}])
def test_every_kind_of_jpeg_equals_openslide(tmp_path, options):
    path = write_tiff(tmp_path / "a.tif", (300, 260), levels=1, **options)
    with open_slide(path) as slide:
        assert slide.reader == "tiff tiles"
        assert np.array_equal(slide.read_tile(0, 0, 260, slide.mpp), bare(path, 0, 0, 0, 260, 260))


@pytest.mark.parametrize(("compression", "encode"), [(33005, jpeg2000), (33003, jpeg2000_ycbcr)])
def test_jpeg_2000_of_aperio_equals_openslide(tmp_path, compression, encode):
    path = write_tiles(tmp_path / "a.svs", (600, 300), encode, compression)
    with open_slide(path) as slide:
        assert (slide.reader, slide.mpp, slide.mpp_origin) == ("tiff tiles", 0.25, "openslide.mpp-x")
        assert np.array_equal(slide.read_tile(100, 0, 300, 0.25), bare(path, 0, 100, 0, 300, 300))


def test_philips_pages_that_are_filled_up_equal_openslide(tmp_path):
    path = write_philips(tmp_path / "a.tiff", (700, 500), levels=4)
    with open_slide(path) as slide, tifffile.TiffFile(path) as tiff:
        assert (slide.reader, slide.mpp, slide.mpp_origin) == ("tiff tiles", 0.25, "openslide.mpp-x")
        sizes = slide.levels.sizes_px
        assert sizes == ((768, 512), (384, 256), (192, 128), (96, 64))
        assert [(page.imagewidth, page.imagelength) for page in tiff.pages][2:] == [(256, 128), (128, 128)]
        for level, (width, height) in enumerate(sizes):
            theirs = bare(path, level, 0, 0, width, height)
            np.testing.assert_array_equal(slide.levels.read(level, 0, 0, width, height), theirs)


@pytest.mark.parametrize("size", [(701, 503), (2001, 333), (1030, 777)])
def test_levels_whose_ratio_is_no_whole_number_are_decoded_directly(tmp_path, size):
    """OpenSlide interpolates there; the spot check allows for that, and for nothing else."""
    with open_slide(write_tiff(tmp_path / "a.tif", size)) as slide:
        assert slide.level_downsamples[2] != round(slide.level_downsamples[2])
        assert slide.reader == "tiff tiles"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda tile: tile[..., ::-1],
        lambda tile: np.roll(tile, 1, axis=1),
        lambda tile: tile ^ (np.arange(tile.size).reshape(tile.shape) == 5000),
    ],
    ids=["colours", "one pixel aside", "one bit"],
)
@pytest.mark.parametrize("size", [(700, 500), (701, 503)])
def test_any_difference_leaves_the_slide_to_openslide(tmp_path, monkeypatch, wrong, size):
    right = tiff_tiles._decoder
    monkeypatch.setattr(tiff_tiles, "_decoder", lambda page: lambda data: wrong(right(page)(data)))
    with open_slide(write_tiff(tmp_path / "a.tif", size)) as slide:
        assert slide.reader == "openslide"
        assert "differ from what OpenSlide reads" in slide.notes[0]
        assert slide.read_tile(0, 0, 100, slide.mpp).shape == (100, 100, 3)


def test_other_compressions_are_read_with_their_checksums(tmp_path):
    path = write_tiff(tmp_path / "a.tif", compression="deflate")
    with open_slide(path) as slide:
        assert (slide.reader, slide.notes) == ("tiff", ())
        assert np.array_equal(slide.read_tile(20, 30, 200, slide.mpp), scene(700, 500)[30:230, 20:220])


def test_outside_the_slide_is_white(pyramid):
    with open_slide(pyramid) as slide:
        inside = slide.read_tile(0, 0, 100, slide.mpp)
        tile = slide.read_tile(-30, -20, 100, slide.mpp)
        assert (tile[:20] == 255).all()
        assert (tile[:, :30] == 255).all()
        assert np.array_equal(tile[20:, 30:], inside[:80, :70])
        assert (slide.read_tile(5000, 0, 64, slide.mpp) == 255).all()
        assert (slide.read_tile(690, 490, 64, slide.mpp)[10:] == 255).all()


def test_tiles_of_any_resolution_show_the_same_place(pyramid):
    with open_slide(pyramid) as slide:
        for mpp in (0.25, 0.3, 0.5, 0.77, 1.0, 1.9):
            size = int(300 * 0.25 / mpp)
            tile = slide.read_tile(200, 100, size, mpp)
            extent = round(size * mpp / 0.25)
            wanted = resample(scene(700, 500)[100 : 100 + extent, 200 : 200 + extent], size, size)
            assert np.abs(tile.astype(int) - wanted).mean() < 6, mpp


def test_a_resolution_finer_than_the_slides_is_refused(pyramid):
    with open_slide(pyramid, mpp=4.0) as slide:
        assert slide.read_tile(0, 0, 100, 2.0).shape == (100, 100, 3)
        for call in (
            lambda: slide.read_tile(0, 0, 100, 0.5),
            lambda: slide.overview(0.5),
            lambda: slide.read_tiles(np.zeros((1, 2)), 100, 0.5),
        ):
            with pytest.raises(SlideError, match=r"too coarse.*--mpp"):
                call()


def test_alpha_is_shown_on_the_background():
    rgba = np.full((2, 2, 4), 100, np.uint8)
    rgba[..., 3] = [[255, 0], [51, 255]]
    shown = flatten(rgba, np.array([200, 0, 255], np.float32))
    assert shown.tolist() == [[[100] * 3, [200, 0, 255]], [[180, 20, 224], [100] * 3]]


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_an_overview_leaves_no_decoded_tiles_in_memory(tmp_path, suffix):
    path = write_tiff(tmp_path / "a.tif")
    if suffix == "png":
        Image.open(path).save(tmp_path / "a.png")
    with open_slide(tmp_path / f"a.{suffix}", mpp=1.0) as slide:
        before = slide.read_tile(3, 5, 200, 1.0)
        slide.overview(8.0)
        assert not (suffix == "tif" and slide.levels._cache._tiles)
        assert np.array_equal(slide.read_tile(3, 5, 200, 1.0), before)


def test_label_and_macro_are_never_read(shared_data, monkeypatch):
    def forbidden(*_):
        raise AssertionError("a picture with a patient's name")

    monkeypatch.setattr(openslide.lowlevel, "read_associated_image", forbidden)
    with open_slide(shared_data / "wsi/CMU-1-Small-Region.svs") as slide:
        slide.overview(8.0)
        assert [level.size_px for level in slide.levels.tiled] == [(2220, 2967)]


# ---- what cannot be read


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def zeros_inside(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(40) + data[len(data) // 2 + 40 :]


@pytest.mark.parametrize("change", [cut, zeros_inside, lambda data: b"", lambda data: b"\xff\xd8" + data])
def test_a_damaged_tile_is_an_error_and_its_neighbours_are_not(pyramid, tmp_path, change):
    """libjpeg fills what is missing with grey; that is not tissue, and not silently passed on."""
    path = damage(pyramid, tmp_path / "a.tif", change)
    with open_slide(path) as slide:
        assert slide.reader == "tiff tiles"
        with pytest.raises(TileError) as error:
            slide.read_tile(700 - 100, 0, 100, slide.mpp)
        assert "\n" not in error.value.reason
        assert np.array_equal(slide.read_tile(0, 0, 128, slide.mpp), bare(path, 0, 0, 0, 128, 128))
        with pytest.raises(TileError):  # the second time too
            slide.read_tile(700 - 100, 0, 100, slide.mpp)


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0.05, 0.99), byte=st.integers(0, 255))
def test_random_damage_is_found_whenever_openslide_finds_it(pyramid, tmp_path_factory, place, byte):
    folder = tmp_path_factory.mktemp("damage")
    for path in folder.iterdir():
        path.unlink()

    def change(data: bytes) -> bytes:
        at = int(place * len(data))
        return data[:at] + bytes([byte]) + data[at + 1 :]

    path = damage(pyramid, folder / "a.tif", change)
    try:
        theirs = bare(path, 0, 640, 0, 60, 128)
    except openslide.OpenSlideError:
        theirs = None
    with open_slide(path) as slide:
        try:
            tile = slide.read_tile(640, 0, 60, slide.mpp)
        except TileError:
            assert theirs is None
        else:
            assert theirs is not None
            assert np.array_equal(tile, theirs[:60])


def test_tiles_that_a_scanner_left_out_are_background(tmp_path):
    def encode(tile, i):
        return b"" if i == 2 else imagecodecs.jpeg8_encode(tile, level=90)

    path = write_tiles(tmp_path / "a.tif", (700, 300), encode, 7, description="")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].databytecounts[2] == 0
    with open_slide(path) as slide:
        assert (slide.read_tile(512, 0, 128, slide.mpp) == 255).all()
        assert not (slide.read_tile(300, 0, 128, slide.mpp) == 255).any()


def test_the_zeroed_slide_has_22_unreadable_tiles_both_ways(shared_data):
    """Four threads: a read error of one must neither fail the others nor become white tissue."""
    path = shared_data / "malformed/cmu-1-150kB-zeroed.svs"
    coords = np.array([(x, y) for y in range(0, 2967, 256) for x in range(0, 2220, 256)])
    truth = OpenSlideLevels(path)
    with open_slide(path) as slide:
        assert slide.reader == "tiff tiles"
        direct = dict(slide.read_tiles(coords, 256, slide.mpp, workers=4))
        slow = dict(read_tiles(lambda x, y: read_padded(truth, 0, x, y, 256, 256), coords, 256, workers=4))
        assert len(direct) == len(slow) == 108
        for row, tile in direct.items():
            assert isinstance(tile, TileError) == isinstance(slow[row], TileError)
            if isinstance(tile, np.ndarray):
                assert np.array_equal(tile, slow[row])
        assert sum(isinstance(tile, TileError) for tile in direct.values()) == 22
        picture, gaps = slide.overview_and_gaps(8.0)
        assert 0.08 < gaps.mean() < 0.16  # 13 of 130 tiles of the file, and what lies in one cell with them
        assert (picture[gaps] >= 240).mean() > 0.8
    truth.close()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"not a slide" * 50), "is not a picture"),
        (lambda path: path.write_bytes(bytes(128) + b"DICM" + bytes(99)), "OpenSlide finds no whole slide"),
    ],
)
def test_what_is_no_slide_is_said_in_one_line(tmp_path, make, reason):
    make(tmp_path / "a.svs")
    with pytest.raises(SlideError, match=reason):
        open_slide(tmp_path / "a.svs", mpp=0.5)


def test_every_malformed_file_gives_tiles_or_one_line(shared_data):
    opened, reasons = 0, {}
    for path in sorted((shared_data / "malformed").rglob("*")):
        if not path.is_file():
            continue
        try:
            with open_slide(path, mpp=1.0) as slide:
                opened += 1
                slide.overview(8.0)
                assert slide.read_tile(0, 0, 64, 1.0).shape == (64, 64, 3)
        except SlideError as error:
            reasons[path] = error.reason
    assert opened >= 5
    assert len(reasons) >= 40
    assert all(reason and "\n" not in reason for reason in reasons.values())


# ---- plain pictures


def test_a_plain_picture_needs_a_stated_resolution(tmp_path):
    Image.fromarray(scene(120, 80)).save(tmp_path / "a.png", dpi=(96, 96))
    with pytest.raises(SlideError, match="does not say its resolution"):
        open_slide(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp=10.0, mpp_origin="table") as slide:
        assert (slide.reader, slide.mpp, slide.mpp_origin) == ("picture", 10.0, "table")
        assert np.array_equal(slide.read_tile(20, 10, 50, 10.0), scene(120, 80)[10:60, 20:70])


def test_grey_and_striped_pictures_are_slides_too(tmp_path):
    grey = scene(90, 70)[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", grey, resolution=(5000, 5000), resolutionunit="CENTIMETER")
    with open_slide(tmp_path / "a.tif") as slide:
        assert (slide.reader, slide.mpp, slide.mpp_origin) == ("picture", pytest.approx(2.0), "tiff resolution")
        assert np.array_equal(slide.read_tile(0, 0, 70, 2.0), np.stack([grey[:, :70]] * 3, axis=-1))


def test_pictures_that_are_too_deep_or_too_large_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((50, 50, 3), np.uint16), photometric="rgb")
    with pytest.raises(SlideError, match="8 bits"):
        open_slide(tmp_path / "deep.tif", mpp=1.0)
    Image.new("1", (10_000, 9_000)).save(tmp_path / "bomb.png")
    with pytest.raises(SlideError, match=r"limit|too large"):
        open_slide(tmp_path / "bomb.png", mpp=1.0)


# ---- overview


@settings(deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    factor=st.floats(0.5, 60),
    strip=st.sampled_from([1, 500, 5000, 2**23]),
)
def test_an_overview_has_the_stated_size_and_the_slides_colours(width, height, factor, strip):
    levels = Array(scene(width, height))
    size = overview_size((width, height), 0.5, 0.5 * factor)
    assert size == (max(1, int(width / factor + 0.5)), max(1, int(height / factor + 0.5)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overview_module, "STRIP_PIXELS", strip)
        picture, gaps = read_overview(levels, 0, *size)
    assert picture.shape == (size[1], size[0], 3)
    assert not gaps.any()
    whole = resample(levels.image, *size).astype(int)
    if strip == 2**23:
        assert np.array_equal(picture, whole)
    assert np.abs(picture - whole).mean() < 8  # strips begin at whole pixels


def test_an_overview_is_read_in_bounded_pieces_and_loses_little_around_a_hole():
    levels = Array(scene(3000, 2000), hole=(1500, 700, 10, 10))
    picture, gaps = read_overview(levels, 0, 300, 200)
    assert levels.largest <= 2**20
    assert gaps[71, 151]
    assert 0 < gaps.sum() <= 14 * 14
    assert (picture[71, 151] == 255).all()
    assert not gaps[90:].any()
    assert np.array_equal(picture[100:], resample(levels.image, 300, 200)[100:])


def test_an_overview_of_a_slide_takes_the_best_level(pyramid):
    with open_slide(pyramid) as slide:
        for mpp in (1.0, 2.0, 3.3):
            picture = slide.overview(mpp)
            wanted = resample(scene(700, 500), picture.shape[1], picture.shape[0])
            assert np.abs(picture.astype(int) - wanted).mean() < 5


# ---- in bulk


@pytest.mark.parametrize("workers", [1, 3])
def test_tiles_come_in_row_order_with_their_row(pyramid, workers):
    with open_slide(pyramid) as slide:
        coords = np.array([(x, y) for x in range(0, 700, 90) for y in range(0, 500, 90)])
        got = list(slide.read_tiles(coords, 64, 0.5, workers))
        rows = [row for row, _ in got]
        assert sorted(rows) == list(range(len(coords)))
        assert [tuple(coords[row][::-1]) for row in rows] == sorted((y, x) for x, y in coords.tolist())
        for row, tile in got[::7]:
            assert np.array_equal(tile, slide.read_tile(*coords[row].tolist(), 64, 0.5))
        assert list(slide.read_tiles(np.empty((0, 2), int), 64, 0.5)) == []


def test_a_caller_may_leave_early_and_little_is_read_ahead():
    seen = []

    def read(x, y):
        seen.append(x)
        return np.zeros((8, 8, 3), np.uint8)

    coords = np.stack([np.arange(10_000), np.zeros(10_000, int)], axis=1)
    before = set(threading.enumerate())
    tiles = read_tiles(read, coords, 8, workers=2)
    next(tiles)
    tiles.close()
    assert len(seen) <= 16 * 5
    wait_until(lambda: not set(threading.enumerate()) - before)


def test_errors_other_than_of_tiles_reach_the_caller():
    def read(x, y):
        raise SlideError("the file is gone")

    with pytest.raises(SlideError, match="gone"):
        list(read_tiles(read, np.zeros((5, 2), int), 8))


def test_a_cache_decodes_each_tile_once_for_all_threads():
    cache, calls = TileCache(3), []

    def decode(key):
        calls.append(key)
        time.sleep(0.02)
        return np.array([key])

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda key: cache.get(key, lambda: decode(key))[0], [1, 1, 1, 1, 2, 2, 2, 1]))
    assert got == [1, 1, 1, 1, 2, 2, 2, 1]
    assert sorted(calls) == [1, 2]
    for key in (3, 4, 1):  # 1 was the oldest but for its use: 2 has gone, then 1
        cache.get(key, lambda key=key: decode(key))
    assert calls[2:4] == [3, 4]


def test_a_cache_keeps_a_failure():
    cache, calls = TileCache(2), []

    def fail():
        calls.append(1)
        raise TileError("damaged")

    for _ in range(2):
        with pytest.raises(TileError, match="damaged"):
            cache.get("a", fail)
    assert len(calls) == 1


# ---- real slides


def test_the_cmu_slide_is_decoded_directly_pixel_for_pixel(shared_data):
    path = shared_data / "wsi/CMU-1-Small-Region.svs"
    with open_slide(path) as slide:
        assert (slide.reader, slide.mpp, slide.mpp_origin) == ("tiff tiles", 0.499, "openslide.mpp-x")
        for x, y in itertools.product((0, 500, 1964), (0, 777, 2711)):
            assert np.array_equal(slide.read_tile(x, y, 256, 0.5), bare(path, 0, x, y, 256, 256))


@pytest.mark.parametrize(
    ("name", "mpp"),
    [("cptac_brca_15BR001_level.dcm", 15.8212), ("multi_frame_jpeg_camelyon_challenge_image.dcm", 28.9685)],
)
def test_dicom_slides_say_their_resolution(shared_data, name, mpp):
    with open_slide(shared_data / "wsi" / name) as slide:
        assert (slide.reader, slide.mpp_origin) == ("dicom frames", "openslide.mpp-x")
        assert slide.mpp == pytest.approx(mpp, abs=1e-3)
        tile = slide.read_tile(100, 100, 128, slide.mpp)
        assert np.array_equal(tile, bare(slide.path, 0, 100, 100, 128, 128))
        with pytest.raises(SlideError, match="too coarse"):
            slide.check_mpp(0.5)


def test_a_fundus_photograph_is_a_slide_of_its_own(shared_data):
    path = next((shared_data / "fundus/idrid_fullres").rglob("*.jpg"))
    with open_slide(path, mpp=4.0) as slide:
        assert slide.size_px0 == (4288, 2848)
        assert slide.overview(16.0).shape == (712, 1072, 3)


def test_a_tiff_with_the_resolution_of_a_printer_needs_a_stated_one(shared_data):
    path = shared_data / "wsi/openslide_fixtures/boxes.tiff"
    with pytest.raises(SlideError, match=r"352\.8"):
        open_slide(path)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.read_tile(0, 0, 60, 2.0).shape == (60, 60, 3)
