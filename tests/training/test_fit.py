"""``medsoft fit``, ``validate``, ``test`` and ``predict``: what they leave behind, and that it can be trusted."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from medsoft.evaluation.metrics.epochs import best_epoch
from medsoft.evaluation.metrics.score import score_splits
from medsoft.evaluation.tables.predictions import read_predictions
from tests.builders.images import TINY, write_images

pytestmark = pytest.mark.long

CLASSES = "--data.classes=[dark, light]"


def checkpoint(run: Path, name: str = "best") -> dict:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def weights(run: Path, name: str = "best") -> dict[str, torch.Tensor]:
    return checkpoint(run, name)["state_dict"]


def predictions(run: Path) -> pd.DataFrame:
    return read_predictions(run / "predictions.csv")[0]


def metrics(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "metrics.csv")


def one_epoch(out: Path, *words: str) -> list[str]:
    return [f"--out={out}", "--trainer.max_epochs=1", *words]


@pytest.fixture(scope="module")
def run(tmp_path_factory, table) -> Path:
    """Two epochs, with pictures; validation and test parts of 6 images."""
    from medsoft.cli.main import main

    out = tmp_path_factory.mktemp("fit") / "run"
    words = [f"--data.table={table}", CLASSES, "--data.patient=patient", *TINY, "--figures=true"]
    assert main(["fit", *words, "--trainer.max_epochs=2", "--seed_everything=5", f"--out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def plain(tmp_path_factory, table) -> Path:
    """One epoch with nothing but the defaults, to compare others with."""
    from medsoft.cli.main import main

    out = tmp_path_factory.mktemp("fit") / "plain"
    words = [f"--data.table={table}", "--data.label=label", CLASSES, "--data.patient=patient", *TINY]
    assert main(["fit", *words, *one_epoch(out)]) == 0
    return out


@pytest.fixture(scope="module")
def grades(tmp_path_factory) -> Path:
    """36 images of three rising brightnesses; the columns many and most are two labels of each, some missing."""
    table = write_images(tmp_path_factory.mktemp("grades"), 36, classes=("healthy", "mild", "severe"))
    frame = pd.read_csv(table, dtype=str)
    frame["many"] = (frame["grade"].astype(int) > 0).astype(int).astype(str)
    frame["most"] = (frame["grade"].astype(int) > 1).astype(int).astype(str)
    frame.loc[::4, "many"] = ""
    frame.loc[1::5, "most"] = ""
    frame.to_csv(table, index=False)
    return table


def test_a_run_leaves_all_that_is_needed_to_trust_it(run):
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    named = {"config.yaml", "split.csv", "versions.json", "metrics.csv", "metrics.json", "predictions.csv"}
    assert named | {"checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= files
    assert any(name.startswith("tensorboard/events.out.tfevents") for name in files)
    assert {"figures/roc_test.png", "figures/confusion_matrix_val.png", "figures/learning_curves.png"} <= files
    assert not [name for name in files if Path(name).name.startswith(".")]
    versions = json.loads((run / "versions.json").read_text())
    assert versions["command"][:2] == ["medsoft", "fit"]
    assert versions["packages"]["torch"] == torch.__version__.split("+")[0] or "+" in versions["packages"]["torch"]
    table = metrics(run)
    assert table["epoch"].tolist() == [1, 2]
    assert {"step", "seconds", "lr", "train_loss", "val_loss", "val_auroc"} <= set(table)


def test_pictures_only_when_asked_for(tmp_path, fit):
    fit(*one_epoch(tmp_path / "run"))
    assert not (tmp_path / "run" / "figures").exists()


def test_the_split_is_stratified_whole_and_keeps_patients_together(run, table):
    split = pd.read_csv(run / "split.csv").merge(
        pd.read_csv(table).assign(id=lambda rows: rows["path"].map(lambda path: Path(path).stem)), on="id"
    )
    assert len(split) == 40
    assert (split.groupby("patient")["split"].nunique() == 1).all()
    counts = split.groupby(["split", "label"]).size().unstack()
    sizes = counts.sum(axis=1)
    assert abs(sizes["test"] - 0.2 * 40) <= 2
    assert abs(sizes["val"] - 0.15 * 40) <= 2
    assert (counts.max(axis=1) - counts.min(axis=1) <= 2).all()


def test_predictions_are_those_of_the_parts_that_nothing_was_learnt_from(run):
    frame, task = read_predictions(run / "predictions.csv")
    assert (task.kind, task.classes) == ("binary", ("dark", "light"))
    split = pd.read_csv(run / "split.csv").set_index("id")["split"]
    assert sorted(frame["id"]) == sorted(split.index[split != "train"])
    assert (frame["split"] == frame["id"].map(split)).all()
    assert np.abs(frame[task.p_columns].sum(axis=1) - 1).max() < 1e-9
    assert (frame["patient"] != "").all()


def test_metrics_are_those_of_the_predictions(run):
    frame, task = read_predictions(run / "predictions.csv")
    assert json.loads((run / "metrics.json").read_text()) == json.loads(json.dumps(score_splits(frame, task)))


def test_the_logged_metric_of_the_best_epoch_is_the_one_of_its_predictions(run):
    scores = json.loads((run / "metrics.json").read_text())["val"]["overall"]
    best = metrics(run).set_index("epoch").loc[checkpoint(run)["epoch"] + 1]
    for name in ("auroc", "brier", "log_loss", "accuracy"):
        assert best[f"val_{name}"] == pytest.approx(scores[name], abs=1e-6)


def test_it_learns(fit, tmp_path):
    fit(f"--out={tmp_path / 'run'}", "--trainer.max_epochs=6", "--model.lr=3e-3")
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert scores["test"]["overall"]["auroc"] == 1
    assert metrics(tmp_path / "run")["train_loss"].iloc[-1] < 0.4


def test_the_saved_configuration_repeats_the_run(tmp_path, medsoft, run, monkeypatch):
    """From another folder, and with the table named in it alone."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = tmp_path / "again"
    assert medsoft("fit", f"--config={run / 'config.yaml'}", f"--out={again}")[0] == 0
    for name in ("predictions.csv", "metrics.json", "split.csv"):
        assert (again / name).read_bytes() == (run / name).read_bytes()
    assert all(torch.equal(value, weights(run)[key]) for key, value in weights(again).items())
    first, second = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (run, again))
    assert first["data"].pop("splits_from") != second["data"].pop("splits_from")
    assert first == second


