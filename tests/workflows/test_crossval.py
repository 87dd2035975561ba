"""``medsoft crossval``: who is in which fold, that nothing reported chooses anything, and going on after a stop."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.summary.writer.event_file_writer import _AsyncWriter

from medsoft.data.tables.folds import Design, make_folds
from medsoft.data.tables.sample_table import SampleTable
from medsoft.errors import InputError
from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.runs.crossval_folder import CrossvalFolder
from medsoft.task import Task
from medsoft.training.callbacks import MetricsTable, SeedEachStep, StopGracefully
from tests.builders.bags import TINY_BAGS, write_slides
from tests.builders.forked import Forked
from tests.builders.images import TINY, write_images
from tests.builders.volumes import TINY_VOLUME, write_volumes

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("brief_reports")]

BINARY = Task.of("binary", ("no", "yes"))
QUICK = ["--trainer.max_epochs=1", "--data.val_fraction=0.25"]


def samples(patients: int, each: int = 2, seed: int = 0, sites: int = 3, **columns) -> SampleTable:
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), each)
    frame = pd.DataFrame(
        {
            "id": [f"s{i}" for i in range(len(patient))],
            "path": "",
            "row": np.arange(1, len(patient) + 1),
            "patient": [f"P{i}" for i in patient],
            "exam": "",
            "site": [f"site {i % sites}" for i in patient],
            "split": "",
            "target": np.array(BINARY.classes)[rng.permutation(np.arange(patients) % 2)[patient]],
            **columns,
        }
    )
    return SampleTable(Path("table.csv"), frame, BINARY)


@settings(max_examples=12, deadline=None)
@given(
    patients=st.integers(30, 60),
    each=st.integers(1, 3),
    k=st.integers(2, 5),
    repeats=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_every_row_is_reported_once_a_repeat_and_patients_stay_whole(patients, each, k, repeats, seed):
    table = samples(patients, each, seed)
    folds = make_folds(table, Design(folds=k, repeats=repeats, seed=seed))
    assert [(f.number, f.repeat, f.name) for f in folds] == [
        (r * k + i, r, str(i)) for r in range(repeats) for i in range(k)
    ]
    for repeat in range(repeats):
        reported = sum((f.split == "test").astype(int) for f in folds if f.repeat == repeat)
        assert (reported == 1).all()
    for fold in folds:
        parts = pd.DataFrame({"patient": table.frame["patient"], "part": fold.split})
        assert (parts.groupby("patient")["part"].nunique() == 1).all()
        assert set(fold.split) == {"train", "val", "test"}
        for part in ("train", "val", "test"):
            assert table.frame.loc[fold.split == part, "target"].nunique() == 2


def test_a_site_at_a_time():
    table = samples(40)
    folds = make_folds(table, Design(by_site=True))
    assert [fold.name for fold in folds] == ["site 0", "site 1", "site 2"]
    for fold in folds:
        assert set(table.frame.loc[fold.split == "test", "site"]) == {fold.name}
        assert fold.name not in set(table.frame.loc[fold.split != "test", "site"])
    with pytest.raises(InputError, match="name the column with the site"):
        make_folds(samples(40, site=""), Design(by_site=True))
    with pytest.raises(InputError, match="only one fold"):
        make_folds(samples(40, sites=1), Design(by_site=True))
    moved = samples(40)
    moved.frame.loc[0, "site"] = "site 2"
    with pytest.raises(InputError, match=r"one in 'site 0' and 'site 2' \(rows \d+, \d+\)"):
        make_folds(moved, Design(by_site=True))
    moved.frame.loc[0, "site"] = ""
    with pytest.raises(InputError, match="1 rows have no site, such as row 1"):
        make_folds(moved, Design(by_site=True))


def test_folds_of_a_column_and_rows_without_one():
    named = [str(i // 20) if i < 60 else "" for i in range(80)]
    folds = make_folds(samples(40, fold=named), Design(column="fold"))
    assert [fold.name for fold in folds] == ["0", "1", "2"]
    assert all((fold.split[60:] == "unused").all() and "unused" not in fold.split[:60] for fold in folds)
    with pytest.raises(InputError, match="'fald'"):
        make_folds(samples(40, fold=named), Design(column="fald"))


def test_the_tables_own_test_rows_stay_unseen():
    split = np.where(np.arange(80) < 60, "train", "test")
    split[:10] = "val"
    folds = make_folds(samples(40, split=split), Design(folds=3))
    assert all((fold.split[60:] == "unused").all() for fold in folds)
    assert all("unused" not in fold.split[:60] for fold in folds)
    # A table that is test as a whole (read without a split) is all there is.
    assert all("unused" not in fold.split for fold in make_folds(samples(40, split="test"), Design(folds=3)))


def test_the_labels_of_the_reported_rows_decide_nothing():
    named = [str(i // 20) for i in range(80)]
    table = samples(40, fold=named)
    changed = samples(40, fold=named)
    inside = np.array(named) == "1"
    changed.frame.loc[inside, "target"] = ["yes", "no"] * 10
    for before, after in zip(
        make_folds(table, Design(column="fold")), make_folds(changed, Design(column="fold")), strict=True
    ):
        if before.name == "1":
            assert (before.split == after.split).all()


@pytest.mark.parametrize(
    ("design", "says"),
    [
        ({}, "say how to divide the table"),
        ({"folds": 5, "by_site": True}, "one of the three"),
        ({"folds": 1}, "folds 1 must be 2 or more"),
        ({"folds": 5, "repeats": 0}, "repeats 0 must be 1 or more"),
        ({"folds": 5, "val_fraction": 0}, "it chooses checkpoints"),
        ({"folds": 41}, "41 folds: 2 to 40"),
    ],
)
def test_a_design_that_cannot_be(design, says):
    with pytest.raises(InputError, match=says):
        make_folds(samples(40), Design(**design))


def test_a_class_that_is_missing_from_a_fold_is_said_before_work():
    rare = samples(40)
    rare.frame["target"] = ["yes"] * 2 + ["no"] * 78
    with pytest.raises(InputError, match=r"fold \d: class 'yes' has no sample in (train|val)"):
        make_folds(rare, Design(folds=4))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """48 images, two a patient, of three sites."""
    table = write_images(tmp_path_factory.mktemp("images"), 48, per_patient=2)
    frame = pd.read_csv(table)
    frame["site"] = [f"S{i // 2 // 2 % 3}" for i in range(48)]
    frame["fold"] = [i // 2 // 2 % 3 for i in range(48)]
    frame.to_csv(table, index=False)
    return table


@pytest.fixture
def crossval(medsoft, images):
    def run(*words: object, on: Path = images, code: int = 0) -> tuple[str, str]:
        base = [f"--data.table={on}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY, *QUICK]
        got, out, err = medsoft("crossval", *base, *words)
        assert got == code, (got, out[-3000:], err[-3000:])
        return out, err

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, images) -> Path:
    """Three folds."""
    from medsoft.cli.main import main

    out = tmp_path_factory.mktemp("crossval") / "cv"
    base = [f"--data.table={images}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY, *QUICK]
    assert main(["crossval", *base, "--folds=3", "--data.site=site", f"--out={out}"]) == 0
    return out


def test_what_a_cross_validation_leaves_behind(finished, images):
    frame, task = read_predictions(finished / "predictions.csv")
    assert task == Task.of("binary", ("dark", "light"))
    assert sorted(frame["id"]) == [f"im{i:03d}" for i in range(48)], "each row once, by a model that has not seen it"
    assert set(frame["split"]) == {"test"}
    assert set(frame["fold"]) == {"0", "1", "2"}
    for number in range(3):
        run = finished / f"fold-{number}"
        split = pd.read_csv(run / "split.csv").set_index("id")["split"]
        own = read_predictions(run / "predictions.csv")[0]
        mine = frame[frame["fold"] == str(number)]
        assert (split[mine["id"]] == "test").all()
        expected = own[own["split"] == "test"].set_index("id").loc[mine["id"], task.p_columns]
        np.testing.assert_array_equal(mine[task.p_columns], expected)
        assert (run / "checkpoints" / "best.ckpt").is_file()
    val = read_predictions(finished / "validation.csv")[0]
    assert set(val["split"]) == {"val"}
    table = pd.read_csv(finished / "folds.csv")
    assert table["fold"].tolist() == [0, 1, 2]
    assert (table[["n_train", "n_val", "n_test"]].sum(axis=1) == 48).all()
    assert (table["best_epoch"] == 1).all()
    summary = json.loads((finished / "metrics.json").read_text())
    assert summary["primary"]["metric"] == "auroc"
    assert summary["primary"]["value"] == pytest.approx(table["auroc"].mean())
    assert summary["primary"]["n_folds"] == 3
    assert "mixes the scores of different models" in summary["pooled"]["how"]
    assert (finished / "evaluation" / "cross_validation.csv").is_file()
    assert not [path for path in finished.rglob(".*") if path.suffix != ".lock"]


def test_the_same_command_again_finds_all_done(finished, crossval, medsoft):
    before = (finished / "fold-1" / "checkpoints" / "best.ckpt").stat().st_mtime_ns
    out, _ = crossval("--folds=3", "--data.site=site", f"--out={finished}")
    assert "3 of 3 finished" in out
    assert (finished / "fold-1" / "checkpoints" / "best.ckpt").stat().st_mtime_ns == before
    code, out, _ = medsoft("crossval", "--resume", finished, "--collect")
    assert code == 0
    assert "mean over folds" in out


def test_other_options_in_the_same_folder_are_refused(finished, crossval, images, tmp_path):
    _, err = crossval("--folds=3", "--data.site=site", "--model.lr=0.5", f"--out={finished}", code=2)
    assert "holds a cross-validation of other options or data (model.lr was 0.001, and is 0.5 now)" in err
    _, err = crossval("--folds=4", "--data.site=site", f"--out={finished}", code=2)
    assert "design.folds was 3, and is 4 now" in err
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    _, err = crossval("--folds=3", f"--out={tmp_path / 'taken'}", code=2)
    assert "holds files already" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--folds=3", "--fold=0"], "name the folder where all meet with --out"),
        (["--folds=3", "--fold=3", "--out=cv"], "--fold 3: there are folds 0 to 2"),
        (["--folds=3", "--jobs=0"], "jobs 0 must be 1 or more"),
        (["--out=cv"], "say how to divide the table"),
        (["--folds=3", "--fold=1", "--collect", "--out=cv"], "leave out one of the two"),
        (["--folds=3", "--collect", "--out=cv"], "fold 0, 1, 2 of 0 to 2 has not finished"),
        (["--folds=3", "--monitor=kappa"], "no metric of a binary task"),
        (["--folds=3", "--trainer.max_epochs=0"], "trainer.max_epochs 0 must be 1 or more"),
        (["--fold=0", "--resume=nowhere"], "unknown option"),
    ],
)
def test_a_wrong_call_is_one_message_before_work(crossval, words, says):
    _, err = crossval(*words, code=2)
    assert says in err
    assert not list(Path().rglob("fold-*.ckpt"))


def test_going_on_needs_a_folder(medsoft, tmp_path):
    code, _, err = medsoft("crossval", "--resume", tmp_path)
    assert code == 2
    assert "not the folder of a cross-validation" in err


def test_the_reported_labels_have_no_part_in_its_predictions(tmp_path, crossval, images):
    """Other labels in the reported fold: its model, its checkpoint and its probabilities stay the same."""
    frame = pd.read_csv(images)
    frame["path"] = [images.parent / path for path in frame["path"]]
    frame.to_csv(tmp_path / "true.csv", index=False)
    inside = frame["fold"] == 1
    other = {"dark": "light", "light": "dark"}
    frame.loc[inside, "label"] = frame.loc[inside, "label"].map(other)
    frame.to_csv(tmp_path / "false.csv", index=False)
    runs = {}
    for name in ("true", "false"):
        words = ["--fold_column=fold", "--fold=1", "--trainer.max_epochs=3", f"--out={tmp_path / name}"]
        crossval(*words, on=tmp_path / f"{name}.csv")
        runs[name] = read_predictions(tmp_path / name / "fold-1" / "predictions.csv")[0]
    test = {name: run[run["split"] == "test"] for name, run in runs.items()}
    assert (test["true"]["target"] != test["false"]["target"]).all()
    for name in ("id", "split", "p_dark", "p_light"):
        assert (runs["true"][name] == runs["false"][name]).all()
    files = [tmp_path / name / "splits" / "fold-1.csv" for name in runs]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_folds_as_jobs_of_a_cluster_then_gathered(tmp_path, crossval, medsoft, finished):
    """Each fold by itself, in any order, and the gathering: the same as in one go."""
    words = ["--folds=3", "--data.site=site", f"--out={tmp_path / 'cv'}"]
    for number in (2, 0):
        crossval(*words, f"--fold={number}")
    code, _, err = medsoft("crossval", "--resume", tmp_path / "cv", "--collect")
    assert code == 2
    assert "fold 1 of 0 to 2 has not finished" in err
    assert medsoft("crossval", "--resume", tmp_path / "cv", "--fold", 1)[0] == 0
    assert medsoft("crossval", "--resume", tmp_path / "cv", "--collect")[0] == 0
    for name in ("predictions.csv", "validation.csv", "folds.csv", "metrics.json"):
        assert (tmp_path / "cv" / name).read_bytes() == (finished / name).read_bytes()


def test_leaving_a_site_out_and_repeats(tmp_path, crossval):
    crossval("--leave-one-site-out", "--data.site=site", f"--out={tmp_path / 'sites'}")
    frame = pd.read_csv(tmp_path / "sites" / "predictions.csv")
    assert sorted(set(frame["held_out"])) == ["S0", "S1", "S2"]
    assert pd.read_csv(tmp_path / "sites" / "folds.csv")["held_out"].tolist() == ["S0", "S1", "S2"]
    crossval("--folds=2", "--repeats=2", f"--out={tmp_path / 'repeats'}")
    frame = pd.read_csv(tmp_path / "repeats" / "predictions.csv")
    assert frame.groupby("repeat")["id"].nunique().tolist() == [48, 48]
    assert sorted(set(frame["fold"])) == [0, 1, 2, 3]
    seeds = [
        yaml.safe_load((tmp_path / "repeats" / f"fold-{i}" / "config.yaml").read_text())["seed_everything"]
        for i in range(4)
    ]
    assert seeds == [0, 0, 1, 1]
    first, second = (set(frame.query(f"fold == {fold}")["id"]) for fold in (0, 2))
    assert first != second


def die_in_the_second_fold():
    seed = SeedEachStep.on_train_batch_start

    def die(self, trainer, pl_module, batch, batch_idx):
        if "fold-1" in trainer.checkpoint_callback.dirpath and (trainer.current_epoch, batch_idx) == (1, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        seed(self, trainer, pl_module, batch, batch_idx)

    SeedEachStep.on_train_batch_start = die


def test_killed_in_the_middle_it_goes_on_to_the_same_results(tmp_path, images, crossval, medsoft):
    """SIGKILL in the second epoch of the second fold: the first is kept, the second resumes its own run."""
    words = [f"--data.table={images}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY, *QUICK]
    words += ["--folds=2", "--trainer.max_epochs=2"]
    process = Forked("crossval", *words, f"--out={tmp_path / 'killed'}", before=die_in_the_second_fold)
    assert process.wait() == -signal.SIGKILL, process.said()
    folder = CrossvalFolder.existing(tmp_path / "killed")
    assert [folder.is_finished(number) for number in range(2)] == [True, False]
    assert folder.run(1).last.is_file()
    code, out, _ = medsoft("crossval", "--resume", tmp_path / "killed")
    assert code == 0
    assert "1 of 2 finished" in out
    crossval("--folds=2", "--trainer.max_epochs=2", f"--out={tmp_path / 'whole'}")
    for name in ("predictions.csv", "metrics.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_stopped_in_a_fold_with_rows_set_aside_it_goes_on(tmp_path, images, crossval, medsoft, monkeypatch):
    """A file of splits: its part test and what it calls unused is unused in each fold, and not new to what resumes."""
    frame = pd.read_csv(images)
    split = ["test" if patient in set(frame["patient"].unique()[:4]) else "train" for patient in frame["patient"]]
    split[:2] = ["unused", "unused"]
    pd.DataFrame({"id": [Path(path).stem for path in frame["path"]], "split": split}).to_csv(
        tmp_path / "splits.csv", index=False
    )
    stop = StopGracefully.on_train_batch_end

    def ask(self, trainer, *args):
        if "fold-1" in str(self.checkpoint):
            os.kill(os.getpid(), signal.SIGINT)
        stop(self, trainer, *args)

    monkeypatch.setattr(StopGracefully, "on_train_batch_end", ask)
    words = ["--folds=2", f"--data.splits_from={tmp_path / 'splits.csv'}", f"--out={tmp_path / 'cv'}"]
    crossval(*words, code=130)
    folder = CrossvalFolder.existing(tmp_path / "cv")
    assert [folder.is_finished(number) for number in range(2)] == [True, False]
    assert folder.run(1).last.is_file()
    assert (pd.read_csv(folder.run(1).split)["split"] == "unused").sum() == 48 - split.count("train")
    monkeypatch.setattr(StopGracefully, "on_train_batch_end", stop)
    code, out, err = medsoft("crossval", "--resume", tmp_path / "cv")
    assert code == 0, err
    assert "has changed" not in out
    assert len(pd.read_csv(folder.predictions)) == split.count("train")


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        (signal.SIGTERM, "medsoft.workflows.fit._take_best"),
        (signal.SIGINT, "medsoft.workflows.finish.write_facts"),
        (signal.SIGTERM, "medsoft.workflows.crossval.collect"),
    ],
)
def test_a_signal_between_trainings_ends_the_verb(asked, where, tmp_path, crossval, monkeypatch, medsoft):
    """After the first training of the process, Lightning's handler, which swallows SIGTERM, must not stay."""
    module, _, name = where.rpartition(".")
    module = importlib.import_module(module)
    original = getattr(module, name)

    def ask(*args, **kwargs):
        os.kill(os.getpid(), asked)
        return original(*args, **kwargs)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(module, name, ask)
    _, err = crossval("--folds=2", f"--out={tmp_path / 'cv'}", code=128 + asked)
    assert "Go on with the cross-validation: medsoft crossval --resume" in err
    folder = CrossvalFolder.existing(tmp_path / "cv")
    assert not folder.metrics.exists()
    assert folder.is_finished(1) == (name == "collect")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    if name == "_take_best":
        monkeypatch.setattr(module, name, original)
        assert medsoft("crossval", "--resume", tmp_path / "cv")[0] == 0


