"""Masks of volumes: between grids and back, onto other grids when asked, and as files that others read."""

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from medsoft.data.datasets.sampling import SampleKey
from medsoft.data.datasets.segmentation.volume_dataset import MaskedVolumeDataset, MaskedVolumeReader
from medsoft.data.masks.place_volumes import most_probable, placement_of, to_prepared_volume
from medsoft.data.masks.read import BACKGROUND, IGNORED, MaskValues
from medsoft.data.masks.write import write_volume_mask
from medsoft.data.volumes.mask import read_label_map
from medsoft.data.volumes.read import read_volume
from medsoft.data.volumes.rows import VolumeRow
from medsoft.data.volumes.transforms.recipe import VolumeTransforms
from medsoft.errors import InputError, ReadError
from tests.builders.dicom import phantom, write_series
from tests.builders.volume_masks import SHAPE, SPACING, ball_and_core, save_labels
from tests.builders.volumes import oblique, save

VALUES = MaskValues(("ball", "core"))


def memory(labels: np.ndarray) -> np.ndarray:
    """Labels as masks are kept in memory."""
    return labels.astype(np.uint8) + np.uint8(BACKGROUND)


def probabilities(mask: np.ndarray) -> np.ndarray:
    return np.stack([(mask == BACKGROUND + k).astype(np.float32) for k in range(3)])


@settings(max_examples=30, deadline=None)
@given(st.permutations(["LR", "AP", "IS"]), st.tuples(*[st.integers(0, 1)] * 3))
def test_a_mask_comes_back_as_it_was_whichever_way_the_axes_run(order, signs):
    axes = "".join(pair[sign] for pair, sign in zip(order, signs, strict=True))
    affine, mask = oblique(SPACING), memory(ball_and_core(1)[1])
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(axes))
    placement = placement_of(affine @ inv_ornt_aff(turn, SHAPE), affine)
    size = tuple(SHAPE[axis] for axis in placement.axes)
    prepared = to_prepared_volume(mask, placement, size)
    np.testing.assert_array_equal(prepared, nibabel.orientations.apply_orientation(mask, turn))
    np.testing.assert_array_equal(most_probable(probabilities(prepared), placement, SHAPE), mask)


def test_at_another_spacing_masks_stay_in_their_place_and_what_is_not_shown_is_background():
    affine, (volume, labels) = oblique(SPACING), ball_and_core(2)
    recipe = VolumeTransforms(size=8, spacing_mm=1.5, intensity="none", orientation="LPS").uncut()
    prepared = recipe.prepare([torch_volume(volume, affine)], [""], None, "")
    placement = placement_of(prepared.affine.numpy(), affine)
    mask = memory(labels)
    there = to_prepared_volume(mask, placement, tuple(prepared.image.shape[1:]))
    mm3 = [(one == BACKGROUND + 1).sum() * voxel for one, voxel in ((mask, np.prod(SPACING)), (there, 1.5**3))]
    assert mm3[1] == pytest.approx(mm3[0], rel=0.1)
    bright = prepared.image[0].numpy() > 22  # the core, in the resampled volume itself
    assert (bright == (there == BACKGROUND + 2)).mean() > 0.98
    back = most_probable(probabilities(there), placement, SHAPE)
    assert (
        2 * ((back == mask) & (mask > BACKGROUND)).sum() / ((back > BACKGROUND).sum() + (mask > BACKGROUND).sum())
        > 0.85
    )
    cut = affine.copy()
    cut[:3, 3] = (affine @ [4, 4, 3, 1])[:3]
    part = most_probable(np.stack([np.zeros((5, 5, 5), np.float32), *[np.ones((5, 5, 5), np.float32)] * 2]),
                         placement_of(cut, affine), SHAPE)  # fmt: skip
    assert (part > BACKGROUND).sum() == 125
    assert (part[4:9, 4:9, 3:8] == BACKGROUND + 1).all()
    with pytest.raises(ValueError, match="rotated"):
        placement_of(oblique(SPACING, degrees=30), affine)


def torch_volume(volume, affine):
    from medsoft.data.volumes.transforms.geometry import located

    return located(volume[None], affine)


@pytest.mark.parametrize(("top", "kind"), [(2, np.uint8), (700, np.uint16)])
def test_a_nifti_has_the_affine_of_its_volume_and_the_smallest_type(tmp_path, top, kind):
    labels = np.where(ball_and_core(0)[1] == 2, top, 0).astype(kind)
    for name, affine in (("a", oblique(SPACING)), ("sheared", oblique(SPACING) @ (np.eye(4) + np.eye(4, k=1) * 0.1))):
        file = tmp_path / f"{name}.nii.gz"
        write_volume_mask(file, labels, affine)
        found = nibabel.load(file)
        np.testing.assert_allclose(found.affine, affine, rtol=1e-6)
        np.testing.assert_array_equal(np.asarray(found.dataobj), labels)
        assert found.get_data_dtype() == kind
        np.testing.assert_array_equal(read_volume(file).array[0], labels)


