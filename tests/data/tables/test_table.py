"""The sample table says all its problems at once, and guesses nothing."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medsoft.cli.data.check import check
from medsoft.data.tables.problems import Problem, TableError, write_errors
from medsoft.data.tables.sample_table import SampleTable, read_table
from medsoft.errors import InputError

SHARED = Path(__file__).parents[3].parent / "shared" / "data"

MakeTable = Callable[..., Path]


@pytest.fixture
def make_table(tmp_path: Path) -> MakeTable:
    """Writes table.csv over n pictures 0.png, 1.png, ... that all differ in size; labels are a, b, c, a, b, c, ..."""

    def make(n: int = 6, **columns: object) -> Path:
        for i in range(n):
            Image.linear_gradient("L").resize((4, 4 + i)).save(tmp_path / f"{i}.png")
        values = {"path": [f"{i}.png" for i in range(n)], "label": list("abc" * n)[:n]}
        pd.DataFrame(values | columns).to_csv(tmp_path / "table.csv", index=False)
        return tmp_path / "table.csv"

    return make


def problems_of(table: Path, **options: Any) -> list[Problem]:
    with pytest.raises(TableError) as caught:
        read_table(table, **options)
    assert caught.value.problems
    return caught.value.problems


def kinds(problems: list[Problem]) -> dict[str, list[tuple[int, ...]]]:
    found: dict[str, list[tuple[int, ...]]] = {}
    for problem in problems:
        found.setdefault(problem.kind, []).append(problem.rows)
    return found


# --- reading ---


def test_columns(make_table: MakeTable, tmp_path: Path) -> None:
    source = make_table(PATIENT=["007", "007", "08", "9", "9", "1.0"], hospital=["X"] * 6, age=[50, None, 3, 4, 5, 6])
    table = read_table(source, patient="PATIENT", site="hospital")
    assert table.task is not None
    assert (table.task.kind, table.task.classes) == ("multiclass", ("a", "b", "c"))
    assert table.targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert table.frame["id"].tolist() == list("012345")
    assert table.frame["path"].tolist() == [str(tmp_path / f"{i}.png") for i in range(6)]
    assert table.frame["row"].tolist() == [1, 2, 3, 4, 5, 6]
    assert table.frame["patient"].tolist() == ["007", "007", "08", "9", "9", "1.0"], "leading zeros stay"
    assert table.frame["site"].tolist() == ["X"] * 6
    assert table.frame["exam"].tolist() == [""] * 6
    assert {"PATIENT", "hospital", "age", "label"} <= set(table.frame.columns)
    assert not table.has_split
    assert table.splits == []


def test_parquet_equals_csv(make_table: MakeTable, tmp_path: Path) -> None:
    source = make_table(grade=[0, 1, 2, 0, 1, None], patient=[1, 1, 2, 3, 4, 5])
    frame = pd.read_csv(source)
    frame.to_parquet(tmp_path / "table.parquet")
    options: dict[str, Any] = {"label": "grade", "task": "ordinal", "patient": "patient", "on_error": "skip"}
    tables = [read_table(tmp_path / name, **options) for name in ("table.csv", "table.parquet")]
    normal = ["id", "path", "row", "patient", "split", "target"]
    pd.testing.assert_frame_equal(tables[0].frame[normal], tables[1].frame[normal])
    assert tables[1].frame["target"].tolist() == list("01201")
    assert tables[1].frame["patient"].tolist() == list("11234")


def test_root_and_absolute_paths(make_table: MakeTable, tmp_path: Path) -> None:
    source = make_table(n=3, path=["0.png", str(tmp_path / "1.png"), "./sub/../2.png"])
    moved = tmp_path / "elsewhere" / "table.csv"
    moved.parent.mkdir()
    source.rename(moved)
    table = read_table(moved, root=tmp_path)
    assert table.frame["path"].tolist() == [str(tmp_path / f"{i}.png") for i in range(3)]
    with pytest.raises(InputError, match="not a folder"):
        read_table(moved, root=tmp_path / "nowhere")


def test_excel_and_unicode(make_table: MakeTable, tmp_path: Path) -> None:
    source = make_table(n=3, label=["ödem", "normal ", "blutung"])
    source.write_bytes(b"\xef\xbb\xbf" + source.read_bytes())  # the mark that Excel puts before UTF-8
    assert read_table(source).task.classes == ("blutung", "normal", "ödem")  # type: ignore[union-attr]
    source.write_bytes("path,label\n0.png,ödem\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_table(source)


def test_subset_and_split_values(make_table: MakeTable) -> None:
    source = make_table(n=9, split=["train"] * 3 + ["validation"] * 3 + ["val"] * 3)
    table = read_table(source, rename_splits={"validation": "val", "val": "test"})
    assert table.splits == ["train", "val", "test"]
    assert table.subset("val").frame["row"].tolist() == [4, 5, 6]
    assert table.subset("test").targets.tolist() == [0, 1, 2]
    assert kinds(problems_of(source)) == {"unknown split": [(4, 5, 6)]}
    for names in ({"validation": "dev"}, {"Validation": "val"}):
        with pytest.raises(InputError, match="rename_splits"):
            read_table(source, rename_splits=names)


# --- ids ---


def test_ids(tmp_path: Path) -> None:
    def ids(*paths: str, **options: Any) -> list[str]:
        for i, path in enumerate(paths):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            Image.linear_gradient("L").resize((4, 4 + i)).save(tmp_path / path)
        frame = pd.DataFrame({"path": paths, "label": list("abc")[: len(paths)], "key": list("xyz")[: len(paths)]})
        frame.to_csv(tmp_path / "table.csv", index=False)
        return list(read_table(tmp_path / "table.csv", **options).frame["id"])

    assert ids("a.png", "s/b.png", "c.tif") == ["a", "b", "c"]
    assert ids("a.png", "s/a.png", "c.png") == ["a", "s-a", "c"]
    assert ids("a.png", "a.tif", "c.png") == ["a.png", "a.tif", "c.png"]
    assert ids("a.png", "s/a.png", "c.png", id="key") == ["x", "y", "z"]


def test_bad_ids(make_table: MakeTable) -> None:
    found = kinds(problems_of(make_table(key=["x", "y", "x", "", "images/z", "w"]), id="key"))
    assert found == {"duplicate id": [(1, 3)], "empty id": [(4,)], "id is a path": [(5,)]}


# --- tasks ---


@pytest.mark.parametrize(
    ("labels", "options", "kind", "classes", "targets"),
    [
        ("bcab", {}, "multiclass", "abc", [1, 2, 0, 1]),
        ("bcab", {"classes": "c,b,a"}, "multiclass", "cba", [1, 0, 2, 1]),
        ("bcab", {"classes": ["a", "b", "c"], "task": "ordinal"}, "ordinal", "abc", [1, 2, 0, 1]),
        ("baba", {"classes": "b,a"}, "binary", "ba", [0, 1, 0, 1]),
        ("baba", {"positive": "b"}, "binary", ("a", "b"), [1, 0, 1, 0]),
        ("bacb", {"positive": "b"}, "binary", ("negative", "positive"), [1, 0, 0, 1]),
        ("0110", {"positive": "1", "task": "binary"}, "binary", ("negative", "positive"), [0, 1, 1, 0]),
        ("baba", {"positive": "b", "classes": "well,ill"}, "binary", ("well", "ill"), [1, 0, 1, 0]),
        ("0110", {"task": "binary"}, "binary", "01", [0, 1, 1, 0]),
        ("0312", {"positive": "2,3"}, "binary", ("negative", "positive"), [0, 1, 0, 1]),
        ("0312", {"positive": [2, 3]}, "binary", ("negative", "positive"), [0, 1, 0, 1]),
        ("0312", {"positive": 3}, "binary", ("negative", "positive"), [0, 1, 0, 0]),
        ("0312", {"task": "ordinal"}, "ordinal", "0123", [0, 3, 1, 2]),
        (["9", "10", "9", "11"], {"task": "ordinal"}, "ordinal", ("9", "10", "11"), [0, 1, 0, 2]),
        (["1.0", "2", "02", "1"], {"task": "multiclass"}, "multiclass", "12", [0, 1, 1, 0]),
    ],
)
def test_task(
    make_table: MakeTable, labels: Any, options: dict[str, Any], kind: str, classes: Any, targets: list[int]
) -> None:
    table = read_table(make_table(n=4, label=list(labels)), **options)
    assert table.task is not None
    assert (table.task.kind, table.task.classes) == (kind, tuple(classes))
    assert table.targets.tolist() == targets
    assert table.targets.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ("0123", {}, "holds numbers .*task"),
        ("0101", {}, "holds numbers .*task"),
        ("abab", {}, r"two values \(a, b\).*positive"),
        ("abab", {"task": "binary"}, "which are positive"),
        ("1212", {"task": "binary"}, "which are positive"),
        ("abca", {"task": "ordinal"}, "needs classes"),
        ("abab", {"positive": "c"}, "none of its values"),
        ("aaaa", {"positive": "a"}, "all of its values"),
        ("aaaa", {"task": "multiclass"}, "one value only"),
        ("abab", {"classes": "a,b,c", "task": "binary"}, "two classes"),
        ("abca", {"positive": "a", "task": "multiclass"}, "belongs to a binary task"),
        ("abca", {"task": "captions"}, "no task 'captions': the tasks are binary"),
        (["", "", "", "NA"], {}, "is empty"),
        ("abca", {"classes": "a,b,,c"}, "different names"),
        ("abca", {"classes": "a,b,b"}, "different names"),
    ],
)
def test_unclear_tasks_are_asked_about(
    make_table: MakeTable, labels: Any, options: dict[str, Any], message: str
) -> None:
    source = make_table(n=4, label=list(labels))
    with pytest.raises(InputError, match=message) as caught:
        read_table(source, **options)
    assert str(source) in str(caught.value)


def test_grouping_is_recorded(make_table: MakeTable) -> None:
    table = read_table(make_table(label=list("012301")), positive="2,3,4")
    assert table.notes == (
        "the label column 'label': positive is 2, 3, 4; negative is 0, 1",
        "the label column 'label': the positive 4 does not occur in this table",
    )


def test_a_line_break_in_a_value_is_escaped_in_notes(make_table: MakeTable) -> None:
    notes = read_table(make_table(label=list("abcabc")), positive=["a", "b\nWARNING"]).notes
    assert any("the positive b\\nWARNING does not occur" in note for note in notes)
    assert not any("\n" in note for note in notes)


def test_nothing_is_noted_where_no_class_has_another_name(make_table: MakeTable) -> None:
    source = make_table(n=3, label=["normal", "pneumonia", "normal"])
    said = read_table(source, positive="pneumonia", classes="normal,pneumonia").notes
    assert not [note for note in said if "label column" in note]
    renamed = read_table(source, positive="pneumonia", classes="no,yes").notes
    assert [note for note in renamed if "yes is pneumonia; no is normal" in note]


def test_problems_are_listed_by_row() -> None:
    problems = [Problem("unreadable", (row,), "is damaged", "export it again") for row in (30, 4, 17)]
    listed = re.findall(r"row (\d+): is", str(TableError("t.csv", problems)))
    assert listed == ["4", "17", "30"]


def test_multilabel(make_table: MakeTable) -> None:
    source = make_table(n=4, oedema=["1", "0", "1.0", ""], mass=["", "1", "NA", "0"])
    table = read_table(source, label="oedema, mass")
    assert table.task is not None
    assert (table.task.kind, table.task.classes) == ("multilabel", ("oedema", "mass"))
    np.testing.assert_array_equal(table.targets, [[1, np.nan], [0, 1], [1, np.nan], [np.nan, 0]])
    assert {"target_oedema", "target_mass"} <= set(table.frame.columns)
    with pytest.raises(InputError, match="twice"):
        read_table(source, label="mass,mass")
    for bad in ({"task": "multiclass"}, {"positive": "1"}, {"classes": "a,b"}):
        with pytest.raises(InputError, match="oedema, mass"):
            read_table(source, label=["oedema", "mass"], **bad)


def test_check_counts_what_is_absent_and_what_is_not_known(make_table: MakeTable, capfd: Any) -> None:
    source = make_table(n=4, oedema=["1", "0", "0", "NaN"], mass=["", "1", "0", "1"])
    check(str(source), label="oedema,mass")
    said = capfd.readouterr().out
    assert re.search(r"label +┃ present ┃ absent ┃ not known", said)
    assert re.search(r"oedema +│ +1 │ +2 │ +1 │", said)
    assert re.search(r"mass +│ +2 │ +1 │ +1 │", said)


def test_uncertain_labels_are_a_problem(make_table: MakeTable) -> None:
    problems = problems_of(make_table(n=4, oedema=["1", "-1", "0", "u"], mass=[1, 1, 0, 0]), label="oedema,mass")
    assert kinds(problems) == {"unknown label": [(2,), (4,)]}
    assert problems[0].message == "oedema is '-1'"


def test_prediction_needs_no_labels(make_table: MakeTable) -> None:
    source = make_table(n=4, label=["a", "", "b", ""], blank=[""] * 4)
    with pytest.raises(TableError):
        read_table(source, classes="a,b,c")
    partly = read_table(source, classes="a,b,c", require_labels=False)
    assert partly.targets.tolist() == [0, -1, 1, -1]
    for label in ("nothing", "blank"):
        assert read_table(source, label=label, require_labels=False).task is None
        stated = read_table(source, label=label, task="multiclass", classes="a,b,c", require_labels=False)
        assert stated.task is not None
        assert stated.task.classes == ("a", "b", "c")
        assert stated.targets.tolist() == [-1] * 4
    assert read_table(source, label=None, require_labels=False).task is None
    with pytest.raises(InputError, match="labels are needed"):
        read_table(source, label=None)
    with pytest.raises(ValueError, match="without labels"):
        _ = read_table(source, label=None, require_labels=False).targets


# --- problems ---


def test_all_problems_at_once(make_table: MakeTable, tmp_path: Path) -> None:
    source = make_table(
        n=10,
        path=["0.png", "gone.png", "", "3.png", "4.png", "empty.png", "3.png", "7.png", "8.png", "9.png"],
        label=["a", "b", "b", "", "x", "a", "", "b", "a", "b"],
        patient=["p", "q", "r", "s", "p", "t", "s", "", "u", "v"],
        split=["train"] * 4 + ["val"] + ["train"] * 4 + ["dev"],
    )
    (tmp_path / "empty.png").touch()
    problems = problems_of(source, classes="a,b,c", task="multiclass", patient="patient")
    assert kinds(problems) == {
        "missing file": [(2,)],
        "empty path": [(3,)],
        "empty file": [(6,)],
        "unknown split": [(10,)],
        "patient in two splits": [(1, 5)],
        "missing patient": [(8,)],
        "missing label": [(4,), (7,)],
        "unknown label": [(5,)],
        "duplicate": [(7,)],
        "empty class": [(), (), (), ()],  # c in train; a, b and c in val
    }
    assert all(problem.advice for problem in problems)


def test_message(make_table: MakeTable) -> None:
    source = make_table(n=30, path=[f"gone{i}.png" for i in range(30)])
    with pytest.raises(TableError) as caught:
        read_table(source)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{source}: 30 problems"
    assert lines[1].startswith("missing file (30): paths start from ")
    assert "--data.root" in lines[1]
    assert lines[2] == "  row 1: no such file or directory"
    assert "gone" not in str(caught.value), "names of files often carry names of patients"
    assert lines[-2:] == ["  ... and 10 more", "(row 1 is the first row below the header)"]
    assert len(lines) == 24


def test_duplicates(make_table: MakeTable, tmp_path: Path) -> None:
    source = make_table(label=list("abcbab"), path=[f"{i}.png" for i in (0, 1, 2, 3, 0, 5)])
    (tmp_path / "3.png").write_bytes((tmp_path / "1.png").read_bytes())
    (tmp_path / "5.png").write_bytes((tmp_path / "2.png").read_bytes())
    problems = problems_of(source)
    assert kinds(problems) == {"duplicate": [(5,), (4,)], "contradiction": [(3, 6)]}
    assert "the same file as row 1" in problems[0].message
    assert "the same content as row 2" in problems[1].message
    with pytest.raises(TableError, match="under two labels"):
        read_table(source, on_error="skip")


def test_equal_size_is_no_duplicate(make_table: MakeTable, tmp_path: Path) -> None:
    source = make_table(n=3)
    for i in range(3):
        Image.new("L", (4, 4), i).save(tmp_path / f"{i}.bmp")
    source.write_text("path,label\n0.bmp,a\n1.bmp,b\n2.bmp,c\n")
    assert len({(tmp_path / f"{i}.bmp").stat().st_size for i in range(3)}) == 1
    assert len(read_table(source)) == 3


def test_skip(make_table: MakeTable, tmp_path: Path) -> None:
    source = make_table(
        path=["0.png", "gone.png", "2.png", "3.png", "4.png", "0.png"], label=["a", "b", "", "b", "a", "a"]
    )
    table = read_table(source, classes="a,b", on_error="skip")
    assert table.frame["row"].tolist() == [1, 4, 5]
    assert table.targets.tolist() == [0, 1, 0]
    assert table.dropped.columns.tolist() == ["id", "path", "stage", "reason"]
    assert table.dropped["reason"].str.split(":").str[0].tolist() == ["missing file", "missing label", "duplicate"]
    write_errors(table.dropped, tmp_path / "errors.csv")
    errors = pd.read_csv(tmp_path / "errors.csv")
    assert errors.columns.tolist() == ["path", "stage", "reason"]
    assert errors["path"].tolist() == [str(tmp_path / name) for name in ("gone.png", "2.png", "0.png")]
    assert set(errors["stage"]) == {"table"}


def test_skip_refuses_what_lies_between_rows(make_table: MakeTable) -> None:
    split = ["train", "train", "train", "val", "val", "val"]
    with pytest.raises(TableError, match="a patient is in 'train' and 'val'"):
        read_table(make_table(split=split, patient=list("pqrpst")), patient="patient", on_error="skip")
    # The only b of val has no file: what is left has an empty class.
    source = make_table(split=split, path=["0.png", "1.png", "2.png", "3.png", "gone.png", "5.png"])
    with pytest.raises(TableError, match="class 'b' has no sample in val"):
        read_table(source, on_error="skip")
    with pytest.raises(InputError, match="no row is left"):
        read_table(make_table(n=3, path=["x.png", "y.png", "z.png"]), require_labels=False, on_error="skip")


def test_a_stated_class_must_occur(make_table: MakeTable) -> None:
    source = make_table()
    with pytest.raises(TableError, match="class 'd' has no sample in the table"):
        read_table(source, classes="a,b,c,d")
    assert len(read_table(source, classes="a,b,c,d", require_labels=False)) == 6
    # A table that is all test is for testing: nothing is learnt from it.
    assert len(read_table(make_table(split=["test"] * 6), classes="a,b,c,d")) == 6


def test_unused_patient_column_is_mentioned(make_table: MakeTable) -> None:
    source = make_table(Patient_ID=list("pqrstu"))
    assert "'Patient_ID' is not used" in read_table(source).notes[0]
    assert read_table(source, patient="Patient_ID").notes == ()


# --- tables that cannot be read ---


def test_no_table(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    (tmp_path / "header.csv").write_text("path,label\n")
    (tmp_path / "wide.csv").write_text("path,label\na,b,c,d\ne,f,g,h\n")
    (tmp_path / "ragged.csv").write_text("path,label\na,b\nc,d,e\n")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "bad.npz").write_bytes(b"PK no")
    (tmp_path / "table.ods").touch()
    (tmp_path / "folder.csv").mkdir()
    for name, message in {
        "gone.csv": "no such table",
        "folder.csv": "no such table",
        "empty.csv": "is empty",
        "header.csv": "no rows",
        "wide.csv": "row 1 has 4 cells, the header has 2",
        "ragged.csv": "line 3",
        "bad.parquet": "not a Parquet table",
        "bad.npz": "not an .npz",
        "table.ods": ".csv, .parquet, .xlsx, .npz",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            read_table(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_table(make_table: MakeTable) -> None:
    source = make_table()
    source.chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        read_table(source)


def test_unknown_columns_are_all_named(make_table: MakeTable) -> None:
    source = make_table(file_name=list("abcdef"), Patient=list("abcdef"))
    with pytest.raises(InputError) as caught:
        read_table(source, path="filename", label="grade", patient="patient")
    message = str(caught.value)
    assert "the columns are: path, label, file_name, Patient" in message
    assert "no column 'filename' (nearest: 'file_name'): name the right one with the option path" in message
    assert "no column 'grade': name the right one with the option label (fit: --data.label)" in message
    assert "no column 'patient' (nearest: 'Patient')" in message
    source.write_text("path;label\n0.png;a\n")
    with pytest.raises(InputError, match="commas"):
        read_table(source)


# --- arrays ---


def test_npz(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"{split}_images": rng.integers(0, 256, (4, 8, 8), dtype=np.uint8) for split in ("train", "val")}
    labels = {f"{split}_labels": np.array([[0], [1], [2], [0]]) for split in ("train", "val")}
    np.savez(tmp_path / "a.npz", **arrays, **labels)
    table = read_table(tmp_path / "a.npz", task="multiclass")
    assert table.splits == ["train", "val"]
    assert table.frame["id"].tolist() == [f"{split}-{i}" for split in ("train", "val") for i in range(4)]
    assert table.frame["path"][5] == f"{tmp_path}/a.npz#val_images/1"
    assert table.targets.tolist() == [0, 1, 2, 0] * 2

    several = {key: np.array([[0, 1], [1, 0], [1, 1], [0, 0]]) for key in labels}
    np.savez(tmp_path / "b.npz", **arrays, **several)
    table = read_table(tmp_path / "b.npz")
    assert table.task is not None
    assert table.task.classes == ("label_0", "label_1")
    np.testing.assert_array_equal(table.targets[:4], several["train_labels"])

    np.savez(tmp_path / "c.npz", **arrays)
    assert len(read_table(tmp_path / "c.npz", require_labels=False)) == 8
    np.savez(tmp_path / "d.npz", **arrays, train_labels=np.zeros(3))
    np.savez(tmp_path / "e.npz", pictures=np.zeros(3))
    for name, message in {"c": "no column 'label'", "d": "4 train_images need labels", "e": "pictures"}.items():
        with pytest.raises(InputError, match=message):
            read_table(tmp_path / f"{name}.npz", task="multiclass")


# --- properties ---


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "", "x"]), st.sampled_from(["p", "q", ""]), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_every_row_is_kept_or_dropped_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("t")
    for i, (_, _, there) in enumerate(rows):
        if there:
            Image.linear_gradient("L").resize((4, 4 + i)).save(folder / f"{i}.png")
    frame = pd.DataFrame([(f"{i}.png", *row[:2]) for i, row in enumerate(rows)], columns=["path", "label", "patient"])
    frame.to_csv(folder / "table.csv", index=False)
    good = [
        i for i, (label, patient, there) in enumerate(rows, start=1) if label in "ab" and label and patient and there
    ]
    options: dict[str, Any] = {"classes": "a,b", "patient": "patient"}
    both = {rows[i - 1][0] for i in good} == {"a", "b"}
    if not any(label for label, _, _ in rows) or not both:
        with pytest.raises(InputError):
            read_table(folder / "table.csv", **options, on_error="skip")
        return
    table = read_table(folder / "table.csv", **options, on_error="skip")
    assert table.frame["row"].tolist() == good
    assert len(table.dropped) == len(rows) - len(good)
    assert table.dropped["reason"].str.len().min() > 0 or table.dropped.empty
    if len(good) < len(rows):
        bad = {row for problem in problems_of(folder / "table.csv", **options) for row in problem.rows}
        assert bad == set(range(1, len(rows) + 1)) - set(good)


# --- medsoft data check ---


def test_check_prints_counts(make_table: MakeTable, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_table(
        n=12, split=["train"] * 6 + ["val"] * 6, patient=[f"p{i // 3}" for i in range(12)], site=["X", "[Y]", "X"] * 4
    )
    check(str(source), patient="patient", site="site")
    out = capsys.readouterr().out
    for expected in ("12 samples, multiclass", "[Y]", "4 patients, 3 samples each", "No problems found."):
        assert expected in out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert ["a", "2", "2", "4", "4"] in rows
    assert ["X", "4", "4", "8", "4"] in rows
    assert ["all", "6", "6", "12", "4"] in rows


def test_check_decodes_and_reports_all(
    make_table: MakeTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_table(path=["0.png", "1.png", "gone.png", "3.png", "4.png", "5.png"], label=list("abcabx"))
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    with pytest.raises(TableError) as caught:
        check(str(source), classes="a,b,c")
    assert kinds(caught.value.problems) == {
        "missing file": [(3,)],
        "unknown label": [(6,)],
        "unreadable picture": [(2,)],
    }
    assert "(no valid label)" in capsys.readouterr().out
    with pytest.raises(TableError) as caught:
        check(str(source), classes="a,b,c", decode=False)
    assert "unreadable picture" not in kinds(caught.value.problems)


@pytest.mark.parametrize(
    ("table", "options", "rows", "classes"),
    [
        ("fundus/idrid_512", {"path": "file", "label": "dr_grade_0_4", "task": "ordinal"}, 408, 5),
        ("fundus/idrid_512", {"path": "file", "label": "dr_grade_0_4", "positive": "2,3,4"}, 408, 2),
        ("derm/isic_uda1_512", {"path": "file", "label": "benign_malignant", "positive": "malignant"}, 256, 2),
        ("cxr/kermany_224", {"path": "file", "classes": "normal,pneumonia"}, 444, 2),
        ("cxr/pneumoniamnist/pneumoniamnist_train_val.npz", {"task": "binary"}, 4406, 2),
        ("histo_tiles/idc_patches", {"path": "file", "label": "idc", "task": "binary", "patient": "patient"}, 5324, 2),
        ("histo_tiles/crc_val_he_7k", {"path": "file"}, 70, 7),
    ],
)
def test_real_tables(table: str, options: dict[str, Any], rows: int, classes: int) -> None:
    source = SHARED / table / ("" if table.endswith(".npz") else "labels.csv")
    if not source.exists():
        pytest.skip("no ../shared/data here")
    read: SampleTable = read_table(source, **options)
    assert read.task is not None
    assert (len(read), len(read.task.classes)) == (rows, classes)
    assert set(read.targets) == set(range(classes))
    assert read.frame["id"].is_unique
