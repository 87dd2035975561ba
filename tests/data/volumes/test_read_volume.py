"""Volumes come out with their numbers, their place in the patient and their time points, or say why not."""

import gzip
import shutil
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import RTDoseStorage

from medsoft.data.volumes.read import locate_series, read_volume
from medsoft.errors import ReadError
from tests.builders.dicom import AXIAL, CORONAL, SECRET, item, phantom, write, write_enhanced, write_series

SAGITTAL = [0, 1, 0, 0, 0, -1]


def reason(path: object, **options: object) -> str:
    with pytest.raises(ReadError) as caught:
        read_volume(path, **options)
    assert not [value for value in SECRET.values() if value in caught.value.reason]
    assert "\n" not in caught.value.reason
    return caught.value.reason


# --- DICOM series ---


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000),
    orientation=st.sampled_from([AXIAL, CORONAL, SAGITTAL]),
    spacing=st.tuples(*[st.sampled_from([0.5, 1.0, 2.5, 5.0])] * 3),
)
def test_slices_are_sorted_by_position_and_every_voxel_lies_where_the_files_say(tmp_path, seed, orientation, spacing):
    folder = tmp_path / f"{seed}{orientation}{spacing}"
    voxels = phantom()
    write_series(folder, voxels, orientation=orientation, spacing=spacing, shuffle=seed)
    volume = read_volume(folder)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0], voxels)
    assert volume.spacing_mm == pytest.approx(spacing)
    directions = np.array([orientation[:3], orientation[3:], np.cross(orientation[:3], orientation[3:])], float)
    for index in [(0, 0, 0), (4, 0, 0), (1, 5, 3)]:
        lps = np.array([-10, -20, 30]) + (np.array(index) * spacing) @ directions
        np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], lps * [-1, -1, 1], atol=1e-4)
    shutil.rmtree(folder)


def test_a_series_is_a_nifti_of_the_same_space(tmp_path):
    write_series(tmp_path / "s", phantom(), orientation=SAGITTAL)
    volume = read_volume(tmp_path / "s")
    nibabel.save(nibabel.Nifti1Image(volume.array[0], volume.affine), tmp_path / "a.nii.gz")
    again = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-5)
    assert nibabel.aff2axcodes(volume.affine) == ("P", "I", "R")


def test_each_slice_has_its_own_scale(tmp_path):
    voxels = phantom()
    uids = {"SeriesInstanceUID": "1.2.3", "RescaleType": "HU"}
    for z in range(4):
        write_series(tmp_path, voxels, keep=[z], RescaleSlope=z + 1, RescaleIntercept=-1024, **uids)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array[0], voxels * np.arange(1, 5) - 1024.0)
    assert (volume.modality, volume.meta["units"]) == ("CT", "HU")


def test_stored_numbers_of_a_ct_without_a_scale_are_not_called_hounsfield(tmp_path):
    write_series(tmp_path, phantom(), RescaleSlope=None, RescaleIntercept=None)
    assert "units" not in read_volume(tmp_path).meta


def test_an_anisotropic_volume_keeps_its_spacing(tmp_path):
    write_series(tmp_path, phantom(), spacing=(1, 1, 5))
    assert read_volume(tmp_path).spacing_mm == (1, 1, 5)


def test_a_tilted_gantry_shears_the_affine(tmp_path):
    for z in range(4):
        origin = (0.0, 2.0 * z, 0.0)
        write_series(tmp_path, phantom(), keep=[z], origin=origin, spacing=(1, 1, 3), SeriesInstanceUID="1.2")
    affine = read_volume(tmp_path).affine
    np.testing.assert_allclose(affine[:3, 2], [0, -2, 3], atol=1e-6)


def test_a_missing_slice_is_a_gap(tmp_path):
    write_series(tmp_path, phantom((5, 6, 12)), keep=[0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11])
    assert "gap of 5 mm after slice 5 (1 missing" in reason(tmp_path)


