"""Nothing that identifies a patient leaves the files: all that a run writes and prints is searched for it."""

import csv
import gzip
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from medsoft.data.dicom.privacy import KEYWORDS
from medsoft.data.images.read import read_image
from medsoft.data.volumes.read import read_volume
from medsoft.errors import ReadError
from medsoft.parsing.log_options import is_logged
from medsoft.storage.fingerprints import array_hash
from tests.builders.dicom import SECRET, phantom, write_series
from tests.builders.images import TINY
from tests.builders.volumes import TINY_VOLUME

USERS_OWN = ("index.csv", "labelled.csv")
LISTS = ("errors.csv", "index.errors.csv")
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


def identifying_values(files: list[Path]) -> set[str]:
    """Values of all identifying elements, those within sequences too; no UIDs.

    Short ones, and numbers of less than eight digits, occur by chance among megabytes and hexadecimal digits.
    """
    values: set[str] = set()
    for path in files:
        for element in pydicom.dcmread(path, force=True).iterall():
            if element.keyword in KEYWORDS and element.keyword not in UIDS and element.VR != "SQ":
                parts = element.value if element.VM > 1 else [element.value]
                values |= {str(part).strip() for part in parts}
    return {value for value in values if len(value) >= 8 or (len(value) > 4 and re.search("[g-zG-Z]", value))}


def written(folder: Path) -> dict[Path, bytes]:
    """All files; of the user's own tables without the columns of UIDs, which may hold dates and are asked for."""
    texts = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    texts = {path: gzip.decompress(text) if path.suffix == ".gz" else text for path, text in texts.items()}
    for path in (folder / name for name in USERS_OWN):
        frame = pd.read_csv(path, dtype=str)
        texts[path] = frame.drop(columns=["study_uid", "series_uid", "frame_of_reference_uid"]).to_csv().encode()
    return texts


def found(values: set[str], texts: dict[Path, bytes]) -> list[tuple[str, str]]:
    """Where values occur; digits within a longer number are none of them: 0.11111111 names nobody."""

    def occurs(value: bytes, text: bytes) -> bool:
        if value not in text or not value.isdigit():
            return value in text
        return re.search(rb"(?<![\d.])" + value + rb"(?![\d.])", text) is not None

    return [(value, path.name) for value in values for path, text in texts.items() if occurs(value.encode(), text)]


