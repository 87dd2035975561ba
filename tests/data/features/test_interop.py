"""Feature files and coordinates of TRIDENT, CLAM and STAMP as bags, and back into TRIDENT's layout."""

import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from medsoft.cli.slides.export import export_bags
from medsoft.data.features.open import open_bag, read_coordinates
from medsoft.data.features.other_tools.trident import export_trident
from medsoft.errors import BagError, InputError
from tests.builders.feature_files import numbers, write

CORNERS = np.array([[0, 0], [256, 0], [256, 512]])
FEATURES = np.arange(12, dtype=np.float32).reshape(3, 4)
TRIDENT = {
    "patch_size": 256,
    "patch_size_level0": 512.0,
    "level0_magnification": 40,
    "target_magnification": 20.0,
    "overlap": 0,
}
STAMP = {"extractor": "uni", "unit": "um", "tile_size_um": 256.0, "tile_size_px": 224, "feat_type": "tile"}


def trident(path: Path, features=FEATURES, coords=CORNERS, encoder="uni_v1", **attributes) -> Path:
    """As TRIDENT writes it: one row a chunk."""
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features, chunks=(1, *np.shape(features)[1:]))
        file["features"].attrs["encoder"] = encoder
        file["coords"] = coords
        file["coords"].attrs.update(TRIDENT | attributes)
    return path


def clam(path: Path, features=FEATURES, coords=CORNERS) -> Path:
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = features, coords
    return path


def stamp(path: Path, features=FEATURES, coords=CORNERS / 2, **attributes) -> Path:
    with h5py.File(path, "w") as file:
        file["feats"], file["coords"] = features.astype(np.float16), coords.astype(np.float32)
        file.attrs.update({name: value for name, value in (STAMP | attributes).items() if value is not None})
    return path


# The files that the tools wrote for the CMU slide


def test_features_of_trident(shared_data):
    path = shared_data / "interop/trident/cmu-1-small-region_features_toy.h5"
    with open_bag(path) as bag:
        assert (bag.origin, bag.num_tiles, bag.num_features, bag.dtype) == ("trident", 58, 3, "float32")
        assert bag.coords_N2_px0[:3].tolist() == [[768, 0], [1024, 0], [1280, 0]]
        assert bag.tile_px0 == 256
        # 20x is no resolution: this slide has 0.499 µm, others of 20x have 0.46 or 0.5.
        assert (bag.mpp, bag.tile_um, bag.coords_N2_um) == (None, None, None)
        assert bag.identity.encoder == "toy"
        assert bag.good_N.all()
        assert bag.facts is None
        features = bag.read()
    with h5py.File(path) as file:
        np.testing.assert_array_equal(features, file["features"][:])


@pytest.mark.parametrize(
    ("name", "tiles", "first", "tile_um"),
    [
        ("cmu-1-small-region_128um_256px_toy.h5", 58, [384.729, 0], 128),
        ("cmu-1-small-region_256um_224px_toy.h5", 18, [256.486, 0], 256),
    ],
)
def test_features_of_stamp(shared_data, name, tiles, first, tile_um):
    with open_bag(shared_data / "interop/stamp" / name) as bag:
        assert (bag.origin, bag.num_tiles, bag.num_features, bag.dtype) == ("stamp", tiles, 3, "float16")
        np.testing.assert_allclose(bag.coords_N2_um[0], first, atol=1e-3)
        assert bag.coords_N2_um.dtype == np.float32
        assert bag.tile_um == tile_um
        assert (bag.coords_N2_px0, bag.tile_px0, bag.mpp) == (None, None, None)
        assert bag.identity.encoder.startswith("toy-")
        assert bag.read().dtype == np.float32


