"""Values that differ in writing only are one, whoever reads them."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medsoft.data.datasets.image_module import ImageDataModule
from medsoft.data.dicom.join import join_labels
from medsoft.data.tables.covariates import read_covariates
from medsoft.data.tables.folds import Design, Fold, make_folds, notes_on_folds
from medsoft.data.tables.joins import join_clinical
from medsoft.data.tables.labels import read_labels
from medsoft.data.tables.problems import Problem, TableError
from medsoft.data.tables.sample_table import SampleTable, read_table
from medsoft.data.tables.split import apply_split_file, split_folds, split_holdout
from medsoft.data.transforms.plain import Plain
from medsoft.errors import InputError
from medsoft.evaluation.comparison.pairing import pair
from medsoft.evaluation.intervals.bootstrap import patients_of
from medsoft.evaluation.metrics.thresholds import Rule
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.evaluation.tables.read import join_samples
from medsoft.task import Task
from medsoft.text.spelling import PLACEHOLDERS, is_formula, is_placeholder, is_plain, is_rounded, normal_form, spellings

ALIKE = ["Ill", "ill", "ILL ", " ill", "i\u200bll", "ill\ufeff", "\u00a0ill", "i\u00adll", "\uff49ll"]
"""One word as people and programs write it."""
NUMBERS = ["7", "07", "007", "7.0", "7.00", "+7", "\u0667", "\uff17"]


# --- the normal form ---


@given(st.text(max_size=20))
@settings(max_examples=300, deadline=None)
def test_the_normal_form_is_its_own(value: str) -> None:
    assert normal_form(normal_form(value)) == normal_form(value)


@given(st.text(st.characters(categories=["L", "Nd", "Pd", "Zs"]), max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_what_is_done_to_writing_leaves_the_normal_form(value: str, random: Any) -> None:
    hidden = "".join(c + random.choice(["", "", "\u200b", "\u00ad", "\ufeff"]) for c in value)
    for other in (f" {value}\u00a0", unicodedata.normalize("NFD", value), value.casefold(), hidden):
        assert normal_form(other) == normal_form(value)


def test_words_and_numbers_that_are_alike_and_those_that_are_not() -> None:
    assert len({normal_form(word) for word in ALIKE}) == 1
    assert len({normal_form(word) for word in NUMBERS}) == 1
    assert normal_form("P-007") == normal_form("p-7")
    different = ["1.1", "1.10", "1.01", "1.5", "1.05", "0e12", "00e3", "-7", "7", "70", "p1", "q1", "p10", "3+4", "4+3"]
    assert len({normal_form(word) for word in different}) == len(different)


def test_words_for_nothing_and_names_that_are_no_text() -> None:
    for word in ("N/A", "n/a", "NA", "?", "Unknown", " none", "NULL", "-", "nan", "TBD", "missing", "\u200b", "#N/A"):
        assert is_placeholder(word), word
    assert all(is_placeholder(word) for word in PLACEHOLDERS)
    assert not any(map(is_placeholder, ("", "0", "no", "known", "ill", "negative")))
    assert not any(map(is_plain, ("a\nb", "a\rb", "a\tb", "\0", "\x1b[31m", "a\u2028b")))
    assert is_plain("Röntgen, 2 Ansichten [benign]")
    assert [is_formula(cell) for cell in ("=1+1", "@x", "-cmd", "+a")] == [True] * 4
    assert not any(map(is_formula, ("-1.5", "+3", "-", "", "-2e-5", "5%", "a=b", "-.5")))
    assert is_rounded("1.23457E+17")
    assert not any(map(is_rounded, ("12E", "1e5", "123457", "0e12")))


# --- labels ---


def labels_of(values: list[str], **options: Any) -> list[Problem]:
    options = {"task": None, "positive": None, "classes": None} | options
    try:
        return read_labels(pd.DataFrame({"label": values}), **options).problems
    except TableError as error:
        return error.problems


@pytest.mark.parametrize("way", [word for word in ALIKE[1:] if word.strip() != "Ill"])
@pytest.mark.parametrize("options", [{"positive": "Ill"}, {"classes": "well,Ill"}, {"positive": "well"}])
def test_a_label_that_differs_from_another_in_writing_only_is_refused(way: str, options: dict[str, Any]) -> None:
    found = labels_of(["Ill", "well", way, "well"], **options)
    assert [(problem.kind, problem.skippable) for problem in found] == [("several spellings", False)]
    assert 3 in found[0].rows or "several" in found[0].message
    if way.isascii():
        assert repr(way.strip()) in found[0].message


def test_numbers_of_several_forms_are_one_label_and_said() -> None:
    read = read_labels(
        pd.DataFrame({"label": ["1", "1.0", "01", "0", "0.0"]}), task="binary", positive="1", classes=None
    )
    assert read.problems == []
    assert read.columns["target"].tolist() == ["positive"] * 3 + ["negative"] * 2
    assert any("1 and 1.0 and 01" in note or "01 and 1 and 1.0" in note for note in read.notes)
    # Among words they are two ways to write one class.
    assert labels_of(["1", "01", "low", "low"])[0].kind == "several spellings"


@pytest.mark.parametrize("word", ["N/A", "unknown", "?", "none", "null", "-", "TBD"])
@pytest.mark.parametrize(
    ("values", "options"),
    [
        (["ill", "well"], {"positive": "ill"}),
        (["1", "0"], {"task": "binary", "positive": "1"}),
        (["a", "b", "c"], {}),
        (["0", "1", "2"], {"task": "ordinal"}),
        (["1.5", "2.5"], {"task": "regression"}),
    ],
)
def test_words_for_nothing_are_asked_about_and_an_option_says_what_they_mean(
    word: str, values: list[str], options: dict[str, Any]
) -> None:
    table = [*values, word, *values]
    row = len(values) + 1
    found = labels_of(table, **options)
    assert [(problem.kind, problem.rows) for problem in found] == [("placeholder", (row,))]
    assert "--data.placeholders" in found[0].advice
    for rule in ("missing", {word: "missing"}, {word.upper(): "missing"}):
        assert [p.kind for p in labels_of(table, **options, placeholders=rule)] == ["missing label"]
    assert [p.kind for p in labels_of(table, **options, placeholders={"other": "missing"})] == ["placeholder"]
    if options.get("task") not in ("regression", "ordinal"):
        assert labels_of(table, **options, placeholders={word: "value"}) == []
        if "positive" not in options:
            assert labels_of(table, classes=[*values, word]) == [], "a class that is named is one"


def test_missing_labels_of_several_may_have_words_too() -> None:
    labels = pd.DataFrame({"oedema": ["1", "0", "unknown"], "effusion": ["N/A", "1", "0"]})
    options: dict[str, Any] = {"task": None, "positive": None, "classes": None}
    assert [p.kind for p in read_labels(labels, **options).problems] == ["placeholder"] * 2
    read = read_labels(labels, **options, placeholders="missing")
    assert read.problems == []
    assert read.columns.isna().sum().sum() == 2
    with pytest.raises(InputError, match="differ in writing only"):
        read_labels(labels.set_axis(["Oedema", "oedema"], axis=1), **options)


def test_options_that_name_one_class_twice_or_no_text_are_refused() -> None:
    for option in ("classes", "positive"):
        with pytest.raises(InputError, match="one thing twice"):
            labels_of(["a", "b", "c"], **{option: ["a", "A"]})
    with pytest.raises(InputError, match="control characters"):
        labels_of(["a", "b", "c"], classes=["a", "b", "c\nd"])
    assert labels_of(["a\nb", "c", "c"], positive="c")[0].kind == "control character"


# --- tables ---


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Writes t.csv over 12 pictures, classes a and b in turn."""
    for i in range(12):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8)).save(tmp_path / f"{i}.png")

    def write(n: int = 12, **columns: Any) -> Path:
        values = {"path": [f"{i}.png" for i in range(n)], "label": list("ab" * n)[:n]}
        pd.DataFrame(values | columns).to_csv(tmp_path / "t.csv", index=False, quoting=csv.QUOTE_ALL)
        return tmp_path / "t.csv"

    return write