class TestOtherGrids:
    def volume(self, tmp_path):
        return read_volume(save(ball_and_core(0, (8, 8, 8))[0], np.diag([1.0, 1, 1, 1]), tmp_path / "v.nii.gz"))

    def test_a_mask_of_2_mm_on_a_volume_of_1_mm_is_refused_or_taken_by_nearest_neighbour(self, tmp_path):
        volume = self.volume(tmp_path)
        labels = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
        affine = np.diag([2.0, 2, 2, 1])
        affine[:3, 3] = 0.5  # the corners of both lie together
        file = save_labels(labels, affine, tmp_path / "m.nii.gz")
        with pytest.raises(ReadError, match=r"on another grid.*data.resample_masks true") as caught:
            read_label_map(str(file), volume)
        assert str(file) not in caught.value.reason
        found, known = read_label_map(str(file), volume, resample=True)
        np.testing.assert_array_equal(found, labels.repeat(2, 0).repeat(2, 1).repeat(2, 2))
        assert known is None

    def test_where_a_mask_says_nothing_is_unknown(self, tmp_path):
        volume = self.volume(tmp_path)
        file = save_labels(np.ones((4, 8, 8), np.uint8), np.eye(4), tmp_path / "half.nii.gz")
        _, known = read_label_map(str(file), volume, resample=True)
        assert known[:4].all()
        assert not known[4:].any()
        row = VolumeRow((str(tmp_path / "v.nii.gz"),), None, "", str(file))
        recipe = VolumeTransforms(size=8, intensity="none").uncut()
        reader = MaskedVolumeReader(recipe, (1,), 10**6, values=VALUES, resample=True)
        truth = reader.truth(row, volume)
        assert (truth[4:] == IGNORED).all()
        assert (truth[:4] == BACKGROUND + 1).all()
        away = np.eye(4)
        away[:3, 3] = 100
        file = save_labels(np.ones((4, 8, 8), np.uint8), away, tmp_path / "away.nii.gz")
        with pytest.raises(ReadError, match="lies elsewhere"):
            read_label_map(str(file), volume, resample=True)

    def test_several_volumes_are_no_mask(self, tmp_path):
        file = save_labels(np.ones((8, 8, 8, 3), np.uint8), np.eye(4), tmp_path / "4d.nii.gz")
        with pytest.raises(ReadError, match=r"holds 3 volumes.*4D"):
            read_label_map(str(file), self.volume(tmp_path))


