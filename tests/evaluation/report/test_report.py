"""The report: what it says, what it must not say, and how a browser shows it."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given as for_any
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from medsoft.errors import InputError
from medsoft.evaluation.evaluate import evaluate_table
from medsoft.evaluation.examples import pick_examples, read_examples, write_examples
from medsoft.evaluation.figures.forest import Forest
from medsoft.evaluation.figures.panels import figure_of
from medsoft.evaluation.figures.part_figures import charts_of
from medsoft.evaluation.figures.style import PALETTE, explain_marks, styled
from medsoft.evaluation.metrics.weighted import Key
from medsoft.evaluation.report.content import Given, report_content
from medsoft.evaluation.report.figures import Figures, PageFigure
from medsoft.evaluation.report.flow import flow_of
from medsoft.evaluation.report.model_card import read_card
from medsoft.evaluation.report.page import write_report
from medsoft.evaluation.report.privacy import listed, without_folders, without_names
from medsoft.evaluation.report.run import kind_of_reason, read_run
from medsoft.evaluation.report.svg import to_svg
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.subgroups import group_columns
from medsoft.evaluation.tables.predictions import make_predictions, write_predictions
from medsoft.evaluation.wording import counted, mix_of, rule_name
from medsoft.task import Task
from tests.builders.waiting import LIMIT_SECONDS

BINARY = Task.of("binary", ("benign", "malignant"))
TYPES = Task.of("multiclass", ("adipose", "stroma", "tumour"))
GRADES = Task.of("ordinal", ("0", "1", "2"))
FINDINGS = Task.of("multilabel", ("oedema", "effusion"))
QUICK = Settings(draws=50)


def table(task: Task, n: int = 80, split: str = "test", seed: int = 0, missing: int = 3) -> pd.DataFrame:
    """Two rows a patient, some without a target."""
    rng = np.random.default_rng(seed)
    classes = len(task.classes)
    patient = np.arange(n) // 2
    target = rng.integers(classes, size=n)[patient]
    z = rng.normal(size=(n, classes)) + 1.3 * np.eye(classes)[target]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    if task.kind == "multilabel":
        target = rng.random((n, classes)) < p
    target = target.astype(float)
    target[:missing] = np.nan
    patients = [f"patient-{split}-{i}" for i in patient]
    return make_predictions(task, [f"sample-{split}-{i}" for i in range(n)], p, target, patient=patients, split=split)


def val_and_test(task: Task) -> pd.DataFrame:
    return pd.concat([table(task, split="val", seed=1), table(task)], ignore_index=True)


def report(frame: pd.DataFrame, task: Task, out: Path, **about) -> tuple[str, dict]:
    groups = about.pop("groups", None)
    write_report(evaluate_table(frame, task, about.pop("settings", QUICK), groups), out, Given(frame, **about))
    return (out / "report.html").read_text(encoding="utf-8"), json.loads((out / "report.json").read_text())


@pytest.fixture
def _without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what stands around the charts, which take longer to draw than all else."""
    monkeypatch.setattr(Figures, "_figure", lambda self, chart, panel, size: PageFigure(panel.name, "<svg></svg>"))


