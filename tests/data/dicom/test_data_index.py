"""A folder of DICOM becomes a sample table whose paths can be read, and which says nothing of who the patients are."""

import csv
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.fileset import FileSet
from pydicom.uid import BasicTextSRStorage, SegmentationStorage
from rich.console import Console

from medsoft.cli.data.index import _print_carried
from medsoft.data.dicom.privacy import KEYWORDS, Carried
from medsoft.data.dicom.pseudonyms import load_salt, pseudonym
from medsoft.data.images.read import read_image
from medsoft.data.volumes.read import read_volume
from medsoft.errors import InputError
from tests.builders.dicom import AXIAL, SECRET, item, phantom, write, write_enhanced, write_series

STUDY = "1.2.826.0.1.77"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def scans(tmp_path) -> Path:
    """Two patients: a series alone in its folder, two in one, an enhanced file, two radiographs, a report."""
    scans = tmp_path / "scans"
    write_series(scans / "one" / "ct", phantom(), SeriesInstanceUID="1.2.3", StudyInstanceUID=STUDY, SeriesNumber=2)
    both = {"StudyInstanceUID": f"{STUDY}.2", "PatientID": "HOSP-4712"}
    write_series(scans / "two", phantom(), prefix="a", SeriesInstanceUID="1.2.4", SeriesNumber=5, **both)
    for t in (1, 2):
        time = {"TemporalPositionIdentifier": t, "prefix": f"b{t}"}
        write_series(scans / "two", phantom(), SeriesInstanceUID="1.2.5", SeriesNumber=6, **both, **time)
    write_enhanced(scans / "three.dcm", phantom(), [2, 0, 3, 1], [1.0] * 4)
    pixels = np.zeros((20, 30), np.uint16)
    for view in ("PA", "LL"):
        picture = {
            "Modality": "DX",
            "ViewPosition": view,
            "SeriesInstanceUID": "1.2.6",
            "ImagerPixelSpacing": [0.2, 0.1],
        }
        write(scans / "xray" / f"{view}.dcm", pixels, StudyInstanceUID=STUDY, **picture)
    write(scans / "xray" / "report.dcm", pixels, SOPClassUID=BasicTextSRStorage, PixelData=None, Rows=None)
    return scans


def test_one_row_a_series_or_radiograph_and_every_path_can_be_read(scans, medsoft):
    code, out, err = medsoft("data", "index", scans, "--out=table.csv", "--salt=salt")
    assert (code, err) == (0, "")
    assert "6 samples of 2 patients" in out
    assert "1 is a DICOM object without a picture (Basic Text SR Storage)" in out
    table = {row["path"].removeprefix(f"{scans}/"): row for row in rows(Path("table.csv"))}
    assert list(table) == ["one/ct", "three.dcm", "two#1.2.4", "two#1.2.5", "xray/LL.dcm", "xray/PA.dcm"]
    ct = table["one/ct"]
    assert (ct["kind"], ct["rows"], ct["columns"], ct["slices"], ct["modality"]) == ("volume", "6", "5", "4", "CT")
    assert [float(ct[f"spacing_{axis}_mm"]) for axis in "xyz"] == [0.8, 0.7, 2.5]
    assert (ct["study_uid"], ct["series_uid"], ct["series_number"]) == (STUDY, "1.2.3", "2")
    assert table["two#1.2.5"]["time_points"] == "2"
    assert table["three.dcm"]["laterality"] == "L"
    assert [table[f"xray/{view}.dcm"]["view"] for view in ("PA", "LL")] == ["PA", "LL"]
    assert table["xray/PA.dcm"]["spacing_x_mm"] == "0.1"
    for row in table.values():
        if row["kind"] == "image":
            assert read_image(row["path"]).shape == (40, 30, 1)  # 20 rows of 0.2 mm, as columns are 0.1 mm apart
        else:
            assert read_volume(row["path"], time="phases").shape == (5, 6, 4)


