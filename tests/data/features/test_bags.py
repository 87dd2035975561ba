"""Slide tables and their feature files: what is found, what is refused, what a batch holds."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medsoft.data.datasets.bag_dataset import BagAugmentation, BagDataset, collate_bags
from medsoft.data.datasets.bag_index import BagFiles
from medsoft.data.datasets.bag_module import BagDataModule
from medsoft.data.datasets.sampling import BucketBatchSampler, SampleKey
from medsoft.data.features.open import open_bag
from medsoft.data.tables.sample_table import TableError
from medsoft.errors import InputError, RunError
from tests.builders.bags import FACTS, SETTINGS, write_bag, write_slides, write_table


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    return write_slides(tmp_path_factory.mktemp("slides"))


@pytest.fixture
def own(tmp_path, slides) -> Path:
    """A set of one's own, to spoil."""
    shutil.copytree(slides.parent, tmp_path / "own")
    return tmp_path / "own" / "slides.csv"


def data_of(table: Path, **options) -> BagDataModule:
    options = {"features": str(table.parent / "features"), "positive": "ill", "patient": "patient"} | options
    return BagDataModule(str(table), **options)


def file_of(table: Path, number: int) -> Path:
    return table.parent / "features" / f"slide {number:02d} ä.h5"


def batches(data: BagDataModule, split: str = "train") -> list[dict[str, torch.Tensor]]:
    data.load([split])
    return list(data.train_dataloader() if split == "train" else data.split_dataloader(split))


# ---- what is found


def test_bags_are_the_readable_tiles_of_the_slides_feature_files(slides):
    data = data_of(slides)
    assert sorted(data.samples.splits) == ["test", "train", "val"]
    assert set(data.samples.frame["id"]) == {f"slide {i:02d} ä" for i in range(24)}
    for split in data.samples.splits:
        data.load([split])
        part = data.part(split)
        for row, batch in zip(part.frame.itertuples(), data.split_dataloader(split), strict=True):
            with open_bag(row.path) as bag:
                assert torch.equal(batch["features"][0], torch.from_numpy(bag.read()[bag.good_N]))
                assert torch.equal(batch["coords"][0], torch.from_numpy(bag.coords_N2_um[bag.good_N]))
            assert "mask" not in batch
            assert data.task.classes[int(batch["target"])] == row.target


def test_the_model_is_told_what_the_features_are(slides):
    spec = data_of(slides).spec
    assert (spec.num_features, spec.has_coordinates) == (6, True)
    assert spec.slides["encoder"] == "resnet18"
    assert spec.slides["encoder_sha256"] == "ab" * 32
    assert spec.slides["tile_settings"] == SETTINGS
    assert (spec.slides["mpp"], spec.slides["tile_px"], spec.slides["tile_um"]) == (0.5, 224, 112.0)
    assert spec.identity["origin"] == "medsoft"


@pytest.mark.parametrize(
    ("value", "file"),
    [
        ("a.svs", "a.h5"),
        ("deep/down/a.svs", "a.h5"),
        ("a", "a.h5"),
        ("a.svs", "a.svs.h5"),
        ("TCGA-01.5d2f-77", "TCGA-01.5d2f-77.h5"),
        ("a.h5", "a.h5"),
        ("x/a.svs", "x-a.h5"),
        ("x/a.svs", "x-a.svs.h5"),
        ("/data/x/a.svs", "x-a.h5"),
        ("a.svs", "a.pt"),
        ("Größe 1.svs", "Größe 1.h5"),
    ],
)
def test_a_slide_finds_its_feature_file_by_name(tmp_path, value, file):
    (tmp_path / file).touch()
    assert BagFiles(tmp_path, True, True, False).locate_all([value], [""]) == [str(tmp_path / file)]


def test_slides_of_one_name_in_two_folders_find_each_their_own(tmp_path):
    for name in ("x-a.h5", "y-a.h5", "a.h5"):
        (tmp_path / name).touch()
    files = BagFiles(tmp_path, True, True, False)
    assert [Path(file).name for file in files.locate_all(["x/a.svs", "y/a.svs"], ["", ""])] == ["x-a.h5", "y-a.h5"]
    assert [Path(file).name for file in files.locate_all(["z/b.svs"], ["a"])] == ["a.h5"]


def test_paths_may_name_feature_files_themselves(slides):
    frame = pd.read_csv(slides)
    frame["path"] = "features/" + frame["path"].map(lambda path: Path(path).stem) + ".h5"
    table = slides.parent / "files.csv"
    frame.to_csv(table, index=False)
    data = data_of(table, features=None)
    assert len(data.samples) == 24
    assert data.spec.num_features == 6


