"""Pyramidal TIFFs: OpenSlide sees the levels, pixels are right, memory stays small, nothing half-written remains."""

from __future__ import annotations

import resource
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medsoft.data.images import write_pyramid as pyramid
from medsoft.data.images.write_pyramid import ReadBlock, write_pyramid

Pixels = NDArray[np.uint8]


def picture(width: int, height: int, smooth: int = 1) -> Pixels:
    """Noise, or squares of ``smooth`` pixels."""
    coarse = np.random.default_rng(width * 9001 + height).integers(
        0, 256, (height // smooth + 1, width // smooth + 1, 3)
    )
    return coarse.astype(np.uint8).repeat(smooth, 0).repeat(smooth, 1)[:height, :width]


def blocks_of(pixels: Pixels) -> ReadBlock:
    return lambda x, y, width, height: pixels[y : y + height, x : x + width]


def level(path: Path, number: int) -> Pixels:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), number, slide.level_dimensions[number]))[..., :3]


def means(pixels: Pixels, side: int) -> NDArray[np.float64]:
    """Means over squares that lie wholly in the picture."""
    height, width = pixels.shape[0] // side, pixels.shape[1] // side
    squares = pixels[: height * side, : width * side].reshape(height, side, width, side, 3)
    return squares.mean(axis=(1, 3))


def test_openslide_and_tifffile_see_all_levels(tmp_path: Path) -> None:
    path, pixels = tmp_path / "täst slide.tif", picture(1280, 1024, smooth=20)
    write_pyramid(path, (1280, 1024), blocks_of(pixels), 0.5, description="what it is")
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((1280, 1024), (320, 256), (80, 64), (20, 16))
        assert slide.level_downsamples == (1, 4, 16, 64)
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.properties["openslide.comment"] == "what it is"
    with tifffile.TiffFile(path) as tiff:
        assert [page.subfiletype for page in tiff.pages] == [0, 1, 1, 1]
        assert all(page.is_tiled and page.tile == (256, 256) for page in tiff.pages)
        assert [len(series.levels) for series in tiff.series] == [4]
        assert not tiff.is_bigtiff


@pytest.mark.parametrize("mpp", [0.5, 0.2528, 0.25, 1 / 3, 8.0])
def test_the_resolution_stands_in_the_file(tmp_path: Path, mpp: float) -> None:
    path = tmp_path / "a.tif"
    write_pyramid(path, (300, 300), blocks_of(picture(300, 300)), mpp)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["tiff.ResolutionUnit"] == "centimeter"
        assert 10_000 / float(slide.properties["tiff.XResolution"]) == pytest.approx(mpp, rel=1e-6)
        for name in ("openslide.mpp-x", "openslide.mpp-y"):
            assert float(slide.properties[name]) == pytest.approx(mpp, rel=1e-6)
    with tifffile.TiffFile(path) as tiff:
        each = [10_000 / np.divide(*page.tags["YResolution"].value) for page in tiff.pages]
    assert each == pytest.approx([mpp, 4 * mpp, 16 * mpp, 64 * mpp], rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 230), height=st.integers(1, 230), blocks=st.sampled_from([32, 64, 128]))