def test_uneven_steps_are_refused(tmp_path):
    for z, height in enumerate([0, 3, 6.8, 9]):
        write_series(tmp_path, phantom(), keep=[z], origin=(0, 0, height - 2.5 * z), SeriesInstanceUID="1.2")
    assert "uneven steps" in reason(tmp_path)


def test_two_series_in_one_folder_are_told_apart_by_name(tmp_path):
    write_series(tmp_path, phantom(), prefix="a", SeriesNumber=3, SeriesInstanceUID="1.2.3.3")
    write_series(tmp_path, phantom() + 1, prefix="b", SeriesNumber=4, SeriesInstanceUID="1.2.3.4")
    said = reason(tmp_path)
    assert "2 series" in said
    assert "series 3, CT, 4 of 6 x 5" in said
    for name in ("4", "1.2.3.4"):
        np.testing.assert_array_equal(read_volume(f"{tmp_path}#{name}").array[0], phantom() + 1)
    assert "no series 5" in reason(f"{tmp_path}#5")
    assert "2 series" in reason(f"{tmp_path}#1.2.3")


def test_a_folder_may_have_a_name_like_a_series(tmp_path):
    write_series(tmp_path / "case#1", phantom())
    assert read_volume(tmp_path / "case#1").shape == (5, 6, 4)
    assert locate_series(str(tmp_path / "case#1")) == (str(tmp_path / "case#1"), None)
    assert locate_series("a/b#1.2") == ("a/b", "1.2")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"orientation": CORONAL}, "2 orientations (a localiser"),
        ({"spacing": (0.8, 0.9, 2.5)}, "different PixelSpacing"),
        ({"voxels": phantom((7, 6, 1))}, "different sizes (4 of 6 x 5, 1 of 6 x 7; a localiser"),
    ],
)
def test_a_localiser_in_the_series_is_found(tmp_path, changed, said):
    same = {"SeriesInstanceUID": "1.2.3"}
    write_series(tmp_path, phantom(), **same)
    voxels = changed.pop("voxels", phantom((5, 6, 1)))
    write_series(tmp_path, voxels, prefix="scout", origin=(0, 0, 90), **same, **changed)
    assert said in reason(tmp_path)


def test_copies_are_found(tmp_path):
    first, *_ = write_series(tmp_path, phantom())
    shutil.copy(first, tmp_path / "copy.dcm")
    assert "1 of its 4 images twice" in reason(tmp_path)


def test_one_damaged_file_refuses_the_series_and_other_files_do_not(tmp_path):
    first, *_ = write_series(tmp_path, phantom())
    (tmp_path / "notes.txt").write_text("seen")
    (tmp_path / "DICOMDIR").write_text("anything")
    read_volume(tmp_path)
    first.write_text("this is text")
    assert "4 DICOM files of which 1 cannot be read; the first is not a DICOM file" in reason(tmp_path)


@pytest.mark.parametrize("z", [0, 1, 3])
def test_a_slice_cut_short_anywhere_refuses_the_series(tmp_path, z):
    written = write_series(tmp_path, phantom())[z]
    whole = written.read_bytes()
    for length in range(0, len(whole) - 1, 23):
        written.write_bytes(whole[:length])
        with pytest.raises(ReadError):
            read_volume(tmp_path)


def test_pixels_cut_short_are_refused(tmp_path):
    first, *_ = write_series(tmp_path, phantom())
    first.write_bytes(first.read_bytes()[:-20])
    assert "damaged or cut short" in reason(tmp_path)


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ({"PixelSpacing": [0, 1]}, "zero"),
        ({"PixelSpacing": None}, "PixelSpacing"),
        ({"ImagePositionPatient": None}, "read it as images"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "perpendicular"),
        ({"BitsAllocated": None}, "lacks BitsAllocated"),
        ({"SOPClassUID": RTDoseStorage}, "dose"),
        ({"PixelData": None}, "no pixel data"),
    ],
)
def test_headers_that_make_no_volume(tmp_path, elements, said):
    write_series(tmp_path, phantom(), **elements)
    assert said in reason(tmp_path)


