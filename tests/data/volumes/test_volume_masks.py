"""Masks of volumes: on the same voxels whichever way their axes run, or refused; and what is cut out by them."""

import json

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsoft.data.datasets.volume_dataset import VolumeReader
from medsoft.data.datasets.volume_module import VolumeDataModule
from medsoft.data.volumes.mask import read_mask
from medsoft.data.volumes.read import read_volume
from medsoft.data.volumes.rows import VolumeRow
from medsoft.data.volumes.transforms.recipe import VolumeTransforms
from medsoft.errors import InputError, ReadError
from tests.builders.dicom import phantom, write_series
from tests.builders.volumes import TINY_VOLUME, oblique, save, write_volumes

AFFINE = oblique((1.0, 1.5, 2.0))
SHAPE = (24, 20, 16)


@pytest.fixture
def volume(tmp_path):
    """A volume on disk that holds each voxel's own number."""
    array = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    return save(array, AFFINE, tmp_path / "volume.nii.gz")


def mask_of(tmp_path, values=None, affine=AFFINE, shape=SHAPE, name="mask.nii.gz"):
    """A mask of 6 x 4 x 3 voxels with the value 1, or of other values by their places."""
    array = np.zeros(shape, np.float32)
    if values is None:
        array[5:11, 8:12, 2:5] = 1
    for place, value in values or ():
        array[place] = value
    return save(array, affine, tmp_path / name)


def reason(mask, volume, **options):
    with pytest.raises(ReadError) as caught:
        read_mask(str(mask), read_volume(volume), **options)
    assert "\n" not in caught.value.reason
    assert str(mask) not in caught.value.reason
    return caught.value.reason


def prepared(volume, mask, **options):
    recipe = VolumeTransforms(**{"size": 24, "intensity": "none", "crop": "mask"} | options)
    side = options.get("half") and "left"
    return VolumeReader(recipe, (1,), 10**6).prepared(VolumeRow((str(volume),), None, side or "", str(mask)))


class TestReading:
    @settings(max_examples=25, deadline=None)
    @given(st.permutations([0, 1, 2]), st.tuples(*[st.sampled_from([1, -1])] * 3))
    def test_axes_may_run_in_any_direction(self, tmp_path_factory, order, flips):
        tmp_path = tmp_path_factory.mktemp("mask")
        volume = save(np.zeros(SHAPE), AFFINE, tmp_path / "volume.nii.gz")
        inside = np.random.default_rng(0).random(SHAPE) < 0.2
        image = nibabel.Nifti1Image(inside.astype(np.uint8), AFFINE)
        turn = np.array([[to, flip] for to, flip in zip(order, flips, strict=True)])
        nibabel.save(image.as_reoriented(turn), tmp_path / "mask.nii.gz")
        np.testing.assert_array_equal(read_mask(str(tmp_path / "mask.nii.gz"), read_volume(volume)), inside)

    def test_a_mask_of_a_dicom_series_may_be_a_converted_nifti(self, tmp_path):
        write_series(tmp_path / "series", phantom())
        inside = np.zeros((5, 6, 4), np.uint8)
        inside[1:3, 2:5, 1] = 2
        series = read_volume(tmp_path / "series")
        image = nibabel.as_closest_canonical(nibabel.Nifti1Image(inside, series.affine))  # as converters write it
        assert not np.allclose(image.affine, series.affine)
        nibabel.save(image, tmp_path / "mask.nii.gz")
        np.testing.assert_array_equal(read_mask(str(tmp_path / "mask.nii.gz"), series), inside > 0)

    def test_another_shape_is_refused_with_both(self, tmp_path, volume):
        said = reason(mask_of(tmp_path, shape=(24, 20, 15)), volume)
        assert "another grid: 24 x 20 x 15 voxels of 1 x 1.5 x 2 mm from (5, -7, 11)" in said
        assert "where the volume has 24 x 20 x 16 voxels of 1 x 1.5 x 2 mm from (5, -7, 11)" in said

    @pytest.mark.parametrize(
        "affine",
        [
            oblique((1.0, 1.5, 2.1)),
            oblique((1.0, 1.5, 2.0), degrees=22),
            oblique((1.0, 1.5, 2.0), origin=(5.2, -7, 11)),
            np.eye(4),
        ],
    )
    def test_another_place_is_refused_with_both(self, tmp_path, volume, affine):
        assert "another grid" in reason(mask_of(tmp_path, affine=affine), volume)

    def test_rounded_headers_are_the_same_place(self, tmp_path, volume):
        rounding = np.random.default_rng(0).uniform(-1e-4, 1e-4, (4, 4))
        mask = mask_of(tmp_path, affine=AFFINE + rounding * [[1], [1], [1], [0]])
        assert read_mask(str(mask), read_volume(volume)).sum() == 72

    @pytest.mark.parametrize(
        ("values", "options", "said"),
        [
            ([], {}, "has an empty mask: no voxel is above 0"),
            ([((3, 3, 3), 2)], {"values": [1, 4]}, "has an empty mask: no voxel is 1 or 4"),
            ([((3, 3, 3), 0.4)], {}, "other than whole numbers"),
            ([((3, 3, 3), np.nan)], {}, "has a mask that holds NaN"),
        ],
    )
    def test_what_is_no_mask(self, tmp_path, volume, values, options, said):
        assert said in reason(mask_of(tmp_path, values), volume, **options)

    def test_a_mask_that_cannot_be_read(self, tmp_path, volume):
        (tmp_path / "text.nii.gz").write_text("text")
        assert "has a mask that is a damaged NIfTI file" in reason(tmp_path / "text.nii.gz", volume)
        phases = mask_of(tmp_path, shape=(*SHAPE, 2), name="two.nii.gz")
        assert "has a mask that holds 2 volumes" in reason(phases, volume)
        assert "has a mask that cannot be opened" in reason(tmp_path / "gone.nii.gz", volume)