@pytest.mark.parametrize(
    ("name", "tiles", "tile_px0"),
    [
        ("clam/cmu-1-small-region.h5", 50, 256),
        ("trident/cmu-1-small-region_patches_20x_256.h5", 58, 256),
        ("trident/cmu-1-small-region_patches_10x_256.h5", 20, 512),
        ("trident/cmu-1-small-region_patches_20x_256_ov64.h5", 102, 256),
        ("trident/cmu-1-small-region_features_toy.h5", 58, 256),
    ],
)
def test_coordinates_in_level_0_pixels(shared_data, name, tiles, tile_px0):
    path = shared_data / "interop" / name
    coordinates = read_coordinates(path)
    assert coordinates.coords_N2_px0.shape == (tiles, 2)
    assert coordinates.coords_N2_px0.dtype == np.int64
    assert coordinates.tile_px0 == tile_px0
    assert coordinates.coords_N2_um is None
    inside = (coordinates.coords_N2_px0 >= 0) & (coordinates.coords_N2_px0 < [2220, 2967])
    assert inside.all()
    if "features" not in name:
        with pytest.raises(BagError, match="coordinates of tiles but no features"):
            open_bag(path)


def test_coordinates_of_the_tools_fall_on_the_same_tissue(shared_data):
    """STAMP's µm and TRIDENT's level-0 pixels, of the same 256 px tiles on the slide of 0.499 µm per pixel."""
    px0 = read_coordinates(shared_data / "interop/trident/cmu-1-small-region_patches_20x_256.h5").coords_N2_px0
    um = read_coordinates(shared_data / "interop/stamp/cmu-1-small-region_128um_256px_toy.h5").coords_N2_um
    trident_cells = {tuple(cell) for cell in np.round(px0 / 256).astype(int)}
    stamp_cells = {tuple(cell) for cell in np.round(um / 128).astype(int)}
    assert len(trident_cells & stamp_cells) > 40


# What the files of others may look like


def test_files_of_clam_give_no_size_of_tiles_and_no_encoder(tmp_path):
    with open_bag(clam(tmp_path / "a.h5", coords=CORNERS.astype(np.int32))) as bag:
        assert (bag.origin, bag.tile_px0, bag.tile_um, bag.identity.encoder) == ("clam", None, None, "")
        assert bag.coords_N2_px0.tolist() == CORNERS.tolist()
        np.testing.assert_array_equal(bag.read(1), FEATURES[1:])


def test_published_sets_with_an_axis_for_the_batch(tmp_path):
    with open_bag(clam(tmp_path / "a.h5", FEATURES[None], CORNERS[None])) as bag:
        assert bag.coords_N2_px0.tolist() == CORNERS.tolist()
        np.testing.assert_array_equal(bag.read(1, 3), FEATURES[1:])


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_any_floating_point_type(tmp_path, dtype):
    with open_bag(clam(tmp_path / "a.h5", FEATURES.astype(dtype))) as bag:
        np.testing.assert_array_equal(bag.read(), FEATURES)
        assert bag.read().dtype == np.float32


def test_stamp_says_whether_its_corners_are_in_um(tmp_path):
    for attributes in [{}, {"tile_size_um": None, "tile_size": 256.0}, {"unit": None}]:
        with open_bag(stamp(tmp_path / "a.h5", **attributes)) as bag:
            np.testing.assert_array_equal(bag.coords_N2_um, CORNERS / 2)
            assert bag.tile_um == 256
    with open_bag(stamp(tmp_path / "a.h5", unit=None, tile_size_um=None, tile_size=224)) as bag:  # STAMP 1
        assert (bag.coords_N2_um, bag.tile_um) == (None, None)
        assert bag.num_tiles == 3