def test_a_clinical_table_is_joined_by_the_patient(slides, tmp_path):
    frame = pd.read_csv(slides).rename(columns={"patient": "PATIENT", "path": "FILENAME"})
    clinical = tmp_path / "clinical.csv"
    frame[["PATIENT", "label"]].drop_duplicates().to_csv(clinical, index=False)
    table = tmp_path / "slides.csv"
    frame[["PATIENT", "FILENAME"]].to_csv(table, index=False)
    options = {"features": str(slides.parent / "features"), "patient": "PATIENT", "path": "FILENAME"}
    joined = data_of(table, clinical=str(clinical), **options)
    alone = data_of(slides)
    assert joined.samples.frame["target"].tolist() == alone.samples.frame["target"].tolist()
    clinical.write_text(clinical.read_text().replace("P05,", "P99,"))
    with pytest.raises(TableError, match="missing label"):
        data_of(table, clinical=str(clinical), **options)
    clinical.write_text("PATIENT,label\nP01,ill\nP01,healthy\n")
    with pytest.raises(
        InputError, match=r"one row per patient is needed; rows with a patient that was there before: \d+"
    ):
        data_of(table, clinical=str(clinical), **options)


@pytest.mark.parametrize(
    ("file", "origin"),
    [
        ("trident/cmu-1-small-region_features_toy.h5", "trident"),
        ("stamp/cmu-1-small-region_256um_224px_toy.h5", "stamp"),
    ],
)
def test_feature_files_of_other_tools_are_bags(shared_data, tmp_path, file, origin):
    table = write_table(tmp_path / "t.csv", [{"slide_id": shared_data / "interop" / file}])
    data = BagDataModule(str(table), path="slide_id", task="binary", classes=["healthy", "ill"], stage="predict")
    data.load([""])
    (batch,) = data.split_dataloader("")
    with open_bag(shared_data / "interop" / file) as bag:
        assert torch.equal(batch["features"][0], torch.from_numpy(bag.read()))
    assert data.spec.slides is None
    assert data.spec.identity["origin"] == origin


# ---- what is refused


def test_all_problems_of_the_files_are_told_at_once(own):
    file_of(own, 1).unlink()
    whole = file_of(own, 2).read_bytes()
    file_of(own, 2).write_bytes(whole[: len(whole) // 2])
    with h5py.File(file_of(own, 3), "r+") as file:
        file["features"][1, 2] = np.nan
    write_bag(file_of(own, 4), np.ones((4, 6)), replace(FACTS, encoder_sha256="cd" * 32))
    shutil.copy(file_of(own, 6), file_of(own, 8))
    write_bag(file_of(own, 9), np.ones((3, 6)), unreadable=(0, 1))
    with h5py.File(file_of(own, 9), "r+") as file:
        file["status"][:] = 1
    with pytest.raises(TableError) as caught:
        data_of(own)
    told = str(caught.value)
    kinds = {problem.kind: problem.rows for problem in caught.value.problems if problem.kind != "different features"}
    assert kinds["missing features"] == (2,)
    assert kinds["duplicate"] == (9,)
    rows = [problem.rows[0] for problem in caught.value.problems if problem.kind == "unusable features"]
    assert rows == [3, 4, 10]
    assert "encode these slides" in told
    assert "slide 0" not in told  # rows are named: a file's name may be a patient's
    different = [problem.rows for problem in caught.value.problems if problem.kind == "different features"]
    assert sorted(map(len, different)) == [1, 19]
    assert (5,) in different
    assert "cd" * 32 in told


def test_other_tile_settings_are_other_features(own):
    settings = SETTINGS | {"mpp": 1.0}
    write_bag(file_of(own, 0), np.ones((4, 6)), replace(FACTS, tile_settings=settings))
    with pytest.raises(TableError, match="different features"):
        data_of(own)


def test_other_widths_are_other_features(own):
    write_bag(file_of(own, 0), np.ones((4, 5)))
    with pytest.raises(TableError, match="5 features"):
        data_of(own)


def test_skipping_leaves_bad_slides_out_and_lists_them(own):
    file_of(own, 1).unlink()
    file_of(own, 2).write_bytes(b"no feature file")
    data = data_of(own, on_error="skip")
    assert len(data.samples) == 22
    assert [Path(path).name for path in data.errors["path"]] == ["slide 01 ä.h5", "slide 02 ä.h5"]
    assert data.errors["reason"].str.startswith(("missing features", "unusable features")).all()


def test_the_same_slide_under_two_labels_stops_the_work_even_when_skipping(own):
    shutil.copy(file_of(own, 0), file_of(own, 1))
    with pytest.raises(TableError, match="the same slide under two labels"):
        data_of(own, on_error="skip")


def test_contents_are_read_before_work_starts_unless_told_not_to(own):
    with h5py.File(file_of(own, 3), "r+") as file:
        file["features"][1, 2] = np.nan
    data = data_of(own, check_files=False, cache="none")
    data.load(["train", "val", "test"])
    split = next(split for split in data.loaded_splits if "slide 03 ä" in set(data.part(split).frame["id"]))
    with pytest.raises(RunError, match="a feature file can no longer be read: it "):
        list(data.split_dataloader(split))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "nowhere"}, "no such folder of feature files"),
        ({"max_tiles": 0}, "data.max_tiles 0 must be 1 or more"),
        ({"tile_fraction": 0.0}, "leaves nothing of a bag"),
        ({"feature_dropout": 1.0}, "leaves nothing of a tile"),
        ({"group": "patient", "patient": None}, "name the column with the patient"),
        ({"clinical": "x.csv", "patient": None}, "name the column that joins"),
    ],
)
def test_options_that_make_no_sense_are_refused(slides, options, message):
    with pytest.raises(InputError, match=message):
        data_of(slides, **options)


