"""``medsoft data check`` and ``split`` of tables of volumes: all problems at once, and what the volumes are."""

import shutil

import nibabel
import numpy as np
import pandas as pd
import pytest
from pydicom.uid import ComprehensiveSRStorage, TwelveLeadECGWaveformStorage

from medsoft.data.tables.reading import load_source
from medsoft.data.volumes.rows import holds_volumes
from tests.builders.dicom import CORONAL, phantom, write, write_series
from tests.builders.volumes import oblique, save, varied, write_volumes


def table_of(folder, rows):
    frame = pd.DataFrame(rows)
    frame["label"] = [("no", "yes")[number % 2] for number in range(len(frame))]
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def check(medsoft, table, *words, code=0):
    got, out, err = medsoft("data", "check", table, "--positive=yes", *words)
    assert got == code, (out, err)
    return out, err


def write_every_fault(folder):
    """Paths by what is wrong with them."""
    write_series(folder / "good", phantom(), spacing=(1, 1, 5))
    write_series(folder / "gap", phantom((5, 6, 9)), keep=[0, 1, 2, 4, 5, 6, 7, 8])
    write_series(folder / "two", phantom(), prefix="a", SeriesNumber=1)
    write_series(folder / "two", phantom(), prefix="b", SeriesNumber=2)
    write_series(folder / "scout", phantom(), SeriesInstanceUID="1.2")
    write_series(folder / "scout", phantom((5, 6, 1)), prefix="s", SeriesInstanceUID="1.2", orientation=CORONAL)
    write_series(folder / "zero", phantom(), PixelSpacing=[0, 0])
    for time in (1, 2):
        write_series(
            folder / "time", phantom(), prefix=f"{time}", SeriesInstanceUID="1.3", TemporalPositionIdentifier=time
        )
    none = dict.fromkeys(["PixelData", "Rows", "Columns", "BitsAllocated", "PhotometricInterpretation"])
    for name, kind in (("report", ComprehensiveSRStorage), ("ecg", TwelveLeadECGWaveformStorage)):
        write(folder / f"{name}.dcm", np.zeros((2, 2), np.uint8), SOPClassUID=kind, **none)
    (folder / "text.dcm").write_text("this is text")
    nan = varied((5, 6, 4))
    nan[0, 0, 0] = np.nan
    save(nan, np.eye(4), folder / "nan.nii.gz")
    save(varied((5, 6, 4, 3)), np.eye(4), folder / "four.nii.gz")
    save(varied((5, 6, 4)), np.eye(4), folder / "fine.nii.gz")
    return {
        "good": None,
        "gap": "lacks slices",
        "two": "2 series",
        "scout": "a localiser among them",
        "zero": "PixelSpacing of zero",
        "time": "2 volumes, one after the other",
        "report.dcm": "without a picture (Comprehensive SR Storage)",
        "ecg.dcm": "without a picture (12-lead ECG Waveform Storage)",
        "text.dcm": "is not a volume of a kind read here",
        "nan.nii.gz": "NaN",
        "four.nii.gz": "3 volumes, one after the other",
        "fine.nii.gz": None,
        "gone.nii.gz": "no such file",
    }


def test_every_fault_is_reported_at_once_with_its_row(medsoft, tmp_path):
    faults = write_every_fault(tmp_path)
    out, err = check(medsoft, table_of(tmp_path, [{"path": name} for name in faults]), code=2)
    for row, said in enumerate(faults.values(), start=1):
        lines = [line for line in err.splitlines() if line.strip().startswith(f"row {row}:")]
        assert [said in line for line in lines] == ([] if said is None else [True]), (said, err)
    assert "unreadable volume (10)" in err
    assert "picture" not in err.replace("without a picture", "")
    assert not [name for name in faults if "." in name and name in err], "paths are in the table alone"
    assert "Note: 1 volumes have voxels more than 3 times as long as wide" in out


