"""What lies far from the training data: the score, its threshold, its file and columns, and what abstaining changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from medsoft.classifiers.out_of_distribution import Detector, Distance, Observed, Place, learn_detector
from medsoft.classifiers.pixel_statistics import bag_statistic_names, bag_statistics, pixel_statistics, statistic_names
from medsoft.errors import InputError
from medsoft.evaluation.abstention import abstained
from medsoft.evaluation.evaluate import evaluate_table
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.tables.predictions import make_predictions, read_predictions
from medsoft.task import Task
from medsoft.training.shift import say, shift_of
from tests.builders.bags import TINY_BAGS, write_slides
from tests.builders.images import TINY, write_images

BINARY = Task.of("binary", ("no", "yes"))


def correlated(n: int, width: int = 6, seed: int = 0) -> np.ndarray:
    mixing = np.random.default_rng(9).normal(size=(width, width))
    return np.random.default_rng(seed).normal(size=(n, width)) @ mixing + 5


def observed(n: int, seed: int = 0, shift: float = 0.0) -> Observed:
    return Observed([correlated(n, seed=seed)], correlated(n, 4, seed=seed + 100) + shift)


def test_the_distance_is_that_of_mahalanobis_under_the_shrunk_covariance():
    from scipy.spatial.distance import mahalanobis
    from sklearn.covariance import LedoitWolf

    train, others = correlated(200), correlated(20, seed=1)
    precision = np.linalg.inv(LedoitWolf().fit(train).covariance_)
    expected = [mahalanobis(row, train.mean(axis=0), precision) for row in others]
    np.testing.assert_allclose(Distance.fit(train, standardised=False)(others), expected, rtol=1e-9)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_each_limit_holds_the_stated_share(quantile):
    train, val = observed(200), observed(150, seed=2)
    found = learn_detector(train, val, quantile)
    within = (found.features_place(found.features(val.layers)) <= 1).mean()
    assert quantile <= within <= quantile + 2 / 150 + 1e-9
    new = observed(4000, seed=7)
    assert (found.inputs_place(found.inputs(new.inputs_NS)) <= 1).mean() == pytest.approx(quantile, abs=0.05)
    for far in (Observed([new.layers[0] + 100], new.inputs_NS), Observed(new.layers, new.inputs_NS + 100)):
        assert (found.score(far.layers, far.inputs_NS) > 1).all(), "either of the two is enough"


@pytest.mark.parametrize("n", [9, 14, 40])
def test_a_limit_of_few_samples_holds_new_ones_as_often_as_it_says(n):
    rng = np.random.default_rng(0)
    within, plain = [], []
    for _ in range(400):
        seen, new = rng.exponential(size=n), rng.exponential(size=50)
        within.append((Place.of(seen, 0.9)(new) <= 1).mean())
        plain.append((new <= np.quantile(seen, 0.9)).mean())
    assert 0.9 - 0.01 <= np.mean(within) <= 0.9 + 1 / (n + 1) + 0.01
    assert np.mean(plain) < np.mean(within)


def test_too_few_samples_give_no_limit_but_an_order():
    seen = np.arange(1.0, 9.0)
    place = Place.of(seen, 0.9)
    assert not place.has_limit
    scores = place(np.array([0.0, 4.5, 8.0, 50.0, 1e300, np.inf]))
    assert (np.diff(scores[:4]) > 0).all()
    assert scores[1] == 0
    assert scores[2] == 0.5
    assert (scores[:-1] < 1).all()
    assert scores[-1] == np.inf, "what is no number is beyond any limit"
    assert Place.of(np.arange(1.0, 10.0), 0.9).limit == 9


def test_a_detector_says_what_it_cannot_abstain_by():
    few = learn_detector(observed(20), observed(10, seed=1), 0.99)
    assert (
        "cannot abstain at ood_quantile 0.99, which takes 99 samples; there are 10 in the validation"
        in few.without_limit
    )
    assert (few.score([correlated(5) + 100], correlated(5, 4) + 100) < 1).all()
    inputs = learn_detector(observed(200), observed(10, seed=1), 0.99)
    assert "cannot abstain by its features" in inputs.without_limit
    assert (inputs.score([correlated(5)], correlated(5, 4) + 100) > 1).all()
    assert learn_detector(observed(200), observed(99, seed=1), 0.99).without_limit == ""


def test_more_features_than_samples_and_features_that_never_vary():
    train = np.concatenate([correlated(20), np.zeros((20, 140))], axis=1)
    found = learn_detector(Observed([train], train), Observed([train[:10]], train[:10]), 0.9)
    assert np.isfinite(found.score([train], train)).all()
    other = train.copy()
    other[:, 100] = 1  # never seen to vary
    assert (found.score([train], other) > 1).all()
    same = Observed([np.ones((4, 3))], np.ones((4, 3)))
    kept = learn_detector(same, same, 0.8)
    assert (kept.score([np.ones((2, 3))], np.ones((2, 3))) <= 1).all()
    assert (kept.score([np.zeros((1, 3))], np.ones((1, 3))) > 1).all()
    assert (kept.score([np.ones((1, 3))], np.zeros((1, 3))) > 1).all()
    assert found.score([np.full((1, 146), np.nan)], train[:1]).tolist() == [np.inf]
    assert found.score([train[:1]], np.full((1, 146), np.nan)).tolist() == [np.inf]
    with pytest.raises(ValueError, match="1 training and 5 validation"):
        learn_detector(Observed([train[:1]], train[:1]), Observed([train[:5]], train[:5]), 0.99)


def test_wide_statistics_are_projected_and_what_is_left_counts():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(200, 10)) @ rng.normal(size=(10, 300)) + 0.01 * rng.normal(size=(200, 300))
    found = Distance.fit(train, standardised=True)
    assert found.axes_SK.shape == (300, 128)
    beside = train + rng.normal(size=(200, 300))  # not along any axis of the training
    assert np.median(found(beside)) > found(train).max()


def test_a_file_and_back(tmp_path):
    file = tmp_path / "out_of_distribution.safetensors"
    val = Observed(*(getattr(observed(20, seed=1), name) for name in ("layers", "inputs_NS")), np.full((20, 2), 9))
    found = learn_detector(observed(50), val, 0.95, "ab12")
    found.write(file)
    again = Detector.read(file)
    assert (again.inputs_place, again.quantile, again.n_train, again.n_val, again.weights) == (
        found.inputs_place, 0.95, 50, 20, "ab12",
    )  # fmt: skip
    new = observed(5, seed=3)
    assert (again.score(new.layers, new.inputs_NS) == found.score(new.layers, new.inputs_NS)).all()
    assert {name: values.shape for name, values in again.known.items()} == {
        "score": (20,), "inputs": (20, 4), "sizes": (20, 2),
    }  # fmt: skip
    for content in (b"", b"not a file of tensors", file.read_bytes()[:100]):
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            Detector.read(tmp_path / "bad.safetensors")


def old_kind(path: Path, weights: str, width: int = 3) -> None:
    """As medsoft 0.1 wrote it."""
    about = {"format": "1", "threshold": "2.0", "quantile": "0.99", "n_train": "9", "n_val": "5", "weights": weights}
    path.write_bytes(save({"mean": np.ones(width), "whitening": np.eye(width)}, about))


def test_the_file_of_the_first_version_is_read_and_says_so(tmp_path):
    old_kind(tmp_path / "familiar.safetensors", "ab")
    found = Detector.read(tmp_path / "familiar.safetensors")
    assert found.score([np.array([[1.0, 1.0, 5.0]])]).tolist() == [2.0]
    assert "of the old kind" in found.note


@pytest.mark.parametrize(("backbone", "options", "layers"), [
    ("vit_seqnorm_tiny_patch16_224", {"patch_size": 8, "depth": 2, "embed_dim": 16, "num_heads": 2}, [16, 16]),
    ("resnet10t", {}, [64, 128, 256, 512]),
    ("efficientnet_lite0", {}, [1280]),
])  # fmt: skip
def test_layers_are_blocks_stages_or_the_last(backbone, options, layers):
    from medsoft.classifiers.image import Classifier
    from medsoft.specs import DataSpec

    model = Classifier(DataSpec(BINARY, 3, (32, 32), np.ones(2)), backbone, options).eval()
    batch = {"image": torch.randn(2, 3, 32, 32)}
    with torch.no_grad():
        logits, found = model.logits_and_layers(batch)
        torch.testing.assert_close(logits, model.logits(batch))
    assert [tuple(one.shape) for one in found] == [(2, width) for width in layers]
    if model.layers:
        assert not any(module._forward_hooks for module in model.modules()), "hooks are taken away"


def test_a_shift_in_any_layer_counts():
    train, val, new = ([correlated(n, seed=s), correlated(n, 5, seed=s + 50)] for n, s in ((200, 0), (99, 1), (40, 2)))
    inputs = [correlated(n, 4, seed=s) for n, s in ((200, 3), (99, 4), (40, 5))]
    found = learn_detector(Observed(train, inputs[0]), Observed(val, inputs[1]), 0.99)
    for index in (0, 1):
        moved = [one + 60 * (k == index) for k, one in enumerate(new)]
        assert (found.score(moved, inputs[2]) > 1).all()
    assert (found.score(new, inputs[2]) > 1).mean() < 0.2


@pytest.mark.parametrize("shape", [(3, 40, 48), (1, 40, 48), (1, 12, 14, 10), (3, 12, 14, 1)])
def test_statistics_of_pixels_and_voxels_tell_what_they_are_named_for(shape):
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(4, *shape)).astype(np.float32))
    names = statistic_names(shape[0])

    def of(batch: torch.Tensor) -> pd.DataFrame:
        return pd.DataFrame(pixel_statistics(batch).numpy(), columns=names)

    plain = of(image)
    assert np.isfinite(plain).all(axis=None)
    pd.testing.assert_frame_equal(of(image[:2]), plain[:2], rtol=1e-5)
    smooth = image.clone()
    for axis in (2, 3):
        smooth = (smooth + smooth.roll(1, axis)) / 2
    assert (of(smooth)["detail at 1 px"] < plain["detail at 1 px"]).all()
    mean = "mean" if shape[0] == 1 else "mean of channel 1"
    assert of(image + 1)[mean].to_numpy() == pytest.approx(plain[mean].to_numpy() + 1, abs=1e-4)
    bordered = image.clone()
    bordered[:, :, :8] = -9
    assert (of(bordered)["share of the darkest value"] > plain["share of the darkest value"]).all()
    if shape[0] == 3:
        grey = image.mean(dim=1, keepdim=True).expand_as(image)
        assert (of(grey)["colourfulness"] < 1e-3).all()
        assert (plain["colourfulness"] > 0.1).all()


def test_statistics_of_bags_are_those_of_all_tiles_however_they_come():
    bag = torch.from_numpy(correlated(50).astype(np.float32))
    whole = bag_statistics([bag])
    torch.testing.assert_close(bag_statistics(bag.split(7)), whole)
    torch.testing.assert_close(whole[1:7], bag.mean(0))
    torch.testing.assert_close(whole[7:], bag.std(0, correction=0))
    assert len(bag_statistic_names(6)) == len(whole)


# ---- a table as a whole


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 200))
def test_a_table_like_the_training_is_hardly_ever_said_to_differ(seed, n):
    found = learn_detector(observed(100, seed=seed), observed(60, seed=seed + 1), 0.99)
    new = observed(n, seed=seed + 2)
    shift = shift_of(found, list("abcd"), [[found.score(new.layers, new.inputs_NS), new.inputs_NS]])
    assert not shift.differs


def test_another_table_is_said_to_differ_and_in_what():
    val = Observed([correlated(60, seed=1)], correlated(60, 4, seed=101), np.full((60, 2), [340, 512]))
    found = learn_detector(observed(100), val, 0.99)
    new = observed(50, seed=3)
    inputs = new.inputs_NS.copy()
    inputs[:, 2] += 300
    parts = [[found.score(new.layers, inputs)[k], inputs[k], np.full((25, 2), [960, 999])] for k in
             (slice(25), slice(25, 50))]  # fmt: skip
    shift = shift_of(found, ["a", "b", "sharpness", "d"], parts)
    assert shift.too_many
    assert (shift.n, shift.n_beyond) == (50, 50)
    assert {"sharpness", "width of the stored image"} <= {one.name for one in shift.differences}
    (warning,) = say("predict", [shift], "image").warnings
    assert "50 of 50 lie beyond the limit" in warning
    assert "(p < 0.001)" in warning
    assert say("fit", [shift], "image") is None
    assert shift_of(None, [], []) is None
    # Of a few samples nothing is certain.
    few = shift_of(found, ["a", "b", "sharpness", "d"], [[column[:1] for column in parts[0]]])
    assert not few.differences


def test_counts_beyond_the_limit_are_held_against_the_validation_part_that_set_it():
    found = learn_detector(observed(100), observed(60, seed=1), 0.99)
    scores = np.where(np.arange(100) < 6, 2.0, 0.0)
    inputs = found.known["inputs"][np.arange(100) % 60]
    shift = shift_of(found, list("abcd"), [[scores, inputs]])
    over = int((found.known["score"] > 1).sum())
    from scipy.stats import beta, binom

    grid = (np.arange(20_000) + 0.5) / 20_000  # the count's distribution, by adding up over the unknown share
    expected = (binom.sf(5, 100, grid) * beta.pdf(grid, over + 1, 60 - over)).mean()
    assert shift.p_beyond == pytest.approx(expected, rel=1e-3)


@pytest.fixture(scope="module")
def run(tmp_path_factory, table) -> Path:
    from medsoft.cli.main import main

    out = tmp_path_factory.mktemp("fit") / "run"
    words = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY]
    assert main(["fit", *words, "--trainer.max_epochs=3", "--ood_quantile=0.9", f"--out={out}"]) == 0
    return out


def predictions(folder: Path) -> pd.DataFrame:
    frame = read_predictions(folder / "predictions.csv")[0]
    return frame.assign(ood_score=frame["ood_score"].astype(float), abstain=frame["abstain"].astype(int))


def test_a_run_keeps_what_its_data_are_like(run):
    kept = Detector.read(run / "out_of_distribution.safetensors")
    frame = predictions(run)
    val = frame[frame["split"] == "val"]
    assert (kept.quantile, kept.n_val) == (0.9, len(val))
    assert kept.n_train == (pd.read_csv(run / "split.csv")["split"] == "train").sum()
    np.testing.assert_allclose(sorted(val["ood_score"]), sorted(kept.known["score"]), rtol=1e-4, atol=1e-4)
    assert kept.known["sizes"].tolist() == [[40, 48]] * len(val)
    assert (frame["abstain"] == (frame["ood_score"] > 1)).all()


def striped(table: Path, n: int) -> None:
    """Make the first n images of a table something else, and larger."""
    for path in sorted((table.parent / "images").iterdir())[:n]:
        stripes = np.zeros((60, 80, 3), np.uint8)
        stripes[::4] = (255, 0, 255)
        stripes[:, ::4] = (0, 255, 0)
        stripes += np.uint8(int(path.stem[2:]))  # each its own picture
        Image.fromarray(stripes).save(path)


def test_predict_abstains_from_what_is_unlike_the_training_data(tmp_path, medsoft, run):
    table = write_images(tmp_path / "new", 6)
    striped(table, 3)
    out = tmp_path / "out"
    assert medsoft("predict", "--checkpoint", run, f"--data.table={table}", f"--out={out}")[0] == 0
    frame = predictions(out)
    assert frame["abstain"][:3].tolist() == [1, 1, 1]
    assert frame["abstain"][3:].sum() <= 1
    # The same with views: the score is that of the picture as it is.
    again = ["--transforms.flips=both", "--tta=4", f"--out={tmp_path / 'views'}"]
    assert medsoft("predict", "--checkpoint", run, f"--data.table={table}", *again)[0] == 0
    np.testing.assert_array_equal(predictions(tmp_path / "views")["ood_score"], frame["ood_score"])
    # Two members: the mean of their scores.
    members = ["--checkpoint", run, copied(run, tmp_path / "copy"), f"--data.table={table}"]
    assert medsoft("predict", *members, f"--out={tmp_path / 'both'}")[0] == 0
    np.testing.assert_allclose(predictions(tmp_path / "both")["ood_score"], frame["ood_score"])


def test_a_table_that_differs_as_a_whole_is_said_before_any_figure(tmp_path, medsoft, run, table):
    other = write_images(tmp_path / "new", 24)
    striped(other, 24)
    words = ["--data.label=label", "--data.classes=[dark, light]", "--report=true", "--examples=0"]
    for name, members in {"one": [run], "two": [run, copied(run, tmp_path / "copy")]}.items():
        out = tmp_path / name
        call = ["predict", "--checkpoint", *members, f"--data.table={other}", *words, f"--out={out}"]
        code, told, err = medsoft(*call)
        assert code == 0, err
        assert "WARNING: these images as a whole are unlike the training data of" in told
        assert told.index("WARNING: these images") < told.index("Metrics")
        assert "24 of 24 lie beyond the limit" in told
        facts = json.loads((out / "facts.json").read_text())["out_of_distribution"]
        assert (facts["abstained"], facts["differs"]) == (24, True)
        assert "these images as a whole are unlike" in (out / "report.html").read_text()
    # The run's own images are not said to differ.
    code, told, err = medsoft("test", "--checkpoint", run, f"--out={tmp_path / 'own'}")
    assert code == 0, err
    assert "as a whole" not in told
    assert json.loads((tmp_path / "own" / "facts.json").read_text())["out_of_distribution"]["differs"] is False


def test_a_run_of_the_first_version_keeps_its_score_and_says_which_it_is(tmp_path, medsoft, run, table):
    old = copied(run, tmp_path / "old")
    kept = Detector.read(old / "out_of_distribution.safetensors")
    (old / "out_of_distribution.safetensors").unlink()
    old_kind(old / "familiar.safetensors", kept.weights, width=32)
    code, told, err = medsoft("test", "--checkpoint", old, f"--out={tmp_path / 'out'}")
    assert code == 0, err
    assert told.count("out-of-distribution score of this run is of the old kind") == 1
    assert (predictions(tmp_path / "out")["ood_score"] > 0).all()
    assert medsoft("export", old, "--out", tmp_path / "bundle")[0] == 0
    assert (tmp_path / "bundle" / "familiar.safetensors").is_file()


def copied(run: Path, to: Path) -> Path:
    import shutil

    shutil.copytree(run, to)
    return to


def test_a_detector_belongs_to_its_weights(tmp_path, medsoft, run, table):
    """Another checkpoint of the same run has other features: no score rather than a wrong one."""
    last = run / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    state["state_dict"]["head.bias"] += 1
    other = copied(run, tmp_path / "copy") / "checkpoints" / "last.ckpt"
    torch.save(state, other)
    assert medsoft("test", "--checkpoint", other, f"--out={tmp_path / 'out'}")[0] == 0
    assert "ood_score" not in read_predictions(tmp_path / "out" / "predictions.csv")[0]
    (tmp_path / "copy" / "out_of_distribution.safetensors").write_bytes(b"broken")
    code, _, err = medsoft("test", "--checkpoint", tmp_path / "copy", f"--out={tmp_path / 'no'}")
    assert code == 2
    assert "out_of_distribution.safetensors: cannot be read" in err


def test_it_can_be_left_out_and_has_a_range(tmp_path, fit):
    fit("--trainer.max_epochs=1", "--ood_quantile=null", f"--out={tmp_path / 'run'}")
    assert not (tmp_path / "run" / "out_of_distribution.safetensors").exists()
    assert "abstain" not in read_predictions(tmp_path / "run" / "predictions.csv")[0]
    _, err = fit("--ood_quantile=1.2", f"--out={tmp_path / 'no'}", code=2)
    assert "ood_quantile 1.2 must be between 0.5 and 1" in err


def test_bags_have_features_too(tmp_path, medsoft):
    slides = write_slides(tmp_path / "slides", n=24)
    where = [f"--data.table={slides}", f"--data.features={slides.parent / 'features'}"]
    assert medsoft("fit", *TINY_BAGS, *where, "--trainer.max_epochs=1", f"--out={tmp_path / 'run'}")[0] == 0
    kept = Detector.read(tmp_path / "run" / "out_of_distribution.safetensors")
    assert [one.mean_D.shape for one in kept.features.distances] == [(16,)]
    assert kept.known["inputs"].shape[1] == len(kept.inputs.centre_S) == 2 * 6 + 1
    assert predictions(tmp_path / "run")["ood_score"].notna().all()


# ---- what abstaining changes


def table_with_abstentions(n: int = 120, aside: int = 30) -> pd.DataFrame:
    """Answers that are right but for noise, and at random where the model abstains."""
    rng = np.random.default_rng(0)
    yes = rng.integers(2, size=n)
    logit = rng.normal(size=n) + np.where(np.arange(n) < aside, 0, 2 * (2 * yes - 1))
    p = 1 / (1 + np.exp(-logit))
    extra = {"abstain": (np.arange(n) < aside).astype(int)}
    ids = [f"s{i}" for i in range(n)]
    return make_predictions(BINARY, ids, np.stack([1 - p, p], 1), yes, split="test", extra=extra)


def test_metrics_with_and_without_what_is_set_aside(tmp_path, medsoft):
    from sklearn.metrics import roc_auc_score

    from medsoft.evaluation.tables.predictions import write_predictions

    frame = table_with_abstentions()
    part = evaluate_table(frame, BINARY, Settings(draws=200)).parts[0]
    found = part.abstention
    assert (found.n, found.n_answered, found.coverage) == (120, 90, 0.75)
    auroc = next(e for e in found.estimates if e.metric == "auroc")
    kept = frame[frame["abstain"] == 0]
    assert auroc.value_all == pytest.approx(roc_auc_score(frame["target"] == "yes", frame["p_yes"]))
    assert auroc.value == pytest.approx(roc_auc_score(kept["target"] == "yes", kept["p_yes"]))
    assert auroc.difference == pytest.approx(auroc.value - auroc.value_all)
    assert 0 < auroc.difference_low < auroc.difference < auroc.difference_high
    write_predictions(frame, tmp_path / "predictions.csv")
    words = ["--draws=50", "--figures=false", f"--out={tmp_path / 'out'}"]
    code, out, _ = medsoft("evaluate", tmp_path / "predictions.csv", *words)
    assert code == 0
    assert "30 of 120 samples are set aside (column abstain): AUROC (yes)" in out
    lines = pd.read_csv(tmp_path / "out" / "abstention.csv")
    assert set(lines["metric"]) == {"auroc", "sensitivity", "specificity", "brier"}
    assert (lines["coverage"] == 0.75).all()
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["parts"][0]["abstention"]


def test_nothing_and_everything_set_aside():
    frame = table_with_abstentions(aside=0)
    found = evaluate_table(frame, BINARY, Settings(draws=50)).parts[0].abstention
    assert found.coverage == 1
    assert all(e.difference == 0 for e in found.estimates)
    found = evaluate_table(frame.assign(abstain=1), BINARY, Settings(draws=50)).parts[0].abstention
    assert (found.n_answered, found.estimates) == (0, [])
    assert evaluate_table(frame.drop(columns="abstain"), BINARY, Settings(draws=50)).parts[0].abstention is None
    numbers = make_predictions(Task.of("regression", ()), list("abc"), [[1.0], [2.0], [9.0]], [1.0, 3.0, 3.0])
    numbers["abstain"] = [0, 0, 1]
    found = evaluate_table(numbers, Task.of("regression"), Settings(draws=50)).parts[0].abstention
    mae = next(e for e in found.estimates if e.metric == "mae")
    assert (mae.value_all, mae.value) == pytest.approx((7 / 3, 0.5))


def test_a_column_of_something_else_is_refused():
    frame = table_with_abstentions().assign(abstain="perhaps")
    with pytest.raises(InputError, match="column 'abstain' is 'perhaps' in row 's0': 0 or 1 is allowed"):
        abstained(frame)
