"""Splits keep patients together and classes in proportion, and depend on the seed, not on the order of rows."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medsoft.cli.data.check import split as split_verb
from medsoft.data.tables.sample_table import SampleTable, TableError, read_table
from medsoft.data.tables.split import apply_split_file, complete_splits, split_folds, split_holdout
from medsoft.errors import InputError
from medsoft.task import Task

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Targets (N,) and patients (N,): 2 to 4 classes with 8 to 25 patients each, 1 to 6 rows a patient."""
    targets: list[int] = []
    patients: list[str] = []
    for target in range(draw(st.integers(2, 4))):
        for i in range(draw(st.integers(8, 25))):
            rows = draw(st.integers(1, 6))
            mixed = draw(st.booleans())
            targets += [target] * rows + ([0] if mixed else [])
            patients += [f"{target}-{i}"] * (rows + mixed)
    return np.array(targets), np.array(patients)


@settings(deadline=None, max_examples=30)
@given(cohorts(), st.integers(0, 2**31 - 1), st.randoms(use_true_random=False))
def test_holdout(cohort: tuple[np.ndarray, np.ndarray], seed: int, random: Random) -> None:
    targets, patients = cohort
    parts = split_holdout(targets, patients, FRACTIONS, seed)
    table = pd.DataFrame({"part": parts, "patient": patients, "target": targets})
    assert set(parts) == set(FRACTIONS), "every row is in one of the parts"
    assert (table.groupby("patient")["part"].nunique() == 1).all(), "no patient is in two"
    assert (table.groupby("part")["target"].nunique() == len(set(targets))).all(), "every class is in every part"
    np.testing.assert_array_equal(parts, split_holdout(targets, patients, FRACTIONS, seed))
    order = list(range(len(targets)))
    random.shuffle(order)
    np.testing.assert_array_equal(parts[order], split_holdout(targets[order], patients[order], FRACTIONS, seed))


@settings(deadline=None, max_examples=30)
@given(cohorts(), st.integers(2, 5), st.integers(0, 2**31 - 1), st.randoms(use_true_random=False))
def test_folds(cohort: tuple[np.ndarray, np.ndarray], k: int, seed: int, random: Random) -> None:
    targets, patients = cohort
    folds = split_folds(targets, patients, k, seed)
    assert set(folds) == set(range(k))
    table = pd.DataFrame({"fold": folds, "patient": patients})
    assert (table.groupby("patient")["fold"].nunique() == 1).all()
    order = list(range(len(targets)))
    random.shuffle(order)
    np.testing.assert_array_equal(folds[order], split_folds(targets[order], patients[order], k, seed))


@pytest.mark.parametrize(
    "fractions",
    [
        FRACTIONS,
        {"train": 0.7, "val": 0.15, "test": 0.15},
        {"train": 0.8, "val": 0.1, "test": 0.1},
        {"train": 0.65, "val": 0.35},
    ],
)
def test_shares_and_proportions_without_patients(fractions: dict[str, float]) -> None:
    targets = np.repeat([0, 1, 2], [500, 300, 40])
    parts = split_holdout(targets, [f"s{i}" for i in range(840)], fractions, seed=1)
    for part, share in fractions.items():
        assert abs((parts == part).mean() - share) < 0.025
        for target in range(3):
            assert abs((parts[targets == target] == part).mean() - share) < 0.06


def test_rare_class_reaches_every_part() -> None:
    targets = np.array([0] * 97 + [1] * 3)
    for seed in range(20):
        parts = split_holdout(targets, np.arange(100).astype(str), FRACTIONS, seed)
        assert sorted(parts[targets == 1]) == ["test", "train", "val"]


def test_too_rare_a_class_is_missing_from_the_test_first() -> None:
    targets = np.array([0] * 98 + [1] * 2)
    for seed in range(20):
        parts = split_holdout(targets, np.arange(100).astype(str), FRACTIONS, seed)
        assert sorted(parts[targets == 1]) == ["train", "val"]


def test_seeds_differ() -> None:
    targets, groups = np.arange(100) % 2, np.arange(100).astype(str)
    splits = {tuple(split_holdout(targets, groups, FRACTIONS, seed)) for seed in range(5)}
    assert len(splits) == 5
    assert len({tuple(split_folds(targets, groups, 4, seed)) for seed in range(5)}) == 5