class TestCropping:
    def test_the_box_of_the_mask_is_shown_with_its_margin(self, tmp_path, volume):
        whole = read_volume(volume).array[0]
        axes = "".join(nibabel.aff2axcodes(AFFINE))
        plain = prepared(volume, mask_of(tmp_path), size=(6, 4, 3), orientation=axes)
        np.testing.assert_array_equal(plain.image[0].numpy(), whole[5:11, 8:12, 2:5])
        np.testing.assert_allclose(plain.affine.numpy()[:3, 3], (AFFINE @ [5, 8, 2, 1])[:3], atol=1e-4)
        wide = prepared(volume, mask_of(tmp_path), size=(12, 8, 6), orientation=axes, margin_mm=3)  # 3, 2 and 2 voxels
        np.testing.assert_array_equal(wide.image[0, :, :, :].numpy()[:, :, :6], whole[2:14, 6:14, 0:6])

    def test_only_the_named_values_count(self, tmp_path, volume):
        mask = mask_of(tmp_path, [(np.s_[2:4, 5, 5], 1), (np.s_[10:15, 8, 8], 7)])
        shown = {name: prepared(volume, mask, mask_values=values) for name, values in (("all", None), ("7", [7]))}
        sizes = {name: int((one.image != one.image.min()).sum()) for name, one in shown.items()}
        assert 4 <= sizes["7"] <= 5 < sizes["all"]

    def test_a_half_is_cut_before_the_mask(self, tmp_path, volume):
        """A mask of both breasts gives each its own part."""
        affine = np.eye(4)
        array = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
        volume = save(array, affine, tmp_path / "straight.nii.gz")
        values = [(np.s_[1:4, 2:5, 3], 1), (np.s_[20:22, 9:11, 6:9], 2)]  # left, right
        mask = mask_of(tmp_path, values, affine)
        left = prepared(volume, mask, half=True, size=(3, 3, 1))
        np.testing.assert_array_equal(left.image[0].numpy(), array[1:4, 2:5, 3:4])
        right_alone = mask_of(tmp_path, [(np.s_[20:22, 9, 6], 2)], affine, name="right.nii.gz")
        with pytest.raises(ValueError, match="mask is empty on this side"):
            prepared(volume, right_alone, half=True)


