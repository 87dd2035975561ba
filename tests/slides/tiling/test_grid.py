"""Where tiles lie: inside, without gaps, without drift, and how much of each is tissue."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsoft.slides.tiling.grid import grid_px0, mask_fraction, positions_px0, whole_px0

lengths = st.integers(0, 200_000)
tiles = st.floats(8, 5000)
shares = st.floats(0.1, 1)  # step as a share of the tile: up to 90 % overlap


@given(lengths, tiles, shares)
def test_tiles_lie_inside_and_regularly(length, tile, share):
    step = max(1.0, tile * share)
    starts = positions_px0(length, tile, step)
    assert starts.dtype == np.int64
    if whole_px0(tile) > length:
        assert len(starts) == 0
        return
    assert starts[0] == 0
    assert starts[-1] + whole_px0(tile) <= length
    k = np.arange(len(starts))
    assert np.abs(starts - k * step).max() <= 0.5 + 1e-6  # the last tile is as near to its place as the first
    assert set(np.diff(starts)) <= {int(step), int(step) + 1}
    assert length - (starts[-1] + whole_px0(tile)) < step + 1  # another tile would not have fitted


@given(lengths, tiles)
def test_tiles_side_by_side_leave_no_gap(length, tile):
    starts = positions_px0(length, tile, tile)
    if len(starts) > 1:
        assert np.diff(starts).max() <= tile + 1
        assert np.abs(starts[1:] - (starts[:-1] + tile)).max() <= 1  # half a pixel of rounding at each end


def test_ten_thousand_uneven_steps_do_not_drift():
    starts = positions_px0(3_000_000, 224 * 0.5 / 0.4990, 224 * 0.5 / 0.4990)
    assert len(starts) == 13366
    assert starts[-1] == round(13365 * 224 * 0.5 / 0.4990)


def test_whole_ratios_lose_no_tile_to_floating_point():
    for mpp in (0.1, 0.2508, 0.3, 0.7):  # 256 px at twice the resolution fill 512 px exactly
        assert len(positions_px0(5120, 256 * (2 * mpp) / mpp, 256 * (2 * mpp) / mpp)) == 10


def test_rows_come_from_the_top_and_each_from_the_left():
    coords = grid_px0((100, 200, 25, 30), 10, 10)
    assert coords.tolist() == [[100, 200], [110, 200], [100, 210], [110, 210], [100, 220], [110, 220]]
    assert grid_px0((0, 0, 9, 100), 10, 10).shape == (0, 2)
    assert grid_px0((5, 6, 10, 10), 10, 10).tolist() == [[5, 6]]


@pytest.mark.parametrize(("tile", "step"), [(0, 5), (10, 0.5), (10, float("nan")), (10, float("inf"))])
def test_sizes_without_a_grid_are_refused(tile, step):
    with pytest.raises(ValueError, match="no grid"):
        positions_px0(100, tile, step)


@given(st.data(), st.integers(1, 40), st.integers(1, 40), st.floats(1, 40), st.floats(0.3, 300))
def test_tissue_is_counted_as_pixel_by_pixel(data, width, height, scale, tile):
    size = (round(width * scale), round(height * scale))
    mask = np.random.default_rng(data.draw(st.integers(0, 99))).random((height, width)) < 0.5
    x = data.draw(st.integers(0, size[0] - 1))
    y = data.draw(st.integers(0, size[1] - 1))
    got = mask_fraction(mask, size, np.array([[x, y]]), tile)
    assert got.dtype == np.float32
    centres_x = (np.arange(width) + 0.5) * size[0] / width
    centres_y = (np.arange(height) + 0.5) * size[1] / height
    near = np.abs(np.concatenate([centres_x - x, centres_x - x - tile, centres_y - y, centres_y - y - tile])).min()
    inside = mask[(centres_y >= y) & (centres_y < y + tile)][:, (centres_x >= x) & (centres_x < x + tile)]
    if inside.size and near > 1e-6:
        assert got[0] == np.float32(inside.mean())
    else:
        assert 0 <= got[0] <= 1


def test_a_tile_smaller_than_a_mask_pixel_takes_its_value():
    mask = np.array([[False, True], [True, False]])
    coords = np.array([[0, 0], [101, 0], [0, 101], [150, 150]])
    assert mask_fraction(mask, (200, 200), coords, 20).tolist() == [0, 1, 1, 0]


def test_full_and_empty_masks():
    coords = grid_px0((0, 0, 1000, 800), 111.3, 57.7)
    assert (mask_fraction(np.ones((80, 100), bool), (1000, 800), coords, 111.3) == 1).all()
    assert (mask_fraction(np.zeros((80, 100), bool), (1000, 800), coords, 111.3) == 0).all()
    assert mask_fraction(np.ones((8, 10), bool), (1000, 800), np.empty((0, 2), np.int64), 9).shape == (0,)