class _Page(HTMLParser):
    """Elements, their ids, and what they load; complains of tags that do not match."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID and not self.rawdata[self.getpos()[1] :].startswith(f"<{tag}/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        of = dict(attrs)
        self.ids += [of["id"] or ""] if "id" in of else []
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class Terse(type(BINARY)):
    """A task that names little."""

    figures = ("reliability", "roc_band")
    report_sections = ("calibration", "metrics")
    glossary = ("averages",)


def test_a_task_decides_what_its_report_holds_and_in_which_order(tmp_path: Path) -> None:
    frame = table(BINARY)
    usual, _ = report(frame, BINARY, tmp_path / "usual")
    html, _ = report(frame, Terse(BINARY.classes), tmp_path / "terse")
    of_part = [re.findall("<h3>(.*?)</h3>", page.partition('<section id="card"')[0]) for page in (usual, html)]
    assert of_part == [["Metrics", "Confusion", "Calibration"], ["Calibration", "Metrics"]]
    assert "<h4>ROC curve</h4>" in usual
    assert "<h4>ROC curve</h4>" not in html, "figures are a section too"
    part = next(p for p in evaluate_table(frame, BINARY, QUICK).parts if p.level == "row")
    assert [chart.file for chart in charts_of(part, Terse(BINARY.classes))] == ["reliability", "roc_band"]
    assert "<dt>AUROC</dt><dd>The chance" in usual
    assert "<dt>AUROC</dt><dd>The chance" not in html
    assert "<dt>Macro, micro</dt>" in html


@pytest.mark.parametrize("task", [BINARY, TYPES, GRADES, FINDINGS])
def test_the_page_is_whole_and_loads_nothing(task: Task, tmp_path: Path) -> None:
    frame = val_and_test(task)
    groups = pd.DataFrame({"sex": np.where(np.arange(len(frame)) % 4 < 2, "female", "male")})
    html, values = report(frame, task, tmp_path, groups=groups)
    page = _Page(html)
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    anchors = {link for link in page.loads if link.startswith("#")}
    assert {link.removeprefix("#") for link in anchors} <= set(page.ids)
    assert [link for link in page.loads if not link.startswith(("#", "data:"))] == []
    assert not re.search(r"@import|url\((?!#)", html)
    charts = html.count('<svg class="chart"')
    questions = 1 if task.kind == "binary" else len(task.classes)
    of_selection = questions if task.kind == "multilabel" else 1
    assert charts == 2 * (4 * questions + of_selection)
    assert values["parts"][0]["heading"] == "Test part"
    assert values["parts"][1]["chose_thresholds"]
    for text in (*task.classes, "Model card", "to be stated by the authors", "Subgroups", "female"):
        assert text in html


@pytest.mark.usefixtures("_without_charts")
def test_the_numbers_are_those_of_the_evaluation(tmp_path: Path) -> None:
    frame = val_and_test(BINARY)
    evaluation = evaluate_table(frame, BINARY, QUICK)
    html, values = report(frame, BINARY, tmp_path)
    part = next(p for p in evaluation.parts if (p.split, p.level) == ("test", "row"))
    auroc = part.find("auroc")
    shown = values["key_figures"]["figures"][0]
    assert (shown["name"], shown["value"], shown["low"]) == ("AUROC", auroc.value, auroc.low)
    assert f"{auroc.value:.3f}" in html
    youden = part.find("sensitivity", rule="youden")
    assert f"p ≥ {youden.threshold:.3g} (Youden)" in html
    (row,) = [r for r in values["locked"] if r["rule"] == "youden" and r["level"] == "row"]
    assert (row["threshold"], row["chosen_on"], row["n"]) == (youden.threshold, "val", 77)
    at = {cell["note"]: cell for t in values["parts"][0]["tables"] for _, cells in t["rows"] for cell in cells}
    assert "" in at
    counts = values["parts"][0]["confusion"][0]["counts"]
    assert sum(map(sum, counts)) == part.n
    assert counts[1][1] == part.find("true_positives", rule="0.5").value


@pytest.mark.usefixtures("_without_charts")
def test_the_flow_ends_with_the_decisions_of_the_key_figures(tmp_path: Path) -> None:
    settings = Settings(draws=50, rules=("youden", "sensitivity:0.95"))
    _, values = report(val_and_test(BINARY), BINARY, tmp_path, settings=settings)
    at = next(split for split in values["flow"]["splits"] if split["name"] == "test")
    assert "(sensitivity ≥ 0.95)" in at["rule"]
    yes, no = (call["truth"]["malignant"] for call in at["calls"])
    assert values["key_figures"]["figures"][1]["value"] == pytest.approx(yes / (yes + no))


@pytest.mark.usefixtures("_without_charts")
@pytest.mark.parametrize("task", [BINARY, TYPES, FINDINGS])
def test_values_at_another_prevalence_are_shown(task: Task, tmp_path: Path) -> None:
    settings = Settings(draws=50, prevalences=(0.02,))
    html, values = report(val_and_test(task), task, tmp_path, settings=settings)
    assert "at a prevalence of 0.02" in html
    part = next(
        p for p in evaluate_table(val_and_test(task), task, settings).parts if (p.split, p.level) == ("test", "row")
    )
    wanted = part.find("ppv", class_name=task.classes[-1], prevalence=0.02)
    cells = [cell for t in values["parts"][0]["tables"] for _, row in t["rows"] for cell in row if cell]
    assert wanted.value in [cell["value"] for cell in cells]


@pytest.mark.parametrize("task", [BINARY, FINDINGS])
def test_no_sample_and_no_patient_is_named(task: Task, tmp_path: Path) -> None:
    val, test = table(task, split="val", seed=1), table(task)
    test.loc[4, "patient"] = val.loc[4, "patient"]  # of which the evaluation warns by name
    frame = pd.concat([val, test], ignore_index=True)
    assert any("patient-val-2" in note for part in evaluate_table(frame, task, QUICK).parts for note in part.notes)
    html, values = report(frame, task, tmp_path)
    for text in (html, json.dumps(values)):
        assert "patient-" not in text
        assert "sample-" not in text
    assert "1 of 41 patients are in &#39;val&#39; too" in html


def test_a_column_of_patients_is_no_column_of_groups() -> None:
    frame = table(BINARY, n=12).assign(patient=[f"patient-{i % 4}" for i in range(12)])
    samples = pd.DataFrame({"case": frame["patient"], "eye": ["left", "right"] * 6})
    groups, _ = group_columns(samples, frame, BINARY, None, {})
    assert list(groups) == ["eye"]


def test_what_cannot_be_answered_is_said(tmp_path: Path) -> None:
    val, test = table(BINARY, split="val", seed=1), table(BINARY)
    frame = pd.concat([val, test[test["target"] == "benign"]], ignore_index=True)
    html, values = report(frame, BINARY, tmp_path)
    first = values["key_figures"]["figures"][0]
    assert (first["name"], first["value"], first["note"]) == ("AUROC", None, "no row is 'malignant'")
    assert "undefined" in html
    assert "no row is &#39;malignant&#39;" in html
    nothing = make_predictions(BINARY, ["a", "b"], [[0.5, 0.5], [0.2, 0.8]], split="test")
    html, values = report(nothing, BINARY, tmp_path)
    assert "No row has a target: every metric is undefined" in html
    assert "<svg" in html
    assert '<svg class="chart"' not in html


@pytest.mark.usefixtures("_without_charts")
def test_counts_of_classes_that_are_numbers_can_be_told_apart(tmp_path: Path) -> None:
    html, _ = report(val_and_test(GRADES), GRADES, tmp_path)
    part = next(p for p in evaluate_table(val_and_test(GRADES), GRADES, QUICK).parts if p.split == "test")
    assert ", ".join(f"{name}: {n}" for name, n in part.n_per_class.items()) in html
    assert mix_of({"benign": 1234, "malignant": 1}) == ["1,234 benign", "1 malignant"]
    assert counted(5324, "image") == "5,324 images"
    assert counted(1, "patient") == "1 patient"


@pytest.mark.parametrize(
    ("rule", "words"),
    [("0.5", "p ≥ 0.5"), ("youden", "Youden"), ("sensitivity:0.95", "sensitivity ≥ 0.95"), ("cost:5", "cost ratio 5")],
)
def test_rules_in_words(rule: str, words: str) -> None:
    assert rule_name(rule) == words


@pytest.mark.usefixtures("_without_charts")
def test_a_fold_without_a_threshold_keeps_its_columns(tmp_path: Path) -> None:
    frames = []
    for fold in range(3):
        both = pd.concat([table(BINARY, split="val", seed=fold), table(BINARY, seed=10 + fold)], ignore_index=True)
        frames.append(both.assign(fold=str(fold), id=f"fold{fold}-" + both["id"]))
    frame = pd.concat(frames, ignore_index=True)
    frame = frame[~((frame["fold"] == "0") & (frame["split"] == "val") & (frame["target"] == "malignant"))]
    html, values = report(frame.reset_index(drop=True), BINARY, tmp_path)
    names = [[figure["name"] for figure in row["figures"]] for row in values["folds"]]
    assert names == [["AUROC", "sensitivity", "specificity", "Brier score"]] * 5
    first, second, _, mean, pooled = (row["figures"][1] for row in values["folds"])
    assert first["value"] is None, "its validation part has one class: it chose nothing"
    assert second["value"] is not None
    assert mean["value"] is not None
    assert pooled["value"] is None
    assert "What each fold decides at a threshold of its own is not pooled" in html


def test_a_regression_and_folds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(50, 10, 60)
    frame = pd.DataFrame({"id": [f"s{i}" for i in range(60)], "patient": "", "exam": "", "split": "test", "fold": ""})
    frame = frame.assign(target=target, prediction=target + rng.normal(0, 3, 60))
    html, values = report(frame, Task.of("regression"), tmp_path / "regression")
    assert [figure["name"] for figure in values["key_figures"]["figures"]] == [
        "mean absolute error",
        "R²",
        "concordance",
        "bias",
    ]
    assert html.count('<svg class="chart"') == 2
    folds = [val_and_test(BINARY).assign(fold=str(fold)) for fold in range(2)]
    html, values = report(pd.concat(folds, ignore_index=True), BINARY, tmp_path / "folds")
    assert [row["name"].split(":")[0] for row in values["folds"]] == [
        *("Test part, fold 0", "Test part, fold 1", "Mean over folds", "Pooled")
    ]
    first, second, mean = (row["figures"][0]["value"] for row in values["folds"][:3])
    assert mean == pytest.approx((first + second) / 2)
    assert values["key_figures"]["figures"][0]["value"] == mean
    assert values["key_figures"]["of"] == "Test part, mean of 2 folds"
    assert values["key_figures"]["n_patients"] == 39
    assert values["key_figures"]["figures"][1]["about"] == "malignant, at each fold's threshold (Youden)"
    assert "Fold by fold" in html
    test_flow = next(split for split in values["flow"]["splits"] if split["name"] == "test")
    assert (test_flow["n_models"], test_flow["rows"], test_flow["analysed"]) == (2, 160, 154)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a training leaves, without its model."""
    folder = tmp_path / "runs" / "eyes"
    folder.mkdir(parents=True)
    config = "name: eyes\ndata: {table: /home/ann/eyes.csv, label: grade, positive: [2, 3]}\nmodel: {backbone: vit}\n"
    (folder / "config.yaml").write_text(config)
    (folder / "versions.json").write_text(
        json.dumps({"medsoft": "0.1.0", "command": ["medsoft", "fit", "--data.table=/home/ann/eyes.csv"]})
    )
    frame = val_and_test(BINARY)
    rows = pd.concat([frame[["id", "split"]], pd.DataFrame({"id": ["t1", "t2"], "split": "train"})])
    rows.to_csv(folder / "split.csv", index=False)
    (folder / "errors.csv").write_text(
        "path,stage,reason\n/a/Smith.png,table,duplicate: /a/Smith.png: the same file as row 3\n"
        "/a/Jones.png,read,cut short\n/a/Miller.png,table,duplicate: /a/Miller.png: the same file as row 4\n"
    )
    (folder / "metrics.csv").write_text("epoch,train_loss,val_loss,val_auroc\n0,0.7,0.6,0.7\n1,0.5,0.55,0.8\n")
    write_predictions(frame, folder / "predictions.csv")
    return folder


