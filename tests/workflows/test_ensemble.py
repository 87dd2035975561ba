"""Several models as one, and several views of a picture: means, spreads, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from medsoft.data.transforms import ChestXray, Dermoscopy, Fundus, Histology, Plain
from medsoft.data.transforms.views import View, first_views, views_of
from medsoft.errors import InputError, RunError
from medsoft.evaluation.tables.ensemble import mean_of
from medsoft.evaluation.tables.predictions import make_predictions, read_predictions
from medsoft.task import Task
from tests.builders.bags import TINY_BAGS, write_slides
from tests.builders.images import TINY, write_images

pytestmark = pytest.mark.long

BINARY = Task.of("binary", ("no", "yes"))
P = ["p_dark", "p_light"]


def predictions(folder: Path) -> pd.DataFrame:
    return read_predictions(folder / "predictions.csv")[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, table) -> list[Path]:
    """Two seeds on one split, a third on its own split, all with pictures that may be mirrored."""
    from medsoft.cli.main import main

    folder = tmp_path_factory.mktemp("runs")
    base = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY]
    base += ["--trainer.max_epochs=1", "--transforms.flips=both"]
    for seed, split in ((0, ""), (1, f"--data.splits_from={folder / 'run-0' / 'split.csv'}"), (2, "")):
        more = [split] if split else []
        assert main(["fit", *base, *more, f"--seed_everything={seed}", f"--out={folder / f'run-{seed}'}"]) == 0
    return [folder / f"run-{seed}" for seed in range(3)]


@pytest.fixture(scope="module")
def strangers(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("strangers"), 6)


def test_an_ensemble_is_the_mean_of_its_members(tmp_path, medsoft, runs, strangers):
    new = [f"--data.table={strangers}"]
    alone = []
    for number, run in enumerate(runs):
        assert medsoft("predict", "--checkpoint", run, *new, f"--out={tmp_path / str(number)}")[0] == 0
        alone.append(predictions(tmp_path / str(number))[P].to_numpy())
    code, out, err = medsoft("predict", "--checkpoint", *runs, *new, f"--out={tmp_path / 'all'}")
    assert (code, err) == (0, "")
    assert "3 models" in out
    together = predictions(tmp_path / "all")
    np.testing.assert_allclose(together[P], np.mean(alone, axis=0), rtol=0, atol=1e-15)
    spread = together[["spread_dark", "spread_light"]].astype(float)
    np.testing.assert_allclose(spread, np.std(alone, axis=0, ddof=1), rtol=0, atol=1e-12)
    assert (together["members"] == "3").all()
    assert spread.to_numpy().max() > 0.001
    config = yaml.safe_load((tmp_path / "all" / "config.yaml").read_text())
    assert config["checkpoint"] == [str(run / "checkpoints" / "best.ckpt") for run in runs]
    # The saved configuration repeats it.
    code, _, err = medsoft("predict", f"--config={tmp_path / 'all' / 'config.yaml'}", f"--out={tmp_path / 'again'}")
    assert (code, err) == (0, "")
    assert (tmp_path / "again" / "predictions.csv").read_bytes() == (tmp_path / "all" / "predictions.csv").read_bytes()


def test_seeds_on_one_split_share_its_test_part(tmp_path, medsoft, runs):
    code, _, err = medsoft("test", "--checkpoint", *runs[:2], f"--out={tmp_path / 'out'}")
    assert (code, err) == (0, "")
    members = [predictions(run).query("split == 'test'").set_index("id") for run in runs[:2]]
    together = predictions(tmp_path / "out").set_index("id")
    np.testing.assert_allclose(together[P], (members[0][P] + members[1].loc[members[0].index, P]) / 2, atol=1e-15)


def test_members_of_different_splits_have_no_common_test_part(tmp_path, medsoft, runs):
    code, _, err = medsoft("test", "--checkpoint", *runs, f"--out={tmp_path / 'out'}")
    assert code == 2
    assert "each member was trained on another split of this table" in err
    assert not (tmp_path / "out").exists()
    code, out, _ = medsoft("predict", "--checkpoint", *runs, f"--out={tmp_path / 'out'}")
    assert code == 0
    assert "WARNING: the members were trained on parts of this very table" in out
    assert set(predictions(tmp_path / "out")["split"]) == {""}


def test_members_of_different_architectures(tmp_path, medsoft, runs, table, strangers):
    base = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY]
    other = ["--trainer.max_epochs=1", "--transforms.size=16", "--model.backbone=vit_softmax_tiny_patch16_224"]
    assert medsoft("fit", *base, *other, f"--out={tmp_path / 'other'}")[0] == 0
    new = [f"--data.table={strangers}"]
    for name, members in {"a": runs[:1], "b": [tmp_path / "other"], "both": [runs[0], tmp_path / "other"]}.items():
        assert medsoft("predict", "--checkpoint", *members, *new, f"--out={tmp_path / name}")[0] == 0
    mean = (predictions(tmp_path / "a")[P] + predictions(tmp_path / "b")[P]) / 2
    pd.testing.assert_frame_equal(predictions(tmp_path / "both")[P], mean)


def test_what_is_no_ensemble_is_refused(tmp_path, medsoft, runs, table, strangers):
    new = [f"--data.table={strangers}", f"--out={tmp_path / 'out'}"]
    code, _, err = medsoft("predict", "--checkpoint", runs[0], runs[0] / "checkpoints" / "best.ckpt", *new)
    assert code == 2
    assert "is named twice" in err
    code, _, err = medsoft("predict", "--checkpoint", runs[0], tmp_path / "nowhere", *new)
    assert code == 2
    assert "no such file" in err
    base = [f"--data.table={table}", "--data.label=grade", "--data.positive=1", "--data.patient=patient", *TINY]
    assert medsoft("fit", *base, "--trainer.max_epochs=1", f"--out={tmp_path / 'other'}")[0] == 0
    code, _, err = medsoft("predict", "--checkpoint", runs[0], tmp_path / "other", f"--out={tmp_path / 'out'}")
    assert code == 2
    assert "answer different questions: binary (negative, positive) and binary (dark, light)" in err
    code, _, err = medsoft("predict", "--config=fundus", f"--data.table={table}", "--data.classes=[dark, light]")
    assert code == 2
    assert "--checkpoint is missing" in err
    assert not (tmp_path / "out").exists()


def test_the_folds_of_a_cross_validation_are_an_ensemble(tmp_path, medsoft, table, strangers):
    base = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY]
    more = ["--folds=2", "--trainer.max_epochs=1", "--data.val_fraction=0.3"]
    assert medsoft("crossval", *base, *more, f"--out={tmp_path / 'cv'}")[0] == 0
    out = tmp_path / "out"
    code, said, _ = medsoft("predict", "--checkpoint", tmp_path / "cv", f"--data.table={strangers}", f"--out={out}")
    assert code == 0
    assert "2 models" in said
    assert (predictions(out)["members"] == "2").all()


def test_the_mean_of_tables():
    a = make_predictions(BINARY, ["x", "y"], [[0.2, 0.8], [0.5, 0.5]], [1, 0])
    b = make_predictions(BINARY, ["x", "y"], [[0.4, 0.6], [0.5, 0.5]], [1, 0])
    mean = mean_of([a, b], BINARY)
    assert mean["p_yes"].tolist() == pytest.approx([0.7, 0.5])
    assert mean["spread_yes"].tolist() == pytest.approx([0.2 / np.sqrt(2), 0])
    assert list(mean)[-3:] == ["members", "spread_no", "spread_yes"]
    with pytest.raises(RunError, match="different samples"):
        mean_of([a, b.iloc[:1]], BINARY)
    numbers = [make_predictions(Task.of("regression", ()), ["x"], [[value]], [3.0]) for value in (1.0, 2.0, 6.0)]
    mean = mean_of(numbers, Task.of("regression", ()))
    assert mean["prediction"].tolist() == [3.0]
    assert mean["spread"].tolist() == pytest.approx([np.std([1, 2, 6], ddof=1)])


# ---- views


def test_the_views_are_the_symmetries_of_a_square():
    picture = torch.arange(2 * 3 * 3.0).reshape(2, 3, 3)
    seen = {tuple(view(picture).flatten().tolist()) for view in views_of("square", (3, 3))}
    expected = {
        tuple(torch.rot90(side, turns, (-2, -1)).flatten().tolist())
        for side in (picture, picture.flip(-1))
        for turns in range(4)
    }
    assert seen == expected
    by_name = {view.name: view for view in views_of("square", (3, 3))}
    assert torch.equal(by_name["turned by 180°"](picture), torch.rot90(picture, 2, (-2, -1)))
    turned = [by_name[f"turned by {angle}°"](picture) for angle in (90, 270)]
    assert torch.equal(torch.rot90(turned[0], 1, (-2, -1)), picture) or torch.equal(
        torch.rot90(turned[0], -1, (-2, -1)), picture
    )
    assert torch.equal(turned[0], torch.rot90(turned[1], 2, (-2, -1)))


def test_a_rectangle_is_not_turned():
    assert [view.transposed for view in views_of("square", (3, 5))] == [False] * 4
    assert views_of("none", (3, 3)) == (View("as it is"),)


@pytest.mark.parametrize(
    ("recipe", "count"),
    [
        (Plain(size=16), 1),
        (Plain(size=16, flips="horizontal"), 2),
        (Fundus(size=16), 4),
        (Fundus(size=16, flips="none"), 1),
        (Dermoscopy(size=16), 8),
        (Dermoscopy(size=(16, 24)), 4),
        (ChestXray(size=16), 1),
        (ChestXray(size=16, horizontal_flip=True), 2),
        (Histology(size=16), 8),
        (Histology(size=16, symmetries=False), 1),
    ],
)
def test_the_recipe_says_what_keeps_the_label(recipe, count):
    """As many views as its augmentation of one picture gives, where all else is switched off."""
    views = views_of(recipe.symmetry, recipe.size)
    assert len(views) == count
    for name in ("rotation", "zoom", "jitter", "shift", "stain_jitter"):
        if hasattr(recipe, name):
            setattr(recipe, name, 0.0)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (*recipe.size, recipe.channels)).astype(np.uint8)
    augmented = {recipe.augment(picture, seed).tobytes() for seed in range(80)}
    channels_first = torch.from_numpy(picture).permute(2, 0, 1)
    shown = {view(channels_first).permute(1, 2, 0).contiguous().numpy().tobytes() for view in views}
    assert augmented == shown
    with pytest.raises(InputError, match=f"the data's recipe allows 1 to {count} views"):
        first_views(views, count + 1)


def test_averaging_over_views(tmp_path, medsoft, runs, strangers):
    new = ["--checkpoint", runs[0], f"--data.table={strangers}"]
    for n in (None, 1, 4):
        words = [] if n is None else [f"--tta={n}"]
        assert medsoft("predict", *new, *words, f"--out={tmp_path / str(n)}")[0] == 0
    plain, one, four = (tmp_path / name for name in ("None", "1", "4"))
    assert (one / "predictions.csv").read_bytes() == (plain / "predictions.csv").read_bytes()
    frame = predictions(four)
    assert (frame["views"] == "4").all()
    assert yaml.safe_load((four / "config.yaml").read_text())["tta"] == 4
    difference = np.abs(frame[P].to_numpy() - predictions(plain)[P].to_numpy())
    assert 0 < difference.max() < 0.2
    np.testing.assert_allclose(frame[P].sum(axis=1), 1, atol=1e-12)
    # A picture that is mirrored beforehand gets the same answer: the four views are the same four.
    mirrored = write_mirrored(strangers, tmp_path / "mirrored")
    assert (
        medsoft("predict", "--checkpoint", runs[0], f"--data.table={mirrored}", "--tta=4", f"--out={tmp_path / 'm'}")[0]
        == 0
    )
    np.testing.assert_allclose(predictions(tmp_path / "m")[P], frame[P], atol=2e-6)
    for n, says in ((5, "allows 1 to 4 views (as it is, left-right, top-bottom, turned by 180°)"), (0, "--tta 0")):
        code, _, err = medsoft("predict", *new, f"--tta={n}", f"--out={tmp_path / 'no'}")
        assert code == 2
        assert says in err


def write_mirrored(table: Path, folder: Path) -> Path:
    from PIL import Image, ImageOps

    (folder / "images").mkdir(parents=True)
    for path in sorted((table.parent / "images").iterdir()):
        ImageOps.mirror(Image.open(path)).save(folder / "images" / path.name)
    (folder / "labels.csv").write_bytes(table.read_bytes())
    return folder / "labels.csv"


def test_bags_have_no_views(tmp_path, medsoft):
    slides = write_slides(tmp_path / "slides", n=24)
    where = [f"--data.table={slides}", f"--data.features={slides.parent / 'features'}"]
    assert medsoft("fit", *TINY_BAGS, *where, "--trainer.max_epochs=1", f"--out={tmp_path / 'run'}")[0] == 0
    code, _, err = medsoft("test", "--checkpoint", tmp_path / "run", "--tta=2", f"--out={tmp_path / 'out'}")
    assert code == 2
    assert "no mirrored or rotated view is known to keep the label" in err
