"""The predictions table: exact round trips, and one message with all that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medsoft.errors import InputError
from medsoft.evaluation.tables.predictions import make_predictions, read_predictions, write_predictions
from medsoft.task import Task
from medsoft.text.spelling import normal_form

BINARY = Task.of("binary", ("benign", "malignant"))
GRADES = Task.of("ordinal", ("0", "1", "2"))
FINDINGS = Task.of("multilabel", ("oedema", "effusion"))

# Everything a CSV cell can hold but halves of surrogate pairs, control characters and separators of lines.
names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=12)


@st.composite
def tables(draw: st.DrawFn) -> tuple[pd.DataFrame, Task]:
    kind = draw(st.sampled_from(("binary", "multiclass", "multilabel", "ordinal", "regression")))
    n_classes = {"binary": 2, "regression": 0}.get(kind, draw(st.integers(2, 5)))
    task = Task.of(kind, tuple(draw(st.lists(names, min_size=n_classes, max_size=n_classes, unique_by=normal_form))))
    ids = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    n, weight = len(ids), st.floats(1e-300, 1, exclude_min=False)
    raw = np.array(draw(st.lists(st.lists(weight, min_size=n_classes, max_size=n_classes), min_size=n, max_size=n)))
    if kind == "regression":
        numbers = st.floats(allow_nan=False, allow_infinity=False)
        p = np.array(draw(st.lists(numbers, min_size=n, max_size=n)))[:, None]
        target = draw(st.lists(numbers | st.just(np.nan), min_size=n, max_size=n))
    elif kind == "multilabel":
        p, target = raw, draw(st.lists(st.lists(st.sampled_from([0, 1, np.nan]), min_size=n_classes,
                                                max_size=n_classes), min_size=n, max_size=n))  # fmt: skip
    else:
        p = raw / raw.sum(axis=1, keepdims=True)
        target = draw(st.lists(st.integers(-1, n_classes - 1), min_size=n, max_size=n))
    column = st.lists(names | st.just(""), min_size=n, max_size=n)
    about = {name: draw(column) for name in ("patient", "exam", "split", "fold")}
    extra = {"note, with a comma": draw(column)}
    return make_predictions(task, ids, p, target, **about, extra=extra), task


@given(table=tables())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back_exactly(table: tuple[pd.DataFrame, Task], tmp_path: Path) -> None:
    frame, task = table
    write_predictions(frame, tmp_path / "predictions.csv")
    read, read_task = read_predictions(tmp_path / "predictions.csv")
    pd.testing.assert_frame_equal(read, frame, check_exact=True)
    assert read_task == task


def test_columns_and_target_names() -> None:
    frame = make_predictions(BINARY, ["a", "b"], [[0.2, 0.8], [1, 0]], [1, -1], split="test", fold=[0, 1])
    assert list(frame.columns) == [
        "id",
        "patient",
        "exam",
        "split",
        "fold",
        "task",
        "target",
        "p_benign",
        "p_malignant",
    ]
    assert frame["target"].tolist() == ["malignant", ""]
    assert frame["fold"].tolist() == ["0", "1"]
    assert frame["patient"].tolist() == ["", ""]
    known = make_predictions(BINARY, ["a", "b"], [[0.2, 0.8], [1, 0]], patient=pd.Series(["P1", None]))
    assert known["patient"].tolist() == ["P1", ""]


def test_float32_probabilities_come_back_bit_for_bit(tmp_path: Path) -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(3), 50).astype(np.float32)
    write_predictions(make_predictions(GRADES, [str(i) for i in range(50)], p), tmp_path / "p.csv")
    frame, _ = read_predictions(tmp_path / "p.csv")
    np.testing.assert_array_equal(frame[GRADES.p_columns].to_numpy().astype(np.float32), p)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"need \(1, 2\)"):
        make_predictions(BINARY, ["a"], [[0.2, 0.3, 0.5]])
    with pytest.raises(ValueError, match="2 values of 'patient' for 1 ids"):
        make_predictions(BINARY, ["a"], [[0.5, 0.5]], patient=["x", "y"])
    with pytest.raises(ValueError, match="whole numbers from 0 to 1"):
        make_predictions(BINARY, ["a"], [[0.5, 0.5]], [2])
    with pytest.raises(ValueError, match="cannot be called 'p_value'"):
        make_predictions(BINARY, ["a"], [[0.5, 0.5]], extra={"p_value": [1]})


def test_a_diverged_model_is_named_at_once() -> None:
    with pytest.raises(InputError, match=r"p_benign is empty or not a number in row 2 \('b'\)"):
        make_predictions(BINARY, ["a", "b"], [[0.5, 0.5], [np.nan, np.nan]])


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_tables_of_other_tools_say_their_task_by_their_columns(tmp_path: Path) -> None:
    two = write(tmp_path / "two.csv", "id,target,p_no,p_yes", "a,yes,0.1,0.9")
    three = write(tmp_path / "three.csv", "p_x,p_y,p_z,id,target", "0.1,0.2,0.7,a,")
    labels = write(tmp_path / "labels.csv", "id,target_b,p_a,p_b,target_a", "x,1,0.9,0.8,", "y,0.0,0.9,0.8,1")
    assert read_predictions(two)[1] == Task.of("binary", ("no", "yes"))
    frame, task = read_predictions(three)
    assert task == Task.of("multiclass", ("x", "y", "z"))
    assert list(frame.columns[:7]) == ["id", "patient", "exam", "split", "fold", "task", "target"]
    frame, task = read_predictions(labels)
    assert task == Task.of("multilabel", ("a", "b"))
    assert frame["target_a"].isna().tolist() == [True, False]
    assert frame["target_b"].tolist() == [1, 0]


def test_numbers_are_written_as_other_tools_write_them(tmp_path: Path) -> None:
    """Python would read 1_0 as 10."""
    (tmp_path / "t.csv").write_text("id,target,prediction\na,1,1_0\nb,,2e1\n")
    with pytest.raises(InputError, match=r"prediction is not a finite number in row 1 \('a'\); line 2"):
        read_predictions(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("id,target,prediction\na,1,10\nb,,2e1\n")
    frame, task = read_predictions(tmp_path / "t.csv")
    assert (task.kind, frame["prediction"].tolist()) == ("regression", [10, 20])
    assert frame["target"].isna().tolist() == [False, True]


def test_only_the_column_can_say_ordinal_and_excel_may_have_saved_it(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes("id,task,target,p_0,p_1,p_2\r\na,ordinal,2,0.1,0.2,0.7\r\n\r\n".encode("utf-8-sig"))
    frame, task = read_predictions(path)
    assert task == GRADES
    assert frame["target"].tolist() == ["2"]


def test_classes_that_look_like_missing_values_are_classes(tmp_path: Path) -> None:
    frame, _ = read_predictions(write(tmp_path / "t.csv", "id,target,p_None,p_NA", "nan,NA,0.1,0.9", "007,None,1,0"))
    assert frame["target"].tolist() == ["NA", "None"]
    assert frame["id"].tolist() == ["nan", "007"]


def test_a_broken_table_reports_all_its_problems(tmp_path: Path) -> None:
    path = write(
        tmp_path / "broken.csv",
        "id,split,target,p_no,p_yes",
        "a,test,yes,0.1,0.9",
        "a,test,yes,0.1,0.9",  # again
        "a,val,yes,0.1,0.9",  # another split: allowed
        ",test,yes,0.5,0.5",
        "b,test,maybe,0.5,0.5",
        "c,test,no,1.5,-0.5",
        "d,test,no,,0.5",
        "e,test,no,0.4,0.4",
        "f,test,no,x,0.4",
    )
    with pytest.raises(InputError) as caught:
        read_predictions(path)
    message = str(caught.value)
    for problem in (
        "7 problems",
        "no id in row 4",
        "an id again (in its split and fold) in row 2 ('a')",
        "p_no is empty or not a number in rows 7 ('d'), 9 ('f')",
        "p_no is outside [0, 1] in row 6 ('c')",
        "p_yes is outside [0, 1] in row 6 ('c')",
        "the probabilities do not sum to 1 in row 8 ('e')",
        "target 'maybe' is none of no, yes in row 5 ('b')",
    ):
        assert problem.replace("7 problems", "7 problems") in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["id,target"], "has no rows"),
        (["id,target", "a,b"], "no column of probabilities"),
        (["id, target, p_a, p_b", "x,a,1,0"], "column ' p_a' begins or ends with a space"),
        (["id,target,p_a,p_b", "x,a,inf,-inf"], "p_a is outside [0, 1] in row 1 ('x'); line 2"),
        (["target,p_a,p_b", "a,1,0"], "column 'id' is missing"),
        (["id,p_a,p_b", "x,1,0"], "column 'target' is missing"),
        (["id,target,p_a,p_a", "x,a,1,0"], "column 'p_a' is there twice"),
        (["id,target,p_a,p_b", "x,a,1"], "row 1 has 3 cells, the header has 4"),
        (["id,target,p_a", "x,a,1"], "one column of probabilities only"),
        (["id,target,p_a", "x,a,1", "y,b,0"], "every class needs one: add p_b = 1 - p_a"),
        (["id,task,target,p_a,p_b,p_c", "x,binary,a,1,0,0"], "a binary task has 2 classes, not 3"),
        (["id,task,target,p_a,p_b", "x,grading,a,1,0"], "'grading': allowed are binary"),
        (["id,task,target,p_a,p_b", "x,binary,a,1,0", "y,ordinal,a,1,0"], "in all rows: binary, ordinal; line 3"),
        (["id;target;p_a;p_b", "x;a;1;0"], "the columns are parted by ';' (line 1)"),
        (["id,target,p_a,p_b", "x,a,1,0", '"y,a,1,0'], "unexpected end of data, after line 2"),
        (["id,target_a,p_a,p_b", "x,1,1,0"], "column 'target_b' is missing"),
        (["id,target_a,target_c,p_a", "x,1,1,0"], "column 'p_c' is missing"),
        (["id,target_a,p_a", "x,yes,1"], "target_a is 'yes': 0, 1 or empty"),
        (['id,target,p_a,p_b', '"x\ny",a,1,0'], "a line break within column 'id'"),
        (["id,target,p_,p_b", "x,,1,0"], "a class without a name"),
        (['id,target,"p_a\nb",p_b', "x,,1,0"], "a line break or control character in the name 'p_a\\nb'"),
        (['id,target,p_a,p_b', '"x"y,a,1,0'], "is not CSV"),
    ],
)  # fmt: skip
def test_each_problem_has_its_words(tmp_path: Path, lines: list[str], problem: str) -> None:
    with pytest.raises(InputError) as caught:
        read_predictions(write(tmp_path / "t.csv", *lines))
    assert problem in str(caught.value)


def test_a_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "image.csv").write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(InputError, match="is not UTF-8 text: line 1 holds other bytes"):
        read_predictions(tmp_path / "image.csv")
    (tmp_path / "latin.csv").write_bytes("id,target,p_a,p_b\nx,a,1,0\nä,a,1,0\n".encode("latin-1"))
    with pytest.raises(InputError, match="line 3 holds other bytes"):
        read_predictions(tmp_path / "latin.csv")
    with pytest.raises(InputError, match="No such file"):
        read_predictions(tmp_path / "nowhere.csv")


def test_a_failed_write_leaves_the_old_table_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    frame = make_predictions(FINDINGS, ["a"], [[0.5, 0.7]], [[1, np.nan]])
    write_predictions(frame, path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"predictions\.csv: 1 problem .*\n.*p_oedema is outside"):
        write_predictions(frame.assign(p_oedema=2.0), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