def test_the_flow_is_what_the_run_knows(run: Path, tmp_path: Path) -> None:
    frame = val_and_test(BINARY)
    evaluation = evaluate_table(frame, BINARY, QUICK)
    flow = flow_of(evaluation, frame, read_run(run))
    assert flow.rows == 164
    assert sorted(flow.excluded) == [("read", "cut short", 1), ("table", "duplicate", 2)]
    assert [(split.name, split.rows, split.analysed) for split in flow.splits] == [
        ("train", 2, None),
        ("val", 80, 77),
        ("test", 80, 77),
    ]
    calls = flow.splits[2].calls
    assert sum(call.n for call in calls) == 77
    positives = sum(call.truth["malignant"] for call in calls)
    assert positives == flow.splits[2].classes["malignant"]
    facts = {
        "data": {
            "table": "eyes.csv",
            "unit": "image",
            "rows": 200,
            "patients": 90,
            "splits": {"train": {"rows": 33, "patients": 20, "classes": {"benign": 30, "malignant": 3}}},
        }
    }
    (run / "facts.json").write_text(json.dumps(facts))
    flow = flow_of(evaluation, frame, read_run(run))
    assert (flow.unit, flow.source, flow.rows, flow.patients) == ("image", "eyes.csv", 200, 90)
    assert flow.splits[0].classes == {"benign": 30, "malignant": 3}