def test_patients_exams_and_samples_have_names_that_say_nothing(scans, medsoft):
    medsoft("data", "index", scans, "--out=a.csv", "--salt=salt")
    first = {row["path"]: row for row in rows(Path("a.csv"))}
    by_patient = {path.removeprefix(f"{scans}/"): row["patient"] for path, row in first.items()}
    assert by_patient["one/ct"] == by_patient["three.dcm"] == by_patient["xray/PA.dcm"] != by_patient["two#1.2.4"]
    exams = [row["exam"] for row in first.values()]
    assert exams[0] == exams[4] == exams[5] != exams[2] == exams[3]
    assert len({row["id"] for row in first.values()}) == 6
    assert all(re.fullmatch("[0-9a-f]{16}", row[name]) for row in first.values() for name in ("id", "patient", "exam"))
    medsoft("data", "index", scans, "--out=b.csv", "--salt=salt")
    assert rows(Path("b.csv")) == rows(Path("a.csv"))
    medsoft("data", "index", scans, "--out=c.csv", "--salt=other")
    assert not {row["patient"] for row in rows(Path("c.csv"))} & set(by_patient.values())


def test_the_salt_is_made_once_for_its_owner_alone(scans, medsoft, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    salt = tmp_path / "home" / "medsoft" / "salt"
    _, out, _ = medsoft("data", "index", scans, "--out=a.csv")
    assert f"made a new salt, {salt}" in out
    assert salt.stat().st_mode & 0o777 == 0o600
    secret = salt.read_text().strip()
    assert secret not in out + Path("a.csv").read_text()
    _, out, _ = medsoft("data", "index", scans, "--out=b.csv")
    assert "salt" not in out
    salt.chmod(0o644)
    _, out, _ = medsoft("data", "index", scans, "--out=c.csv")
    assert "can be read by others" in out
    (tmp_path / "password").write_text("hunter2")
    code, _, err = medsoft("data", "index", scans, "--out=d.csv", f"--salt={tmp_path}/password")
    assert (code, "hunter2" in err, "is not a salt" in err) == (2, False, True)


def test_pseudonyms():
    assert pseudonym(b"a", "patient", "1") != pseudonym(b"a", "exam", "1") != pseudonym(b"b", "exam", "1")
    assert pseudonym(b"a", "patient", "") == ""


def test_what_cannot_be_a_sample_is_listed(scans, medsoft):
    one = sorted((scans / "one" / "ct").glob("*"))
    shutil.copytree(scans / "one" / "ct", scans / "backup")
    (scans / "two" / "text.dcm").write_text("this is a text file")
    write_series(scans / "gap", phantom((5, 6, 8)), keep=[0, 1, 2, 4, 5, 6, 7])
    write(scans / "nameless.dcm", np.zeros((9, 9), np.uint8), SeriesInstanceUID=None)
    write(scans / "loop.dcm", np.zeros((3, 20, 30), np.uint8), Modality="US")
    (scans / "notes.txt").write_text("seen")
    code, out, err = medsoft("data", "index", scans, "--out=table.csv", "--salt=salt")
    assert (code, err) == (3, "")
    problems = {
        row["path"].removeprefix(f"{scans}/"): (row["stage"], row["reason"]) for row in rows(Path("table.errors.csv"))
    }
    assert len([path for path, (stage, _) in problems.items() if stage == "duplicate"]) == len(one)
    assert problems["two/text.dcm"] == ("read", "is not a DICOM file")
    assert "lies beside 1 DICOM files that cannot be read" in problems["two#1.2.4"][1]
    assert "lacks slices" in problems["gap"][1]
    assert "a loop" in problems["loop.dcm"][1]
    assert "SeriesInstanceUID" in problems["nameless.dcm"][1]
    assert "notes.txt" not in problems
    assert not [value for value in SECRET.values() if value in out + Path("table.errors.csv").read_text()]
    for row in rows(Path("table.csv")):
        if row["kind"] == "volume":
            read_volume(row["path"], time="phases")


@pytest.mark.parametrize("length", [0, 100, 200, 300, 500, 700, 900])
def test_a_slice_cut_short_in_its_header_is_no_other_object(medsoft, tmp_path, length):
    end, *_ = write_series(tmp_path / "ct", phantom())
    end.write_bytes(end.read_bytes()[:length])
    code, out, _ = medsoft("data", "index", tmp_path / "ct", "--out=table.csv", "--salt=salt")
    assert (code, rows(Path("table.csv"))) == (3, []), out
    assert {row["path"] for row in rows(Path("table.errors.csv"))} == {str(end), str(tmp_path / "ct")}


def test_segmentations_are_no_samples_and_hide_none(medsoft, tmp_path):
    write_series(tmp_path / "ct", phantom())
    place = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": AXIAL, "PixelSpacing": [1, 1]}
    mask = {"SOPClassUID": SegmentationStorage, "Modality": "SEG", "SliceThickness": 1, **place}
    segmentation = write(tmp_path / "ct" / "seg.dcm", np.ones((6, 5), np.uint8), **mask)
    code, out, _ = medsoft("data", "index", tmp_path / "ct", "--out=table.csv", "--salt=salt")
    (row,) = rows(Path("table.csv"))
    assert (code, row["modality"], row["path"]) == (0, "CT", str(tmp_path / "ct"))
    assert "1 is a segmentation" in out
    assert read_volume(row["path"]).shape == (5, 6, 4)
    assert read_volume(segmentation).shape == (5, 6, 1)  # as a mask may be


def test_each_table_has_its_own_list_of_errors(scans, medsoft):
    (scans / "two" / "text.dcm").write_text("this is a text file")
    medsoft("data", "index", scans / "two", "--out=bad.csv", "--salt=salt")
    listed = rows(Path("bad.errors.csv"))
    assert len(listed) == 3
    assert medsoft("data", "index", scans / "one", "--out=good.csv", "--salt=salt")[0] == 0
    assert not Path("good.errors.csv").exists()
    assert rows(Path("bad.errors.csv")) == listed


@pytest.mark.parametrize(
    ("by", "value"), [("PatientID", "HOSP-4711"), ("AccessionNumber", "ACC-99812"), ("StudyInstanceUID", STUDY)]
)
def test_labels_are_joined_by_what_the_hospital_knows(scans, medsoft, by, value):
    Path("labels.csv").write_text(f"{by},tumour,grade\n{value},1,02\nelse,0,1\n,0,1\n")
    words = ("--out=table.csv", "--salt=salt", "--labels=labels.csv", f"--labels_by={by}")
    code, out, err = medsoft("data", "index", scans, *words)
    assert (code, err) == (0, "")
    labelled = {row["path"].removeprefix(f"{scans}/"): (row["tumour"], row["grade"]) for row in rows(Path("table.csv"))}
    assert labelled["one/ct"] == ("1", "02")
    if by == "PatientID":
        assert labelled["two#1.2.4"] == ("", "")
        assert "4 samples have some, 2 none" in out
    if by != "StudyInstanceUID":
        assert value not in out + Path("table.csv").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient,tumour\nHOSP-4711,1\n", "no column 'PatientID'"),
        ("PatientID,PatientName,tumour\nHOSP-4711,Doe,1\n", "PatientName would name patients"),
        ("PatientID,tumour\nHOSP-4711,1\nHOSP-4711,0\n", "1 values of PatientID stand in several rows"),
        ("PatientID,modality\nHOSP-4711,1\n", "columns of its own called modality"),
    ],
)
def test_labels_that_cannot_be_joined(scans, medsoft, text, said):
    Path("labels.csv").write_text(text)
    code, out, err = medsoft("data", "index", scans, "--out=table.csv", "--salt=salt", "--labels=labels.csv")
    assert (code, err.count("\n"), said in err) == (2, 1, True), err
    assert "4711" not in out + err
    assert not Path("table.csv").exists()


