"""Masks are read with the meaning that was said, or refused in one sentence; grids of input and picture agree."""

import cv2
import numpy as np
import pytest
from PIL import Image

from medsoft.data.masks.place import to_input, to_prepared
from medsoft.data.masks.read import BACKGROUND, IGNORED, MaskValues, read_mask
from medsoft.data.masks.write import write_mask
from medsoft.data.transforms.fundus import Fundus
from medsoft.data.transforms.plain import Plain
from medsoft.errors import InputError, ReadError
from tests.builders.masks import disc_and_cup

DISC = MaskValues(("disc",))
BOTH = MaskValues(("disc", "cup"))


def saved(folder, values, name="mask.png", **options):
    Image.fromarray(values, **options).save(folder / name)
    return str(folder / name)


def test_classes_are_counted_from_one_and_a_single_one_may_be_255(tmp_path):
    _, mask = disc_and_cup(0)
    np.testing.assert_array_equal(read_mask(saved(tmp_path, mask), BOTH), mask + BACKGROUND)
    binary = (mask > 0).astype(np.uint8)
    white = binary * np.uint8(255)
    for stored in (binary, white, binary.astype(bool), np.stack([white] * 3, axis=-1)):
        np.testing.assert_array_equal(read_mask(saved(tmp_path, stored), DISC), binary + BACKGROUND)


@pytest.mark.parametrize("name", ["m.tif", "m.npz", "m.png"])
def test_masks_of_any_lossless_form_are_the_same(tmp_path, name):
    _, mask = disc_and_cup(1)
    if name == "m.npz":
        np.savez(tmp_path / name, masks=mask[None])
        path = f"{tmp_path / name}#masks/0"
    elif name == "m.png":  # with a palette, whose indices count
        picture = Image.fromarray(mask, mode="P")
        picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        picture.save(tmp_path / name)
        path = str(tmp_path / name)
    else:
        path = saved(tmp_path, mask.astype(np.uint16), name)
    np.testing.assert_array_equal(read_mask(path, BOTH), mask + BACKGROUND)


def test_ignored_pixels_and_values_of_ones_own_come_back(tmp_path):
    stored = np.array([[0, 10, 300], [300, 255, 0]], np.uint16)
    values = MaskValues(("disc", "cup"), (10, 300), ignored=255)
    mask = read_mask(saved(tmp_path, stored), values)
    assert mask.tolist() == [[1, 2, 3], [3, IGNORED, 1]]
    np.testing.assert_array_equal(values.decoded(mask), stored)
    write_mask(tmp_path / "new" / "mask.png", values.decoded(mask))
    np.testing.assert_array_equal(read_mask(str(tmp_path / "new" / "mask.png"), values), mask)


def test_smoothed_edges_colours_and_values_without_a_name_are_refused(tmp_path):
    _, mask = disc_and_cup(2)
    soft = cv2.GaussianBlur((mask > 0).astype(np.uint8) * 255, (9, 9), 3)
    with pytest.raises(ReadError, match=r"smoothed edges .* data.mask_threshold"):
        read_mask(saved(tmp_path, soft), DISC)
    found = read_mask(saved(tmp_path, soft), MaskValues(("disc",), threshold=128))
    assert (found == (mask > 0) + BACKGROUND).mean() > 0.98
    with pytest.raises(ReadError, match=r"values without a name: 2; named are 0 background, 1 disc"):
        read_mask(saved(tmp_path, mask), DISC)
    colours = np.zeros((*mask.shape, 3), np.uint8)
    colours[mask > 0, 1] = 255
    with pytest.raises(ReadError, match="is a colour picture: a mask has one channel"):
        read_mask(saved(tmp_path, colours), DISC)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": (1, 2)}, "2 values for 1 classes"),
        ({"classes": (0,)}, "0 is the background"),
        ({"classes": (7,), "ignored": 7}, "each once"),
    ],
)
def test_values_that_contradict_each_other_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        MaskValues(("disc",), **options)
    with pytest.raises(InputError, match="single class"):
        MaskValues(("disc", "cup"), threshold=3)


@pytest.mark.parametrize("recipe", [Plain(size=(48, 64)), Plain(size=64, fit="crop"), Fundus(size=64)])
def test_a_mask_lies_where_its_picture_does(recipe):
    """A picture of the mask itself, prepared, shows the mask that was placed; and back on the input's grid."""
    mask = np.full((150, 200), BACKGROUND, np.uint8)
    cv2.circle(mask, (110, 70), 40, 2, -1)
    cv2.circle(mask, (80, 90), 20, 3, -1)
    picture = np.repeat(mask[..., None] * np.uint8(80), 3, axis=2)
    placement = recipe.placement(picture)
    placed = to_prepared(mask, placement, recipe.size)
    shown = recipe.prepare(picture)[..., 0]
    known = placed != IGNORED
    assert known.mean() > 0.5
    assert (np.abs(shown[known].astype(int) - placed[known] * 80) > 40).mean() < 0.03
    p = np.stack([(placed == index).astype(np.float32) for index in (1, 2, 3)])
    back, seen = to_input(p, placement, mask.shape)
    assert (back.argmax(axis=0) + 1 == mask)[seen].mean() > 0.97


def test_picture_and_mask_are_moved_together_and_what_comes_in_is_unknown():
    recipe = Plain(size=64, rotation=45, flips="both", zoom=0.2, jitter=0)
    mask = np.full((64, 64), BACKGROUND, np.uint8)
    mask[8:30, 20:60] = 2
    picture = np.repeat((mask == 2)[..., None].astype(np.uint8) * 250, 3, axis=2)
    image, moved = recipe.augment_with_mask(picture, mask, seed=5)
    assert not np.array_equal(moved, mask)
    assert set(np.unique(moved)) == {IGNORED, BACKGROUND, 2}
    assert (((image[..., 0] > 125) == (moved == 2)).mean()) > 0.98
    again = recipe.augment_with_mask(picture, mask, seed=5)
    np.testing.assert_array_equal(again[1], moved)
    np.testing.assert_array_equal(recipe.augment(picture, 5), image)
