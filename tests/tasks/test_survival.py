"""Survival as a question: what its columns may hold, what a part must have, and which way risk points."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsoft.data.tables.folds import Design, make_folds, notes_on_folds
from medsoft.data.tables.labels import read_labels
from medsoft.data.tables.problems import TableError
from medsoft.data.tables.sample_table import SampleTable, read_table
from medsoft.data.tables.split import complete_splits, split_folds
from medsoft.errors import InputError
from medsoft.evaluation.metrics.score import headline, score
from medsoft.evaluation.tables.predictions import make_predictions, read_predictions, write_predictions
from medsoft.task import Targets, Task
from medsoft.task_types import ObjectiveOptions
from medsoft.tasks.survival import Survival, has_pair, mixed_units
from tests.builders.survival import plain_concordance, simulate

TASK = Survival((), (12.0, 36.5), "months")


def read(os: Sequence[str], events: Sequence[str], unit: str | None = "days", **more) -> Targets:
    labels = pd.DataFrame({"os": list(os), "dead": list(events)}, dtype=object)
    return read_labels(labels, task="survival", classes=None, time_unit=unit, **{"positive": None, **more})


def problems(found: Targets) -> list[tuple[str, tuple[int, ...]]]:
    return [(problem.kind, problem.rows) for problem in found.problems]


# ---- columns


@pytest.mark.parametrize(("events"), [("1", "0", "1.0"), ("True", "False", "true"), ("Yes", "no", "YES")])
def test_events_that_leave_no_doubt_are_read_as_they_are(events):
    found = read(["3", "4.5", "1e2"], events)
    assert not found.problems
    np.testing.assert_array_equal(found.task.targets(found.columns), [[3, 1], [4.5, 0], [100, 1]])
    assert (found.task.kind, found.task.unit) == ("survival", "days")


def test_other_words_are_asked_about_and_then_taken():
    with pytest.raises(InputError, match=r"'dead' has the values alive, deceased: say which mean .*data.positive"):
        read(["3", "4", "5"], ["alive", "deceased", "alive"])
    found = read(["3", "4", "5"], ["alive", "Deceased", "alive"], positive="deceased")
    assert found.columns["event"].tolist() == [0, 1, 0]
    assert "Deceased is the event, alive censored" in found.notes[0]
    with pytest.raises(InputError, match=r"has no value gone; there are alive, dead"):
        read(["3", "4"], ["alive", "dead"], positive="gone")


def test_competing_risks_are_refused_unless_they_are_one_event():
    with pytest.raises(InputError, match=r"codes 2, 3: competing risks are not modelled"):
        read(["3", "4", "5", "6"], ["0", "1", "2", "3"])
    with pytest.raises(InputError, match=r"codes 2: competing risks"):
        read(["3", "4", "5"], ["0", "1", "2"], positive="1")
    assert read(["3", "4", "5"], ["0", "1", "2"], positive="1,2").columns["event"].tolist() == [0, 1, 1]


def test_times_that_cannot_be_are_told_with_their_rows():
    times = ["0", "-3", "", "4 days", "nan", "7", "44000", "9"]
    found = read(times, ["1", "1", "0", "1", "0", "", "1", "0"])
    assert problems(found) == [
        ("time not above 0", (1,)),
        ("time not above 0", (2,)),
        ("missing time", (3,)),
        ("no time", (4,)),
        ("missing time", (5,)),
        ("impossible time", (7,)),
        ("missing event", (6,)),
    ]
    assert "the time is negative" in found.problems[1].message
    assert "44000 days is 120 years" in found.problems[5].message
    assert list(found.task.known(found.columns)) == [False] * 7 + [True]


def test_the_unit_must_be_said_and_times_must_fit_it():
    with pytest.raises(InputError, match=r"unit of the column 'os': one of days, months, years"):
        read(["3", "4"], ["1", "0"], unit=None)
    assert problems(read(["3", "130"], ["1", "0"], unit="years")) == [("impossible time", (2,))]
    assert not read(["", ""], ["", ""], unit=None, required=False).problems, "a table to predict has none"
    for times in ((0.0,), (3.0, 3.0), (float("nan"),)):
        with pytest.raises(InputError, match="times at which survival is stated"):
            read(["3", "4"], ["1", "0"], times=times)


def test_the_two_columns_are_named_by_their_own_options():
    assert Task.label_columns("label", None, None) == "label"
    assert Survival.label_columns("label", "os", None) == ["os", "event"]
    with pytest.raises(InputError, match=r"in place of data.label"):
        Survival.label_columns("grade", "os", "dead")
    with pytest.raises(InputError, match=r"data.time and data.event belong to --data.task survival"):
        Task.label_columns("label", "os", None)
    with pytest.raises(InputError, match="has two label columns"):
        read_labels(pd.DataFrame({"a": ["1"]}), task="survival", positive=None, classes=None)


@pytest.mark.parametrize(
    ("factor", "units"), [(365.25, "days and years"), (30.4, "days and months"), (12, "months and years")]
)
def test_times_in_two_units_are_warned_of(factor, units):
    time = np.random.default_rng(0).uniform(300, 900, 60)
    (note,) = mixed_units(np.where(np.arange(60) % 3 == 0, time / factor, time), "days")
    assert note.startswith("WARNING: 20 times are at most ")
    assert f"such as {units}? All must be in days" in note


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from([0.7, 1.0, 2.0]))
def test_times_of_one_unit_are_not(seed, shape):
    time = np.random.default_rng(seed).weibull(shape, 80) * 500 + 0.1
    assert mixed_units(time, "days") == []
    assert mixed_units(time[:9], "") == []


# ---- parts


def part(*rows: tuple[float, int, str]) -> tuple[pd.DataFrame, pd.Series]:
    frame = pd.DataFrame(rows, columns=["time", "event", "split"])
    return frame[["time", "event"]].astype({"event": "Int8"}), frame["split"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(1, 0, "train"), (2, 0, "train"), (3, 1, "val")], "no event in train: all 2 rows are censored"),
        ([(1, 1, "train"), (2, 0, "train"), (3, 1, "val")], "a single event in train, of 2 rows"),
        ([(5, 1, "train"), (5, 1, "train"), (9, 0, "train"), (3, 1, "val")], "all 2 events in train are at one time"),
        ([(1, 1, "train"), (2, 1, "train"), (3, 0, "val")], "no event in val"),
        ([(1, 0, ""), (2, 0, "")], "no event in the table"),
        ([(1, 1, "train"), (2, 1, "train"), (3, 1, "val"), (3, 0, "test")], None),
    ],
)
def test_a_part_without_enough_events_stops_before_training(rows, said):
    found = TASK.check_targets(*part(*rows))
    assert [problem.message for problem in found if said and said in problem.message] == (
        [problem.message for problem in found] if said else []
    )
    assert bool(found) == (said is not None)


def test_a_part_that_says_little_is_told():
    frame, _ = part((1, 0, ""), (2, 0, ""))
    assert "fold 1 has no event and no two samples" in TASK.part_notes(frame, "fold 1")[0]
    frame, _ = part((1, 0, ""), (2, 1, ""), (3, 0, ""))
    assert TASK.part_notes(frame, "val") == ["val has a single event: what is measured there says little"]
    frame, _ = part((1, 0, ""), (9, 1, ""), (9, 1, ""))
    assert "has 2 events and no two samples that can be compared" in TASK.part_notes(frame, "val")[0]
    assert TASK.monitor_of(frame) == "loss"
    frame, _ = part((1, 1, ""), (2, 1, ""), (2, 0, ""))
    assert TASK.part_notes(frame, "val") == []
    assert TASK.monitor_of(frame) == "c_index"


def test_a_fold_with_one_event_is_told_before_training(tmp_path):
    n, lone = 24, 3
    rows = pd.DataFrame({"path": [f"{i}.png" for i in range(n)], "days": 10 + np.arange(n), "fold": np.arange(n) % 3})
    rows["dead"] = [int(i % 3 != 0 or i == lone) for i in range(n)]
    for i in range(n):
        (tmp_path / f"{i}.png").write_bytes(bytes([i]))
    rows.to_csv(tmp_path / "t.csv", index=False)
    samples = read_table(tmp_path / "t.csv", label=["days", "dead"], task="survival", time_unit="days")
    notes = notes_on_folds(samples, make_folds(samples, Design(column="fold", val_fraction=0.3)))
    assert [note for note in notes if "single event" in note] == [
        "fold 0 has a single event: what is measured there says little"
    ]


def test_who_had_the_event_first_is_known_of_some_pair():
    assert has_pair(np.array([[1.0, 1], [2, 0]]))
    assert has_pair(np.array([[2.0, 1], [2, 0]])), "a censored sample outlives an event at its time"
    assert not has_pair(np.array([[2.0, 1], [2, 1]]))
    assert not has_pair(np.array([[1.0, 0], [2, 1]]))


def test_splits_and_folds_have_events_and_times_in_proportion():
    _, _, targets = simulate(400, seed=4)
    strata = TASK.strata(targets)
    assert set(strata) == set(range(1, 9))
    groups = np.repeat(np.arange(200), 2).astype(str)
    folds = split_folds(strata, groups, 5, seed=1)
    shares = [targets[folds == fold, 1].mean() for fold in range(5)]
    assert np.ptp(shares) < 0.08
    medians = [np.median(targets[folds == fold, 0]) for fold in range(5)]
    assert max(medians) < 1.5 * min(medians)
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))


def test_a_table_is_divided_and_its_times_are_those_of_the_training_events(tmp_path):
    _, _, targets = simulate(60, seed=5)
    rows = pd.DataFrame({"days": targets[:, 0], "dead": targets[:, 1].astype(int), "path": ""})
    for i in rows.index:
        file = tmp_path / f"{i}.png"
        file.write_bytes(bytes([i]))
        rows.loc[i, "path"] = file.name
    rows.to_csv(tmp_path / "t.csv", index=False)
    samples = read_table(tmp_path / "t.csv", label=["days", "dead"], task="survival", time_unit="days")
    assert isinstance(samples, SampleTable)
    divided, said = complete_splits(samples, 0.2, 0.2, 0)
    assert "stratified" in said
    train = divided.subset("train").targets
    settled = TASK.settled(train)
    assert settled == TASK, "times that were stated stay"
    settled = Survival((), (), "days").settled(train)
    events = np.sort(train[train[:, 1] == 1, 0])
    quartiles = np.quantile(events, [0.25, 0.5, 0.75], method="inverted_cdf")
    np.testing.assert_allclose(settled.times, quartiles, rtol=5e-3)
    assert settled.stated() == {"times": list(settled.times)}
    rows.assign(dead=0).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(TableError, match="no event in the table: all 60 rows are censored"):
        read_table(tmp_path / "t.csv", label=["days", "dead"], task="survival", time_unit="days")


# ---- predictions


def test_predictions_are_read_back_as_they_were_written(tmp_path):
    values = np.array([[0.3, 0.9, 0.5], [-1.0, 0.95, 0.8]])
    frame = make_predictions(TASK, ["a", "b"], values, np.array([[7.25, 1], [np.nan, np.nan]]))
    assert list(frame)[5:] == ["task", "time", "event", "risk", "s_12", "s_36.5"]
    write_predictions(frame, tmp_path / "p.csv")
    again, task = read_predictions(tmp_path / "p.csv")
    assert task == TASK
    pd.testing.assert_frame_equal(again, frame, check_dtype=False)


def test_values_that_cannot_be_are_told(tmp_path):
    text = "id,time,event,risk,s_12\na,3,1,0.1,0.5\nb,0,1,0.1,0.5\nc,3,2,0.1,1.5\nd,3,,nan,0.5\n"
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_predictions(tmp_path / "p.csv")
    for said in (
        "time is no finite number above 0 in row 2 ('b')",
        "event is neither 0 nor 1 in row 3 ('c')",
        "time and event do not stand together in row 4 ('d')",
        "risk is not a finite number in row 4",
        "s_12 is outside [0, 1] in row 3",
    ):
        assert said in str(caught.value)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_the_concordance_is_that_of_all_pairs_and_points_the_right_way(seed):
    _, hazard, targets = simulate(40, seed)
    targets[:, 0] = np.ceil(targets[:, 0] / 100)
    risk = np.round(hazard, 1)
    values = np.column_stack([risk, np.full((40, 2), 0.5)])
    found = headline(score(make_predictions(TASK, [str(i) for i in range(40)], values, targets), TASK))["c_index"]
    assert found == pytest.approx(plain_concordance(risk, targets))
    turned = np.column_stack([-risk, values[:, 1:]])
    other = headline(score(make_predictions(TASK, [str(i) for i in range(40)], turned, targets), TASK))["c_index"]
    assert found + other == pytest.approx(1)


def test_rows_of_a_patient_agree_or_have_no_target():
    numbers = pd.DataFrame([[3.0, 1], [3.0, 1], [4.0, 0], [5.0, 0]])
    found = TASK.pool_targets(numbers, np.array([0, 0, 1, 1]), "mean")
    np.testing.assert_array_equal(found, [[3, 1], [np.nan, np.nan]])


def test_a_survival_task_says_what_it_is():
    assert str(TASK) == "survival (at 12, 36.5 months)"
    assert Task.from_json(TASK.to_json()).asks_the_same(TASK)
    for other in (Survival((), (12.0,), "months"), Survival((), (12.0, 36.5), "days"), Task.of("regression")):
        assert not TASK.asks_the_same(other)
    with pytest.raises(ValueError, match="missing or damaged"):
        Task.from_json({"kind": "survival", "classes": ()})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"survival": "cox", "intervals": 4}, "intervals belong to survival discrete and logistic"),
        ({"survival": "discrete", "intervals": 1}, "must be 2 or more"),
        (
            {"survival": "logistic", "intervals": 4, "event_times": np.array([1.0, 1, 2, 2])},
            "allow 2 intervals at most",
        ),
        ({"label_smoothing": 0.1}, "are for classes"),
    ],
)
def test_options_without_a_meaning_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        TASK.objective(ObjectiveOptions(**options))


def test_models_of_survival_belong_to_survival():
    with pytest.raises(ValueError, match="survival and intervals belong to a survival task, not to regression"):
        Task.of("regression").check_objective(ObjectiveOptions(survival="cox"))