def test_a_single_slice_needs_its_thickness(tmp_path):
    write_series(tmp_path / "a", phantom(), keep=[1])
    volume = read_volume(tmp_path / "a")
    assert (volume.shape, volume.spacing_mm[2]) == ((5, 6, 1), 2.5)
    write_series(tmp_path / "b", phantom(), keep=[1], SliceThickness=None)
    assert "SliceThickness" in reason(tmp_path / "b")


def test_colour_is_no_volume(tmp_path):
    rgb = np.zeros((6, 5, 3), np.uint8)
    write(
        tmp_path / "a.dcm",
        rgb,
        ImagePositionPatient=[0, 0, 0],
        ImageOrientationPatient=AXIAL,
        PixelSpacing=[1, 1],
        SliceThickness=1,
    )
    assert "in colour" in reason(tmp_path / "a.dcm")


# --- time points ---


def write_phases(folder: Path, moments: list[dict], **elements: object) -> np.ndarray:
    """One series of several time points; returns (T, X, Y, Z)."""
    phases = np.stack([phantom() + 200 * t for t in range(len(moments))])
    for t, moment in enumerate(moments):
        write_series(folder, phases[t], prefix=f"{9 - t}", shuffle=t, SeriesInstanceUID="1.2.3", **moment, **elements)
    return phases


@pytest.mark.parametrize(
    ("moments", "seconds"),
    [
        ([{"TemporalPositionIdentifier": t} for t in (1, 2, 3)], None),
        ([{"AcquisitionNumber": t, "AcquisitionTime": f"1200{t:02d}.5"} for t in (1, 31, 59)], (0, 30, 58)),
        ([{"TriggerTime": 1000.0 * t} for t in (2, 9, 20)], (0, 7, 18)),
        ([{"AcquisitionTime": f"23{t:02d}00"} for t in (2, 9, 20)], (0, 420, 1080)),
    ],
)
def test_a_dynamic_series_is_split_by_time(tmp_path, moments, seconds):
    phases = write_phases(tmp_path, moments)
    volume = read_volume(tmp_path, time="phases")
    np.testing.assert_array_equal(volume.array, phases)
    assert volume.channels == ("phase 1", "phase 2", "phase 3")
    assert volume.meta.get("phase_s") == seconds
    volume = read_volume(tmp_path, time="both")
    np.testing.assert_array_equal(volume.array[3:], phases[1:] - phases[:1])
    assert volume.channels[3:] == ("phase 2 - phase 1", "phase 3 - phase 1")
    assert len(read_volume(tmp_path, time="subtractions").array) == 2
    assert "holds 3 volumes" in reason(tmp_path)


def test_slices_taken_one_after_the_other_within_a_time_point(tmp_path):
    voxels = phantom()
    for t in range(2):
        for z in range(4):
            at = f"1200{20 * t + 4 * z:02d}"
            same = {"SeriesInstanceUID": "1.2.3", "AcquisitionTime": at, "prefix": f"{t}{z}"}
            write_series(tmp_path, voxels + t, keep=[z], **same)
    assert len(read_volume(tmp_path, time="phases").array) == 2


def test_a_time_point_that_lacks_a_slice_is_refused(tmp_path):
    write_phases(tmp_path, [{"TemporalPositionIdentifier": t} for t in (1, 2, 3)])
    min(tmp_path.glob("8*")).unlink()
    assert "2 to 3 slices at one place" in reason(tmp_path, time="phases")


def test_what_is_no_time_is_not_taken_for_it(tmp_path):
    write_phases(tmp_path / "echo", [{"EchoTime": 10.0}, {"EchoTime": 90.0}])
    assert "2 echo times" in reason(tmp_path / "echo", time="phases")
    write_phases(tmp_path / "same", [{}, {}])
    assert "no time that tells them apart" in reason(tmp_path / "same", time="phases")


# --- enhanced multi-frame files ---