# ---- several slides a patient


def test_a_patient_can_be_one_bag_of_all_slides(tmp_path):
    table = write_slides(tmp_path, n=24, per_patient=2)
    apart, together = data_of(table), data_of(table, group="patient")
    assert (len(apart.samples), len(together.samples)) == (24, 12)
    assert set(together.samples.frame["id"]) == {f"P{i:02d}" for i in range(12)}
    assert not together.spec.has_coordinates  # the places of two slides have no common frame
    together.load(["train", "val", "test"])
    for split in together.loaded_splits:
        for row, batch in zip(together.part(split).frame.itertuples(), together.split_dataloader(split), strict=True):
            numbers = [i for i in range(24) if f"P{i // 2:02d}" == row.id]
            expected = []
            for number in numbers:
                with open_bag(file_of(table, number)) as bag:
                    expected.append(bag.read()[bag.good_N])
            assert torch.equal(batch["features"][0], torch.from_numpy(np.concatenate(expected)))
            assert "coords" not in batch


def test_one_bag_a_patient_needs_one_label_and_a_patient(tmp_path):
    table = write_slides(tmp_path, n=24, per_patient=2)
    frame = pd.read_csv(table)
    frame.loc[3, "patient"] = ""
    frame.loc[8, "label"] = "ill"
    frame.to_csv(table, index=False)
    with pytest.raises(TableError) as caught:
        data_of(table, group="patient")
    problems = {problem.kind: problem.rows for problem in caught.value.problems}
    assert problems == {"missing patient": (4,), "contradiction": (9, 10)}


# ---- what a batch holds


def test_bags_of_a_batch_are_padded_at_their_end(slides):
    data = data_of(slides, batch_size=4, cache="none")
    seen = []
    for batch in batches(data):
        lengths = batch["mask"].sum(dim=1)
        assert batch["features"].shape[:2] == batch["mask"].shape == batch["coords"].shape[:2]
        assert batch["features"].shape[1] == lengths.max()
        for features, mask, index in zip(batch["features"], batch["mask"], batch["index"], strict=True):
            whole = data._parts["train"][1][int(index)]["features"]
            assert torch.equal(features[mask], whole)
            assert not features[~mask].any()
        seen += batch["index"].tolist()
    assert sorted(seen) == list(range(len(data.part("train"))))