def test_the_command_writes_a_report_of_a_run(medsoft, run: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.yaml"
    card.write_text("intended_use: To try reports out.\n")
    words = ["evaluate", run / "predictions.csv", "--out", tmp_path / "out", "--run", run, "--draws", 50]
    code, out, err = medsoft(*words, "--card", card, "--figures", "false")
    assert (code, err) == (0, "")
    assert "report.html" in out
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Evaluation of eyes" in html
    assert "To try reports out." in html
    assert "…/eyes.csv" in html
    for secret in ("/home", "Smith", "Jones", "patient-", "sample-"):
        assert secret not in html
    assert 'id="training"' in html
    code, out, _ = medsoft(
        *words[:4], "--draws", 50, "--report", "false", "--figures", "false", "--out", tmp_path / "no"
    )
    assert code == 0
    assert not (tmp_path / "no" / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "nowhere"], "no folder of a run"),
        (["--examples", "-1"], "examples -1 must be 0 or more"),
        (["--card", "nowhere.yaml"], "cannot read the card"),
    ],
)
def test_a_wrong_call_is_refused_before_work_starts(medsoft, run: Path, tmp_path: Path, words, message) -> None:
    code, _, err = medsoft("evaluate", run / "predictions.csv", "--out", tmp_path / "out", *words)
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_card_of_other_names_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "card.yaml"
    file.write_text("intended_usage: x\n")
    with pytest.raises(InputError, match="intended_usage"):
        read_card(file)
    file.write_text("- a list\n")
    with pytest.raises(InputError, match="mapping"):
        read_card(file)


