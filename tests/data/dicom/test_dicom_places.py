"""Several DICOM images of one place: what tells them apart is named, chosen by an option, and time comes last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import EnhancedMRImageStorage

from medsoft.data.dicom.tell_apart import parse_select
from medsoft.data.volumes.read import read_volume
from medsoft.errors import InputError, ReadError
from tests.builders.dicom import AXIAL, SECRET, item, phantom, write, write_series
from tests.builders.volumes import TINY_VOLUME

CLOCK = [{"AcquisitionDate": "20240301", "AcquisitionTime": f"12000{t}", "AcquisitionNumber": t + 1} for t in range(3)]
OTHERS = {
    "EchoTime": ("2 echo times", 20.0, 80.0),
    "EchoNumbers": ("2 echo numbers", 1, 2),
    "DiffusionBValue": ("2 b-values", 0.0, 800.0),
    "DiffusionGradientOrientation": ("2 diffusion directions", [1.0, 0.0, 0.0], [0.0, 0.6, 0.8]),
    "InversionTime": ("2 inversion times", 100.0, 900.0),
    "FlipAngle": ("2 flip angles", 5, 15),
    "ImageType": ("2 image types", ["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]),
    "KVP": ("2 tube voltages", 80, 140),
    "ConvolutionKernel": ("2 reconstruction kernels", "B30f", "B70f"),
}


def write_images(folder: Path, elements: list[dict], **same: object) -> list[Path]:
    """One series with an image of each set of elements at every place; their numbers are 1000 apart."""
    files = []
    for t, own in enumerate(elements):
        moved = phantom() + 1000 * t
        options = {"prefix": f"{9 - t}", "shuffle": t, "SeriesInstanceUID": "1.2.3", "Modality": "MR"}
        files += write_series(folder, moved, **options, **same, **own)
    return files


def reason(place: Path, **options: object) -> str:
    with pytest.raises(ReadError) as caught:
        read_volume(place, **options)
    said = caught.value.reason
    assert not [value for value in SECRET.values() if value in said]
    assert "2024" not in said, "dates stay in the files"
    return said


def private(path: Path, group: int, creator: str, elements: dict[int, tuple[str, object]]) -> None:
    dataset = pydicom.dcmread(path)
    block = dataset.private_block(group, creator, create=True)
    for element, (kind, value) in elements.items():
        block.add_new(element, kind, value)
    dataset.save_as(path)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_time_comes_before_time_and_can_be_chosen(tmp_path, name):
    said, first, second = OTHERS[name]
    write_images(tmp_path, [{name: first, **CLOCK[0]}, {name: second, **CLOCK[1]}])
    for time in ("refuse", "phases"):
        assert said in reason(tmp_path, time=time)
        assert f"--data.select {name}=" in reason(tmp_path, time=time).replace("'", "")
    text = ",".join(map(str, second)) if name == "DiffusionGradientOrientation" else second
    text = second[-1] if name == "ImageType" else text
    volume = read_volume(tmp_path, select=(f"{name}={text}",))
    np.testing.assert_array_equal(volume.array[0], phantom() + 1000)


@pytest.mark.parametrize(
    ("group", "creator", "elements"),
    [
        (0x0019, "SIEMENS MR HEADER", [{0x0C: ("IS", "0")}, {0x0C: ("IS", "800")}]),
        (0x0043, "GEMS_PARM_01", [{0x39: ("IS", [0, 8, 0, 0])}, {0x39: ("IS", [1000000800, 8, 0, 0])}]),
        (0x2001, "Philips Imaging DD 001", [{0x03: ("FL", 0.0)}, {0x03: ("FL", 800.0)}]),
    ],
)
def test_b_values_of_vendors(tmp_path, group, creator, elements):
    files = write_images(tmp_path, CLOCK[:2])
    for number, path in enumerate(files):
        private(path, group, creator, elements[number // 4])
    assert "2 b-values (DiffusionBValue: 0, 800)" in reason(tmp_path, time="phases")
    volume = read_volume(tmp_path, select=("DiffusionBValue=800",))
    np.testing.assert_array_equal(volume.array[0], phantom() + 1000)


@pytest.mark.parametrize(
    ("group", "creator", "kinds"),
    [
        (0x0019, "SIEMENS MR HEADER", {0x0E: "FD"}),
        (0x0019, "GEMS_ACQU_01", {0xBB: "DS", 0xBC: "DS", 0xBD: "DS"}),
        (0x2005, "Philips MR Imaging DD 001", {0xB0: "FL", 0xB1: "FL", 0xB2: "FL"}),
    ],
)
def test_diffusion_directions_of_vendors(tmp_path, group, creator, kinds):
    directions = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    for number, path in enumerate(write_images(tmp_path, CLOCK[:2])):
        own = directions[number // 4]
        values = [own] if len(kinds) == 1 else own
        private(path, group, creator, {e: (kind, v) for (e, kind), v in zip(kinds.items(), values, strict=True)})
    assert "2 diffusion directions" in reason(tmp_path, time="phases")
    np.testing.assert_array_equal(
        read_volume(tmp_path, select=("DiffusionGradientOrientation=0,1,0",)).array[0], phantom() + 1000
    )


def test_several_conditions_and_what_is_left_of_them(tmp_path):
    pairs = [(b, direction) for b, direction in ((0.0, None), (800.0, [1.0, 0, 0]), (800.0, [0, 1.0, 0]))]
    elements = [{"DiffusionBValue": b, "DiffusionGradientOrientation": direction} for b, direction in pairs]
    write_images(tmp_path, elements)
    said = reason(tmp_path, time="phases")
    assert "2 b-values (DiffusionBValue: 0, 800)" in said
    assert "3 diffusion directions" in said
    assert "2 diffusion directions" in reason(tmp_path, select=("DiffusionBValue=800",))
    np.testing.assert_array_equal(read_volume(tmp_path, select=("DiffusionBValue=0",)).array[0], phantom())
    both = ("DiffusionBValue=800", "DiffusionGradientOrientation=0,1,0")
    np.testing.assert_array_equal(read_volume(tmp_path, select=both).array[0], phantom() + 2000)
    assert "has no image with DiffusionBValue=700; its values of DiffusionBValue: 0, 800" in reason(
        tmp_path, select=("DiffusionBValue=700",)
    )


def test_an_echo_that_lacks_slices_is_named(tmp_path):
    files = write_images(tmp_path, [{"EchoTime": 20}, {"EchoTime": 80}])
    files[-1].unlink()
    assert "1 to 2 slices at one place: 2 echo times" in reason(tmp_path, time="phases")
    np.testing.assert_array_equal(read_volume(tmp_path, select=("EchoTime=20",)).array[0], phantom())


def enhanced(path: Path, frames: list[dict], **elements: object) -> Path:
    """Two slices of each set of functional groups, the numbers 1000 apart."""
    groups = [
        item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2 * z])], **own) for own in frames for z in (0, 1)
    ]
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=AXIAL)],
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=2)],
    )
    pixels = np.stack([phantom()[:, :, z].T + 1000 * t for t in range(len(frames)) for z in (0, 1)]).astype(np.int16)
    return write(
        path, pixels, SOPClassUID=EnhancedMRImageStorage, Modality="MR", SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=groups, **elements,
    )  # fmt: skip


def directed(b: float, direction: list[float]) -> dict:
    inner = item(DiffusionGradientOrientation=direction)
    return {"MRDiffusionSequence": [item(DiffusionBValue=b, DiffusionGradientDirectionSequence=[inner])]}


ENHANCED = {
    "EchoTime": [{"MREchoSequence": [item(EffectiveEchoTime=echo)]} for echo in (20.0, 80.0)],
    "DiffusionBValue": [{"MRDiffusionSequence": [item(DiffusionBValue=b)]} for b in (0.0, 800.0)],
    "DiffusionGradientOrientation": [directed(800.0, [1.0, 0, 0]), directed(800.0, [0, 1.0, 0])],
    "InversionTime": [{"MRModifierSequence": [item(InversionTimes=[time])]} for time in (100.0, 900.0)],
    "FlipAngle": [{"MRTimingAndRelatedParametersSequence": [item(FlipAngle=angle)]} for angle in (5.0, 15.0)],
    "ImageType": [{"MRImageFrameTypeSequence": [item(FrameType=["ORIGINAL", "PRIMARY", kind])]} for kind in "MP"],
}


@pytest.mark.parametrize("name", ENHANCED)
def test_functional_groups_say_the_same(tmp_path, name):
    timed = [
        own | {"FrameContentSequence": [item(TemporalPositionIndex=t + 1)]} for t, own in enumerate(ENHANCED[name])
    ]
    path = enhanced(tmp_path / "a.dcm", timed)
    assert OTHERS[name][0] in reason(path, time="phases")
    value = {"DiffusionGradientOrientation": "0,1,0", "ImageType": "P"}.get(name, OTHERS[name][2])
    volume = read_volume(path, select=(f"{name}={value}",))
    np.testing.assert_array_equal(volume.array[0], phantom()[:, :, :2] + 1000)


# --- time ---


def test_contrast_goes_with_time_and_is_named(tmp_path):
    elements = [{"ContrastBolusAgent": agent, **CLOCK[t]} for t, agent in enumerate((None, "agent", "agent"))]
    write_images(tmp_path, elements)
    said = reason(tmp_path)
    assert "3 acquisitions (AcquisitionNumber: 1, 2, 3)" in said
    assert "2 states of contrast (ContrastBolusAgent: absent, present)" in said
    assert read_volume(tmp_path, time="phases").meta["phase_s"] == (0, 1, 2)
    np.testing.assert_array_equal(read_volume(tmp_path, select=("ContrastBolusAgent=absent",)).array[0], phantom())
    np.testing.assert_array_equal(read_volume(tmp_path, select=("TimePoint=3",)).array[0], phantom() + 2000)
    assert "has 3 time points" in reason(tmp_path, select=("TimePoint=4",))


@pytest.mark.parametrize(
    ("moments", "seconds"),
    [
        ([("20240229", "235930"), ("20240301", "000030")], (0, 60)),
        ([("20240229", "115959.5"), ("20240229", "120000.25")], (0, 0.75)),
        ([("20231231", "235959"), ("20240101", "000001")], (0, 2)),
        ([("20240301", "095900"), ("20240301", "100100")], (0, 120)),
    ],
)
def test_seconds_are_differences_of_date_and_time(tmp_path, moments, seconds):
    forms = {
        "plain": [{"AcquisitionDate": d, "AcquisitionTime": t} for d, t in moments],
        "together": [{"AcquisitionDateTime": d + t} for d, t in moments],
        "content": [{"ContentDate": d, "ContentTime": t} for d, t in moments],
        "zone": [{"AcquisitionDateTime": f"{d}{t}+0100"} for d, t in moments],
        "numbered": [
            {"TemporalPositionIdentifier": i, "AcquisitionDate": d, "AcquisitionTime": t}
            for i, (d, t) in enumerate(moments, start=1)
        ],
    }
    for name, elements in forms.items():
        write_images(tmp_path / name, elements)
        volume = read_volume(tmp_path / name, time="phases")
        assert volume.meta["phase_s"] == seconds, name
        np.testing.assert_array_equal(volume.array[1], phantom() + 1000)
    frames = [{"FrameContentSequence": [item(FrameAcquisitionDateTime=d + t)]} for d, t in moments]
    assert read_volume(enhanced(tmp_path / "e.dcm", frames), time="phases").meta["phase_s"] == seconds


def test_summer_time_ends_between_two_phases(tmp_path):
    write_images(
        tmp_path, [{"AcquisitionDateTime": "20241027025930+0200"}, {"AcquisitionDateTime": "20241027020030+0100"}]
    )
    volume = read_volume(tmp_path, time="phases")
    assert volume.meta["phase_s"] == (0, 60)
    np.testing.assert_array_equal(volume.array[1], phantom() + 1000)


def test_times_without_a_date_do_not_cross_midnight(tmp_path):
    write_images(tmp_path / "a", [{"AcquisitionTime": "095900"}, {"AcquisitionTime": "100100"}])
    assert read_volume(tmp_path / "a", time="phases").meta["phase_s"] == (0, 120)
    write_images(tmp_path / "b", [{"AcquisitionTime": "235930"}, {"AcquisitionTime": "000030"}])
    assert "no time that tells them apart" in reason(tmp_path / "b", time="phases")


def test_a_clock_that_contradicts_the_order_is_refused(tmp_path):
    turned = [
        {"TemporalPositionIdentifier": i, **CLOCK[t], "AcquisitionNumber": None, "AcquisitionTime": f"12{50 - 9 * i}00"}
        for i, t in ((1, 0), (2, 1))
    ]
    write_images(tmp_path / "a", turned)
    assert "contradict its TemporalPositionIdentifier" in reason(tmp_path / "a", time="phases")
    same = [{"AcquisitionNumber": i, "AcquisitionDateTime": "20240301120000"} for i in (1, 2)]
    write_images(tmp_path / "b", same)
    assert "2 acquisitions" in reason(tmp_path / "b", time="phases")
    np.testing.assert_array_equal(
        read_volume(tmp_path / "b", select=("AcquisitionNumber=2",)).array[0], phantom() + 1000
    )


def test_mosaics_and_stacks_beside_each_other_are_no_volume(tmp_path):
    write_images(tmp_path / "a", [{"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}])
    assert "mosaics" in reason(tmp_path / "a")
    write_images(tmp_path / "b", [CLOCK[0]])
    write_series(tmp_path / "b", phantom(), origin=(90, -20, 30), prefix="x", SeriesInstanceUID="1.2.3", **CLOCK[1])
    assert "side by side" in reason(tmp_path / "b", time="phases")


# --- the option ---


@pytest.mark.parametrize("text", ["EchoTime", "EchoTime=", "=20", "PatientName=x", "TimePoint=first"])
def test_words_that_select_nothing(text):
    with pytest.raises(InputError, match="write NAME=VALUE"):
        parse_select(text)


def test_the_option_works_in_every_verb(tmp_path, medsoft):
    rng = np.random.default_rng(0)
    rows = []
    for n in range(6):
        voxels = rng.integers(0, 50, (12, 12, 8)).astype(np.int16)
        for t, echo in enumerate((20, 80)):
            same = {"SeriesInstanceUID": f"1.2.{n}", "Modality": "MR", "prefix": str(t), "EchoTime": echo}
            write_series(tmp_path / "set" / f"s{n}", (voxels + 300 * t * (n % 2)).astype(np.int16), **same)
        rows.append({"path": f"s{n}", "label": ("no", "yes")[n % 2], "split": "val" if n > 3 else "train"})
    table = tmp_path / "set" / "t.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    code, _, err = medsoft("data", "check", table, "--positive=yes")
    assert (code, "2 echo times (EchoTime: 20, 80)" in err) == (2, True)
    assert medsoft("data", "check", table, "--positive=yes", "--select=EchoTime=80")[0] == 0
    chosen = ["--data.select=[EchoTime=80]", "--data.positive=yes", f"--data.table={table}"]
    code, _, err = medsoft("data", "show", "--config=volume", *chosen, "--transforms.size=8", "--out=s.png")
    assert code == 0, err
    words = ["--config=volume", *chosen, *TINY_VOLUME, "--trainer.max_epochs=1", "--out=run"]
    code, _, err = medsoft("fit", *words)
    assert code == 0, err
    code, _, err = medsoft("predict", "--checkpoint=run", f"--data.table={table}", "--out=again")
    assert code == 0, err  # the run's own choice
    code, _, err = medsoft("predict", "--checkpoint=run", f"--data.table={table}", "--data.select=EchoTime=30")
    assert (code, "has no image with EchoTime=30; its values of EchoTime: 20, 80" in err) == (2, True)
    code, *_ = medsoft("data", "index", tmp_path / "set", "--out=i.csv", "--salt=salt")
    assert (code, len(pd.read_csv("i.csv"))) == (3, 0)
    code, *_ = medsoft("data", "index", tmp_path / "set", "--out=j.csv", "--salt=salt", "--select=EchoTime=20")
    assert (code, len(pd.read_csv("j.csv"))) == (0, 6)
    Path("p.csv").write_text("path,label\nrun/confusion.png,a\nrun/x.png,b\n")
    code, _, err = medsoft("data", "check", "p.csv", "--positive=a", "--kind=image", "--select=EchoTime=20")
    assert (code, "are for volumes" in err) == (2, True)