def test_another_seed_gives_another_run(tmp_path, fit, run):
    fit(*one_epoch(tmp_path / "a", "--seed_everything=6"))
    fit(*one_epoch(tmp_path / "b", "--seed_everything=6"))
    fit(*one_epoch(tmp_path / "c", "--seed_everything=7"))
    a, b, c = (tmp_path / name for name in "abc")
    assert (a / "predictions.csv").read_bytes() == (b / "predictions.csv").read_bytes()
    assert (a / "split.csv").read_bytes() != (c / "split.csv").read_bytes()
    assert not torch.equal(weights(a)["head.weight"], weights(c)["head.weight"])


@pytest.mark.parametrize(("verb", "splits"), [("validate", ["val"]), ("test", ["test"])])
def test_validate_and_test_give_the_numbers_of_the_fit(tmp_path, medsoft, run, verb, splits):
    out = tmp_path / "again"
    code, _, err = medsoft(verb, "--checkpoint", run, f"--out={out}")
    assert (code, err) == (0, "")
    expected = predictions(run)
    expected = expected[expected["split"].isin(splits)].reset_index(drop=True)
    pd.testing.assert_frame_equal(predictions(out), expected)
    scores, again = (json.loads((folder / "metrics.json").read_text()) for folder in (run, out))
    assert again == {split: scores[split] for split in splits}
    assert {"config.yaml", "versions.json"} <= {path.name for path in out.iterdir()}