def test_examples_are_spread_over_the_classes_and_shown_once() -> None:
    for task in (BINARY, TYPES, FINDINGS):
        frame = table(task)
        picked = pick_examples(frame, task, 3)
        assert [example.right for example in picked] == [True] * 3 + [False] * 3
        assert len({example.id for example in picked}) == 6
        if task.kind != "multilabel":
            assert len({e.target for e in picked if e.right}) == min(len(task.classes), 3)
    perfect = make_predictions(BINARY, ["a", "b"], [[1, 0], [0, 1]], [0, 1])
    assert [example.right for example in pick_examples(perfect, BINARY, 4)] == [True, True]


@pytest.mark.usefixtures("_without_charts")
def test_examples_are_embedded_only_when_asked_for(medsoft, run: Path, tmp_path: Path) -> None:
    frame = val_and_test(BINARY)
    test = frame[frame["split"] == "test"]
    (run / "examples").mkdir()
    rows = []
    for index, example in enumerate(pick_examples(test, BINARY, 2)):
        Image.new("RGB", (40, 30), (60 * index, 90, 90)).save(run / "examples" / f"{index}.png")
        rows.append((example, f"{index}.png", "../../../secret.png" if index else None))
    write_examples(run / "examples", rows, "Drawn by hand.")
    shown, how = read_examples(run / "examples", test, 4)
    assert (len(shown), how) == (4, "Drawn by hand.")
    assert [s.map for s in shown] == [None] * 4
    words = ["evaluate", run / "predictions.csv", "--run", run, "--draws", 20, "--figures", "false", "--out"]
    pages = {}
    for name, options in {"some": [], "none": ["--examples", 0], "named": ["--ids", "true"]}.items():
        assert medsoft(*words, tmp_path / name, *options)[0] == 0
        pages[name] = (tmp_path / name / "report.html").read_text(encoding="utf-8")
    assert pages["some"].count("data:image/png;base64,") == 4
    assert "data:image" not in pages["none"]
    assert "sample-test-" not in pages["some"]
    assert pages["named"].count("sample-test-") == 4
    (run / "examples" / "examples.json").write_text("{}")
    with pytest.raises(InputError, match="not an examples"):
        read_examples(run / "examples", test, 4)