def test_what_the_volumes_are(medsoft, tmp_path):
    table = write_volumes(tmp_path / "set", 8)
    frame = pd.read_csv(table)
    save(varied((9, 9, 9)), oblique((2, 1.2, 2)), tmp_path / "set" / frame["path"][0])
    out, _ = check(medsoft, table, "--positive=large", "--patient=patient")
    row = next(line for line in out.splitlines() if "not said" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "path", "8", "1", "9–18 × 9–20 × 9–16", "1–2 × 1.2 × 2", "8 not said",
    ]  # fmt: skip
    assert "4 patients" in out
    assert "No problems found." in out
    out, _ = check(medsoft, table, "--positive=large", "--decode=false")
    assert "the volumes were not opened" in out


def test_time_points_are_announced_and_must_be_as_many(medsoft, tmp_path):
    for name, phases in (("a", 3), ("b", 3), ("c", 2)):
        save(varied((5, 6, 4, phases)) + ord(name), np.eye(4), tmp_path / f"{name}.nii.gz")
    table = table_of(tmp_path, [{"path": f"{name}.nii.gz"} for name in "abc"])
    _, err = check(medsoft, table, "--dynamic=true", code=2)
    assert "row 3: has 2 channels or phases, where the first sample has 3" in err
    assert "other channels (1)" in err
    assert err.splitlines()[0].endswith("1 problem")


def test_boxes_and_masks_are_checked(medsoft, tmp_path):
    save(varied((8, 8, 8)), np.eye(4), tmp_path / "v.nii.gz")
    for name, shape in (("good", (8, 8, 8)), ("other", (8, 8, 7))):
        save(np.ones(shape), np.eye(4), tmp_path / f"{name}.nii.gz")
    save(np.zeros((8, 8, 8)), np.eye(4), tmp_path / "empty.nii.gz")
    box = dict(zip(["x0", "y0", "z0", "x1", "y1", "z1"], [0, 0, 0, 4, 4, 4], strict=True))
    rows = [{"path": "v.nii.gz", "mask": f"{name}.nii.gz", **box} for name in ("good", "other", "empty", "gone")]
    rows += [{**rows[0], "x0": 9, "x1": 12}, {**rows[0], "z1": 0}]
    words = ["--mask=mask", "--box=x0,y0,z0,x1,y1,z1"]
    _, err = check(medsoft, table_of(tmp_path, rows), *words, code=2)
    assert "unusable mask (2)" in err
    assert "row 2: has a mask on another grid: 8 x 8 x 7" in err
    assert "row 3: has an empty mask" in err
    assert "row 4: mask: no such file" in err
    assert "row 5: the box (9, 0, 0, 12, 4, 4) lies outside of the volume's 8 x 8 x 8 voxels" in err
    assert "no box (1)" in err
    assert "duplicate" not in err
    _, err = check(medsoft, tmp_path / "table.csv", *words, "--mask_values=[2]", code=2)
    assert "row 1: has an empty mask: no voxel is 2" in err


def test_several_columns_name_the_one_at_fault(medsoft, tmp_path):
    table = write_volumes(tmp_path / "set", 6, phases=2)
    (tmp_path / "set/volumes/case03_1.nii.gz").write_text("text")
    out, err = check(medsoft, table, "--positive=large", code=2)
    assert "row 4: path_1: is a damaged NIfTI file" in err
    assert {"path_0", "path_1"} <= set(out.split())


def test_an_index_says_of_each_row_what_it_is(medsoft, tmp_path):
    for number in range(4):
        write_series(
            tmp_path / f"scans/{number}", phantom() + number, SeriesInstanceUID=f"1.2.{number}", PatientID=f"P{number}"
        )
    write_series(tmp_path / "scans/4", phantom((5, 6, 1)), PatientID="P4")  # one file, and a volume by its place
    medsoft("data", "index", "scans", "--out=index.csv", "--salt=salt")
    frame = pd.read_csv("index.csv", dtype=str).assign(label=["no", "yes"] * 2 + ["no"])
    frame.to_csv("labelled.csv", index=False)
    out, _ = check(medsoft, "labelled.csv", "--id=id", "--patient=patient", "--exam=exam")
    assert "5 CT" in out