class TestTables:
    def table(self, tmp_path):
        """16 volumes with balls; masks of the balls, in folders of their own."""
        table = write_volumes(tmp_path / "set", 16)
        frame = pd.read_csv(table)
        for number, path in enumerate(frame["path"]):
            image = nibabel.load(tmp_path / "set" / path)
            mask = np.zeros(image.shape)
            radius = 2 if frame["label"][number] == "small" else 5
            mask[9 - radius : 9 + radius + 1, 10 - radius : 10 + radius + 1, 8 - radius : 8 + radius + 1] = 1
            save(mask, image.affine, tmp_path / f"set/masks/case{number:02d}.nii.gz")
        frame["mask"] = [f"masks/case{number:02d}.nii.gz" for number in range(len(frame))]
        frame.to_csv(table, index=False)
        return table, frame

    def test_a_training_on_masks_shows_predicts_and_maps(self, medsoft, tmp_path):
        table, _ = self.table(tmp_path)
        cropped = ["--data.mask=mask", "--transforms.crop=mask", "--transforms.margin_mm=2"]
        words = [f"--data.table={table}", "--data.positive=large", "--data.patient=patient", *TINY_VOLUME, *cropped]
        code, _, err = medsoft("fit", "--config=volume", *words, "--trainer.max_epochs=1", "--out=run")
        assert code == 0, err
        predict = ["predict", "--checkpoint=run", f"--data.table={table}", "--maps=1", "--figures=false"]
        code, _, err = medsoft(*predict, "--out=again")
        assert code == 0, err
        both = [pd.read_csv(f"{name}/predictions.csv").set_index("id")["p_large"] for name in ("run", "again")]
        assert both[0].to_numpy() == pytest.approx(both[1].loc[both[0].index].to_numpy(), abs=1e-6)
        found = nibabel.load(next((tmp_path / "again/maps").glob("*.nii.gz")))
        assert found.shape == (18, 20, 16)  # in the space of the volume, not of the mask's box
        assert np.count_nonzero(found.get_fdata()) < found.get_fdata().size
        code, _, err = medsoft(
            "data", "show", table, "--config=volume", "--data.positive=large", "--transforms.intensity=zscore",
            "--transforms.size=16", *cropped, "--n=2", "--out=sheet.png",
        )  # fmt: skip
        assert code == 0, err

    def test_bad_masks_are_listed_with_their_rows_or_skipped(self, medsoft, tmp_path):
        table, frame = self.table(tmp_path)
        mask_of(tmp_path / "set/masks", [], oblique((1, 1.2, 2)), (18, 20, 16), "case01.nii.gz")
        mask_of(tmp_path / "set/masks", affine=oblique((1, 1.2, 2)), shape=(18, 20, 17), name="case04.nii.gz")
        words = ["fit", "--config=volume", f"--data.table={table}", "--data.positive=large", *TINY_VOLUME]
        words += ["--trainer.max_epochs=1", "--data.mask=mask", "--transforms.crop=mask"]
        code, _, err = medsoft(*words)
        assert code == 2
        assert "unreadable volume (2)" in err
        assert "row 2: has an empty mask" in err
        assert "row 5: has a mask on another grid" in err
        code, _, err = medsoft(*words, "--data.on_error=skip", "--out=run")
        assert code == 3, err
        assert len(pd.read_csv("run/errors.csv")) == 2
        frame.loc[0, "mask"], frame.loc[2, "mask"], frame.loc[3, "mask"] = "", "gone.nii.gz", frame["path"][3]
        frame.to_csv(table, index=False)
        code, _, err = medsoft(*words)
        assert code == 2
        for said in ("row 1: the mask is empty", "row 3: mask: no such file", "row 4: the mask is the volume itself"):
            assert said in err

    def test_two_lesions_of_one_volume_are_two_rows(self, tmp_path):
        _, frame = self.table(tmp_path)
        two = frame.iloc[[0, 0]].assign(mask=frame["mask"][:2].tolist(), label=["small", "large"])
        two.to_csv(tmp_path / "set/two.csv", index=False)
        recipe = VolumeTransforms(size=8, intensity="none", crop="mask")
        data = VolumeDataModule(recipe, str(tmp_path / "set/two.csv"), positive="large", mask="mask", stage="test")
        data.load(["test"])
        first, second = (data.dataset("test")[index]["image"] for index in (0, 1))
        assert not np.array_equal(first, second)

    @pytest.mark.parametrize("cache", ["disk", "none"])
    def test_a_changed_mask_is_not_taken_from_the_cache(self, tmp_path, cache):
        table, _ = self.table(tmp_path)

        def first():
            recipe = VolumeTransforms(size=12, intensity="none", crop="mask")
            options = {"positive": "large", "mask": "mask", "stage": "test", "cache": cache}
            data = VolumeDataModule(recipe, str(table), cache_dir=str(tmp_path / "cache"), **options)
            data.load(["test"])
            return data.dataset("test")[0]["image"]

        before = first()
        assert np.array_equal(first(), before)
        mask_of(tmp_path / "set/masks", affine=oblique((1, 1.2, 2)), shape=(18, 20, 16), name="case00.nii.gz")
        assert not np.array_equal(first(), before)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--transforms.crop=mask"], "crop mask and data.mask go together"),
            (["--data.mask=mask"], "crop mask and data.mask go together"),
            (["--transforms.crop=mask", "--data.mask=masks"], "no column 'masks' (nearest: 'mask')"),
            (["--transforms.mask_values=[1]"], "needs transforms.crop mask"),
            (["--transforms.crop=mask", "--data.mask=mask", "--transforms.mask_values=[0]"], "0 is the background"),
        ],
    )
    def test_options_that_do_not_fit(self, medsoft, tmp_path, options, said):
        table, _ = self.table(tmp_path)
        code, _, err = medsoft("fit", "--config=volume", f"--data.table={table}", "--data.positive=large", *options)
        assert (code, said in err) == (2, True), err