def test_multilabel_spreads_the_rare_label() -> None:
    rng = np.random.default_rng(0)
    targets = np.stack([rng.random(300) < 0.5, np.arange(300) < 12], axis=1).astype(np.float32)
    targets[200:, 0] = np.nan
    strata = Task.of("multilabel", ("common", "rare")).strata(targets)
    parts = split_holdout(strata, np.arange(300).astype(str), FRACTIONS, seed=0)
    rare = pd.Series(parts[targets[:, 1] == 1]).value_counts()
    assert rare["train"] in (6, 7, 8, 9)
    assert rare["val"] >= 1
    assert rare["test"] >= 1


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(InputError, match="2 patients"):
        split_holdout(np.array([0, 1, 1]), ["a", "b", "b"], FRACTIONS, 0)
    for bad in ({"train": 0.9, "val": 0.2}, {"train": 1.2, "val": -0.2}, {}):
        with pytest.raises(InputError, match="sum to 1"):
            split_holdout(np.array([0, 1]), ["a", "b"], bad, 0)
    for k in (1, 4):
        with pytest.raises(InputError, match="2 to 3 are possible"):
            split_folds(np.array([0, 1, 0]), ["a", "b", "c"], k, 0)


def test_few_rows_still_split() -> None:
    assert sorted(split_holdout(np.array([0, 1, 2]), ["a", "b", "c"], FRACTIONS, 0)) == ["test", "train", "val"]
    assert sorted(split_folds(np.array([0, 1, 2]), ["a", "b", "c"], 3, 0)) == [0, 1, 2]


# --- tables ---

MakeTable = Callable[..., Path]


@pytest.fixture
def make_table(tmp_path: Path) -> MakeTable:
    def make(n: int = 60, **columns: object) -> Path:
        for i in range(n):
            Image.new("L", (4, 4 + i)).save(tmp_path / f"{i}.png")
        values = {"path": [f"{i}.png" for i in range(n)], "label": [("no", "yes", "maybe")[i % 3] for i in range(n)]}
        pd.DataFrame(values | columns).to_csv(tmp_path / "table.csv", index=False)
        return tmp_path / "table.csv"

    return make


