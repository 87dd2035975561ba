"""``reviews.csv``: what a reader said, read as a reader study by ``medsoft evaluate``."""

import numpy as np
import pandas as pd
import pytest

from medsoft.errors import InputError
from medsoft.evaluation.comparison.reader_study import COLUMNS, Review, read_reviews, reader_study, write_reviews
from medsoft.evaluation.tables.predictions import make_predictions, write_predictions
from medsoft.task import Task

BINARY = Task.of("binary", ("no", "yes"))
TIME = "2026-01-01T00:00:00+00:00"


def review(number: int, says: str, verdict: str, split: str = "test") -> Review:
    return Review(f"s{number}", split, "", says, verdict, "", TIME)


def of(*reviews: Review) -> dict[tuple[str, str, str], Review]:
    return {(one.id, one.split, one.fold): one for one in reviews}


@pytest.fixture
def frame():
    p_N = np.array([0.9, 0.8, 0.3, 0.2, 0.6, 0.7])
    return make_predictions(
        BINARY, [f"s{n}" for n in range(6)], np.stack([1 - p_N, p_N], 1), [1, 0, 1, 0, 1, 1], split="test"
    )


def test_a_reader_who_disagrees_gives_the_other_answer(frame):
    given = of(
        review(0, "yes", "agree"),  # true: yes
        review(1, "yes", "disagree"),  # true: no, the reader is right
        review(2, "no", "agree"),  # true: yes, both are wrong
        review(3, "no", "agree"),  # true: no
        review(4, "yes", "unsure"),
        review(5, "no", "agree"),  # the model says yes now
        review(9, "no", "agree"),
    )
    rows, notes = reader_study(given, frame, BINARY, 0.95)
    found = {row.measure: (row.hits, row.n) for row in rows}
    assert found == {
        "agreement": (3, 4),
        "reader sensitivity": (1, 2),
        "reader specificity": (2, 2),
        "model sensitivity": (1, 2),
        "model specificity": (1, 2),
    }
    assert all(row.low < row.value <= row.high for row in rows)
    assert "1 unsure, 1 of another answer of the model, 1 of cases not in the table" in notes[0]


def test_of_several_classes_there_is_agreement_alone():
    task = Task.of("multiclass", ("a", "b", "c"))
    frame = make_predictions(task, ["s0", "s1"], [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], [0, 2], split="test")
    rows, _ = reader_study(of(review(0, "a", "agree"), review(1, "b", "disagree")), frame, task, 0.95)
    assert [(row.measure, row.hits, row.n) for row in rows] == [("agreement", 1, 2)]


def test_evaluate_reads_the_reviews_beside_a_run(medsoft, frame, tmp_path):
    write_predictions(frame, tmp_path / "run" / "predictions.csv")
    write_reviews(of(review(0, "yes", "agree"), review(1, "yes", "disagree")), tmp_path / "run" / "reviews.csv")
    words = ["--out", tmp_path / "out", "--report=false", "--figures=false", "--draws", "20"]
    code, out, err = medsoft("evaluate", tmp_path / "run", *words)
    assert (code, err) == (0, "")
    assert "test: agreement 0.500 (0.095 to 0.905), 1 of 2 reviewed" in out
    table = pd.read_csv(tmp_path / "out" / "reader_study.csv")
    assert table["measure"].tolist()[0] == "agreement"
    assert table["n"].tolist()[0] == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("id,split\na,b\n", "it has no column fold"),
        (",".join(COLUMNS) + "\na,,,no,maybe,,\n", "line 2: the verdict is"),
        (",".join(COLUMNS) + "\na,,,no,agree,,\na,,,no,unsure,,\n", "line 3: a case again"),
    ],
)
def test_a_wrong_table_of_reviews_is_refused(tmp_path, text, why):
    (tmp_path / "reviews.csv").write_text(text)
    with pytest.raises(InputError, match=why):
        read_reviews(tmp_path / "reviews.csv")