def test_a_penalty_that_is_switched_off_can_be_written() -> None:
    shown = without_folders({"model": {"C": math.inf, "l": [-math.inf, 1.5]}})
    assert json.loads(json.dumps(shown, allow_nan=False)) == {"model": {"C": ".inf", "l": ["-.inf", 1.5]}}


def test_folders_and_names_are_taken_out_of_texts() -> None:
    assert without_folders({"a": ["/home/ann/b.csv", "benign/malignant", 3]}) == {
        "a": ["…/b.csv", "benign/malignant", 3]
    }
    assert listed(["medsoft", "fit", "--data.table=/x/Ann Lee/t.csv", "--name", "eyes"]) == (
        "medsoft fit --data.table=…/t.csv --name eyes"
    )
    assert without_folders("C:\\Ann\\eyes.csv") == "…/eyes.csv"
    assert without_names("such as 'P7' of 'val'", frozenset({"P7"})) == "such as '…' of 'val'"
    assert without_names("as locked in /home/ann/locked.json", frozenset()) == "as locked in …/locked.json"
    assert kind_of_reason("missing file: /a/b.png") == "missing file"
    assert kind_of_reason("/a/b.png") == "unreadable"


def test_a_figure_takes_the_colours_and_the_type_of_the_page() -> None:
    @styled
    def drawn() -> Figure:
        figure = Figure(figsize=(3, 3))
        figure.add_axes((0.2, 0.2, 0.7, 0.7)).plot([0, 0.5, 1], [0, 0.5, 1], color=PALETTE[1], marker="o")
        explain_marks(figure.axes[0].lines[0], ["first", "a & <b>", "last"])
        return figure

    figure = drawn()
    svg = to_svg(figure, "what <is> drawn", "figure-7")
    found = ElementTree.fromstring(svg)
    assert found.attrib["aria-label"] == "what <is> drawn"
    assert "var(--c1)" in svg
    assert "#CC6677" not in svg
    assert "font-family" not in svg
    assert "<style" not in svg
    assert [mark.findtext("title") for mark in found.iter("use") if len(mark)] == ["first", "a & <b>", "last"]
    ids = [element.attrib["id"] for element in found.iter() if "id" in element.attrib]
    assert all(name.startswith("figure-7-") for name in ids)
    links = [element.attrib["href"][1:] for element in found.iter() if "href" in element.attrib]
    clips = [element.attrib["clip-path"][5:-1] for element in found.iter() if "clip-path" in element.attrib]
    assert set(links) | set(clips) == set(ids)
    assert svg == to_svg(figure, "what <is> drawn", "figure-7")
    figure.axes[0].plot([0, 1], [1, 0], color="#123456")
    with pytest.raises(ValueError, match="#123456"):
        to_svg(figure, "", "figure-8")


def test_a_report_is_the_same_each_time_it_is_made(tmp_path: Path) -> None:
    frame = val_and_test(BINARY)
    pages = [report(frame, BINARY, tmp_path / name)[0] for name in ("a", "b")]
    assert pages[0] == pages[1]