def test_copies_in_the_same_folder_are_said_of_the_series_too(scans, medsoft):
    file = next((scans / "one" / "ct").glob("*"))
    shutil.copy(file, file.with_name("copy.dcm"))
    code, *_ = medsoft("data", "index", scans / "one", "--out=table.csv", "--salt=salt")
    stages = [row["stage"] for row in rows(Path("table.errors.csv"))]
    assert (code, sorted(stages)) == (3, ["duplicate", "index"])
    assert rows(Path("table.csv")) == []


def test_a_dicomdir_is_an_index_already(scans, medsoft, tmp_path):
    files = FileSet()
    for path in [*(scans / "one" / "ct").glob("*"), *(scans / "two").glob("*")]:
        dataset = pydicom.dcmread(path)
        dataset.StudyTime = dataset.StudyID = "1"
        files.add(dataset)
    files.write(tmp_path / "disc")
    code, _, _ = medsoft("data", "index", tmp_path / "disc" / "DICOMDIR", "--out=table.csv", "--salt=salt")
    assert code == 0
    table = rows(Path("table.csv"))
    assert [row["path"].removeprefix(f"{tmp_path}/") for row in table] == [f"disc/DICOMDIR#1.2.{i}" for i in (3, 4, 5)]
    for row in table:
        np.testing.assert_array_equal(read_volume(row["path"], time="phases").array[0], phantom())
    code, *_ = medsoft("data", "index", tmp_path / "disc", "--out=again.csv", "--salt=salt")
    assert (code, len(rows(Path("again.csv")))) == (0, 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scans"], "--out"),
        (["scans", "--out=a.txt"], ".csv or .parquet"),
        (["nothing", "--out=a.csv"], "No such file"),
        (["empty", "--out=a.csv"], "no DICOM files"),
        (["scans/three.dcm", "--out=a.csv"], "lists no files"),
        (["scans", "--out=there.csv"], "already exists"),
    ],
)
def test_calls_that_cannot_be(scans, medsoft, tmp_path, words, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.csv").touch()
    code, _, err = medsoft("data", "index", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err


def test_a_malformed_dicomdir_gives_no_table_and_no_crash(shared_data, medsoft, tmp_path):
    for path in sorted((shared_data / "malformed" / "dicom").glob("DICOMDIR*")):
        code, out, err = medsoft("data", "index", path, f"--out={path.name}.csv", f"--salt={tmp_path}/salt")
        assert code in (2, 3), (path.name, out, err)
        if code == 3:
            assert {row["stage"] for row in rows(Path(f"{path.name}.errors.csv"))} == {"read"}


def test_check_phi_counts_elements_and_shows_no_value(scans, medsoft):
    within = [item(PatientID="HOSP-4711-old", ReferringPhysicianName="Quack^Donald")]
    private = pydicom.dataset.Dataset()
    write(
        scans / "us.dcm", np.zeros((5, 5, 3), np.uint8), Modality="US", OtherPatientIDsSequence=within, PatientName=""
    )
    dataset = pydicom.dcmread(scans / "us.dcm")
    private = dataset.private_block(0x0011, "Vendor", create=True)
    private.add_new(1, "LO", "Doe^Jane again")
    dataset.save_as(scans / "us.dcm")
    code, out, err = medsoft("data", "index", scans, "--check-phi")
    assert (code, err) == (0, "")
    counts = dict(re.findall(r"│ (\w[\w ]*?) +│ +(\d+) │", out))
    files = len(list(scans.rglob("*.dcm")))
    assert (counts["PatientID"], counts["PatientName"], counts["AccessionNumber"]) == (
        str(files), str(files - 1), str(files),
    )  # fmt: skip
    assert counts["OtherPatientIDsSequence"] == counts["private elements"] == "1"
    assert "1 files may have text burnt into the picture" in out
    assert re.search(rf"BurnedInAnnotation +│ 0 +│ 0 +│ {files}", out)
    assert not [value for value in (*SECRET.values(), "Vendor") if value in out]
    assert not list(Path().glob("*.csv"))


def test_elements_are_listed_in_one_order(capfd):
    names = ["PatientID", "PatientName", "AccessionNumber", "StudyDate"]
    for order in (names, names[::-1]):
        _print_carried(Carried(1, Counter(dict.fromkeys(order, 1))), Console(width=80))
    said = capfd.readouterr().out
    assert said[: len(said) // 2] == said[len(said) // 2 :]


def test_the_listed_elements_exist():
    assert [keyword for keyword in KEYWORDS if tag_for_keyword(keyword) is None] == []
    assert len(KEYWORDS) > 100


def test_a_salt_of_another_length_is_refused(tmp_path):
    (tmp_path / "salt").write_text("ab" * 31)
    with pytest.raises(InputError, match="64 hexadecimal"):
        load_salt(tmp_path / "salt")