def test_predict_answers_every_row(tmp_path, medsoft, run):
    out = tmp_path / "again"
    assert medsoft("predict", "--checkpoint", run / "checkpoints" / "best.ckpt", f"--out={out}")[0] == 0
    frame = predictions(out).set_index(["split", "id"])
    assert len(frame) == 40
    assert set(frame.index.levels[0]) == {"train", "val", "test"}
    expected = predictions(run).set_index(["split", "id"])
    pd.testing.assert_frame_equal(frame.loc[expected.index], expected)


def test_a_run_that_was_moved_still_answers(tmp_path, medsoft, run):
    moved = tmp_path / "moved"
    shutil.copytree(run, tmp_path / "first")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["splits_from"] = str(tmp_path / "first" / "split.csv")
    (tmp_path / "first").rename(moved)
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    assert medsoft("test", "--checkpoint", moved, f"--out={tmp_path / 'out'}")[0] == 0
    pd.testing.assert_frame_equal(
        predictions(tmp_path / "out"), predictions(run).query("split == 'test'").reset_index(drop=True)
    )


@pytest.fixture
def strangers(tmp_path) -> Path:
    """A table of another place, without a split and a label; 7 images."""
    table = write_images(tmp_path / "strangers", 7)
    rows = pd.read_csv(table)
    rows[["path"]].to_csv(table.with_name("unlabelled.csv"), index=False)
    return table


def test_predict_needs_no_labels(tmp_path, medsoft, run, strangers):
    words = [f"--data.table={strangers.with_name('unlabelled.csv')}", "--data.patient=null"]
    code, out, err = medsoft("predict", f"--checkpoint={run}", *words, f"--out={tmp_path / 'out'}")
    assert (code, err) == (0, "")
    frame = predictions(tmp_path / "out")
    assert frame["id"].tolist() == [f"im{i:03d}" for i in range(7)]
    assert (frame["target"] == "").all()
    assert "No row has a target" in out
    with_labels = predict(medsoft, run, strangers, tmp_path / "labelled")
    pd.testing.assert_frame_equal(frame[["p_dark", "p_light"]], with_labels[["p_dark", "p_light"]])
    assert with_labels["target"].tolist() == ["dark", "light"] * 3 + ["dark"]


def predict(medsoft, run: Path, table: Path, out: Path, *words: str) -> pd.DataFrame:
    code, _, err = medsoft("predict", f"--checkpoint={run}", f"--data.table={table}", *words, f"--out={out}")
    assert code == 0, err
    return predictions(out)


def test_an_external_table_is_tested_as_a_whole(tmp_path, medsoft, run, strangers):
    code, _, err = medsoft("test", f"--checkpoint={run}", f"--data.table={strangers}", f"--out={tmp_path / 'out'}")
    assert (code, err) == (0, "")
    frame = predictions(tmp_path / "out")
    assert len(frame) == 7
    assert set(frame["split"]) == {"test"}
    pd.testing.assert_series_equal(
        frame["p_light"], predict(medsoft, run, strangers, tmp_path / "predicted")["p_light"]
    )


def test_weights_of_another_task_are_refused(tmp_path, medsoft, run, grades):
    words = [f"--data.table={grades}", *TINY, f"--out={tmp_path / 'out'}", f"--checkpoint={run}"]
    for task in (["--data.label=label"], ["--data.label=grade", "--data.task=ordinal"]):
        code, _, err = medsoft("predict", "--config=fundus", *words, *task)
        assert code == 2
        assert "the checkpoint answers binary (dark, light); the configuration and table ask for" in err
    # The same question asked of the wrong architecture.
    other = [
        "--config",
        run / "config.yaml",
        "--model.backbone_args={patch_size: 8, depth: 1, embed_dim: 32, num_heads: 2}",
    ]
    code, _, err = medsoft("test", *other, f"--checkpoint={run}", f"--out={tmp_path / 'out'}")
    assert code == 2
    assert "these are not weights of this model" in err
    assert not (tmp_path / "out").exists()


