"""Where volumes lie: sform and qform that contradict each other, units of length, and sides that nobody states."""

from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsoft.data.lengths import mm_of
from medsoft.data.volumes.nifti_forms import affine_of
from medsoft.data.volumes.read import locate_series, read_volume
from medsoft.errors import ReadError
from tests.builders.containers import VOLUME_16
from tests.builders.volumes import oblique

RAS = np.diag([1.0, 2.0, 3.0, 1.0])
MIRRORED = np.diag([-1.0, 2.0, 3.0, 1.0])


def forms(path: Path, sform: np.ndarray, qform: np.ndarray, codes: tuple[int, int] = (2, 1)) -> Path:
    image = nibabel.Nifti1Image(VOLUME_16, sform)
    image.header["pixdim"][1:4] = np.linalg.norm(qform[:3, :3], axis=0)
    image.set_qform(qform, codes[1])
    image.set_sform(sform, codes[0])
    nibabel.save(image, path)
    return path


def turned(degrees: float) -> np.ndarray:
    a = np.deg2rad(degrees)
    about_z = np.array([[np.cos(a), -np.sin(a), 0, 0], [np.sin(a), np.cos(a), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return about_z @ RAS


@pytest.mark.parametrize(
    ("sform", "qform", "codes", "match"),
    [
        (RAS, MIRRORED, (2, 1), "exchange left and right"),
        (MIRRORED, RAS, (1, 1), "exchange left and right"),
        (RAS, MIRRORED, (4, 1), "exchange left and right"),
        (turned(90), RAS, (2, 1), "rotated against each other by 90°"),
        (np.diag([2.0, 4, 6, 1]), RAS, (1, 1), "different spacings"),
        (np.diag([1.2, 2.4, 3.6, 1]), RAS, (2, 1), "different spacings"),
        (np.diag([2.0, 4, 6, 1]), RAS, (4, 1), "different spacings"),
    ],
)
def test_forms_that_contradict_each_other_are_refused_and_either_can_be_chosen(tmp_path, sform, qform, codes, match):
    path = forms(tmp_path / "a.nii.gz", sform, qform, codes)
    with pytest.raises(ReadError, match=match) as caught:
        read_volume(path)
    assert "#sform or #qform" in caught.value.reason
    np.testing.assert_allclose(read_volume(f"{path}#sform").affine, sform, atol=1e-5)
    np.testing.assert_allclose(read_volume(f"{path}#qform").affine, qform, atol=1e-5)


@pytest.mark.parametrize(
    ("sform", "codes", "differ"),
    [
        (RAS, (2, 1), False),
        (turned(0.01), (2, 1), False),
        (turned(8), (2, 1), True),
        (np.diag([1.2, 2.4, 3.6, 1]), (4, 1), True),
    ],
)
def test_forms_that_lie_a_little_apart_are_told_and_the_sform_is_followed(tmp_path, sform, codes, differ):
    volume = read_volume(forms(tmp_path / "a.nii", sform, RAS, codes))
    np.testing.assert_allclose(volume.affine, sform, atol=1e-5)
    assert volume.meta == ({"forms": "differ"} if differ else {})


def test_one_form_alone_is_followed_and_the_other_cannot_be_asked_for(tmp_path):
    for codes, expected, other in (((2, 0), RAS, "qform"), ((0, 1), MIRRORED, "sform")):
        path = forms(tmp_path / f"{other}.nii", RAS, MIRRORED, codes)
        np.testing.assert_allclose(read_volume(path).affine, expected, atol=1e-5)
        with pytest.raises(ReadError, match=f"states no {other}"):
            read_volume(f"{path}#{other}")


def test_codes_of_0_are_taken_for_ras_as_the_message_says(tmp_path, medsoft):
    path = forms(tmp_path / "a.nii", RAS, MIRRORED, (0, 0))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.affine, RAS)
    assert volume.meta == {"orientation": "unknown"}
    (tmp_path / "t.csv").write_text("path,label\na.nii,x\na.nii#sform,y\n")
    code, out, err = medsoft("data", "check", tmp_path / "t.csv", "--positive", "y")
    assert code == 2
    assert "row 2: states no sform" in err
    assert "1 volumes do not state their orientation in the patient; their axes are taken as RAS+" in out


@settings(max_examples=30, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.3, 5)] * 3),
    degrees=st.floats(-170, 170),
    origin=st.tuples(*[st.floats(-200, 200)] * 3),
    mirrored=st.booleans(),
)
def test_two_forms_of_one_orientation_never_contradict_each_other(spacing, degrees, origin, mirrored):
    affine = oblique(spacing, degrees, origin) @ np.diag([-1.0 if mirrored else 1.0, 1, 1, 1])
    header = nibabel.Nifti1Image(VOLUME_16, affine).header
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    found, meta = affine_of(header, "")
    np.testing.assert_allclose(found, affine, atol=1e-3)
    assert meta == {}


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("mm", 1.0), ("micron", 1e-3), ("unknown", 1.0)])
def test_units_of_nifti_are_converted(tmp_path, unit, factor):
    image = nibabel.Nifti1Image(VOLUME_16, RAS)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").affine[:3], factor * RAS[:3], rtol=1e-6)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("mm", 1.0), ("cm", 10.0), ("m", 1000.0), ("um", 1e-3), ("microns", 1e-3), ("", 1.0)],
)
def test_units_of_nrrd_are_converted_with_and_without_a_space(tmp_path, unit, factor):
    header = {"space": "RAS", "space directions": RAS[:3, :3], "space units": [unit] * 3, "space origin": [1, 2, 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), VOLUME_16, header)
    volume = read_volume(tmp_path / "a.nrrd")
    np.testing.assert_allclose(volume.affine[:3, :3], factor * RAS[:3, :3])
    np.testing.assert_allclose(volume.affine[:3, 3], [factor, 2 * factor, 3 * factor])
    nrrd.write(str(tmp_path / "b.nrrd"), VOLUME_16, {"spacings": [1.0, 2.0, 3.0], "units": [unit] * 3})
    np.testing.assert_allclose(read_volume(tmp_path / "b.nrrd").spacing_mm, [factor, 2 * factor, 3 * factor])


