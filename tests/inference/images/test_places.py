"""Where tokens lie in the original: the token that sees a bright spot says where the spot is."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from medsoft.data.features.open import open_bag
from medsoft.data.volumes.rows import VolumeRow
from medsoft.encoders.requirements import EncoderOptions
from medsoft.errors import InputError
from medsoft.inference.images.encoding import Encoding
from medsoft.inference.images.folder import ImagesFolder
from medsoft.inference.images.options import EncodeSettings, OutputSettings, PreparationSettings
from medsoft.inference.images.samples import ImageSample
from medsoft.inference.images.volumes import channels_of
from medsoft.inference.images.work import encode_each
from tests.builders.map_encoders import Brightest, BrightestOfVolume
from tests.builders.volumes import oblique, save

ENCODER = EncoderOptions("brightest")


def encoded(sample, preparation, tmp_path, any_size=False, views=0, encoder=None):
    settings = EncodeSettings(ENCODER, preparation, OutputSettings(dtype="float32", views=views))
    if sample.volume:
        settings = EncodeSettings(ENCODER, preparation, settings.output, channels_of(preparation, [sample]))
    folder = ImagesFolder(tmp_path / "out")
    ((_, status),) = encode_each([sample], Encoding(settings, encoder or Brightest(any_size)), folder, {})
    assert status.status == "encoded", status
    return open_bag(folder.features(sample.id))


def photograph(path, spot, size=(150, 230), margin=0):
    """Grey noise with a white spot of 5 px about (x, y), and a black margin."""
    picture = np.random.default_rng(0).integers(60, 120, (*size, 3), dtype=np.uint8)
    if margin:
        picture[:, :margin], picture[:, -margin:] = 0, 0
    x, y = spot
    picture[y - 2 : y + 3, x - 2 : x + 3] = 255
    Image.fromarray(picture).save(path)
    return ImageSample("a", str(path))


@pytest.mark.parametrize("spot", [(60, 20), (170, 120), (115, 75)])
@pytest.mark.parametrize(
    ("preparation", "any_size"),
    [
        (PreparationSettings(), False),
        (PreparationSettings(size=64), False),
        (PreparationSettings(size="native"), False),
        (PreparationSettings(size="native", window=64, overlap=16), True),
        (PreparationSettings(size=96, aspect="keep"), True),
        (PreparationSettings(transforms="fundus", size=64), True),
        (PreparationSettings(transforms="fundus", size="native"), True),
        (PreparationSettings(transforms="fundus", size=96, aspect="keep"), False),
        (PreparationSettings(transforms="dermoscopy", transforms_args={"fit": "crop"}, size=64), True),
        (PreparationSettings(config="chest_xray", transforms_args={"window": [0, 100]}, size=64), True),
    ],
)
def test_the_token_that_sees_a_spot_says_where_it_is(tmp_path, spot, preparation, any_size):
    sample = photograph(tmp_path / "a.png", spot, margin=40)
    with encoded(sample, preparation, tmp_path, any_size) as bag:
        brightness, coords, cell = bag.read()[:, 0], bag.coords, np.array(bag.cell)
        assert bag.unit == "px"
        assert bag.facts.size == (230, 150)
    seen = coords[brightness.argmax()]
    assert (seen - 3 <= spot).all()
    assert (spot <= seen + cell + 3).all()


def test_at_its_own_resolution_every_pixel_lies_in_one_cell(tmp_path):
    with encoded(photograph(tmp_path / "a.png", (60, 20)), PreparationSettings(size="native"), tmp_path, True) as bag:
        assert bag.cell == (8, 8)
        expected = list(itertools.product(range(0, 150, 8), range(0, 230, 8)))
        assert [(y, x) for x, y in bag.coords.tolist()] == expected


SPACING = (1.0, 1.5, 3.0)


def volume(path, spot, suffix=".nii.gz"):
    array = np.random.default_rng(0).uniform(0, 0.2, (24, 40, 12))
    x, y, z = spot
    array[x, y, z] = 9
    affine = oblique(SPACING)
    file = save(array, affine, path.with_name(path.name + suffix))
    return ImageSample("v", str(file), VolumeRow((str(file),), None, "")), affine


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("size", [None, 64, "native"])
@pytest.mark.parametrize("spot", [(3, 30, 2), (20, 5, 9)])
def test_in_slices_of_a_volume_too_in_mm_of_the_patient(tmp_path, axis, size, spot):
    sample, affine = volume(tmp_path / "v", spot)
    args = {"percentiles": [0, 100]}
    preparation = PreparationSettings(axis=axis, size=size, transforms_args=args)
    with encoded(sample, preparation, tmp_path, any_size=True) as bag:
        brightness, coords, cell = bag.read()[:, 0], bag.coords, np.array(bag.cell)
        assert (bag.unit, bag.facts.size) == ("mm", (24, 40, 12))
        to_patient = np.array(bag.facts.affine).reshape(4, 4)
    seen = coords[brightness.argmax()]
    expected = (np.array(spot) + 0.5) * SPACING
    assert (seen - 1.6 <= expected).all()
    assert (expected <= seen + cell + 1.6).all()
    patient = (affine @ [*spot, 1])[:3]
    np.testing.assert_allclose((to_patient @ [*expected, 1])[:3], patient, atol=1e-3)


def test_every_second_slice(tmp_path):
    sample, _ = volume(tmp_path / "v", (3, 30, 2))
    with encoded(sample, PreparationSettings(step=2), tmp_path) as bag:
        assert bag.num_tiles == 6 * 16
        assert sorted(set(bag.coords[:, 2].tolist())) == [0, 6, 12, 18, 24, 30]


def test_views_of_a_volume_are_its_own(tmp_path):
    sample, _ = volume(tmp_path / "v", (3, 30, 2))
    with encoded(sample, PreparationSettings(), tmp_path, views=2) as bag:
        first, second = bag.read_view(0), bag.read_view(1)
        assert first.shape == bag.read().shape
        assert not np.array_equal(first, second)
        assert not np.array_equal(first, bag.read())


@pytest.mark.parametrize("spot", [(3, 30, 2), (20, 5, 9)])
def test_in_a_volume_that_is_encoded_as_one_too(tmp_path, spot):
    sample, affine = volume(tmp_path / "v", spot)
    preparation = PreparationSettings(transforms_args={"fit": "stretch", "percentiles": [0, 100]})
    with encoded(sample, preparation, tmp_path, encoder=BrightestOfVolume()) as bag:
        assert (bag.num_tiles, bag.unit, bag.facts.size) == (4, "mm", (16, 16, 8))
        assert bag.facts.preparation["recipe"]["intensity"] == "percentiles"
        seen, cell = bag.coords[bag.read()[:, 0].argmax()], np.array(bag.cell)
        to_patient = np.array(bag.facts.affine).reshape(4, 4)
    place = (np.linalg.inv(to_patient) @ affine @ [*spot, 1])[:3]
    assert (seen - 2 <= place).all()
    assert (place <= seen + cell + 2).all()


def test_encoders_get_images_of_their_own_kind(tmp_path):
    sample = photograph(tmp_path / "a.png", (60, 20))
    with pytest.raises(InputError, match="is for volumes, and these are images"):
        encoded(sample, PreparationSettings(), tmp_path, encoder=BrightestOfVolume())
    with pytest.raises(
        InputError, match="brightest takes 32 px: give no less, or build it for that size with --window"
    ):
        encoded(sample, PreparationSettings(size=16), tmp_path)
    grey = Brightest()
    grey.recipe = replace(BrightestOfVolume().recipe, dims=2, input_px=32, input_size=None, stride=8)
    with pytest.raises(InputError, match=r"is for grey images of 1 channel, not 3"):
        encoded(sample, PreparationSettings(transforms="fundus"), tmp_path, encoder=grey)
    of_volume, _ = volume(tmp_path / "v", (3, 30, 2))
    for words in ({"size": "native"}, {"step": 2}, {"window": 16}):
        with pytest.raises(InputError, match="are for pictures and slices"):
            encoded(of_volume, PreparationSettings(**words), tmp_path, encoder=BrightestOfVolume())


@pytest.mark.parametrize(
    ("preparation", "message"),
    [
        (PreparationSettings(transforms="fundus"), "fundus is for images, and these are volumes"),
        (PreparationSettings(aspect="keep"), "keep is for images"),
        (PreparationSettings(transforms_args={"intensity": "zscore"}), "takes values between black and white"),
        (PreparationSettings(transforms_args={"size": 3}), "size is an option of its own"),
        (PreparationSettings(transforms_args={"colour": 3}), "volume has no colour; it has"),
        (PreparationSettings(config="volume", transforms="plain"), "is of volume, not plain"),
    ],
)
def test_what_volumes_cannot_be(tmp_path, preparation, message):
    sample, _ = volume(tmp_path / "v", (3, 30, 2))
    with pytest.raises(InputError, match=message):
        encoded(sample, preparation, tmp_path)