TASKS = {
    "multiclass": (
        ["--data.label=label", "--data.classes=[healthy, mild, severe]"],
        ("healthy", "mild", "severe"),
        "macro",
    ),
    "ordinal": (["--data.label=grade", "--data.task=ordinal"], ("0", "1", "2"), "overall"),
    "binary": (["--data.label=grade", "--data.positive=1,2"], ("negative", "positive"), "overall"),
    "multilabel": (["--data.label=many,most"], ("many", "most"), "macro"),
}


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_is_learnt_scored_and_predicted(tmp_path, medsoft, grades, kind):
    words, classes, where = TASKS[kind]
    out = tmp_path / "run"
    options = [f"--data.table={grades}", *words, *TINY, "--model.lr=3e-3", "--model.class_weights=balanced"]
    code, _, err = medsoft("fit", *options, "--trainer.max_epochs=8", f"--out={out}")
    assert (code, err) == (0, "")
    frame, task = read_predictions(out / "predictions.csv")
    assert (task.kind, task.classes) == (kind, classes)
    scores = json.loads((out / "metrics.json").read_text())["test"]
    expected = "kappa" if kind == "ordinal" else "auroc"
    assert scores[where][expected] > 0.8
    if kind == "multilabel":
        assert frame["target_many"].isna().any()
        assert scores["per_class"]["many"]["n"] == frame.loc[frame["split"] == "test", "target_many"].notna().sum()
    # The same answers for the same pictures without their labels, from the run's folder alone.
    unlabelled = grades.with_name(f"unlabelled_{kind}.csv")
    pd.read_csv(grades)[["path"]].to_csv(unlabelled, index=False)
    answers = predict(medsoft, out, unlabelled, tmp_path / "out").set_index("id")
    pd.testing.assert_frame_equal(answers.loc[frame["id"], task.p_columns], frame.set_index("id")[task.p_columns])


def test_of_epochs_that_are_equally_good_the_one_of_the_lowest_loss_is_kept(tmp_path, fit):
    """Two samples for validation soon have an AUROC of 1, long before their probabilities are any good."""
    out = tmp_path / "run"
    fit(f"--out={out}", "--data.val_fraction=0.06", "--trainer.max_epochs=5", "--model.lr=3e-3")
    epochs = metrics(out).set_index("epoch")
    equal = epochs[epochs["val_auroc"] == epochs["val_auroc"].max()]
    assert len(equal) > 1
    assert equal["val_loss"].idxmin() != equal.index[0]
    assert checkpoint(out)["epoch"] + 1 == equal["val_loss"].idxmin()


def test_the_checkpoint_is_chosen_by_the_stated_metric(tmp_path, fit, table):
    """Labels that the images say nothing of: the metrics of the epochs go up and down."""
    rows = pd.read_csv(table)
    rows["path"] = [table.parent / path for path in rows["path"]]
    rows["label"] = np.random.default_rng(0).permutation(rows["label"])
    rows["patient"] = rows["path"]
    rows.to_csv(tmp_path / "noise.csv", index=False)
    chosen = {}
    for monitor in ("loss", "auroc", "average_precision", "val_brier"):
        out = tmp_path / monitor
        options = [CLASSES, f"--out={out}", f"--monitor={monitor}", "--trainer.max_epochs=5", "--model.lr=3e-3"]
        fit(*options, "--seed_everything=5", on=tmp_path / "noise.csv")
        column = f"val_{monitor.removeprefix('val_')}"
        epochs = metrics(out).set_index("epoch")
        assert epochs[column].nunique() > 1
        chosen[monitor] = checkpoint(out)["epoch"]
        assert chosen[monitor] + 1 == best_epoch(epochs, column)
        assert checkpoint(out, "last")["epoch"] == 4
    assert len(set(chosen.values())) > 1


def test_patience_ends_a_training_that_gets_no_better(tmp_path, fit):
    fit(f"--out={tmp_path / 'run'}", "--trainer.max_epochs=20", "--patience=2", "--model.lr=0")
    assert metrics(tmp_path / "run")["epoch"].tolist() == [1, 2, 3]
    assert checkpoint(tmp_path / "run")["epoch"] == 0


