"""Maps of images larger than an encoder's input, from windows that overlap."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsoft.errors import InputError
from medsoft.inference.images.windows import Windows, encode_map, windows_of
from tests.builders.map_encoders import STRIDE, Brightest, MapOfConvolutions


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 40), st.data())
def test_every_token_is_taken_once_from_where_it_is_farthest_from_an_edge(tokens, side, data):
    overlap = data.draw(st.integers(0, side - 1))
    fixed = data.draw(st.booleans())
    pieces = Windows(side, overlap, STRIDE, fixed).pieces(tokens)
    assert [index for piece in pieces for index in range(piece.first, piece.last)] == list(range(tokens))
    for piece in pieces:
        assert piece.start <= piece.first <= piece.last <= piece.stop
        assert piece.stop - piece.start == (side if fixed else pieces[0].stop) <= side
    for one, other in itertools.pairwise(pieces):
        assert one.stop - other.start >= overlap
        assert abs((one.stop - one.last) - (other.first - other.start)) <= 1
    assert fixed or pieces[-1].stop == tokens


@pytest.mark.parametrize("size", [(200, 328), (64, 1000), (131, 77)])
def test_of_a_network_that_sees_less_than_the_overlap_the_joined_map_is_that_of_the_whole(size):
    encoder, picture = MapOfConvolutions(), image(*size)
    whole = encode_map(encoder, picture, Windows(1000, 0, STRIDE, False), True, 4)
    joined = encode_map(encoder, picture, Windows(8, 2, STRIDE, False), True, 4)
    assert joined[1].shape == (-(-size[0] // STRIDE), -(-size[1] // STRIDE), 5)
    for one, other in zip(whole, joined, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
    without = encode_map(encoder, picture, Windows(8, 0, STRIDE, False), True, 4)
    assert np.abs(without[1] - whole[1]).max() > 0.01


def test_windows_of_a_given_size_are_of_that_size_and_give_their_middles():
    picture = image(70, 150)
    pooled, tokens = encode_map(Brightest(), picture, Windows(4, 2, STRIDE, True), False, 3)
    padded = np.zeros((72, 152, 3), np.uint8)
    padded[:70, :150] = picture
    np.testing.assert_array_equal(tokens[..., 0], padded.reshape(9, 8, 19, 8, 3).max(axis=(1, 3, 4)))
    columns = tokens[0, :, 1] % 100
    assert columns[0] == 0
    assert columns[-1] == 3
    assert set(columns[1:-1]) <= {1, 2}
    assert 200 < pooled[0] <= 255


def test_an_image_smaller_than_a_window_of_given_size_is_filled_up_and_cut():
    _, tokens = encode_map(Brightest(), image(20, 9), Windows(4, 2, STRIDE, True), False, 3)
    assert tokens.shape == (3, 2, 2)


def test_where_pooling_is_not_the_mean_the_windows_vectors_are_weighted_by_their_tokens():
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :24] = 200
    pooled, _ = encode_map(Brightest(), picture, Windows(4, 0, STRIDE, True), False, 1)
    assert pooled.tolist() == [100]


def test_the_usual_windows():
    assert windows_of(Brightest(), False, None, None) == Windows(4, 1, STRIDE, True)
    assert windows_of(MapOfConvolutions(), True, None, None) == Windows(192, 64, STRIDE, False)
    assert windows_of(MapOfConvolutions(), True, 128, 0) == Windows(16, 0, STRIDE, False)


@pytest.mark.parametrize(
    ("side", "overlap", "convolutional", "message"),
    [
        (64, None, False, "takes 32 px and no other size"),
        (36, None, True, "window 36: not a multiple of the 8 px"),
        (64, 12, True, "overlap 12: not a multiple of the 8 px"),
        (64, 64, True, "overlap 64: must be smaller than the window"),
    ],
)
def test_windows_that_cannot_be(side, overlap, convolutional, message):
    with pytest.raises(InputError, match=message):
        windows_of(Brightest(convolutional), convolutional, side, overlap)