def test_curves_of_the_report_are_those_of_the_folders() -> None:
    part = next(p for p in evaluate_table(table(TYPES), TYPES, QUICK).parts if p.level == "row")
    charts = charts_of(part, TYPES)
    groups = Figures().of_part(part, TYPES)
    assert [group.title for group in groups] == [chart.kind for chart in charts]
    assert [len(group.figures) for group in groups] == [len(chart.panels) for chart in charts]
    for group, chart in zip(groups, charts, strict=True):
        drawn = figure_of(chart, "", "")
        assert [text.get_text() for text in drawn.legends[0].get_texts()] == [key.label for key in group.legend]
        for axes, figure in zip(drawn.axes, group.figures, strict=True):
            for text in axes.texts:
                assert all(escape(line, quote=False) in figure.svg for line in text.get_text().split("\n"))


@for_any(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_of_a_forest_are_few_and_within(low: float, width: float) -> None:
    ticks = Forest(Key("auroc"), "", (), low, low + width, None).ticks
    assert 1 <= len(ticks) <= 7
    assert all(low - 1e-6 * width <= tick <= low + width * (1 + 1e-6) for tick in ticks)
    assert ticks == sorted(set(ticks))


HARNESS = """<!doctype html><iframe id="f" src="{page}" style="width:{width}px;height:900px;border:0"></iframe>
<script>document.getElementById("f").onload = () => {{
  const page = document.getElementById("f").contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(d => d.open = true);
  const sizes = [...page.querySelectorAll("svg.chart text, svg.flow text")].filter(t => t.getClientRects().length)
    .map(t => t.getBoundingClientRect().height);
  document.body.textContent = JSON.stringify({{
    wide: root.scrollWidth, pictures: [...page.images].map(i => i.naturalWidth),
    charts: [...page.querySelectorAll("svg.chart")].map(s => s.getBoundingClientRect().width),
    smallest: Math.min(...sizes),
    flows: [...page.querySelectorAll("svg.flow")].filter(s => s.getClientRects().length).length,
    outside: [...page.querySelectorAll("main *")].filter(e => !e.closest(".scroll, pre, svg")
      && e.getClientRects().length && e.getBoundingClientRect().right > {width} + 1)
      .map(e => e.outerHTML.slice(0, 80))}});
}};</script>"""


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_whole(run: Path, tmp_path: Path, medsoft, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    frame = val_and_test(BINARY)
    (run / "examples").mkdir()
    example = pick_examples(frame[frame["split"] == "test"], BINARY, 1)[0]
    Image.new("RGB", (40, 30), (200, 90, 90)).save(run / "examples" / "0.png")
    write_examples(run / "examples", [(example, "0.png", "0.png")], "")
    samples = pd.DataFrame(
        {"id": frame["id"], "a_site_with_a_long_name": np.where(frame.index % 3, "St. Elsewhere", "B")}
    )
    samples.to_csv(tmp_path / "samples.csv", index=False)
    words = ["evaluate", run / "predictions.csv", "--run", run, "--table", tmp_path / "samples.csv", "--draws", 50]
    assert medsoft(*words, "--figures", "false", "--out", tmp_path / "out")[0] == 0
    page = tmp_path / "out" / "report.html"
    (tmp_path / "harness.html").write_text(HARNESS.format(page=page.as_uri(), width=width))
    done = subprocess.run(
        [
            *(browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"),
            *("--allow-file-access-from-files", "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom"),
            (tmp_path / "harness.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=True,
    )
    assert [line for line in done.stderr.splitlines() if ":CONSOLE" in line] == []
    seen = json.loads(unescape(re.search(r"<body>(\{.*\})</body>", done.stdout)[1]))
    assert seen["wide"] <= width
    assert seen["outside"] == []
    assert seen["pictures"] == [40, 40]
    assert len(seen["charts"]) == 10 + 2
    assert min(seen["charts"]) > 250
    assert seen["flows"] == 1
    assert seen["smallest"] > 9


def test_what_is_in_the_json_can_be_drawn_from_content() -> None:
    frame = val_and_test(GRADES)
    content = report_content(evaluate_table(frame, GRADES, QUICK), Given(frame))
    assert [part.heading for part in content.parts] == ["Test part", "Validation part"]
    assert json.loads(json.dumps(content.values))["question"]["text"] == (
        "Ordinal: which one of “0”, “1”, “2”, in rising order?"
    )
