"""Covariates from the columns of a table: numbers, and groups by name."""

import numpy as np
import pandas as pd
import pytest

from medsoft.data.tables.covariates import column_of, covariate_values, read_covariates
from medsoft.data.tables.sample_table import read_table
from medsoft.errors import InputError
from tests.builders.images import write_images

FRAME = pd.DataFrame(
    {"age": ["61", "", "40"], "sex": ["male", "female", ""], "grade": ["G1", "g1", "G2"], "a=b": ["1", "2", "3"]}
)


def values(*names: str) -> tuple[np.ndarray, list[tuple[tuple[int, ...], str]]]:
    found, problems = covariate_values(FRAME, names, [1, 2, 3])
    return found, [(problem.rows, problem.message) for problem in problems]


def test_a_group_is_1_where_the_column_says_so_and_missing_where_it_says_nothing():
    found, problems = values("age", "sex=male", "sex=female")
    assert problems == []
    np.testing.assert_array_equal(found, [[61, 1, 0], [np.nan, 0, 1], [40, np.nan, np.nan]])


def test_a_column_may_be_named_with_the_sign():
    assert column_of("a=b", FRAME.columns) == ("a=b", None)
    assert column_of("sex = male", FRAME.columns) == ("sex", "male")
    np.testing.assert_array_equal(values("a=b")[0][:, 0], [1, 2, 3])


def test_words_are_listed_once_each_with_what_to_do():
    found, problems = covariate_values(FRAME, ["sex"], [7, 8, 9])
    assert [(problem.rows, problem.message) for problem in problems] == [
        ((7,), "sex is 'male'"),
        ((8,), "sex is 'female'"),
    ]
    assert "sex=male" in problems[0].advice
    assert np.isnan(found).all()


def test_a_group_that_is_written_differently_is_asked_about():
    _, problems = values("grade=G1")
    assert problems == [((2,), "grade is 'g1'")]


def test_a_column_that_is_not_there_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("path,label,sex\na.png,x,male\nb.png,y,female\n")
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"picture " + name.encode())
    samples = read_table(tmp_path / "t.csv", positive="y")
    assert read_covariates(samples, ["sex=male"]).tolist() == [[1], [0]]
    with pytest.raises(InputError, match="no column 'sexe'"):
        read_covariates(samples, ["sexe=male"])


def test_data_check_says_what_is_known_and_takes_the_names_that_fit_has(medsoft, tmp_path):
    table = write_images(tmp_path / "set", 6)
    rows = pd.read_csv(table).assign(age=[50, 60, 70, "", 55, 65], sex=["m", "f", "m", "f", "m", "f"])
    rows.to_csv(table, index=False)
    of_fit = [f"--data.table={table}", "--data.patient=patient", "--data.classes=dark,light"]
    of_fit += ["--data.covariates=age,sex=m"]
    code, said, err = medsoft("data", "check", *of_fit)
    assert (code, err) == (0, "")
    assert "Covariate age: 50 to 70, mean 60; missing in 1 row\n" in said
    assert "Covariate sex=m: 0 to 1, mean 0.5\n" in said
    assert "6 patients, 1 sample each" in said
    code, _, err = medsoft("data", "check", table, "--classes=dark,light", "--covariates=sex", "--decode=false")
    assert code == 2
    assert "sex is 'm'" in err
    code, _, err = medsoft("data", "check", table, "--data.batch_size=3")
    assert (code, "unknown option --data.batch_size" in err) == (2, True)