def test_max_steps_end_a_training_in_good_order(tmp_path, fit):
    fit(f"--out={tmp_path / 'steps'}", "--trainer.max_epochs=5", "--trainer.max_steps=6")  # in the second epoch
    assert checkpoint(tmp_path / "steps")["global_step"] == 4
    assert (tmp_path / "steps" / "predictions.csv").is_file()
    _, err = fit(f"--out={tmp_path / 'none'}", "--trainer.max_epochs=5", "--trainer.max_steps=2", code=1)
    assert "ended within its first epoch" in err


def test_averaged_weights_are_what_is_kept_and_used(tmp_path, fit):
    fit(*one_epoch(tmp_path / "plain", "--seed_everything=2"))
    fit(*one_epoch(tmp_path / "ema", "--seed_everything=2", "--ema_decay=0.5"))
    plain, ema = weights(tmp_path / "plain"), weights(tmp_path / "ema")
    current = checkpoint(tmp_path / "ema")["current_model_state"]
    assert torch.equal(current["head.weight"], plain["head.weight"])
    assert not torch.equal(ema["head.weight"], plain["head.weight"])
    assert not predictions(tmp_path / "ema")["p_light"].equals(predictions(tmp_path / "plain")["p_light"])


def test_two_accumulated_batches_are_one_of_twice_the_size(tmp_path, fit):
    fit(*one_epoch(tmp_path / "one", "--data.batch_size=14"))
    fit(*one_epoch(tmp_path / "two", "--data.batch_size=7", "--trainer.accumulate_grad_batches=2"))
    assert checkpoint(tmp_path / "one")["global_step"] == checkpoint(tmp_path / "two")["global_step"] == 2
    one, two = (predictions(tmp_path / name)["p_light"] for name in ("one", "two"))
    assert np.allclose(one, two, atol=1e-6, rtol=0)


def test_balancing_raises_what_is_said_of_the_rare_class(tmp_path, fit, medsoft, table):
    rows = pd.read_csv(table)
    rare = pd.concat([rows[rows["label"] == "dark"], rows[rows["label"] == "light"].iloc[:6]])
    rare = rare.assign(path=rare["path"].map(lambda path: table.parent / path))
    rare.to_csv(tmp_path / "rare.csv", index=False)
    options = [
        "--trainer.max_epochs=3",
        "--model.lr=6e-3",
        "--monitor=loss",
        CLASSES,
        "--transforms.augmentation=false",
    ]
    ways = {"plain": [], "weights": ["--model.class_weights=balanced"], "draws": ["--data.balanced_sampling=true"]}
    for name, words in ways.items():
        fit(*options, *words, f"--out={tmp_path / name}", on=tmp_path / "rare.csv")
        last = tmp_path / name / "checkpoints" / "last.ckpt"  # the best ones are of different epochs
        assert medsoft("predict", f"--checkpoint={last}", f"--out={tmp_path / name / 'last'}")[0] == 0
    plain, *balanced = (predictions(tmp_path / name / "last")["p_light"].mean() for name in ways)
    assert min(balanced) > plain + 0.02


def test_smoothed_labels_keep_the_loss_above_their_entropy(tmp_path, fit):
    options = [f"--out={tmp_path / 'run'}", "--trainer.max_epochs=6", "--model.lr=3e-3"]
    fit(*options, "--model.label_smoothing=0.8")
    entropy = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    assert metrics(tmp_path / "run")["val_loss"].min() > entropy - 1e-6
    assert 0.4 < predictions(tmp_path / "run")["p_light"].max() < 0.85


def test_a_frozen_backbone_is_the_pretrained_one(tmp_path, fit, run):
    """A linear probe on the backbone of an earlier run."""
    pretrained = f"--model.pretrained={run / 'checkpoints' / 'best.ckpt'}"
    fit(*one_epoch(tmp_path / "probe", pretrained, "--model.freeze=true"))
    before, after = weights(run), weights(tmp_path / "probe")
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("backbone."))
    assert not torch.equal(after["head.weight"], before["head.weight"])
    assert len(checkpoint(tmp_path / "probe")["optimizer_states"][0]["state"]) == 2