BIG = FEATURES.astype(np.float64)
BIG[2, 1] = 1e300
NAN = np.where(FEATURES == 5, np.nan, FEATURES)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: clam(p, NAN), "NaN or infinite for 1 of the tiles 0 to 2, the first is 1"),
        (lambda p: clam(p, BIG), "NaN or infinite for 1 of the tiles 0 to 2, the first is 2"),
        (lambda p: trident(p, np.where(FEATURES == 0, np.inf, FEATURES)), "NaN or infinite .* the first is 0"),
        (lambda p: stamp(p, np.full((3, 4), np.inf)), "NaN or infinite for 3"),
        (lambda p: clam(p, FEATURES[:2]), "2 rows of features, but 3 of coordinates"),
        (lambda p: clam(p, FEATURES[:0], CORNERS[:0]), "'features' is empty: 0 tiles of 4 features"),
        (lambda p: clam(p, FEATURES[0]), "one vector of length 4, of a slide perhaps"),
        (lambda p: clam(p, FEATURES.reshape(3, 2, 2)), r"has the shape \(3, 2, 2\), not \(tiles, features\)"),
        (lambda p: clam(p, FEATURES.astype(int)), "holds int64: features are floating-point numbers"),
        (lambda p: clam(p, FEATURES, CORNERS[:, :1]), r"'coords' has the shape \(3, 1\), not \(tiles, 2\)"),
        (lambda p: clam(p, FEATURES, CORNERS + 0.5), "'coords' are not whole numbers"),
        (lambda p: clam(p, FEATURES, CORNERS * np.nan), "'coords' are not finite"),
        (lambda p: stamp(p, feat_type="slide"), "holds features of a slide, not of tiles"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, make, reason):
    path = make(tmp_path / "a.h5")
    with pytest.raises(BagError, match=reason) as raised, open_bag(path) as bag:
        bag.read()
    assert "\n" not in raised.value.reason


def test_missing_datasets(tmp_path):
    path = trident(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        del file["features"]
    with pytest.raises(BagError, match="coordinates of tiles but no features"):
        open_bag(path)
    with h5py.File(path, "w"):
        pass
    with pytest.raises(BagError, match="no dataset 'features': it holds nothing"):
        open_bag(path)


def test_what_lies_in_other_files_or_was_never_written_is_no_data(tmp_path):
    """HDF5 would show zeros."""
    path = tmp_path / "a.h5"
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "gone.h5", "features", (3, 4))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("features", layout)
        file["coords"] = CORNERS
    with pytest.raises(BagError, match="'features' refers to other files"):
        open_bag(path)
    for chunks in (None, (2, 4)):
        with h5py.File(path, "w") as file:
            file.create_dataset("features", (3, 4), "f4", chunks=chunks)
            file["coords"] = CORNERS
        with pytest.raises(BagError, match="not all rows of 'features' were written"):
            open_bag(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("features", (10**12, 4), "f4", chunks=(1, 4))
        file["coords"] = CORNERS
    with pytest.raises(BagError, match=r"not all rows|claims 1,000,000,000,000 tiles"):
        open_bag(path)


# Tensors of CLAM


def test_a_tensor_of_clam(tmp_path):
    path = tmp_path / "a b.pt"
    for tensor in [torch.tensor(FEATURES), torch.tensor(FEATURES).half(), torch.tensor(FEATURES).bfloat16()]:
        torch.save(tensor, path)
        with open_bag(path) as bag:
            assert (bag.origin, bag.num_tiles, bag.num_features) == ("clam", 3, 4)
            assert (bag.coords_N2_px0, bag.coords_N2_um) == (None, None)
            np.testing.assert_array_equal(bag.read(1), FEATURES[1:])
            ((features, coords),) = bag.chunks()
            np.testing.assert_array_equal(features, FEATURES)
            assert coords is None
    torch.save(torch.nn.Parameter(torch.tensor(FEATURES)), path, _use_new_zipfile_serialization=False)  # before 1.6
    with open_bag(path) as bag:
        np.testing.assert_array_equal(bag.read(), FEATURES)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
def test_a_hostile_pickle_does_not_run(tmp_path, new):
    path, trap = tmp_path / "a.pt", tmp_path / "it ran"
    torch.save({"features": torch.tensor(FEATURES), "x": Hostile(trap)}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(BagError, match="holds Python objects, which are not loaded") as raised:
        open_bag(path)
    assert "\n" not in raised.value.reason
    path.write_bytes(pickle.dumps(Hostile(trap)))
    with pytest.raises(BagError):
        open_bag(path)
    assert not trap.exists()


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"features": torch.zeros(3, 4)}, "holds a dict: a bag is a dense tensor"),
        (torch.zeros(3, 4).to_sparse(), "a bag is a dense tensor"),
        (torch.zeros(4), "one vector of length 4"),
        (torch.zeros(3, 4, dtype=torch.int64), "holds int64"),
        (torch.zeros(0, 4), "is empty"),
        (torch.tensor(NAN), "NaN or infinite for 1"),
        (FEATURES, "holds Python objects"),  # an array, as TRIDENT saves it in .pt
    ],
)
def test_other_tensors_are_refused(tmp_path, content, reason):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(BagError, match=reason) as raised, open_bag(tmp_path / "a.pt") as bag:
        bag.read()
    assert "\n" not in raised.value.reason