class TestParts:
    def dataset(self, tmp_path, foreground: float, size: int = 8, **options) -> MaskedVolumeDataset:
        """A volume of 24 voxels a side whose values are the places, with a dot of 2."""
        labels = np.zeros((24, 24, 24), np.uint8)
        labels[20:22, 3:5, 11:13] = 1
        volume = save(np.arange(24**3).reshape(24, 24, 24), np.eye(4), tmp_path / "v.nii.gz")
        mask = save_labels(labels, np.eye(4), tmp_path / "m.nii.gz")
        recipe = VolumeTransforms(**{"size": size, "intensity": "none", "augmentation": False} | options).uncut()
        reader = MaskedVolumeReader(recipe, (1,), 10**6, values=MaskValues(("dot",)))
        rows = [VolumeRow((str(volume),), None, "", str(mask))]
        more = {"names": ["v"], "foreground": foreground, "parts": 2, "sources": [()]}
        dataset = MaskedVolumeDataset(rows, np.ones(1), reader, 0, None, **more)
        dataset.cache = [dataset.prepared(0)]
        return dataset

    def test_parts_hold_a_voxel_of_a_class_as_often_as_asked_and_their_piece_of_the_mask(self, tmp_path):
        keys = [SampleKey(epoch, n) for epoch in range(20) for n in (0, 1)]
        always, never = ([dataset[key] for key in keys] for dataset in (self.dataset(tmp_path, s) for s in (1, 0)))
        assert sum(bool((part["target"] == 1).any()) for part in always) == 40
        assert sum(bool((part["target"] == 1).any()) for part in never) < 15
        assert len({float(part["image"][0, 0, 0, 0]) for part in never}) > 30
        for part in always:
            assert part["image"].shape == (1, 8, 8, 8)
            x, y, z = np.unravel_index(part["image"][0].numpy().astype(int), (24, 24, 24))
            dot = (x // 2 == 10) & (y >= 3) & (y < 5) & (z >= 11) & (z < 13)
            np.testing.assert_array_equal(part["target"].numpy(), dot)

    def test_image_and_mask_move_together_and_what_comes_in_is_unknown(self, tmp_path):
        still = {"jitter": 0, "noise": 0, "augmentation": True}
        dataset = self.dataset(tmp_path, 1, 16, rotation=30, zoom=0.2, shift=0.1, flips="XYZ", **still)
        whole = (torch.arange(24**3).reshape(24, 24, 24) * 0 + 5).float()
        whole[8:16, 6:18, 10:20] = 60
        mask = torch.where(whole > 5, 2, 1).to(torch.uint8)
        recipe = dataset.reader.transforms
        differ = 0
        for seed in range(6):
            image, moved = recipe.augment_with_mask(whole[None], mask, seed)
            known = moved > 0
            assert known.float().mean() > 0.5
            assert ((image[0] > 32)[known] == (moved == 2)[known]).float().mean() > 0.98
            assert torch.equal(image, recipe.augment(whole[None], seed))
            differ += not torch.equal(moved, mask)
        assert differ == 6
        assert bool((moved == 0).any())
        with pytest.raises(InputError, match=r"transforms\.flips 'XA'"):
            VolumeTransforms(flips="XA")

    def test_a_volume_smaller_than_a_part_is_filled_up_and_comes_back(self, tmp_path):
        sample = self.dataset(tmp_path, 0.5, 32)[0]
        assert sample["image"].shape == (1, 32, 32, 32)
        assert int((sample["target"] == -1).sum()) == 32**3 - 24**3
        p = probabilities((sample["target"].numpy() + BACKGROUND).astype(np.uint8))
        np.testing.assert_array_equal(most_probable(p, sample["placement"], (24, 24, 24)), sample["truth"].numpy())


class TestDicomSeg:
    def test_it_refers_to_its_series_image_by_image(self, tmp_path):
        pytest.importorskip("highdicom", reason="the extra dicom_seg is not installed")
        from medsoft.data.masks.dicom_seg import why_no_seg, write_dicom_seg

        shared = {"FrameOfReferenceUID": "1.2.3", "SpecificCharacterSet": ""}  # names taken out, as archives do
        files = write_series(tmp_path / "ct", phantom((5, 6, 4)), **shared)
        labels = np.zeros((5, 6, 4), np.uint8)
        labels[1:3, 2:5, 1] = 1
        labels[3, 2, 2] = 2
        write_dicom_seg(tmp_path / "seg.dcm", memory(labels), ("ball", "core"), str(tmp_path / "ct"), ())
        seg, sources = pydicom.dcmread(tmp_path / "seg.dcm"), [pydicom.dcmread(file) for file in files]
        assert (seg.Modality, seg.StudyInstanceUID) == ("SEG", sources[0].StudyInstanceUID)
        assert seg.FrameOfReferenceUID == "1.2.3"
        assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == sources[0].SeriesInstanceUID
        assert [one.SegmentLabel for one in seg.SegmentSequence] == ["ball", "core"]
        uid_at = {round(float(one.ImagePositionPatient[2]), 2): one.SOPInstanceUID for one in sources}
        series = read_volume(tmp_path / "ct")
        found = np.zeros((5, 6, 4), np.uint8)
        for frame, item in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
            at = item.PlanePositionSequence[0].ImagePositionPatient
            image = item.DerivationImageSequence[0].SourceImageSequence[0]
            assert image.ReferencedSOPInstanceUID == uid_at[round(float(at[2]), 2)]
            ras = np.array([-at[0], -at[1], at[2], 1], float)
            z = round(float((np.linalg.inv(series.affine) @ ras)[2]))
            found[:, :, z] += frame.T * np.uint8(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        np.testing.assert_array_equal(found, labels)
        assert why_no_seg(str(tmp_path / "ct"), ()) == ""
        write_series(tmp_path / "old", phantom((5, 6, 4)))
        assert "FrameOfReferenceUID" in why_no_seg(str(tmp_path / "old"), ())
        assert "is no DICOM series" in why_no_seg("volume.nii.gz", ())
        write_dicom_seg(tmp_path / "none.dcm", memory(0 * labels), ("ball", "core"), str(tmp_path / "ct"), ())
        assert not pydicom.dcmread(tmp_path / "none.dcm").pixel_array.any()