def test_a_frozen_convolutional_network_keeps_its_batch_statistics(tmp_path, fit):
    resnet = ["--model.backbone=test_resnet", "--model.backbone_args={}", "--seed_everything=4"]
    fit(*one_epoch(tmp_path / "a", *resnet, "--model.freeze=true"))
    fit(*one_epoch(tmp_path / "b", *resnet, "--model.freeze=true", "--model.lr=0.1"))
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[key], b[key]) for key in a if key.startswith("backbone."))
    assert (a["backbone.bn1.running_mean"] == 0).all()  # as they begin


def test_the_weights_that_a_run_began_with_may_be_gone(tmp_path, medsoft, fit, run):
    pretrained = tmp_path / "pretrained.ckpt"
    shutil.copy(run / "checkpoints" / "best.ckpt", pretrained)
    fit(*one_epoch(tmp_path / "run", "--model.pretrained=pretrained.ckpt"))
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["pretrained"] == str(pretrained)
    pretrained.unlink()
    assert medsoft("test", f"--checkpoint={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")[0] == 0


def test_the_learning_rates_of_the_groups(tmp_path, fit):
    fit(*one_epoch(tmp_path / "run", "--model.layer_decay=0.5", "--model.lr=0.01", "--model.final_lr=0.5"))
    initial = {round(g["initial_lr"], 8) for g in checkpoint(tmp_path / "run")["optimizer_states"][0]["param_groups"]}
    assert initial == {0.01, 0.005, 0.0025}  # the last block and what follows it, the first block, the embedding
    assert metrics(tmp_path / "run")["lr"].tolist() == [pytest.approx(0.005, rel=0.01)]


def test_bf16_is_close_to_float32(tmp_path, fit, plain):
    fit(*one_epoch(tmp_path / "bf16", "--trainer.precision=bf16-mixed"))
    a, b = (predictions(out)["p_light"] for out in (plain, tmp_path / "bf16"))
    assert not a.equals(b)
    assert np.abs(a - b).max() < 0.02


