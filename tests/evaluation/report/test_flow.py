"""The flow of samples in the report: its counts add up, whatever verb made the predictions and however it split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from medsoft.inference.slides.cases import Case
from medsoft.inference.slides.model import SlidePrediction
from medsoft.inference.slides.options import ReportSettings, TruthColumns
from medsoft.inference.slides.results import Truth
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.source import SlideSource
from medsoft.task import Task
from medsoft.workflows.slides_predict import write_results
from tests.builders.images import TINY, write_images

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("brief_reports")]

N, EACH = 40, 2
WORDS = [
    "--data.classes=[dark, light]",
    "--data.patient=patient",
    *TINY,
    "--report=true",
    "--examples=0",
    "--data.on_error=skip",
]


def counts_add_up(out: Path) -> dict[str, dict]:
    """Check a report's flow; its parts by name."""
    flow = json.loads((out / "report.json").read_text())["flow"]
    html = (out / "report.html").read_text(encoding="utf-8")
    names = [split["name"] for split in flow["splits"]]
    assert len(names) == len(set(names))
    assert "" not in names
    assert "Part <" not in html
    for split in flow["splits"]:
        assert split["rows"] > 0
        assert split["samples"] <= split["rows"]
        if split["analysed"] is None:
            assert not split["calls"]
            continue
        assert split["analysed"] + split["without_target"] == split["rows"]
        assert sum(split["classes"].values()) == split["analysed"]
        assert sum(call["n"] for call in split["calls"]) in (0, split["analysed"])
        for call in split["calls"]:
            assert sum(call["truth"].values()) == call["n"]
    if flow["rows"] is not None:
        parts = [s["samples"] for s in flow["splits"] if s["name"] != "val" or s["n_models"] == 1]
        assert flow["rows"] == sum(parts) + sum(n for *_, n in flow["excluded"])
    return {split["name"]: split for split in flow["splits"]}


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    """Tables of the same images: without a split, with one, without labels, with some; and one that lacks a file."""
    folder = tmp_path_factory.mktemp("images")
    plain = pd.read_csv(write_images(folder, N, per_patient=EACH))
    part = np.array(["train"] * 6 + ["val"] * 2 + ["test"] * 2)[(np.arange(N) // EACH) % 10]
    # Classes alternate by patient, so that every part of ten patients has both.
    plain.assign(split=part).to_csv(folder / "column.csv", index=False)
    plain.drop(columns="label").to_csv(folder / "unlabelled.csv", index=False)
    plain.assign(label=plain["label"].where(plain.index >= 6, "")).to_csv(folder / "some.csv", index=False)
    missing = plain.loc[0].to_frame().T.assign(path="images/gone.png", patient="P999")
    for name in ("gone", "again"):  # the run's own table keeps its split; a copy is another table
        pd.concat([plain, missing]).to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def run(tables: Path, tmp_path_factory) -> Path:
    """Trained on a drawn split of the table that lacks a file."""
    return fitted(tables / "gone.csv", tmp_path_factory.mktemp("runs") / "drawn")


def fitted(table: Path, out: Path, verb: str = "fit", *words: str) -> Path:
    from medsoft.cli.main import main

    assert main([verb, f"--data.table={table}", *WORDS, "--trainer.max_epochs=1", f"--out={out}", *words]) in (0, 3)
    return out


def test_a_run_that_draws_its_split(run: Path) -> None:
    parts = counts_add_up(run)
    assert set(parts) == {"train", "val", "test"}
    assert parts["train"]["analysed"] is None
    assert parts["test"]["analysed"] > 0


def test_a_run_on_a_table_that_has_a_split(tables: Path, tmp_path: Path) -> None:
    parts = counts_add_up(fitted(tables / "column.csv", tmp_path / "run"))
    assert {name: part["rows"] for name, part in parts.items()} == {"train": 24, "val": 8, "test": 8}


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_verb_on_the_table_of_the_run(verb: str, run: Path, tmp_path: Path) -> None:
    from medsoft.cli.main import main

    assert main([verb, f"--checkpoint={run}", "--figures=false", f"--out={tmp_path / 'out'}"]) in (0, 3)
    parts = counts_add_up(tmp_path / "out")
    assert set(parts) == {"train", "val", "test"}
    read = {"validate": {"val"}, "test": {"test"}, "predict": {"train", "val", "test"}}[verb]
    assert {name for name, part in parts.items() if part["analysed"] is not None} == read


@pytest.mark.parametrize(
    ("verb", "table", "expected"),
    [
        ("predict", "labels.csv", {"all": (40, 40)}),
        ("predict", "some.csv", {"all": (40, 34)}),
        ("predict", "column.csv", {"train": (24, 24), "val": (8, 8), "test": (8, 8)}),
        ("predict", "again.csv", {"all": (40, 40)}),
        ("test", "labels.csv", {"test": (40, 40)}),
        ("test", "column.csv", {"train": (24, None), "val": (8, None), "test": (8, 8)}),
        ("validate", "labels.csv", {"val": (40, 40)}),
    ],
)
def test_a_verb_on_another_table(
    verb: str, table: str, expected: dict[str, tuple[int, int | None]], run: Path, tables: Path, tmp_path: Path
) -> None:
    from medsoft.cli.main import main

    words = [f"--checkpoint={run}", f"--data.table={tables / table}", "--figures=false", f"--out={tmp_path / 'out'}"]
    assert main([verb, *words]) in (0, 3)
    parts = counts_add_up(tmp_path / "out")
    assert {name: (part["rows"], part["analysed"]) for name, part in parts.items()} == expected


def test_without_labels_there_is_no_flow(run: Path, tables: Path, tmp_path: Path) -> None:
    from medsoft.cli.main import main

    words = [f"--checkpoint={run}", f"--data.table={tables / 'unlabelled.csv'}", "--figures=false"]
    assert main(["predict", *words, f"--out={tmp_path / 'out'}"]) == 0
    assert not (tmp_path / "out" / "report.json").exists()


def test_evaluate_with_and_without_the_run(run: Path, tmp_path: Path) -> None:
    from medsoft.cli.main import main

    options = ["--draws=20", "--figures=false"]
    assert main(["evaluate", str(run), "--out", str(tmp_path / "by run"), *options]) == 0
    assert set(counts_add_up(tmp_path / "by run")) == {"train", "val", "test"}
    assert main(["evaluate", str(run / "predictions.csv"), "--out", str(tmp_path / "alone"), *options]) == 0
    assert set(counts_add_up(tmp_path / "alone")) == {"val", "test"}
    frame = pd.read_csv(run / "predictions.csv", dtype=str, keep_default_na=False).drop(columns=["split", "fold"])
    frame.to_csv(tmp_path / "other.csv", index=False)
    assert main(["evaluate", str(tmp_path / "other.csv"), "--out", str(tmp_path / "no split"), *options]) == 0
    assert set(counts_add_up(tmp_path / "no split")) == {"all"}


def test_a_run_of_before_that_wrote_down_one_part_alone(run: Path, tmp_path: Path) -> None:
    """What the table has besides is counted as other parts."""
    from medsoft.cli.main import main

    shutil.copytree(run, tmp_path / "run")
    facts = json.loads((run / "facts.json").read_text())
    facts["data"]["splits"] = {"test": facts["data"]["splits"]["test"]}
    (tmp_path / "run" / "facts.json").write_text(json.dumps(facts))
    frame = pd.read_csv(run / "predictions.csv")
    frame[frame["split"] == "test"].to_csv(tmp_path / "test.csv", index=False)
    words = [str(tmp_path / "test.csv"), "--run", str(tmp_path / "run"), "--draws=20", "--figures=false"]
    assert main(["evaluate", *words, "--out", str(tmp_path / "out")]) == 0
    parts = counts_add_up(tmp_path / "out")
    assert set(parts) == {"test", "other"}


def test_a_cross_validation(tables: Path, tmp_path: Path) -> None:
    out = fitted(tables / "gone.csv", tmp_path / "cv", "crossval", "--folds=2", "--data.val_fraction=0.25")
    parts = counts_add_up(out)
    assert set(parts) == {"test", "val"}
    assert (parts["test"]["rows"], parts["test"]["samples"], parts["test"]["n_models"]) == (N, N, 2)
    assert set(counts_add_up(out / "fold-0")) == {"train", "val", "test"}
    flow = json.loads((out / "report.json").read_text())["flow"]
    assert (flow["rows"], flow["unit"]) == (N + 1, "image")


def test_slides_predict_and_evaluate(tmp_path: Path) -> None:
    from medsoft.cli.main import main

    task = Task.of("binary", ("normal", "tumour"))
    sources = [Case(f"s{i}", (SlideSource(f"s{i}", Path(f"s{i}.svs")),), (i + 1,)) for i in range(6)]
    truth = Truth({name: [""] * 6 for name in ("patient", "exam", "split")}, np.array([0, 1, 0, 1, 0, -1]))
    p = np.random.default_rng(0).random(6)
    score, inputs = np.array([0.5]), np.zeros(0)
    answers = {s.id: SlidePrediction(np.array([[1 - q, q]]), score, inputs) for s, q in zip(sources, p, strict=True)}
    model = SimpleNamespace(task=task, run=None, facts={}, kept=[])
    settings = ReportSettings(figures=False)
    write_results(SlidesFolder(str(tmp_path)), model, sources, truth, answers, TruthColumns(), settings)
    (part,) = counts_add_up(tmp_path).values()
    assert (part["rows"], part["analysed"]) == (6, 5)
    whole = (tmp_path / "predictions.csv").read_text()
    (tmp_path / "predictions.csv").write_text("\n".join(whole.splitlines()[:-2]) + "\n")
    assert main(["evaluate", str(tmp_path), "--out", str(tmp_path / "cut"), "--figures=false"]) == 2
    (tmp_path / "predictions.csv").write_text(whole)
    assert main(["evaluate", str(tmp_path), "--out", str(tmp_path / "ev"), "--draws=20", "--figures=false"]) == 0
    (part,) = counts_add_up(tmp_path / "ev").values()
    assert (part["name"], part["rows"], part["analysed"]) == ("all", 6, 5)