def test_an_enhanced_file_is_sorted_and_scaled_frame_by_frame(tmp_path):
    voxels, slopes = phantom(), [1.0, 2.0, 0.5, 4.0]
    volume = read_volume(write_enhanced(tmp_path / "a.dcm", voxels, [2, 0, 3, 1], slopes))
    np.testing.assert_array_equal(volume.array[0], voxels * slopes + 1)
    assert volume.spacing_mm == pytest.approx((0.8, 0.7, 3))
    assert (volume.modality, volume.meta["laterality"]) == ("MR", "L")


def test_an_enhanced_file_of_several_time_points(tmp_path):
    path = write_enhanced(tmp_path / "a.dcm", phantom(), [2, 0, 3, 1], [1.0] * 4, phases=3)
    volume = read_volume(path, time="phases")
    np.testing.assert_array_equal(volume.array[2] - volume.array[0], np.full((5, 6, 4), 2000))
    assert "holds 3 volumes" in reason(path)


def test_a_modality_lut_replaces_the_numbers(tmp_path):
    table = item(LUTDescriptor=[4, 10, 16], LUTData=[100, 200, 300, 400], ModalityLUTType="US")
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    voxels = np.array([9, 10, 11, 12, 13, 14], np.uint16).reshape(3, 2, 1)
    write_series(tmp_path, voxels, ModalityLUTSequence=[table], RescaleSlope=None, RescaleIntercept=None)
    np.testing.assert_array_equal(read_volume(tmp_path).array.ravel(), [100, 100, 200, 300, 400, 400])


# --- NIfTI, NRRD, arrays ---


def nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None, unit: str = "mm") -> Path:
    image = nibabel.Nifti1Image(array, np.diag([1, 1, 5, 1]) if affine is None else affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


def test_nifti_keeps_axes_and_affine(tmp_path):
    affine = np.array([[0, -2, 0, 7], [0, 0, 3, 8], [1, 0, 0, 9], [0, 0, 0, 1]], float)
    volume = read_volume(nifti(tmp_path / "a.nii", phantom(), affine))
    np.testing.assert_array_equal(volume.array[0], phantom())
    np.testing.assert_array_equal(volume.affine, affine)
    assert (volume.spacing_mm, volume.meta) == ((1, 2, 3), {})


def test_nifti_slope_units_and_unknown_orientation(tmp_path):
    image = nibabel.Nifti1Image(phantom(), None)
    image.header.set_slope_inter(2, 5)
    image.header["pixdim"][1:4] = 1, 2, 3
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(volume.spacing_mm, [0.001, 0.002, 0.003])
    assert volume.meta == {"orientation": "unknown"}


def test_nifti_with_time_needs_it_announced(tmp_path):
    phases = np.stack([phantom() + t for t in range(3)], axis=-1)
    path = nifti(tmp_path / "a.nii", phases)
    assert "holds 3 volumes" in reason(path)
    assert "fit: --transforms.dynamic phases" in reason(path)
    np.testing.assert_array_equal(read_volume(path, time="phases").array, np.moveaxis(phases, -1, 0))
    assert read_volume(nifti(tmp_path / "b.nii", phases[..., :1])).array.shape == (1, 5, 6, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_counted_and_refused(tmp_path, value):
    array = phantom().astype(np.float32)
    array[1, 2, 3] = array[0, 0, 0] = value
    assert "NaN or infinite values (2 voxels)" in reason(nifti(tmp_path / "a.nii", array))


def test_nifti_of_zero_spacing_or_of_colours(tmp_path):
    path = nifti(tmp_path / "a.nii", phantom())
    data = bytearray(path.read_bytes())
    data[80:84] = np.float32(0).tobytes()  # pixdim[1]
    path.write_bytes(data)
    assert "spacing of zero" in reason(path)
    colours = np.zeros((5, 6, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "one number per voxel" in reason(nifti(tmp_path / "b.nii", colours))
    assert "one number per voxel" in reason(nifti(tmp_path / "c.nii", np.zeros((5, 6, 4, 1, 3), np.float32)))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_nifti_cut_short(tmp_path, share):
    path = nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).random((20, 20, 20)).astype(np.float32))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "damaged" in reason(path)
    (tmp_path / "b.nii").write_text("text")
    assert "damaged" in reason(tmp_path / "b.nii")
    with gzip.open(tmp_path / "c.nii.gz", "wb") as file:
        file.write(b"text")
    assert "damaged" in reason(tmp_path / "c.nii.gz")


def test_sizes_are_checked_before_memory_is_taken(tmp_path):
    path = nifti(tmp_path / "a.nii", phantom())
    assert "120 voxels, more than the limit of 119" in reason(path, max_voxels=119)
    data = bytearray(path.read_bytes())
    data[42:48] = np.array([30000] * 3, np.int16).tobytes()
    path.write_bytes(data)
    assert "more than the limit" in reason(path)
    write_series(tmp_path / "s", phantom())
    assert "120 voxels, more than the limit of 119" in reason(tmp_path / "s", max_voxels=119)


def test_nrrd_in_lps_lies_where_its_nifti_lies(tmp_path):
    directions = np.array([[0.8, 0, 0], [0, 0.7, 0], [0, 0, 2.5]])
    header = {"space": "left-posterior-superior", "space directions": directions, "space origin": [-10, -20, 30]}
    nrrd.write(str(tmp_path / "a.nrrd"), phantom(), header)
    write_series(tmp_path / "s", phantom())
    volume, series = read_volume(tmp_path / "a.nrrd"), read_volume(tmp_path / "s")
    np.testing.assert_array_equal(volume.array, series.array)
    np.testing.assert_allclose(volume.affine, series.affine)


def test_nrrd_with_time_first_without_space_and_damaged(tmp_path):
    phases = np.stack([phantom() + t for t in range(3)])
    directions = np.array([[np.nan] * 3, [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    header = {"space": "right-anterior-superior", "space directions": directions, "kinds": ["list"] + ["domain"] * 3}
    nrrd.write(str(tmp_path / "a.nrrd"), phases, header)
    assert "holds 3 volumes" in reason(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd", time="phases").array, phases)
    header["kinds"] = ["RGB-color"] + ["domain"] * 3
    nrrd.write(str(tmp_path / "b.nrrd"), phases, header)
    assert "one number per voxel" in reason(tmp_path / "b.nrrd", time="phases")
    nrrd.write(str(tmp_path / "c.nrrd"), phantom(), {"spacings": [1.0, 2.0, 3.0]})
    volume = read_volume(tmp_path / "c.nrrd")
    assert (volume.spacing_mm, volume.meta) == ((1, 2, 3), {"orientation": "unknown"})
    nrrd.write(str(tmp_path / "d.nrrd"), phantom(), {"spacings": [1.0, 0.0, 3.0]})
    assert "spacing of zero" in reason(tmp_path / "d.nrrd")
    (tmp_path / "e.nrrd").write_text("text")
    assert "damaged" in reason(tmp_path / "e.nrrd")


def test_arrays_have_no_place_in_the_patient(tmp_path):
    volumes = np.random.default_rng(0).integers(0, 255, (3, 4, 5, 6), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train_images=volumes, flat=volumes[0])
    volume = read_volume(f"{tmp_path}/a.npz#train_images/2")
    np.testing.assert_array_equal(volume.array[0], volumes[2])
    assert volume.meta == {"orientation": "unknown", "spacing": "unknown"}
    assert "3 volumes" in reason(f"{tmp_path}/a.npz#train_images/3")
    assert "no array 'flat' of volumes" in reason(f"{tmp_path}/a.npz#flat/0")


# --- other files ---


def test_what_is_no_volume(tmp_path):
    (tmp_path / "a.dcm").write_text("this is a text file")
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "folder").mkdir()
    assert "not a volume of a kind read here" in reason(tmp_path / "a.dcm")
    assert "empty" in reason(tmp_path / "empty.dcm")
    assert "without DICOM files" in reason(tmp_path / "folder")
    assert "No such file" in reason(tmp_path / "missing.nii.gz")
    assert "No such file" in reason(tmp_path / "missing")