@given(
    st.lists(st.integers(1, 100_000), min_size=1, max_size=60),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_every_bag_comes_once_an_epoch_beside_bags_of_similar_length(lengths, batch_size, epoch):
    lengths = np.array(lengths)
    sampler = BucketBatchSampler(lengths, batch_size, seed=1)
    sampler.set_epoch(epoch)
    groups = [[key.sample for key in batch] for batch in sampler]
    assert sorted(itertools.chain(*groups)) == list(range(len(lengths)))
    assert len(groups) == len(sampler)
    assert max(map(len, groups)) <= batch_size
    # Sorted by length times up to 2: of two batches, no bag of the one is more than twice as long as any of the other.
    ends = [(min(lengths[group]), max(lengths[group])) for group in groups]
    for (low, high), (other_low, other_high) in itertools.combinations(ends, 2):
        assert high <= 2 * other_low or other_high <= 2 * low


def test_buckets_change_from_epoch_to_epoch_and_pad_little():
    lengths = np.random.default_rng(0).lognormal(8, 1, 400).astype(int) + 1
    sampler = BucketBatchSampler(lengths, 8, seed=0)
    first = [[key.sample for key in batch] for batch in sampler]
    sampler.set_epoch(1)
    second = [[key.sample for key in batch] for batch in sampler]
    assert {frozenset(group) for group in first} != {frozenset(group) for group in second}

    def padded(groups):
        return sum(len(group) * lengths[group].max() for group in groups) / lengths.sum()

    assert padded(first) < 1.6 < padded(np.array_split(np.random.default_rng(1).permutation(400), 50))


def test_a_resumed_epoch_of_buckets_goes_on_where_it_was():
    lengths = np.arange(1, 30)
    whole = list(BucketBatchSampler(lengths, 4, seed=0))
    assert list(BucketBatchSampler(lengths, 4, seed=0, start=(0, 3))) == whole[3:]


# ---- augmentation


@given(
    n=st.integers(1, 300),
    max_tiles=st.none() | st.integers(1, 400),
    fraction=st.floats(0.01, 1),
    dropout=st.floats(0, 0.9),
    seed=st.integers(0, 5),
)
def test_augmentation_keeps_rows_in_order_and_zeroes_whole_features(n, max_tiles, fraction, dropout, seed):
    features = np.arange(1, n + 1, dtype=np.float32)[:, None] * np.ones((1, 16), np.float32)
    coords = np.repeat(np.arange(n, dtype=np.float32)[:, None], 2, axis=1)
    before = features.copy()
    change = BagAugmentation(max_tiles, fraction, dropout)
    changed, coordinates = change((features, coords), np.random.default_rng(seed))
    assert np.array_equal(features, before)
    assert len(changed) == len(coordinates) == change.tiles_kept(n)
    assert 1 <= len(changed) <= min(n, max_tiles or n)
    assert (np.diff(coordinates[:, 0]) > 0).all()
    dropped = (changed == 0).all(axis=0)
    scale = np.float32(1 / (1 - dropout))
    expected = (coordinates[:, :1] + 1) * scale * ~dropped
    assert np.allclose(changed, np.broadcast_to(expected, changed.shape), rtol=1e-6)
    assert dropout > 0 or not dropped.any()
    assert changed.dtype == np.float32


def test_dropped_features_are_dropped_as_often_as_asked():
    features = np.ones((1, 20_000), np.float32)
    changed, _ = BagAugmentation(feature_dropout=0.3)((features, None), np.random.default_rng(0))
    assert (changed == 0).mean() == pytest.approx(0.3, abs=0.02)
    assert changed.mean() == pytest.approx(1, abs=0.03)


def test_bags_are_changed_in_training_only_and_as_a_function_of_the_epoch(slides):
    data = data_of(slides, max_tiles=2, feature_dropout=0.5)
    data.load(["train", "val"])
    dataset = data._parts["train"][1]
    whole, first, second = dataset[0], dataset[SampleKey(0, 0)], dataset[SampleKey(1, 0)]
    assert len(first["features"]) == len(second["features"]) == 2 < len(whole["features"])
    assert not torch.equal(first["features"], second["features"])
    assert torch.equal(first["features"], dataset[SampleKey(0, 0)]["features"])
    assert all(len(batch["features"][0]) > 2 for batch in data.val_dataloader())


def test_cached_bags_are_those_of_the_files(slides):
    in_memory, lazy = (data_of(slides, cache=cache) for cache in ("memory", "none"))
    for data, cached in ((in_memory, True), (lazy, False)):
        data.load(["val"])
        assert (data._parts["val"][1].cache is not None) is cached
    for a, b in zip(in_memory.val_dataloader(), lazy.val_dataloader(), strict=True):
        assert torch.equal(a["features"], b["features"])


def test_a_single_bag_has_no_mask():
    dataset = BagDataset([["a"]], np.array([1]), BagAugmentation(), 0, True, False)
    dataset.cache = [(np.ones((3, 2), np.float32), None)]
    assert set(collate_bags([dataset[0]])) == {"features", "target", "index"}