PATIENTS = ["007", "7", "7.0", "P01", "p1", "p01 ", "x", "y", "z", "v", "w", "u"]


def test_patients_alike_are_warned_of_and_never_divided(make: Any) -> None:
    table = read_table(make(patient=PATIENTS), positive="b", patient="patient")
    note = next(note for note in table.notes if "written in several ways" in note)
    assert "rows 1, 2, 3; 4, 5, 6" in note
    assert "007" not in note, "messages name rows and no patients"
    assert table.frame["patient"][0] == "007", "what is written is kept"
    assert len(set(table.groups[:3])) == len(set(table.groups[3:6])) == 1
    split = ["train", "val", *["train"] * 10]
    with pytest.raises(TableError) as caught:
        read_table(make(patient=PATIENTS, split=split), positive="b", patient="patient")
    (problem,) = [p for p in caught.value.problems if p.kind == "patient in two splits"]
    assert problem.rows == (1, 2, 3)
    assert "written in 3 ways" in problem.message


@given(st.lists(st.integers(0, 14), min_size=30, max_size=60), st.data(), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_no_split_separates_patients_alike_but_for_their_writing(patients: list[int], data: Any, seed: int) -> None:
    ways = ["{}", "0{}", "{}.0", " {}", "{}\u200b"]
    names = [data.draw(st.sampled_from(ways)).format(patient) for patient in patients]
    targets = np.array([patient % 2 for patient in patients])
    columns = {"id": [str(i) for i in range(len(names))], "patient": names, "exam": "", "split": ""}
    table = SampleTable(Path("t.csv"), pd.DataFrame(columns), None)
    if len(set(patients)) < 6:
        return
    for parts in (
        split_holdout(targets, table.groups, {"train": 0.6, "val": 0.2, "test": 0.2}, seed),
        split_folds(targets, table.groups, 3, seed),
    ):
        owner = pd.DataFrame({"part": parts, "patient": patients})
        assert (owner.groupby("patient")["part"].nunique() == 1).all()


def test_a_split_is_as_before_where_nothing_is_written_in_several_ways(make: Any) -> None:
    table = read_table(make(patient=[f"P{i // 2:03d}" for i in range(12)]), positive="b", patient="patient")
    assert table.groups.tolist() == table.frame["patient"].tolist()


@pytest.mark.parametrize("how", ["split column", "splits_from", "folds"])
@pytest.mark.parametrize("what", ["patient", "exam"])
def test_a_patient_or_exam_in_two_parts_is_refused_by_every_way_to_divide(
    make: Any, tmp_path: Path, how: str, what: str
) -> None:
    names = ["e1", *[f"e{i}" for i in range(10, 20)], "E01"]
    parts = ["train"] * 6 + ["val"] * 6
    options: dict[str, Any] = {"positive": "b", what: what}
    if how == "split column":
        with pytest.raises(TableError, match=f"{what} is in 'train' and 'val'"):
            read_table(make(**{what: names, "split": parts}), **options)
    elif how == "splits_from":
        table = read_table(make(**{what: names}), **options)
        pd.DataFrame({"id": table.frame["id"], "split": parts}).to_csv(tmp_path / "s.csv", index=False)
        with pytest.raises(TableError, match=f"{what} is in 'train' and 'val'"):
            apply_split_file(table, tmp_path / "s.csv")
    else:
        table = read_table(make(**{what: names, "fold": [0] * 6 + [1] * 6}), **options)
        with pytest.raises(InputError, match=r"in several folds or sites, such as one in '0' and '1' \(rows 1, 12\)"):
            make_folds(table, Design(column="fold"))


def test_an_exam_number_of_two_patients_is_no_exam_in_two_splits(make: Any) -> None:
    source = make(
        patient=[f"p{i}" for i in range(12)], exam=["visit 1", "visit 2"] * 6, split=["train"] * 6 + ["val"] * 6
    )
    assert len(read_table(source, positive="b", patient="patient", exam="exam")) == 12


def test_words_for_nothing_name_no_patient_exam_or_site(make: Any) -> None:
    names = [*[f"p{i}" for i in range(11)], "unknown"]
    for what in ("patient", "exam", "site"):
        source = make(**{what: names})
        with pytest.raises(TableError) as caught:
            read_table(source, positive="b", **{what: what})
        assert [(p.kind, p.rows) for p in caught.value.problems] == [("placeholder", (12,))]
        table = read_table(source, positive="b", placeholders={"unknown": "value"}, **{what: what})
        assert table.frame[what].iloc[11] == "unknown"
        if what != "patient":
            table = read_table(source, positive="b", placeholders="missing", **{what: what})
            assert table.frame[what].iloc[11] == ""
    with pytest.raises(InputError, match="placeholders: missing, value"):
        read_table(make(), positive="b", placeholders={"x": "nothing"})  # type: ignore[dict-item]


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\tb", "a\x1b[31mb"])
@pytest.mark.parametrize("what", ["patient", "exam", "site", "id"])
def test_control_characters_in_names_are_refused_before_anything_starts(make: Any, what: str, bad: str) -> None:
    names = [*[f"n{i}" for i in range(11)], bad]
    with pytest.raises(TableError) as caught:
        read_table(make(**{what: names}), positive="b", **{what: what})
    assert [(p.kind, p.rows) for p in caught.value.problems] == [("control character", (12,))]


def test_rounded_numbers_and_formulas_in_names_are_told(make: Any) -> None:
    rounded = [*map(str, range(11)), "1.23457E+17"]
    with pytest.raises(TableError, match="a spreadsheet has rounded"):
        read_table(make(patient=rounded), positive="b", patient="patient")
    table = read_table(make(patient=["=1+1", "-2", *map(str, range(5, 15))]), positive="b", patient="patient")
    note = next(note for note in table.notes if "spreadsheet" in note)
    assert "'patient': rows 1)" in note
    assert table.frame["patient"][0] == "=1+1", "names stay, so that tables can be joined"


def test_covariates_share_the_rule(make: Any) -> None:
    source = make(age=["50", "unknown", *map(str, range(40, 50))])
    with pytest.raises(TableError, match="age is 'unknown'"):
        read_covariates(read_table(source, positive="b"), ["age"])
    values = read_covariates(read_table(source, positive="b", placeholders="missing"), ["age"])
    assert np.isnan(values[1, 0])


def test_sites_and_named_folds_alike_are_not_held_out_one_by_one(make: Any) -> None:
    table = read_table(make(site=["Ulm", "ulm", "Bonn"] * 4), positive="b", site="site")
    with pytest.raises(InputError, match="written in several ways"):
        make_folds(table, Design(by_site=True))
    assert any("1 site is written in several ways" in note for note in table.notes)


def test_a_table_for_prediction_needs_no_patients(make: Any) -> None:
    names = {"patient": "patient", "exam": "visit", "site": "hospital"}
    data = ImageDataModule(Plain(size=8), str(make()), positive="b", stage="predict", **names)
    assert [note.split(":")[0] for note in data.notes if "there is no column" in note] == [
        f"there is no column {column!r} ({option})" for option, column in names.items()
    ]
    with pytest.raises(InputError, match="no column 'patient'"):
        read_table(make(), positive="b", patient="patient")


def test_classes_that_folds_lack_are_told_by_patients(make: Any) -> None:
    labels = ["a", "b"] * 4 + ["c"] * 4
    patients = [f"p{i}" for i in range(8)] + ["q", "Q", "r", "r"]
    table = read_table(make(label=labels, patient=patients), patient="patient", task="multiclass")
    of_row = np.array([0, 0, 1, 1, 2, 2, 0, 1, 0, 0, 1, 1])
    made = [Fold(k, 0, str(k), 0, np.where(of_row == k, "test", "train").astype(object)) for k in range(3)]
    (note,) = notes_on_folds(table, made)
    assert "class 'c' has no patient in fold 2 (patients by fold: 0 1, 1 1, 2 0)" in note


# --- joins ---


def test_joins_refuse_keys_that_differ_in_writing_only(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides = pd.DataFrame({"path": ["a", "b", "c"], "patient": ["007", "8", "9"]})
    pd.DataFrame({"patient": ["7", "8"], "label": ["x", "y"]}).to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(InputError, match=r"written otherwise than in the slide table in 1 rows \(1\)"):
        join_clinical(slides, tmp_path / "c.csv", "patient")

    monkeypatch.setattr("medsoft.data.dicom.join.word", lambda header, keyword: header[keyword])

    def join(key: str) -> pd.DataFrame:
        instance: Any = SimpleNamespace(series="s", header={"PatientID": "007"})
        labels = pd.DataFrame({"grade": ["1"]}, index=pd.Index([key], dtype=object))
        return join_labels(pd.DataFrame({"series_uid": ["s"]}), [instance], labels, "PatientID")

    assert join("007")["grade"].tolist() == ["1"]
    with pytest.raises(InputError, match="written otherwise than in the files") as caught:
        join("7")
    assert "007" not in str(caught.value)
    table = read_table(make(patient=PATIENTS), positive="b")
    pd.DataFrame({"id": [f"0{i}" for i in range(12)], "split": "train"}).to_csv(tmp_path / "s.csv", index=False)
    with pytest.raises(InputError, match="12 of them differ from ids there in writing only"):
        apply_split_file(table, tmp_path / "s.csv")


def test_comparing_models_refuses_ids_that_differ_in_writing_only() -> None:
    task = Task.of("binary", ("no", "yes"))
    p = [[0.2, 0.8], [0.7, 0.3]]
    one, other = (make_predictions(task, ids, p, [1, 0], split="test") for ids in (["a1", "b"], ["A01", "b"]))
    for common in (False, True):
        with pytest.raises(InputError, match="write 1 ids differently"):
            pair(
                [("x", one), ("y", other)], task, split=None, level="row", rule=Rule("0.5", "fixed", 0.5), common=common
            )
    samples = pd.DataFrame({"id": ["A01", "b"], "sex": ["f", "m"]})
    with pytest.raises(InputError, match="differs from the ids of the predictions in writing only in 1 rows"):
        join_samples(one, samples, None, "t.csv")


def test_evaluation_takes_patients_alike_for_one() -> None:
    frame = pd.DataFrame({"id": list("abcd"), "patient": ["007", "7", "", ""]})
    assert patients_of(frame).tolist() == [0, 0, 1, 2]
    assert spellings(frame["patient"]) == {"7": ["007", "7"]}