def test_tensors_cut_short(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(torch.zeros(1000, 4), path)
    data = path.read_bytes()
    for content in [b"", b"text", data[:100], data[:-1], data[:-5000]]:
        path.write_bytes(content)
        with pytest.raises(BagError, match=r"empty|damaged|Python objects") as raised, open_bag(path) as bag:
            bag.read()
        assert "\n" not in raised.value.reason
    with pytest.raises(BagError, match="No such file"):
        open_bag(tmp_path / "none.pt")


# Mixtures


def identity(path: Path):
    with open_bag(path) as bag:
        return bag.identity


def test_files_of_one_tool_and_encoder_go_together(tmp_path):
    """Whether the scanner was one of 20x or 40x: the tiles show the same."""
    one = identity(trident(tmp_path / "a.h5"))
    assert one == identity(trident(tmp_path / "b.h5", level0_magnification=20, patch_size_level0=256.0))
    assert one.tiles == '{"overlap": 0, "patch_size": 256, "target_magnification": 20}'


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (lambda p: trident(p, encoder="virchow2"), "encoder 'virchow2', not 'uni_v1'"),
        (lambda p: trident(p, encoder="None"), "encoder not known, not 'uni_v1'"),
        (lambda p: trident(p, target_magnification=10.0), "tiles.target_magnification 10, not 20"),
        (lambda p: trident(p, patch_size=512), "tiles.patch_size 512, not 256"),
        (lambda p: clam(p), "origin 'clam', not 'trident'"),
        (lambda p: stamp(p), "origin 'stamp', not 'trident'"),
        (lambda p: write(p, *numbers()), "origin 'medsoft', not 'trident'"),
    ],
)
def test_mixtures_are_seen(tmp_path, other, difference):
    usual = identity(trident(tmp_path / "a.h5"))
    assert difference in usual.differences(identity(other(tmp_path / "b.h5")))


# Into TRIDENT's layout


def test_what_is_exported_reads_back_the_same(tmp_path):
    features, coords = numbers()
    source = write(tmp_path / "slide.h5", features, coords, bad=(3, 600))
    target = tmp_path / "trident" / "slide.h5"
    with open_bag(source) as own:
        assert export_trident(own, target) == 2
        with open_bag(target) as bag:
            assert (bag.origin, bag.num_tiles, bag.dtype) == ("trident", 698, "float16")
            np.testing.assert_array_equal(bag.read(), features[own.good_N])
            np.testing.assert_array_equal(bag.coords_N2_px0, coords[own.good_N])
            np.testing.assert_array_equal(bag.coords_N2_um, own.coords_N2_um[own.good_N])
            assert (bag.mpp, bag.identity.encoder) == (own.mpp, "resnet18")
            assert (bag.tile_px0, bag.tile_um) == (pytest.approx(own.tile_px0), pytest.approx(own.tile_um))


def test_the_export_has_all_that_trident_writes(tmp_path, shared_data):
    """Every dataset and attribute of a file of TRIDENT's own, of the same kind."""
    target = tmp_path / "out.h5"
    with open_bag(write(tmp_path / "own.h5", *numbers())) as own:
        export_trident(own, target)
    theirs = shared_data / "interop/trident/cmu-1-small-region_features_toy.h5"
    with h5py.File(theirs) as expected, h5py.File(target) as written:
        assert set(written) == set(expected)
        for name in expected:
            assert written[name].ndim == expected[name].ndim
            assert written[name].dtype.kind == expected[name].dtype.kind
            assert written[name].maxshape[0] is None
            assert set(written[name].attrs) >= set(expected[name].attrs)
            for attribute, value in expected[name].attrs.items():
                assert isinstance(written[name].attrs[attribute], str) == isinstance(value, str), attribute
        attributes = written["coords"].attrs
        # The size of a level-0 tile as TRIDENT computes it from the magnifications.
        size = attributes["patch_size"] * attributes["level0_magnification"] / attributes["target_magnification"]
        assert size == pytest.approx(attributes["patch_size_level0"])
        assert (attributes["level0_width"], attributes["level0_height"]) == (2220, 2967)