def test_kinds_of_tables(shared_data, tmp_path):
    (tmp_path / "series").mkdir()

    def told(*paths, **columns):
        return holds_volumes(pd.DataFrame({"path": list(paths)} | columns), ["path"], tmp_path)

    assert told("a.png", "b.NII.GZ")
    assert told("series")
    assert told("a.nhdr")
    assert told("series", "b.dcm")
    assert not told("a.png", "series", "b.png")  # a folder by mistake
    assert not told("a.png", "b.dcm", "missing.npz#x_images/3", "")
    assert told("b.dcm", kind=["volume"])
    assert not told("b.dcm", kind=["image"])
    assert told("series", kind=["malignant"])  # a column of the user's own
    for name, volumes in (("volume/adrenalmnist3d_split", True), ("cxr/pneumoniamnist", False)):
        table = next((shared_data / name).glob("*.npz"))
        assert holds_volumes(load_source(table), ["path"], table.parent) == volumes


@pytest.mark.parametrize("words", [["--mask=label"], ["--laterality=label"], ["--box=a,b,c,d,e,f"], ["--dynamic=true"]])
def test_options_for_volumes_are_refused_of_images(medsoft, table, words):
    code, _, err = medsoft("data", "check", table, "--classes=dark,light", *words)
    assert (code, "for volumes: leave them out, or say --kind volume" in err) == (2, True)


def test_a_kind_may_be_stated(medsoft, tmp_path):
    write_series(tmp_path, phantom((5, 6, 2)))
    names = sorted(path.name for path in tmp_path.glob("*.dcm"))
    table = table_of(tmp_path, [{"path": name} for name in names])
    out, _ = check(medsoft, table)
    assert "spacing in mm" not in out
    out, _ = check(medsoft, table, "--kind=volume")
    assert "0.8 × 0.7 × 2.5" in out


def test_folders_of_series_are_split(medsoft, tmp_path):
    rows = []
    for number in range(12):
        write_series(tmp_path / f"s{number}", phantom() + number)
        rows += [{"path": f"s{number}", "side": side, "patient": f"P{number}"} for side in ("left", "right")]
    table = table_of(tmp_path, rows)
    code, _, err = medsoft("data", "split", table, "--out=split.csv", "--positive=yes", "--patient=patient")
    assert (code, "duplicate (12)" in err) == (2, True)
    words = ["--positive=yes", "--patient=patient", "--laterality=side"]
    code, _, err = medsoft("data", "split", table, "--out=split.csv", *words)
    assert code == 0, err
    assert pd.read_csv("split.csv").groupby("patient")["split"].nunique().eq(1).all()


def test_check_reads_what_fit_reads_of_real_files(shared_data, medsoft, tmp_path):
    folder = shared_data / "volume/msd_hippocampus"
    frame = pd.read_csv(folder / "labels.csv").head(6)
    frame["path"] = [str(folder / "images" / name) for name in frame["file"]]
    frame["mask"] = [str(folder / "labels" / name) for name in frame["file"]]
    frame.loc[5, "mask"] = frame["mask"][0]  # of another volume
    frame.to_csv("hippocampi.csv", index=False)
    code, out, err = medsoft(
        "data", "check", "hippocampi.csv", "--label=volume_mm3", "--task=regression", "--mask=mask"
    )
    assert code == 2
    assert "unusable mask (1)" in err
    assert "row 6: has a mask on another grid" in err
    shutil.copy(frame["mask"][5], "copy.nii.gz")
    assert nibabel.load("copy.nii.gz").shape != nibabel.load(frame["path"][5]).shape
    assert "1 × 1 × 1" in out