def test_a_signal_after_the_last_step_of_a_training_ends_the_verb(tmp_path, crossval, medsoft, monkeypatch):
    ended = MetricsTable.on_train_end
    monkeypatch.setattr(MetricsTable, "on_train_end", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    _, err = crossval("--folds=2", f"--out={tmp_path / 'cv'}", code=143)
    assert "Go on with the cross-validation" in err
    folder = CrossvalFolder.existing(tmp_path / "cv")
    assert not folder.run(1).path.exists()
    monkeypatch.setattr(MetricsTable, "on_train_end", ended)
    assert medsoft("crossval", "--resume", tmp_path / "cv")[0] == 0


@pytest.mark.parametrize("when", ["its folder is gone", "it was being closed"])
def test_a_log_that_cannot_be_written_does_not_hide_a_stop(when, tmp_path, crossval, monkeypatch):
    """TensorBoard's writer opens its file anew at each flush, and refuses to flush what is half closed."""
    run = CrossvalFolder(tmp_path / "cv").run(0)
    if when == "its folder is gone":
        stop = StopGracefully._stop

        def gone(self, trainer):
            run.tensorboard.rename(run.path / "moved")
            stop(self, trainer)

        monkeypatch.setattr(StopGracefully, "_stop", gone)
        monkeypatch.setattr(MetricsTable, "on_train_epoch_end", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    else:
        close = _AsyncWriter.close

        def half_closed(self):
            if not self._closed:
                self._closed = True
                os.kill(os.getpid(), signal.SIGTERM)
            close(self)

        monkeypatch.setattr(_AsyncWriter, "close", half_closed)
    _, err = crossval("--folds=2", f"--out={tmp_path / 'cv'}", code=143)
    assert "Go on with the cross-validation" in err
    assert run.last.is_file()


def test_what_was_killed_before_its_first_checkpoint_begins_anew(tmp_path, crossval, finished):
    shutil.copytree(finished, tmp_path / "cv")
    run = tmp_path / "cv" / "fold-2"
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.json").unlink()
    expected = (run / "predictions.csv").read_bytes()
    from medsoft.cli.main import main

    assert main(["crossval", "--resume", str(tmp_path / "cv"), "--fold", "2"]) == 0
    assert (run / "predictions.csv").read_bytes() == expected


def test_a_fold_that_another_process_works_on_is_left_alone(tmp_path, finished, medsoft):
    shutil.copytree(finished, tmp_path / "cv")
    folder = CrossvalFolder.existing(tmp_path / "cv")
    (tmp_path / "cv" / "fold-0" / "metrics.json").unlink()
    with folder.working_on(0):
        code, _, err = medsoft("crossval", "--resume", tmp_path / "cv", "--fold", 0)
    assert code == 1
    assert "another process is at work on it" in err


def test_a_fold_of_other_rows_is_not_gathered(tmp_path, finished, medsoft):
    shutil.copytree(finished, tmp_path / "cv")
    for name in ("predictions.csv", "facts.json"):  # which says what the predictions are
        shutil.copy(tmp_path / "cv" / "fold-1" / name, tmp_path / "cv" / "fold-0" / name)
    code, _, err = medsoft("crossval", "--resume", tmp_path / "cv", "--collect")
    assert code == 1
    assert "holds other samples than fold 0 reports" in err


def test_folds_at_the_same_time_give_the_same(tmp_path, medsoft, finished):
    shutil.copytree(finished, tmp_path / "cv")
    for number in (0, 2):
        shutil.rmtree(tmp_path / "cv" / f"fold-{number}")
    code, out, err = medsoft("crossval", "--resume", tmp_path / "cv", "--jobs", 2)
    assert (code, err) == (0, "")
    assert out.count("has finished") == 2
    first, both = (pd.read_csv(folder / "predictions.csv") for folder in (finished, tmp_path / "cv"))
    pd.testing.assert_frame_equal(both, first, rtol=1e-4)
    assert "Cross-validation: 3 folds" in (tmp_path / "cv" / "logs" / "fold-2.log").read_text()


def test_bags_take_part_too(tmp_path, medsoft):
    table = write_slides(tmp_path / "slides", n=24, per_patient=2)
    words = [*TINY_BAGS, f"--data.table={table}", f"--data.features={table.parent / 'features'}", *QUICK]
    code, _, err = medsoft("crossval", *words, "--folds=2", "--data.group=patient", f"--out={tmp_path / 'cv'}")
    assert (code, err) == (0, "")
    frame = read_predictions(tmp_path / "cv" / "predictions.csv")[0]
    assert sorted(frame["id"]) == [f"P{i:02d}" for i in range(12)]


def test_numbers_take_part_too(tmp_path, images, medsoft):
    words = [f"--data.table={images}", "--data.label=grade", "--data.task=regression", "--data.patient=patient"]
    code, _, err = medsoft("crossval", *words, *TINY, *QUICK, "--folds=2", f"--out={tmp_path / 'cv'}")
    assert (code, err) == (0, "")
    summary = json.loads((tmp_path / "cv" / "metrics.json").read_text())
    frame = pd.read_csv(tmp_path / "cv" / "predictions.csv")
    errors = (frame["prediction"] - frame["target"]).abs().groupby(frame["fold"]).mean()
    assert (summary["primary"]["metric"], summary["primary"]["n_folds"]) == ("mae", 2)
    assert summary["primary"]["value"] == pytest.approx(errors.mean())


def test_volumes_of_slices_take_part_too(tmp_path, medsoft):
    table = write_volumes(tmp_path / "volumes", 16)
    tiny = [word for word in TINY_VOLUME if "backbone" not in word]
    encoder = "--model.encoder_args={patch_size: 8, depth: 1, embed_dim: 16, num_heads: 2}"
    words = ["--config=volume_slices", *tiny, encoder, "--model.aggregator_args={dim: 16, num_heads: 2, depth: 1}"]
    words += [f"--data.table={table}", "--data.classes=[small, large]", "--data.patient=patient", *QUICK]
    code, _, err = medsoft("crossval", *words, "--folds=2", "--data.val_fraction=0.5", f"--out={tmp_path / 'cv'}")
    assert (code, err) == (0, "")
    frame = pd.read_csv(tmp_path / "cv" / "predictions.csv")
    assert len(frame) == frame["id"].nunique() == 16
    assert frame["ood_score"].notna().all()