def test_pixels_of_every_size_come_back_and_levels_are_their_means(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, blocks: int
) -> None:
    path, pixels = tmp_path_factory.mktemp("any") / "a.tif", picture(width, height)
    steps = (1, 2, 8)
    write_pyramid(
        path, (width, height), blocks_of(pixels), 0.5, downsamples=steps, tile_px=32, block_px=blocks,
        compression="deflate",
    )  # fmt: skip
    np.testing.assert_array_equal(level(path, 0), pixels)
    for number, step in enumerate(steps):
        got, expected = level(path, number), means(pixels, step)
        assert got.shape == (-(-height // step), -(-width // step), 3)
        # Each level is rounded: half a grey level, and what the levels above had lost.
        np.testing.assert_allclose(got[: len(expected), : expected.shape[1]], expected, atol=0.51 * number + 1e-9)


def test_an_edge_that_fills_no_pixel_is_continued(tmp_path: Path) -> None:
    pixels = np.full((65, 65, 3), 10, np.uint8)
    pixels[:, 64] = 200
    write_pyramid(tmp_path / "a.tif", (65, 65), blocks_of(pixels), 0.5, downsamples=(1, 4), compression="deflate")
    got = level(tmp_path / "a.tif", 1)
    assert got.shape == (17, 17, 3)
    assert (got[:, :16] == 10).all()
    assert (got[:, 16] == 200).all()


def test_jpeg_is_close_and_better_with_more_quality(tmp_path: Path) -> None:
    pixels = picture(500, 400, smooth=10)
    away, sizes = [], []
    for quality in (30, 60, 95):
        write_pyramid(tmp_path / "a.tif", (500, 400), blocks_of(pixels), 0.5, quality=quality)
        away.append(np.abs(level(tmp_path / "a.tif", 0).astype(float) - pixels).mean())
        sizes.append((tmp_path / "a.tif").stat().st_size)
    assert away == sorted(away, reverse=True)
    assert sizes == sorted(sizes)
    assert away[-1] < 8  # chroma has half the resolution


def test_each_block_is_asked_for_once_row_by_row(tmp_path: Path) -> None:
    asked = []

    def read(x: int, y: int, width: int, height: int) -> Pixels:
        asked.append((x, y, width, height))
        return np.zeros((height, width, 3), np.uint8)

    write_pyramid(tmp_path / "a.tif", (600, 300), read, 0.5, block_px=256)
    assert asked == [
        (0, 0, 256, 256), (256, 0, 256, 256), (512, 0, 88, 256),
        (0, 256, 256, 44), (256, 256, 256, 44), (512, 256, 88, 44),
    ]  # fmt: skip


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_the_same_pixels_give_the_same_bytes_whatever_the_blocks(tmp_path: Path, compression: str) -> None:
    pixels = picture(700, 500, smooth=3)
    for name, block in (("a", 256), ("b", 256), ("c", 512)):
        write_pyramid(tmp_path / name, (700, 500), blocks_of(pixels), 0.5, block_px=block, compression=compression)  # type: ignore[arg-type]
    contents = {(tmp_path / name).read_bytes() for name in "abc"}
    assert len(contents) == 1


def test_one_level_alone_and_many(tmp_path: Path) -> None:
    pixels = picture(300, 200, smooth=5)
    for steps in ((1,), (1, 2, 4, 8, 16, 32)):
        write_pyramid(tmp_path / "a.tif", (300, 200), blocks_of(pixels), 0.5, downsamples=steps)
        with openslide.OpenSlide(tmp_path / "a.tif") as slide:
            assert slide.level_count == len(steps)


def test_a_large_file_is_a_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "CLASSIC_LIMIT_BYTES", 1000)
    pixels = picture(300, 200)
    write_pyramid(tmp_path / "a.tif", (300, 200), blocks_of(pixels), 0.5, compression="deflate")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.is_bigtiff
    np.testing.assert_array_equal(level(tmp_path / "a.tif", 0), pixels)


def test_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    grey = np.full((512, 512, 3), 200, np.uint8)

    def peak(height: int) -> int:
        tracemalloc.start()
        write_pyramid(tmp_path / "a.tif", (1024, height), lambda x, y, w, h: grey[:h, :w], 0.5, block_px=512)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(512)  # what is loaded once
    low, high = peak(2048), peak(16_384)
    assert high < 1.3 * low
    assert low < 1024 * 2048 * 3  # the smaller picture itself would not fit either


def test_a_failure_leaves_nothing_behind_and_an_older_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_text("older")

    def fails_later(x: int, y: int, width: int, height: int) -> Pixels:
        if y:
            raise RuntimeError("no more blocks")
        return np.zeros((height, width, 3), np.uint8)

    with pytest.raises(RuntimeError, match="no more blocks"):
        write_pyramid(path, (256, 600), fails_later, 0.5, block_px=256)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]
    assert path.read_text() == "older"


@pytest.fixture
def _files_of_at_most_100_kb() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("_files_of_at_most_100_kb")
def test_a_disk_that_takes_no_more_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too large"):
        write_pyramid(tmp_path / "a.tif", (1000, 1000), blocks_of(picture(1000, 1000)), 0.5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size_px": (0, 5)}, "0 x 5 pixels"),
        ({"mpp": 0.0}, "0.0 µm per pixel"),
        ({"mpp": float("nan")}, "nan µm per pixel"),
        ({"downsamples": (1, 3)}, "downsamples"),
        ({"downsamples": (2, 4)}, "downsamples"),
        ({"downsamples": (1, 4, 4)}, "downsamples"),
        ({"downsamples": ()}, "downsamples"),
        ({"downsamples": (1, 4, 6)}, "downsamples"),
        ({"tile_px": 100}, "multiple of 16"),
        ({"block_px": 300}, "one of tiles"),
        ({"quality": 0}, "quality 0"),
        ({"compression": "webp"}, "webp"),
        ({"read_block": lambda x, y, w, h: np.zeros((h, w), np.uint8)}, "not uint8"),
        ({"read_block": lambda x, y, w, h: np.zeros((h, w, 3))}, "float64"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_written(tmp_path: Path, wrong: dict[str, object], said: str) -> None:
    right = {"size_px": (64, 64), "read_block": blocks_of(picture(64, 64)), "mpp": 0.5}
    with pytest.raises(ValueError, match=said):
        write_pyramid(tmp_path / "new" / "a.tif", **{**right, **wrong})  # type: ignore[arg-type]
    assert list(tmp_path.rglob("*.tif")) == []