def test_complete_without_a_split_column(make_table: MakeTable) -> None:
    table = read_table(make_table(patient=[i // 2 for i in range(60)]), patient="patient")
    done, sentence = complete_splits(table, 0.2, 0.2, seed=0)
    assert done.splits == ["train", "val", "test"]
    assert (done.frame.groupby("patient")["split"].nunique() == 1).all()
    counts = done.frame["split"].value_counts()
    assert sentence == (
        f"split by patient, stratified, seed 0: train {counts['train']}, val {counts['val']}, test {counts['test']}"
    )
    no_test, _ = complete_splits(table, 0.2, 0, seed=0)
    assert no_test.splits == ["train", "val"]


def test_complete_takes_val_out_of_train_and_leaves_test_alone(make_table: MakeTable) -> None:
    given_splits = ["test" if i % 4 == 0 else "train" for i in range(60)]
    table = read_table(make_table(split=given_splits))
    done, sentence = complete_splits(table, 0.2, 0.5, seed=0)
    assert sentence == "val taken out of the table's train by sample, stratified, seed 0: train 36, val 9, test 15"
    test = done.frame["split"] == "test"
    np.testing.assert_array_equal(test, np.array(given_splits) == "test")
    assert done.subset("val").frame["target"].value_counts().tolist() == [3, 3, 3]


def test_complete_keeps_given_splits(make_table: MakeTable) -> None:
    table = read_table(make_table(split=["train", "val", "train", "val", "train", "val"] * 10))
    done, sentence = complete_splits(table, 0.2, 0.2, seed=0)
    assert done.frame["split"].tolist() == table.frame["split"].tolist()
    assert sentence == "the table's own splits: train 30, val 30"
    assert complete_splits(table, 0.2, 0.2, 0, "fold.csv")[1] == "splits of fold.csv: train 30, val 30"


def test_complete_refuses(make_table: MakeTable) -> None:
    with pytest.raises(InputError, match="no row has the split train"):
        complete_splits(read_table(make_table(split=["test"] * 60)), 0.2, 0.2, seed=0)
    # Two patients have all of one class: it cannot be in three parts, and must not be missing from train or val.
    alone = ["one" if i % 3 == 2 else f"p{i}" for i in range(60)]
    with pytest.raises(TableError, match="class 'maybe' has no sample in val"):
        complete_splits(read_table(make_table(patient=alone), patient="patient"), 0.2, 0.2, seed=0)


def test_split_file(make_table: MakeTable, tmp_path: Path) -> None:
    table = read_table(make_table(patient=[i // 2 for i in range(60)]), patient="patient")
    done, _ = complete_splits(table, 0.2, 0.2, seed=0)
    done.frame[["id", "split"]].sample(frac=1, random_state=0).to_csv(tmp_path / "split.csv", index=False)
    again = apply_split_file(table, tmp_path / "split.csv")
    assert again.frame["split"].tolist() == done.frame["split"].tolist()
    pd.DataFrame({"id": ["0"], "split": ["train"]}).to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(InputError, match="no split for 59 rows"):
        apply_split_file(table, tmp_path / "short.csv")
    apart = done.frame.assign(split=np.resize(["train", "val"], 60))
    apart[["id", "split"]].to_csv(tmp_path / "apart.csv", index=False)
    with pytest.raises(TableError, match="patient in two splits"):
        apply_split_file(table, tmp_path / "apart.csv")


@pytest.mark.parametrize("form", ["names", "marks"])
def test_split_files_of_clam_are_read_as_they_are(make_table: MakeTable, tmp_path: Path, form: str) -> None:
    table = read_table(make_table())
    done, _ = complete_splits(table, 0.2, 0.2, seed=0)
    split_of = done.frame.set_index("id")["split"]
    parts = {part: split_of.index[split_of == part].tolist() for part in FRACTIONS}
    if form == "names":
        frame = pd.DataFrame({part: pd.Series(ids) for part, ids in parts.items()})
    else:
        frame = pd.DataFrame({part: split_of == part for part in FRACTIONS})
    frame.to_csv(tmp_path / "splits_0.csv")  # with the index as the first column, which has no name
    assert apply_split_file(table, tmp_path / "splits_0.csv").frame["split"].tolist() == done.frame["split"].tolist()
    parts["test"] += parts["val"][:1]
    pd.DataFrame({part: pd.Series(ids) for part, ids in parts.items()}).to_csv(tmp_path / "both.csv")
    with pytest.raises(InputError, match="1 ids stand in several rows"):
        apply_split_file(table, tmp_path / "both.csv")


# --- medsoft data split ---


def test_verb_writes_the_table_with_a_split(
    make_table: MakeTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_table(patient=[f"00{i // 2}" for i in range(60)], age=[None, 7] * 30)
    out = tmp_path / "out.csv"
    split_verb(str(source), str(out), patient="patient", seed=3)
    assert "split by patient, stratified, seed 3" in capsys.readouterr().out
    before, after = source.read_text().splitlines(), out.read_text().splitlines()
    assert [line.rsplit(",", 1)[0] for line in after] == before, "all that was there is unchanged"
    written = read_table(out, patient="patient")
    assert written.splits == ["train", "val", "test"]
    with pytest.raises(InputError, match="already exists"):
        split_verb(str(source), str(out), patient="patient")
    assert out.read_text().splitlines() == after
    split_verb(str(source), str(out), patient="patient", seed=4, overwrite=True)
    assert out.read_text().splitlines() != after
    with pytest.raises(InputError, match="has a column 'split' already"):
        split_verb(str(out), str(tmp_path / "again.csv"))


def test_verb_makes_folds_beside_a_test_part(make_table: MakeTable, tmp_path: Path) -> None:
    source = make_table(split=["test" if i % 5 == 0 else "train" for i in range(60)])
    split_verb(str(source), str(tmp_path / "folds.parquet"), folds=4)
    folds = pd.read_parquet(tmp_path / "folds.parquet")
    assert folds.loc[folds["split"] == "test", "fold"].isna().all()
    assert sorted(folds.loc[folds["split"] == "train", "fold"].value_counts().tolist()) == [12, 12, 12, 12]


def test_verb_leaves_nothing_behind_when_it_fails(
    make_table: MakeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_table()
    before = sorted(tmp_path.iterdir())

    def disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", disk_full)
    with pytest.raises(OSError, match="No space"):
        split_verb(str(source), str(tmp_path / "out.csv"))
    assert sorted(tmp_path.iterdir()) == before


def test_real_patients_stay_together() -> None:
    table = SHARED / "histo_tiles" / "idc_patches" / "labels.csv"
    if not table.exists():
        pytest.skip("no ../shared/data here")
    frame = pd.read_csv(table, dtype={"patient": str})
    parts = split_holdout(frame["idc"].to_numpy(), frame["patient"].to_numpy(), FRACTIONS, seed=0)
    assert (frame.assign(part=parts).groupby("patient")["part"].nunique() == 1).all()
    shares = frame.groupby(parts)["idc"].agg(["mean", "size"])
    assert (abs(shares["mean"] - frame["idc"].mean()) < 0.03).all()
    assert (abs(shares["size"] / len(frame) - pd.Series(FRACTIONS)) < 0.03).all()


def test_table_keeps_its_rows_whatever_the_split(make_table: MakeTable) -> None:
    table: SampleTable = read_table(make_table())
    done, _ = complete_splits(table, 0.2, 0.2, seed=0)
    pd.testing.assert_frame_equal(done.frame.drop(columns="split"), table.frame.drop(columns="split"))
    assert sum(len(done.subset(split)) for split in done.splits) == 60