def test_deterministic_algorithms_change_nothing_on_a_cpu(tmp_path, fit, plain):
    try:
        fit(*one_epoch(tmp_path / "deterministic", "--trainer.deterministic=true"))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    first, second = (out / "predictions.csv" for out in (plain, tmp_path / "deterministic"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("words", "key", "shape"),
    [
        (["--transforms.channels=1"], "backbone.patch_embed.proj.weight", (32, 1, 8, 8)),
        (["--transforms.size=[32, 48]"], "backbone.pos_embed", (1, 25, 32)),
        (["--model.backbone=test_resnet", "--model.backbone_args={}"], "head.weight", (2, 96)),
        (
            ["--model.backbone=test_resnet", "--model.backbone_args={}", "--transforms.channels=1"],
            "backbone.conv1.0.weight",
            (16, 1, 3, 3),
        ),
        (
            ["--model.backbone_args={patch_size: 16, depth: 1, embed_dim: 32, num_heads: 2, global_pool: map}"],
            "backbone.attn_pool.latent",
            (1, 1, 32),
        ),
    ],
    ids=["grey", "oblong", "resnet", "grey resnet", "attention pooling"],
)
def test_the_model_fits_the_images(tmp_path, fit, words, key, shape):
    fit(*one_epoch(tmp_path / "run", *words))
    assert weights(tmp_path / "run")[key].shape == shape


def test_an_npz_is_a_table_too(tmp_path, medsoft):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in {"train": 16, "val": 6, "test": 6}.items():
        labels = np.arange(n) % 2
        arrays[f"{split}_images"] = rng.integers(0, 100, (n, 28, 28), np.uint8) + 100 * labels[:, None, None].astype(
            np.uint8
        )
        arrays[f"{split}_labels"] = labels[:, None]
    np.savez(tmp_path / "set.npz", **arrays)
    words = [f"--data.table={tmp_path / 'set.npz'}", "--data.task=binary", "--transforms.channels=1"]
    code, out, err = medsoft("fit", *words, *TINY, *one_epoch(tmp_path / "run"))
    assert (code, err) == (0, "")
    assert "train 16, val 6, test 6" in out
    frame = predictions(tmp_path / "run")
    assert frame["target"].tolist() == ["0", "1"] * 6
    assert frame["id"].tolist()[0] == "val-0"


def test_how_images_are_loaded_changes_nothing(tmp_path, fit, plain):
    fit(*one_epoch(tmp_path / "none", "--data.cache=none"))
    fit(*one_epoch(tmp_path / "workers", "--data.cache=none", "--data.num_workers=2"))
    runs = (plain, tmp_path / "none", tmp_path / "workers")
    memory, none, workers = ((out / "predictions.csv").read_bytes() for out in runs)
    assert memory == none == workers
    assert all(torch.equal(v, weights(tmp_path / "none")[k]) for k, v in weights(plain).items())


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_bad_inputs_can_be_left_out_and_are_listed(tmp_path, medsoft, cache):
    table = write_images(tmp_path / "set", 24)
    (table.parent / "images" / "im003.png").write_bytes(b"no picture")
    (table.parent / "images" / "im008.png").unlink()
    out = tmp_path / "run"
    words = [f"--data.table={table}", CLASSES, *TINY, "--data.on_error=skip", f"--data.cache={cache}"]
    code, said, err = medsoft("fit", *words, *one_epoch(out))
    assert (code, err) == (3, "")
    assert "2 inputs left out" in said
    with (out / "errors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(Path(row["path"]).name, row["stage"]) for row in rows} == {("im003.png", "read"), ("im008.png", "table")}
    assert all(row["reason"] for row in rows)
    everything = predict(medsoft_with(medsoft, 3), out, table, tmp_path / "out")
    assert len(everything) == 22


def medsoft_with(medsoft, expected: int):
    """A command line that is expected to end with another code than 0."""

    def run(*words: object) -> tuple[int, str, str]:
        code, out, err = medsoft(*words)
        assert code == expected, err
        return 0, out, err

    return run


def test_an_unaugmented_training_sees_the_images_as_they_are(tmp_path, fit, plain):
    """With augmentation the same run ends elsewhere."""
    fit(*one_epoch(tmp_path / "without", "--transforms.augmentation=false"))
    a, b = (weights(out)["head.weight"] for out in (plain, tmp_path / "without"))
    assert not torch.equal(a, b)


def test_paths_may_be_relative_and_names_of_any_alphabet(tmp_path, medsoft, monkeypatch):
    table = write_images(tmp_path / "Bilder füße", 20)
    rows = pd.read_csv(table)
    for name in rows["path"]:
        (table.parent / name).rename(table.parent / name.replace("im0", "眼 0"))
    rows["path"] = rows["path"].str.replace("im0", "眼 0").str.removeprefix("images/")
    rows.to_csv(table, index=False)
    monkeypatch.chdir(tmp_path)
    words = ["--data.table=Bilder füße/labels.csv", "--data.root=Bilder füße/images", CLASSES, *TINY]
    assert medsoft("fit", *words, *one_epoch(Path("Läufe")))[0] == 0
    assert predictions(tmp_path / "Läufe")["id"].str.startswith("眼 0").all()
    config = yaml.safe_load((tmp_path / "Läufe" / "config.yaml").read_text())
    assert config["data"]["root"] == str(table.parent / "images")
    assert Image.open(table.parent / "images" / rows["path"][0]).size == (48, 40)


def test_a_label_column_that_was_not_named_is_asked_for(tmp_path, medsoft, run, table):
    rows = pd.read_csv(table).rename(columns={"label": "finding"}).drop(columns="grade")
    rows["path"] = [table.parent / path for path in rows["path"]]
    rows.to_csv(tmp_path / "other.csv", index=False)
    code, _, err = medsoft("data", "show", tmp_path / "other.csv", "--data.patient=patient")
    assert code == 2
    assert "no labels were found: name their column with data.label (there are finding)" in err


def test_the_terminals_bar_counts_epochs_from_1(run):
    from types import SimpleNamespace

    from medsoft.training.callbacks import ProgressBar

    bar = ProgressBar()
    bar._trainer = SimpleNamespace(max_epochs=2)
    assert [bar._get_train_description(epoch).strip() for epoch in (0, 1)] == ["Epoch 1/2", "Epoch 2/2"]
