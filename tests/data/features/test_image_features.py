"""Feature files of images and volumes: tokens with their places, pooled vectors and views, whole or not at all."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from medsoft.data.datasets.bag_dataset import BagAugmentation, BagDataset
from medsoft.data.datasets.sampling import SampleKey
from medsoft.data.features.native import ImageFeatureWriter, is_complete
from medsoft.data.features.open import open_bag
from medsoft.data.sample_hash import sample_hash
from medsoft.errors import BagError
from tests.builders.feature_files import FACTS, numbers, write
from tests.builders.image_features import OF_IMAGES, OF_VOLUMES, POOLED, WIDTH, write_image_features


def arrays(n, views=0, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float16).astype(np.float32)  # noqa: E731
    return draw(views + 1, n, WIDTH), draw(views + 1, POOLED)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("facts", "axes"), [(OF_IMAGES, 2), (OF_VOLUMES, 3)])
def test_what_goes_in_comes_out(tmp_path, facts, axes, dtype):
    features, pooled = arrays(300, views=2)
    facts = replace(facts, views={"number": 2, "seed": 3, "augmentation": {}})
    coords = np.random.default_rng(0).uniform(-5, 4000, (300, axes)).astype(np.float32)
    with ImageFeatureWriter(tmp_path / "a.h5", facts, coords, WIDTH, POOLED, dtype) as writer:
        for view in (1, None, 0):
            at = 0 if view is None else view + 1
            writer.write(features[at], pooled[at], view)
    with open_bag(tmp_path / "a.h5") as bag:
        assert (bag.origin, bag.num_tiles, bag.num_features, bag.dtype) == ("medsoft", 300, WIDTH, dtype)
        assert (bag.unit, bag.cell, bag.num_views) == (facts.unit, facts.cell, 2)
        assert bag.facts == facts
        assert bag.slide_facts is None
        np.testing.assert_array_equal(bag.coords, coords)
        np.testing.assert_array_equal(bag.read(), features[0])
        np.testing.assert_array_equal(bag.pooled, pooled[:1])
        np.testing.assert_array_equal(bag.read_view(0), features[1])
        np.testing.assert_array_equal(bag.read_view(1), features[2])
        np.testing.assert_array_equal(bag.read_pooled_views(), pooled[1:])
        cell = np.array(bag.cell if bag.unit == "px" else 1, np.float32)  # a pixel has no size: places are in cells
        np.testing.assert_array_equal(np.concatenate([place for _, place in bag.chunks(100)]), coords / cell)
        with pytest.raises(IndexError, match="view 2: the file has 2"):
            bag.read_view(2)
    assert is_complete(tmp_path / "a.h5", facts, dtype)


def test_a_pooled_vector_is_a_bag_of_one_without_a_place(tmp_path):
    with open_bag(write_image_features(tmp_path / "a.h5", tokens=(), views=1, dtype="float32")) as bag:
        assert (bag.num_tiles, bag.num_features, bag.coords, bag.unit, bag.cell) == (1, POOLED, None, "", ())
        np.testing.assert_array_equal(bag.read(), bag.pooled)
        np.testing.assert_array_equal(bag.read_view(0), bag.read_pooled_views())
        assert [place for _, place in bag.chunks()] == [None]


def test_the_bag_of_a_slide_has_its_places_in_micrometres_and_no_pooled_vector(tmp_path):
    path = write(tmp_path / "a.h5", *numbers(20))
    with open_bag(path) as bag:
        np.testing.assert_array_equal(bag.coords, bag.coords_N2_um)
        assert (bag.unit, bag.cell, bag.pooled, bag.num_views) == ("um", (112.0, 112.0), None, 0)
        assert bag.slide_facts == FACTS
        assert bag.read_pooled_views().shape == (0, bag.num_features)
    with h5py.File(path) as file:
        assert file.attrs["format_version"] == 1


def test_what_says_that_a_file_is_done(tmp_path):
    facts = replace(OF_IMAGES, views={"number": 1, "seed": 0, "augmentation": {"flips": "both"}})
    path = write_image_features(tmp_path / "a.h5", views=1)
    assert is_complete(path, facts)
    assert is_complete(path, replace(facts, name="renamed.png", precision="float16", engine="onnx"))
    assert not is_complete(path, replace(facts, precision="bfloat16"))
    for other in [
        {"quick_hash": "f" * 32},
        {"size": (1, 1)},
        {"preparation": facts.preparation | {"size": [224, 224]}},
        {"encoder": "uni"},
        {"encoder_sha256": "ab" * 32},
        {"encoder_init": "random"},
        {"encoder_settings": {}},
        {"views": {}},
        {"views": facts.views | {"seed": 1}},
    ]:
        assert not is_complete(path, replace(facts, **other)), other
    assert not is_complete(path, facts, "float32")
    assert not is_complete(path, FACTS)


def test_views_do_not_part_what_belongs_together_but_the_preparation_does(tmp_path):
    assert replace(OF_IMAGES, views={"number": 3, "seed": 0}).identity == OF_IMAGES.identity
    other = replace(OF_IMAGES, preparation=OF_IMAGES.preparation | {"transforms": "fundus"})
    assert OF_IMAGES.identity.differences(other.identity) == ["preparation.transforms 'fundus', not 'plain'"]


def test_what_was_not_written_leaves_nothing(tmp_path):
    features, pooled = arrays(4)
    facts = replace(OF_IMAGES, views={"number": 2, "seed": 0})
    with (
        pytest.raises(BagError, match="2 of the image and its views were not written"),
        ImageFeatureWriter(tmp_path / "a.h5", facts, np.zeros((4, 2)), WIDTH, POOLED) as writer,
    ):
        writer.write(features[0], pooled[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("view", [None, 0])
def test_features_that_are_no_numbers_or_too_large_are_refused(tmp_path, view):
    facts = replace(OF_IMAGES, views={"number": 1, "seed": 0})

    def attempt(value, of_pooled):
        features, pooled = (array[0] for array in arrays(4))
        (pooled if of_pooled else features[2])[1] = value
        with ImageFeatureWriter(tmp_path / "a.h5", facts, np.zeros((4, 2)), WIDTH, POOLED) as writer:
            writer.write(features, pooled, view)

    with pytest.raises(BagError, match="NaN or infinite features for token 2"):
        attempt(np.nan, of_pooled=False)
    with pytest.raises(BagError, match=r"token 2 reach 1e\+06, beyond float16"):
        attempt(1e6, of_pooled=False)
    with pytest.raises(BagError, match="a pooled vector with NaN or infinite"):
        attempt(np.inf, of_pooled=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.attrs.__delitem__("preparation"), "lacks the attribute preparation"),
        (lambda f: f.attrs.__setitem__("views", '{"number": -1}'), "how many views"),
        (lambda f: f.attrs.__setitem__("views", "[]"), "settings are no settings"),
        (lambda f: f.attrs.__setitem__("cell", [0.0, 1.0]), "size of a token's cell"),
        (lambda f: f.attrs.__setitem__("unit", "inch"), "size of a token's cell"),
        (lambda f: f.__delitem__("coords"), "no dataset 'coords'"),
        (lambda f: f.__delitem__("pooled"), "no dataset 'pooled'"),
        (lambda f: f.__delitem__("views"), "no dataset 'views/features'"),
        (lambda f: f["pooled"].__setitem__((0, 0), np.nan), "'pooled': features are NaN"),
        (
            lambda f: (
                f["views"].__delitem__("features"),
                f["views"].create_dataset("features", data=np.zeros((1, 2))),
            ),
            "'views/features' has the shape",
        ),
        (
            lambda f: (
                f["views"].__delitem__("features"),
                f["views"].__setitem__("features", h5py.ExternalLink("other.h5", "/x")),
            ),
            "'views/features' refers to another file",
        ),
    ],
)
def test_what_is_missing_is_said(tmp_path, change, reason):
    path = write_image_features(tmp_path / "a.h5", views=1)
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(BagError, match=reason):
        open_bag(path)


def test_a_sample_is_known_by_all_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(bytes(5 * 2**20))
    first = sample_hash(tmp_path / "a")
    (tmp_path / "b").write_bytes(bytes(5 * 2**20))
    assert (len(first), sample_hash(tmp_path / "b")) == (32, first)
    (tmp_path / "b").write_bytes(bytes(2 * 2**20 + 5) + b"x" + bytes(3 * 2**20 - 6))
    assert sample_hash(tmp_path / "b") != first
    series = tmp_path / "series"
    series.mkdir()
    with pytest.raises(FileNotFoundError):
        sample_hash(series)
    (series / "1").write_bytes(b"1")
    (series / "2").write_bytes(b"2")
    both = sample_hash(series)
    assert sample_hash(f"{series}#2") != both
    (series / "2").write_bytes(b"3")
    assert sample_hash(series) != both
    np.savez(tmp_path / "a.npz", images=np.arange(8))
    assert sample_hash(f"{tmp_path}/a.npz#images/0") != sample_hash(f"{tmp_path}/a.npz#images/1")


def test_training_draws_among_an_image_and_its_views_and_the_rest_sees_it_as_it_is(tmp_path):
    path = write_image_features(tmp_path / "a.h5", views=2)
    with open_bag(path) as bag:
        versions = [bag.read(), bag.read_view(0), bag.read_view(1)]
    for in_memory in (True, False):
        bags = BagDataset([[str(path)]], np.zeros(1, int), BagAugmentation(), 0, True, in_memory, with_views=True)
        drawn = [bags[SampleKey(epoch, 0)]["features"].numpy() for epoch in range(30)]
        seen = {next(i for i, one in enumerate(versions) if np.array_equal(one, x)) for x in drawn}
        assert seen == {0, 1, 2}
        assert np.array_equal(bags[0]["features"], versions[0])
        again = [bags[SampleKey(epoch, 0)]["features"].numpy() for epoch in range(30)]
        assert all(np.array_equal(one, other) for one, other in zip(drawn, again, strict=True))
        views, of = bags.view_vectors()
        np.testing.assert_allclose(views, [one.mean(axis=0, dtype=np.float64) for one in versions[1:]])
        assert of.tolist() == [0, 0]


def test_a_pooled_bag_is_the_files_own_vector_and_its_views(tmp_path):
    path = write_image_features(tmp_path / "a.h5", views=2)
    bags = BagDataset([[str(path)]], np.zeros(1, int), BagAugmentation(), 0, False, True, pooled=True, with_views=True)
    with open_bag(path) as bag:
        np.testing.assert_array_equal(bags[0]["features"], bag.pooled)
        np.testing.assert_allclose(bags.view_vectors()[0], bag.read_pooled_views())
    assert "coords" not in bags[0]


def test_the_scale_of_features_is_that_of_all_tokens(tmp_path):
    paths = [[str(write_image_features(tmp_path / f"{i}.h5", seed=i))] for i in range(3)]
    bags = BagDataset(paths, np.zeros(3, int), BagAugmentation(), 0, False, False)
    tokens = np.concatenate([bags.read(i)[0] for i in range(3)]).astype(np.float64)
    np.testing.assert_allclose(bags.scale().mean_F, tokens.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(bags.scale().sd_F, tokens.std(axis=0), atol=1e-9)
