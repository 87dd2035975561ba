"""While the house is being rebuilt: small runs give the same numbers, to the last bit, as before.

The numbers in ``same_numbers.json`` hold for one processor and one version of torch; elsewhere these tests are skipped.
``MEDSOFT_RECORD=1`` writes them anew, which is right only where a change of numbers is meant.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from tests.builders.bags import TINY_BAGS, write_slides
from tests.builders.images import TINY, write_images
from tests.builders.slides import ENCODER, TILES, write_slide
from tests.builders.volumes import TINY_VOLUME, write_volumes

pytestmark = pytest.mark.long

GOLDEN = Path(__file__).with_name("same_numbers.json")


def machine() -> str:
    flags = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith("model name")), "")
        flags += next((line for line in lines if line.startswith("flags")), "")
    return hashlib.sha256(f"{platform.machine()} {flags} {torch.__version__} {np.__version__}".encode()).hexdigest()[
        :16
    ]


def of_table(path: Path) -> str:
    """Hash of a CSV's numbers and words; of rows in their order, of columns by name."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [dict(sorted(row.items())) for row in csv.DictReader(file)]
    for row in rows:
        row.pop("ood_score", None)  # its method may change
        row.pop("abstain", None)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def of_array(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def images_table(folder: Path) -> Path:
    """The binary table with three more kinds of label."""
    table = pd.read_csv(write_images(folder, 24, per_patient=2))
    rng = np.random.default_rng(1)
    table["stage"] = rng.integers(0, 3, len(table))
    table["red"], table["round"] = rng.integers(0, 2, len(table)), table["grade"]
    table["size"] = table["grade"] * 4.0 + rng.normal(size=len(table)).round(3)
    path = folder / "more.csv"
    table.to_csv(path, index=False)
    return path


KINDS = {
    "binary": ["--data.label=label", "--data.classes=[dark, light]"],
    "multiclass": ["--data.label=stage", "--data.task=multiclass", "--model.backbone_args.attention=softmax"],
    "ordinal": ["--data.label=stage", "--data.task=ordinal", "--model.backbone_args.attention=sima"],
    "multilabel": ["--data.label=red,round", "--data.task=multilabel"],
    "regression": ["--data.label=size", "--data.task=regression", "--model.backbone_args.attention=soft"],
}


def predictions_and_metrics(run: Path) -> dict[str, str]:
    metrics = json.loads((run / "metrics.json").read_text())
    return {
        "predictions": of_table(run / "predictions.csv"),
        "metrics": hashlib.sha256(json.dumps(metrics, sort_keys=True).encode()).hexdigest()[:16],
    }


def images(medsoft, folder: Path, kind: str) -> dict[str, str]:
    table, out = images_table(folder), folder / "run"
    words = [*TINY, *KINDS[kind], "--data.patient=patient", "--trainer.max_epochs=2", "--report=false"]
    code, _, err = medsoft("fit", f"--data.table={table}", *words, f"--out={out}")
    assert code == 0, err
    return predictions_and_metrics(out)


def volumes(medsoft, folder: Path) -> dict[str, str]:
    table, out = write_volumes(folder, 12), folder / "run"
    words = [*TINY_VOLUME, "--data.label=label", "--data.classes=[small, large]", "--data.patient=patient"]
    words += ["--trainer.max_epochs=2", "--report=false"]
    code, _, err = medsoft("fit", "--config=volume", f"--data.table={table}", *words, f"--out={out}")
    assert code == 0, err
    code, _, err = medsoft("test", f"--checkpoint={out}", "--maps=1", f"--out={folder / 'test'}", "--report=false")
    assert code == 0, err
    maps = sorted((folder / "test").rglob("*.nii*"))
    assert maps
    found = {f"map {i}": of_array(np.asarray(nibabel.load(path).dataobj)) for i, path in enumerate(maps)}
    return predictions_and_metrics(out) | found


def bags(medsoft, folder: Path) -> dict[str, str]:
    table, out = write_slides(folder), folder / "run"
    words = [f"--data.table={table}", f"--data.features={folder / 'features'}", "--data.label=label"]
    code, _, err = medsoft("fit", *TINY_BAGS, *words, "--trainer.max_epochs=2", "--report=false", f"--out={out}")
    assert code == 0, err
    return predictions_and_metrics(out)


def slides(medsoft, folder: Path) -> dict[str, str]:
    rows = []
    for i in range(8):
        write_slide(folder / "scans" / f"s{i}.tif", seed=i)
        rows.append({"path": f"scans/s{i}.tif", "label": ("healthy", "ill")[i % 2], "patient": f"P{i}"})
    table = folder / "slides.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    code, _, err = medsoft("slides", "encode", folder / "scans", *TILES, *ENCODER, "--out", folder / "work")
    assert code == 0, err
    found = {}
    for path in sorted((folder / "work").rglob("*.h5"))[:2]:
        with h5py.File(path) as file:
            found |= {f"{path.stem} {name}": of_array(file[name][()]) for name in ("features", "coords")}
    words = [f"--data.table={table}", f"--data.features={folder / 'work' / 'features'}", "--data.label=label"]
    words += ["--trainer.max_epochs=2", "--report=false", f"--out={folder / 'run'}"]
    code, _, err = medsoft("fit", *TINY_BAGS, *words)
    assert code == 0, err
    scans = [folder / "scans" / f"s{i}.tif" for i in range(2)]
    words = ["--checkpoint", folder / "run", "--out", folder / "predicted", "--device", "cpu"]
    code, _, err = medsoft("slides", "predict", *scans, *words)
    assert code == 0, err
    found |= predictions_and_metrics(folder / "run")
    found["predicted"] = of_table(folder / "predicted" / "predictions.csv")
    tables = sorted((folder / "predicted").rglob("*.geojson"))
    assert tables
    for path in tables:
        # Named "sum of shares (logit)" when the numbers were recorded.
        regions = json.loads(path.read_text().replace("sum of contributions (logit)", "sum of shares (logit)"))
        found[f"regions {path.stem}"] = hashlib.sha256(json.dumps(regions).encode()).hexdigest()[:16]
    return found


RUNS = {f"images {kind}": lambda medsoft, folder, kind=kind: images(medsoft, folder, kind) for kind in KINDS}
RUNS |= {"volumes": volumes, "bags": bags, "slides": slides}


@pytest.mark.parametrize("name", RUNS)
def test_small_runs_give_the_same_numbers(name, medsoft, tmp_path):
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {"runs": {}}
    record = os.environ.get("MEDSOFT_RECORD") == "1"
    if not record and golden.get("machine") != machine():
        pytest.skip("the numbers were recorded on another kind of processor or with another version of torch")
    found = RUNS[name](medsoft, tmp_path)
    if record:
        golden["machine"] = machine()
        golden["runs"][name] = found
        GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
        return
    assert found == golden["runs"][name]