def test_real_masks_of_the_hippocampus_lie_on_their_volumes(shared_data):
    """Decathlon task 4: each organ is cut out whole, and its voxels are those that the table counts."""
    folder = shared_data / "volume/msd_hippocampus"
    frame = pd.read_csv(folder / "labels.csv")
    for name, count, anterior in frame[["file", "volume_mm3", "voxels_anterior"]].head(12).itertuples(index=False):
        volume = read_volume(folder / "images" / name)
        mask = str(folder / "labels" / name)
        inside = read_mask(mask, volume)
        assert inside.sum() * np.prod(volume.spacing_mm) == pytest.approx(count)
        assert read_mask(mask, volume, [1]).sum() == anterior
        shown = prepared(folder / "images" / name, mask, size=48)
        kept = np.count_nonzero(shown.image.numpy() != shown.image.numpy().min())
        assert inside.sum() <= kept < volume.array.size


def test_multilabel_volumes_with_uncertain_labels(medsoft, tmp_path):
    table = write_volumes(tmp_path / "set", 16)
    frame = pd.read_csv(table)
    frame["big"] = (frame["label"] == "large").astype(int).astype(str)
    frame["other"] = ["1", "0", "-1", ""] * 4
    frame.to_csv(table, index=False)
    words = ["fit", "--config=volume", f"--data.table={table}", "--data.label=big,other", *TINY_VOLUME]
    code, _, err = medsoft(*words)
    assert code == 2
    assert "data.uncertain" in err
    code, out, err = medsoft(*words, "--data.uncertain={other: one}", "--trainer.max_epochs=1", "--out=run")
    assert code == 0, err
    assert "other: 4 uncertain labels (-1) count as present" in out
    assert set(json.loads((tmp_path / "run/metrics.json").read_text())["test"]["per_class"]) == {"big", "other"}
    with pytest.raises(InputError, match="uncertain names small"):
        VolumeDataModule(VolumeTransforms(), str(table), label="big,other", uncertain={"small": "one"})
