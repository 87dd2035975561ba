"""Which tiles a contact sheet shows, and how."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medsoft.slides.heatmaps.tile_sheet import Contribution, mosaic, most_and_least, write_tile_sheet

TILE_SETTINGS = {"tile_px": 16, "mpp": 0.5}


def tiles_of(values, slide="a"):
    return [Contribution(slide, 16 * index, 0, value) for index, value in enumerate(values)]


@given(st.lists(st.floats(-5, 5), max_size=30), st.integers(1, 8))
@settings(deadline=None, max_examples=60)
def test_the_largest_come_first_and_no_tile_is_shown_twice(values, number):
    tiles = tiles_of(values)
    most, least = most_and_least(tiles, number)
    assert not set(most) & set(least)
    assert [tile.value for tile in most] == sorted(values, reverse=True)[: len(most)]
    assert [tile.value for tile in least] == sorted(values)[: len(least)]
    assert len(most) + len(least) == min(2 * number, len(values))


def test_one_slide_does_not_fill_the_sheet_of_a_cohort():
    tiles = tiles_of([9, 8, 7, 6], "a") + tiles_of([5, 1], "b") + tiles_of([0], "c")
    most, least = most_and_least(tiles, 3, most_of_a_slide=2)
    assert [(tile.slide, tile.value) for tile in most] == [("a", 9), ("a", 8), ("b", 5)]
    assert [(tile.slide, tile.value) for tile in least] == [("c", 0), ("b", 1), ("a", 6)]


def test_a_sheet_and_a_mosaic_show_the_tiles_that_can_be_read(tmp_path):
    tiles = tiles_of(np.linspace(1, -1, 12))
    most, least = most_and_least(tiles, 8)
    pictures = {tile: np.full((16, 16, 3), 20 * index, np.uint8) for index, tile in enumerate(tiles) if index != 1}
    path = tmp_path / "a.tiles.png"
    write_tile_sheet(path, most, least, pictures, TILE_SETTINGS, "a: tiles", with_slides=True)
    with Image.open(path) as sheet:
        assert sheet.width > sheet.height
    found = mosaic(most, least, pictures, 300)
    assert found.shape == (300, 300, 3)
    assert found[0, 0].tolist() == [178, 24, 43]
    assert found[299, 0].tolist() == [33, 102, 172]
    assert found[50, 50].tolist() == [0, 0, 0]
    assert found[50, 150].tolist() == [40, 40, 40]  # the second tile cannot be read
    assert mosaic(most, least, {}, 300) is None
    nothing = tmp_path / "b.tiles.png"
    write_tile_sheet(nothing, most, least, {}, TILE_SETTINGS, "b")
    assert not nothing.exists()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_few_tiles_are_shared_between_the_rows(number):
    most, least = most_and_least(tiles_of(range(number)), 8)
    assert (len(most), len(least)) == ((number + 1) // 2, number // 2)
