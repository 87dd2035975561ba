"""Pixels that are not square become so, whatever says their sides, in the one function that reads a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsoft.data.images.read import read_image
from medsoft.data.images.square_pixels import square_size, to_square_pixels
from medsoft.errors import ReadError
from tests.builders.dicom import item, write

SIDES = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
Y, X = np.mgrid[:120, :60]
DISC = ((((Y - 60) * 0.2) ** 2 + ((X - 30) * 0.4) ** 2 < 9**2) * 2000).astype(np.uint16)
"""120 rows 0.2 mm apart and 60 columns 0.4 mm apart, with a disc of 18 mm."""


def values(keyword: str, rows: float, columns: float) -> list[object]:
    return [round(rows * 10), round(columns * 10)] if keyword == "PixelAspectRatio" else [rows, columns]


def extent(image: np.ndarray) -> tuple[int, int]:
    return tuple(int(np.ptp(np.nonzero((image[..., 0] > 1000).any(axis=axis))[0])) + 1 for axis in (0, 1))


@pytest.mark.parametrize("keyword", SIDES)
def test_a_circle_is_a_circle_whatever_says_the_sides(tmp_path, keyword):
    wide = read_image(write(tmp_path / "a.dcm", DISC, **{keyword: values(keyword, 0.2, 0.4)}))
    high = read_image(write(tmp_path / "b.dcm", np.ascontiguousarray(DISC.T), **{keyword: values(keyword, 0.4, 0.2)}))
    for image in (wide, high):
        assert image.shape == (120, 120, 1)
        assert abs(np.subtract(*extent(image))) <= 1
        assert max(extent(image)) in (89, 90, 91)
    np.testing.assert_allclose(wide[..., 0], high[..., 0].T)


def test_functional_groups_say_it_too_and_colours_are_resampled(tmp_path):
    shared = item(PixelMeasuresSequence=[item(PixelSpacing=[0.2, 0.4])])
    image = read_image(write(tmp_path / "a.dcm", DISC, SharedFunctionalGroupsSequence=[shared]))
    assert image.shape == (120, 120, 1)
    rgb = np.stack([DISC // 8] * 3, axis=-1).astype(np.uint8)
    image = read_image(write(tmp_path / "b.dcm", rgb, PixelAspectRatio=[1, 2]))
    assert (image.shape, image.dtype) == ((120, 120, 3), np.uint8)


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ({"PixelSpacing": [0, 0.4]}, "zero or below"),
        ({"PixelSpacing": [0.2, 0.4], "PixelAspectRatio": [1, 1]}, "different shapes of its pixels"),
        ({"PixelSpacing": [0.2, 0.2], "ImagerPixelSpacing": [0.2, 0.4]}, "different shapes of its pixels"),
        ({"PixelAspectRatio": [1, 50]}, "more than 10 times"),
        ({"PixelSpacing": ["NaN", "0.2"]}, "PixelSpacing"),
        ({"PixelSpacing": [0.2]}, "PixelSpacing"),
    ],
)
def test_sides_that_contradict_each_other_are_refused(tmp_path, elements, said):
    with pytest.raises(ReadError, match=said):
        read_image(write(tmp_path / "a.dcm", DISC, **elements))


def test_sides_of_one_shape_and_of_rounding_change_nothing(tmp_path):
    both = {"PixelSpacing": [0.1, 0.1], "ImagerPixelSpacing": [0.143, 0.144], "PixelAspectRatio": [1, 1]}
    np.testing.assert_array_equal(read_image(write(tmp_path / "a.dcm", DISC, **both))[..., 0], DISC)


def test_the_limit_holds_for_what_a_picture_becomes(tmp_path):
    path = write(tmp_path / "a.dcm", DISC, PixelAspectRatio=[1, 8])
    with pytest.raises(ReadError, match="480 x 120 pixels, more than the limit"):
        read_image(path, max_pixels=DISC.size)


def test_data_check_says_how_many(tmp_path, medsoft):
    for number in range(3):
        write(tmp_path / f"{number}.dcm", DISC + np.uint16(number), PixelSpacing=[0.2, 0.4 if number else 0.2])
    Path("t.csv").write_text("path,label\n0.dcm,a\n1.dcm,b\n2.dcm,b\n")
    code, out, err = medsoft("data", "check", "t.csv", "--positive=a")
    assert (code, err) == (0, "")
    assert "Note: 2 pictures: pixels that are not square" in out


@given(
    height=st.integers(2, 60),
    width=st.integers(2, 60),
    rows=st.floats(0.05, 0.4),
    columns=st.floats(0.05, 0.4),
    kind=st.sampled_from([np.uint8, np.uint16, np.float32]),
)
def test_a_picture_keeps_its_extent_and_its_range(height, width, rows, columns, kind):
    image = np.random.default_rng(0).integers(0, 200, (height, width)).astype(kind)
    square = to_square_pixels(image, rows, columns)
    assert square.shape == square_size(height, width, rows, columns)
    assert square.dtype == image.dtype
    assert min(square.shape[0] - height, square.shape[1] - width) >= 0
    fine = min(rows, columns) if square.shape != image.shape else 1.0
    if square.shape != image.shape:
        assert abs(square.shape[0] * fine - height * rows) <= fine
        assert abs(square.shape[1] * fine - width * columns) <= fine
    assert image.min() <= square.min()
    assert square.max() <= image.max()


@pytest.mark.parametrize("sides", [(0, 1), (1, -1), (np.nan, 1), (np.inf, 1), (1, 11)])
def test_sides_that_make_no_sense(sides):
    with pytest.raises(ValueError, match="pixel"):
        square_size(10, 10, *sides)
