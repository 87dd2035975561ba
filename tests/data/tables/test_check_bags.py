"""``medsoft data check`` and ``split`` know bags, as ``fit`` does."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from medsoft.data.datasets.bag_module import BagDataModule
from medsoft.errors import InputError
from tests.builders.bags import write_slides


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """A table that names 8 slides, whose feature files are in the folder features beside it."""
    return write_slides(tmp_path / "set", 8)


def test_bags_are_read_and_described(medsoft, slides: Path) -> None:
    frame = pd.read_csv(slides)
    frame["path"] = [f"features/{Path(path).stem}.h5" for path in frame["path"]]
    frame.to_csv(slides, index=False)
    code, out, err = medsoft("data", "check", slides, "--positive=ill")
    assert (code, err) == (0, "")
    assert "Bags: 8 feature files of" in out
    assert "6 features per tile" in out
    broken = slides.parent / frame["path"][2]
    broken.write_bytes(broken.read_bytes()[:200])
    code, _, err = medsoft("data", "check", slides, "--positive=ill")
    assert code == 2
    assert "unusable features (1)" in err
    assert "row 3:" in err


def test_a_table_of_slides_finds_its_features_and_its_patients(medsoft, slides: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(slides)
    patients = [f"p{i}" for i in range(8)]
    pd.DataFrame({"patient": patients, "label": frame["label"]}).to_csv(tmp_path / "clinical.csv", index=False)
    pd.DataFrame({"path": frame["path"], "patient": patients}).to_csv(tmp_path / "slides.csv", index=False)
    folder = slides.parent / "features"
    words = ["slides.csv", f"--features={folder}", "--clinical=clinical.csv", "--patient=patient", "--positive=ill"]
    code, out, err = medsoft("data", "check", *words)
    assert (code, err) == (0, "")
    assert "8 feature files" in out
    code, _, err = medsoft("data", "split", *words, "--out=s.csv")
    assert (code, err) == (0, "")
    assert list(pd.read_csv("s.csv")) == ["path", "patient", "split"]
    code, _, err = medsoft("data", "check", *words, "--dynamic=true")
    assert (code, "are for volumes" in err) == (2, True)


def test_bags_of_patients_need_their_column_in_prediction_too(slides: Path) -> None:
    with pytest.raises(InputError, match="no column 'who'"):
        BagDataModule(str(slides), patient="who", group="patient", positive="ill", stage="predict")
