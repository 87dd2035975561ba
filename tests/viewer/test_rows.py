"""The rows of predictions of every task, as the list of the viewer shows them."""

import json

import numpy as np
import pytest

from medsoft.evaluation.tables.predictions import make_predictions, read_predictions, write_predictions
from medsoft.task import Task
from medsoft.viewer.rows import rows_of

KINDS = {
    "binary": (("no", "yes"), [[0.1, 0.9], [0.6, 0.4]], [0, -1]),
    "multiclass": (("a", "b", "c"), [[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]], [1, 2]),
    "ordinal": (("0", "1", "2"), [[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]], [1, 2]),
    "multilabel": (("x", "y"), [[0.9, 0.6], [0.2, 0.3]], [[1, 0], [0, 0]]),
    "regression": ((), [[3.5], [float("7.25")]], [3.0, np.nan]),
}
EXPECTED = {
    "binary": [("yes", True, 0.9), ("no", None, 0.6)],
    "multiclass": [("b", False, 0.7), ("a", True, 0.5)],
    "ordinal": [("b", False, 0.7), ("a", True, 0.5)],
    "multilabel": [("x, y", True, 0.6), ("none", False, 0.7)],
    "regression": [("3.5", None, None), ("7.25", None, None)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_say_what_the_model_says_and_whether_it_is_wrong(kind, tmp_path):
    classes, p, target = KINDS[kind]
    task = Task.of(kind, classes)
    write_predictions(make_predictions(task, ["s0", "s1"], p, target, patient="P7"), tmp_path / "p.csv")
    frame, read = read_predictions(tmp_path / "p.csv")
    rows, columns = rows_of(frame, read, patients=False)
    names = dict(zip("abc", classes, strict=False)) if kind == "ordinal" else {}
    found = [(row["says"], row["wrong"], row["sure"]) for row in rows]
    for (says, wrong, sure), (said, bad, p_) in zip(found, EXPECTED[kind], strict=True):
        assert (says, wrong) == (names.get(said, said), bad)
        assert sure == (None if p_ is None else pytest.approx(p_))
    assert "P7" not in json.dumps([rows, columns], allow_nan=False)
    assert all(set(row["cells"]) == {column["name"] for column in columns} for row in rows)
    assert "P7" in json.dumps(rows_of(frame, read, patients=True)[0], allow_nan=False)