def test_files_of_other_tools_are_not_exported(tmp_path):
    with (
        open_bag(clam(tmp_path / "a.h5")) as bag,
        pytest.raises(BagError, match="was written by clam: only medsoft's own files"),
    ):
        export_trident(bag, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_the_verb_exports_folders_and_lists_what_failed(tmp_path, capsys):
    for name in ("a", "b ä"):
        write(tmp_path / "features" / f"{name}.h5", *numbers(), bad=(5,))
    (tmp_path / "features" / ".c.partial-host-1.h5").write_bytes(b"")
    clam(tmp_path / "other.h5")
    cut = tmp_path / "cut.h5"
    cut.write_bytes((tmp_path / "features" / "a.h5").read_bytes()[:-100])
    out = tmp_path / "out"
    assert export_bags([str(tmp_path / "features"), str(tmp_path / "other.h5"), str(cut)], str(out)) == 3
    assert "Left out: 2 tiles" in capsys.readouterr().out
    errors = pd.read_csv(out / "errors.csv")
    assert errors["path"].tolist() == [str(tmp_path / "other.h5"), str(cut)]
    assert errors["stage"].tolist() == ["export"] * 2
    assert "written by clam" in errors["reason"][0]
    assert "cut short" in errors["reason"][1]
    assert sorted(path.name for path in out.iterdir()) == ["a.h5", "b ä.h5", "errors.csv"]
    assert export_bags([str(tmp_path / "features")], str(out), overwrite=True) == 0


def test_a_layout_that_there_is_not_is_refused(tmp_path, medsoft):
    first = write(tmp_path / "x" / "a.h5", *numbers())
    code, _, err = medsoft("slides", "export", first, "--format=zarr", "--out", tmp_path / "out")
    assert (code, "trident" in err, (tmp_path / "out").exists()) == (2, True, False)


def test_the_verb_refuses_before_it_starts(tmp_path):
    first = write(tmp_path / "x" / "a.h5", *numbers())
    second = write(tmp_path / "y" / "a.h5", *numbers())
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for words, reason in [
        ([first, second], "would both become"),
        ([tmp_path / "none.h5"], "no such file or folder"),
        ([tmp_path / "empty"], "no feature files"),
    ]:
        with pytest.raises(InputError, match=reason):
            export_bags([*map(str, words)], str(out))
    with pytest.raises(InputError, match="would replace the file it is made from"):
        export_bags([str(first)], str(first.parent), overwrite=True)
    assert not out.exists()
    assert export_bags([str(first)], str(out)) == 0
    with pytest.raises(InputError, match="already exists"):
        export_bags([str(first)], str(out))


@pytest.mark.parametrize("shape", [(6,), (1, 6)], ids=["without the axis of slides", "with it"])
def test_a_slide_level_vector_of_trident_is_a_bag_of_one(tmp_path, shape):
    vector = np.arange(6, dtype=np.float32)
    path = tmp_path / "s1.h5"
    with h5py.File(path, "w") as file:
        features = file.create_dataset("features", data=vector.reshape(shape))
        features.attrs.update({"name": "s1", "savetodir": "/data/20x_512px_0px_overlap/slide_features_titan"})
        coords = file.create_dataset("coords", data=np.arange(8).reshape(4, 2))
        coords.attrs.update({"patch_size": 512, "patch_size_level0": 1024, "target_magnification": 20, "overlap": 0})
        coords.attrs["name"] = "s1"
    with open_bag(path) as bag:
        assert (bag.num_tiles, bag.num_features) == (1, 6)
        np.testing.assert_array_equal(bag.read(), vector[None])
        assert bag.coords is None
        assert bag.slide == "s1"
        assert bag.identity.encoder == "titan"
        assert "one a slide" in bag.identity.tiles