@pytest.mark.parametrize("coding", ["utf-8", "latin-1"])
def test_the_sign_of_micro_is_not_lost(tmp_path, coding):
    nrrd.write(str(tmp_path / "a.nrrd"), VOLUME_16, {"spacings": [1.0, 2.0, 3.0], "units": ["um"] * 3})
    data = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(data.replace(b'"um"', '"µm"'.encode(coding)))
    np.testing.assert_allclose(read_volume(tmp_path / "a.nrrd").spacing_mm, [0.001, 0.002, 0.003])


def test_units_of_nrrd_that_are_no_length_and_spacings_by_ends_are_refused(tmp_path):
    header = {"space": "RAS", "space directions": RAS[:3, :3], "space units": ["pixel"] * 3}
    nrrd.write(str(tmp_path / "a.nrrd"), VOLUME_16, header)
    with pytest.raises(ReadError, match="'pixel', which is not a known unit of length"):
        read_volume(tmp_path / "a.nrrd")
    nrrd.write(str(tmp_path / "b.nrrd"), VOLUME_16, {"axis mins": [0.0] * 3, "axis maxs": [7.0, 6.0, 5.0]})
    with pytest.raises(ReadError, match="axis mins"):
        read_volume(tmp_path / "b.nrrd")


def test_names_of_units():
    assert mm_of("Millimeters") == mm_of(" MM ") == mm_of("mm") == 1
    assert mm_of("\u03bcm") == mm_of("\u00b5m") == mm_of("um") == 1e-3
    assert mm_of("inches") == mm_of("in") == 25.4
    assert [mm_of(unit) for unit in ("", "pixel", "s", "parsec")] == [None] * 4


def test_a_path_may_name_the_form(tmp_path):
    assert locate_series("a/b.nii.gz#sform") == ("a/b.nii.gz", "sform")
    assert locate_series("a/b.nrrd#sform") == ("a/b.nrrd#sform", None)


def test_sides_are_refused_where_nobody_says_which_is_which(tmp_path, medsoft):
    forms(tmp_path / "a.nii", RAS, RAS, (0, 0))
    forms(tmp_path / "b.nii", RAS, RAS)
    rows = "".join(f"{name}.nii,{side},{label}\n" for name in "ab" for side, label in (("left", "x"), ("right", "y")))
    (tmp_path / "t.csv").write_text("path,side,label\n" + rows)
    code, _, err = medsoft(
        *("fit", "--config", "volume", f"--data.table={tmp_path / 't.csv'}", "--data.laterality=side"),
        *("--data.positive=y", "--transforms.half=true", "--transforms.size=8", "--transforms.intensity=zscore"),
        *(
            "--data.val_fraction=0.5",
            "--data.test_fraction=0",
            "--trainer.accelerator=cpu",
            f"--out={tmp_path / 'run'}",
        ),
    )
    assert code == 2
    assert "left and right are unknown" in err
    assert not (tmp_path / "run").exists()