def copy_real_files(shared_data: Path, scans: Path) -> set[str]:
    """Three copies of each real file, so that every part of a split has some; returns what names their patients."""
    secrets = identifying_values(sorted((shared_data / "dicom").rglob("*.dcm")))
    assert len(secrets) > 100
    for copy in range(3):
        shutil.copytree(shared_data / "dicom", scans / str(copy))
    for path in list(scans.rglob("*.dcm")):
        dataset = pydicom.dcmread(path, force=True)
        if "PixelData" in dataset and dataset.get("PatientID"):  # no copies of the same patient and image
            name = str(path.relative_to(scans))
            dataset.SOPInstanceUID = dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[name])
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            if not dataset.file_meta.TransferSyntaxUID.is_compressed:
                pixels = bytearray(dataset.PixelData)
                pixels[len(pixels) // 4 * 2] ^= 1 + int(name[0])
                dataset.PixelData = bytes(pixels)
            dataset.PatientID = secret = f"Secret-{name[0]}-{dataset.PatientID}"
            secrets.add(secret)
            dataset.save_as(path)
    return secrets


def content(path: str, config: str) -> str:
    """A hash of what a file shows; of one that cannot be read, its path."""
    try:
        return array_hash(read_volume(path).array if config == "volume" else read_image(path))
    except ReadError:
        return path


@pytest.mark.parametrize(
    ("config", "recipe"), [("chest_xray", []), ("volume", ["--transforms.intensity=zscore", "--data.num_workers=0"])]
)
def test_nothing_identifying_is_in_any_output_of_a_run_over_real_files(shared_data, medsoft, tmp_path, config, recipe):
    secrets = copy_real_files(shared_data, tmp_path / "scans")
    said: list[str] = []

    def run(*words: object, code: int = 0) -> None:
        logs = ["--log-file=out/log.jsonl"] if is_logged(words[0]) else []
        got, *outputs = medsoft(*words, *logs)
        assert got == code, outputs
        said.extend(outputs)

    Path("salt").write_text("5a" * 32)
    Path("out").mkdir()
    run("data", "index", "scans", "--check-phi")
    run("data", "index", "scans", "--out=out/index.csv", "--salt=salt", code=3)
    with Path("out/index.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["slices"] == "1" and row["modality"] != "SEG"]
    rows = [row for row in rows if config == "chest_xray" or row["kind"] == "volume"]
    rows = list({content(row["path"], config): row for row in rows}.values())  # some files hold the same picture
    assert len(rows) > 12
    rows = [row | {"label": ("no", "yes")[i % 2], "patient": row["patient"] or row["id"]} for i, row in enumerate(rows)]
    whole = (shared_data / "dicom/pydicom_wheel/MR_small.dcm").read_bytes()
    Path("broken.dcm").write_bytes(whole[:3000])
    rows.append(rows[0] | {"id": "broken", "path": str(Path("broken.dcm").resolve())})
    with Path("out/labelled.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    named = ["id=id", "patient=patient", "exam=exam", "positive=yes"]
    table = ["--data.table=out/labelled.csv", *(f"--data.{word}" for word in named)]
    kind = "image" if config == "chest_xray" else "volume"
    run("data", "check", "out/labelled.csv", f"--kind={kind}", *(f"--{word}" for word in named), code=2)
    tiny = [word for word in (*TINY, *recipe) if "figures" not in word and "report" not in word]
    fit = ["fit", f"--config={config}", *table, *tiny, "--report=true", "--trainer.max_epochs=1"]
    run(*fit, "--out=out/refused", code=2)
    run(*fit, "--data.on_error=skip", "--out=out/run", code=3)
    more = ["--maps=2"] if config == "volume" else []
    more += ["--data.on_error=skip", "--figures=false", "--report=true"]
    run("predict", "--checkpoint=out/run", *table[:1], *more, "--out=out/again", code=3)
    run("evaluate", "out/run/predictions.csv", "--out=out/evaluation", "--by=row,exam")
    run("export", "out/run", "--out=out/bundle")
    for expected in ("run/report.html", "run/errors.csv", "run/checkpoints/best.ckpt", "again/predictions.csv"):
        assert (tmp_path / "out" / expected).is_file()
    assert bool(list((tmp_path / "out/again").rglob("*.nii.gz"))) == (config == "volume")
    assert Path("out/log.jsonl").read_text().count('"event": "end"') == 3  # of fit, fit and predict
    everything = written(Path("out"))
    everything |= {Path(f"said {i}"): text.encode() for i, text in enumerate(said)}
    assert found(secrets, everything) == []
    places = {str(tmp_path / "scans"), "broken.dcm"}
    tables = {*LISTS, *USERS_OWN}
    assert found(places, {path: text for path, text in everything.items() if path.name not in tables}) == [], (
        "paths are in tables alone"
    )


def test_nothing_identifying_is_in_any_output_of_a_run_over_series(medsoft, tmp_path):
    rows = []
    for i in range(12):
        voxels = np.random.default_rng(i).integers(0, 500 + 500 * (i % 2), (18, 20, 8)).astype(np.int16)
        secret = {"PatientID": f"HOSP-4711-{i}", "PatientName": f"Doe^Jane{i}"}
        phases = [{}] if i < 8 else [{"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}]
        for t, time in enumerate(phases):
            write_series(
                tmp_path / "scans" / f"Doe_Jane{i}", voxels, prefix=f"{t}-", SeriesInstanceUID=f"1.2.3.{i}",
                StudyInstanceUID=f"1.2.4.{i}", Modality="MR", **secret, **time,
            )  # fmt: skip
    Path("salt").write_text("5a" * 32)
    said = [*medsoft("data", "index", "scans", "--out=out/index.csv", "--salt=salt")[1:]]
    with Path("out/index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    rows = [row | {"label": ("dark", "light")[int(row["series_uid"].split(".")[-1]) % 2]} for row in rows]
    with Path("out/labelled.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    words = ["--config=volume", "--data.table=out/labelled.csv", "--data.id=id", "--data.patient=patient"]
    words += ["--data.exam=exam", "--data.positive=light", *TINY_VOLUME, "--trainer.max_epochs=1"]
    code, *outputs = medsoft("fit", *words, "--out=out/refused")
    assert (code, "announce time points" in outputs[1]) == (2, True)
    said += outputs
    code, *outputs = medsoft("fit", *words, "--data.on_error=skip", "--out=out/run")
    assert code == 3, outputs
    said += outputs
    assert "2 volumes, one after the other" in Path("out/run/errors.csv").read_text()
    secrets = {"HOSP-4711", "Doe^Jane", *SECRET.values()}
    assert found(secrets, written(Path("out"))) == []
    assert found(secrets | {"Doe_Jane"}, {Path(f"said {i}"): text.encode() for i, text in enumerate(said)}) == []
    run = {path: text for path, text in written(Path("out")).items() if path.name not in (*LISTS, *USERS_OWN)}
    assert found({"Doe_Jane"}, run) == [], "paths are in tables alone"


@pytest.fixture(scope="module")
def slice_of_a_series(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("slice")
    return write_series(folder, phantom((5, 6, 1)))[0].read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.integers(132, 1200), st.integers(0, 255)), min_size=1, max_size=8))
def test_spoilt_headers_are_read_or_refused_in_a_sentence_without_values(tmp_path, slice_of_a_series, places):
    spoilt = bytearray(slice_of_a_series)
    for place, value in places:
        spoilt[place % len(spoilt)] = value
    path = tmp_path / "spoilt.dcm"
    path.write_bytes(spoilt)
    for read in (read_image, read_volume):
        reason = ""
        try:
            read(path)
        except ReadError as error:
            reason = error.reason
        assert not [secret for secret in SECRET.values() if secret in reason]
        assert len(reason) < 200
