"""``medsoft fit --config histo`` and what follows it: learning, resuming, refusing, and a checkpoint that says all."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from medsoft.classifiers.slide import SlideClassifier, load_slide_classifier
from medsoft.data.features.open import open_bag
from medsoft.data.features.provenance import EncoderIdentity
from medsoft.errors import InputError
from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.models.aggregators import stream_logits
from medsoft.parsing.configurations import find_configuration
from medsoft.specs import BagSpec
from medsoft.task import Task
from medsoft.training.callbacks import StopGracefully
from tests.builders.bags import FACTS, SETTINGS, TINY_BAGS, write_bag, write_slides

pytestmark = pytest.mark.long

# Everything random that there is: subsampling, dropped features, dropout, moving averages.
RANDOM = ["--data.tile_fraction=0.7", "--data.feature_dropout=0.2", "--ema_decay=0.9", "--seed_everything=3"]


def words(table: Path, out: Path, *more: str) -> list[str]:
    where = [f"--data.table={table}", f"--data.features={table.parent / 'features'}", f"--out={out}"]
    return [*TINY_BAGS, *where, *more]


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    return write_slides(tmp_path_factory.mktemp("slides"), n=40, per_patient=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory, slides) -> Path:
    """Three epochs with all randomness, never stopped."""
    from medsoft.cli.main import main

    out = tmp_path_factory.mktemp("fit") / "run"
    options = ["--trainer.max_epochs=3", "--model.aggregator_args.coordinates=true", *RANDOM]
    assert main(["fit", *words(slides, out, *options)]) == 0
    return out


def predictions(folder: Path) -> pd.DataFrame:
    return read_predictions(folder / "predictions.csv")[0]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return {**state["state_dict"], **{f"current.{key}": value for key, value in state["current_model_state"].items()}}


# ---- learning


def test_a_run_on_slides_leaves_what_a_run_on_images_leaves(run, slides):
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {"config.yaml", "split.csv", "versions.json", "metrics.csv", "metrics.json", "predictions.csv"} <= files
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["features"] == str(slides.parent / "features")
    assert "transforms" not in config
    frame = predictions(run)
    split = pd.read_csv(run / "split.csv").set_index("id")["split"]
    assert sorted(frame["id"]) == sorted(split.index[split != "train"])
    patients = pd.read_csv(slides).assign(id=lambda rows: rows["path"].map(lambda path: Path(path).stem))
    parts = patients.assign(split=lambda rows: rows["id"].map(split))
    assert (parts.groupby("patient")["split"].nunique() == 1).all()


@pytest.mark.parametrize(
    "model",
    [
        ["--model.aggregator=abmil", "--model.aggregator_args={dim: 16, attention_dim: 16}"],
        ["--model.aggregator=max", "--model.aggregator_args={dim: 16}"],
        [],
    ],
)
def test_it_learns_from_one_tile_in_a_bag(tmp_path, medsoft, model):
    slides = write_slides(tmp_path / "set", n=80)
    more = [*model, "--model.lr=1e-2", "--trainer.max_epochs=12", "--data.batch_size=8"]
    more += ["--trainer.accumulate_grad_batches=1"]
    code, out, err = medsoft("fit", *words(slides, tmp_path / "run", *more))
    assert code == 0, (out, err)
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert scores["test"]["overall"]["auroc"] > 0.85


def test_a_model_of_torchmil_is_trained_and_predicts_from_its_checkpoint(tmp_path, medsoft, slides):
    pytest.importorskip("torchmil", reason="the models are in an optional package: pip install 'medsoft[mil]'")
    where = [f"--data.table={slides}", f"--data.features={slides.parent / 'features'}"]
    more = ["--config=histo", "--data.positive=ill", "--trainer.max_epochs=1", "--model.aggregator=torchmil:CLAM_SB"]
    code, _, err = medsoft("fit", *more, *where, "--model.aggregator_args.dim=8", f"--out={tmp_path / 'run'}")
    assert code == 0, err
    options = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["aggregator_args"]
    assert options == {"dim": 8, "drop": 0.1}  # of the shipped ones, what this model takes
    words = [f"--checkpoint={tmp_path / 'run'}", *where, f"--out={tmp_path / 'again'}"]
    code, _, err = medsoft("predict", *words)
    assert code == 0, err
    first, again = (predictions(tmp_path / name).set_index("id")["p_ill"] for name in ("run", "again"))
    np.testing.assert_allclose(again[first.index], first, rtol=1e-5)


def test_the_shipped_configuration_runs_as_it_is(tmp_path, medsoft, slides):
    where = [f"--data.table={slides}", f"--data.features={slides.parent / 'features'}", f"--out={tmp_path / 'run'}"]
    more = ["--config=histo", "--data.positive=ill", "--trainer.max_epochs=1", "--figures=true", "--report=true"]
    code, _, err = medsoft("fit", *more, *where)
    assert code == 0, err
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    shipped = yaml.safe_load(find_configuration("histo").read_text())
    assert config["model"]["aggregator_args"] == shipped["model"]["aggregator_args"]
    assert (tmp_path / "run" / "figures" / "roc_val.png").is_file()


def test_one_bag_a_patient_is_one_prediction_a_patient(tmp_path, medsoft, slides):
    code, _, err = medsoft("fit", *words(slides, tmp_path / "run", "--data.group=patient", "--trainer.max_epochs=1"))
    assert code == 0, err
    frame = predictions(tmp_path / "run")
    assert (frame["id"] == frame["patient"]).all()
    assert frame["id"].is_unique
    other = pd.read_csv(slides).assign(path=lambda rows: str(slides.parent) + "/" + rows["path"]).head(6)
    other.to_csv(tmp_path / "other.csv", index=False)
    options = ["--data.group=slide", f"--data.table={tmp_path / 'other.csv'}", f"--out={tmp_path / 'apart'}"]
    code, said, err = medsoft("predict", f"--checkpoint={tmp_path / 'run'}", *options, "--report=false")
    assert code == 0, err
    assert "WARNING: the model was trained on bags of all slides of a patient (data.group patient), and here a" in said
    assert len(predictions(tmp_path / "apart")) == 6


def test_left_out_slides_are_listed(tmp_path, medsoft, slides):
    shutil.copytree(slides.parent, tmp_path / "set")
    table = tmp_path / "set" / "slides.csv"
    (table.parent / "features" / "slide 05 ä.h5").unlink()
    more = ["--data.on_error=skip", "--trainer.max_epochs=1"]
    code, _, _ = medsoft("fit", *words(table, tmp_path / "run", *more))
    assert code == 3
    errors = pd.read_csv(tmp_path / "run" / "errors.csv")
    assert errors["path"].str.endswith("slide 05 ä.h5").all()
    assert len(errors) == 1


# ---- resuming


@pytest.mark.parametrize(("epoch", "batch"), [(0, 3), (1, 8), (2, 0)])
def test_stopped_and_resumed_it_ends_with_the_same_weights(tmp_path, medsoft, monkeypatch, slides, run, epoch, batch):
    def ask_at(self, trainer, pl_module, outputs, batch_, batch_idx):
        if (trainer.current_epoch, batch_idx) == (epoch, batch):
            self._ask(signal.SIGTERM)
        original(self, trainer, pl_module, outputs, batch_, batch_idx)

    original = StopGracefully.on_train_batch_end
    monkeypatch.setattr(StopGracefully, "on_train_batch_end", ask_at)
    out = tmp_path / "run"
    options = ["--trainer.max_epochs=3", "--model.aggregator_args.coordinates=true", *RANDOM]
    assert medsoft("fit", *words(slides, out, *options, "--data.cache=none"))[0] == 143
    monkeypatch.setattr(StopGracefully, "on_train_batch_end", original)
    assert medsoft("fit", "--resume", out)[0] == 0
    resumed, undisturbed = weights(out), weights(run)
    assert resumed.keys() == undisturbed.keys()
    assert all(torch.equal(resumed[key], undisturbed[key]) for key in resumed)
    assert (out / "predictions.csv").read_bytes() == (run / "predictions.csv").read_bytes()


# ---- a checkpoint that says all


def test_a_checkpoint_says_how_slides_become_features(run):
    known = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["medsoft"]
    assert known["task"] == {"kind": "binary", "classes": ("healthy", "ill")}
    assert known["aggregator"]["name"] == "transformer"
    assert known["aggregator"]["num_features"] == 6
    assert known["aggregator"]["options"]["coordinates"] is True
    slides = known["slides"]
    assert (slides["encoder"], slides["encoder_sha256"], slides["encoder_init"]) == ("resnet18", "ab" * 32, "weights")
    assert slides["tile_settings"] == SETTINGS
    assert (slides["mpp"], slides["tile_px"]) == (0.5, 224)


def test_a_checkpoint_of_version_0_1_says_no_precision_and_is_read(tmp_path, run):
    file = run / "checkpoints" / "best.ckpt"
    state = torch.load(file, weights_only=True)
    del state["medsoft"]["features"]["precision"]
    torch.save(state, tmp_path / "old.ckpt")
    old, new = (EncoderIdentity(**load_slide_classifier(one).features) for one in (tmp_path / "old.ckpt", file))
    assert old == new
    del state["medsoft"]["features"]["settings"]
    torch.save(state, tmp_path / "damaged.ckpt")
    with pytest.raises(InputError, match="which features it was trained on"):
        load_slide_classifier(tmp_path / "damaged.ckpt")


def test_the_checkpoint_alone_gives_the_predictions_again(tmp_path, run, slides):
    file = shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "elsewhere.ckpt")
    loaded = load_slide_classifier(Path(file))
    assert not loaded.model.training
    assert (loaded.task.kind, loaded.task.classes) == ("binary", ("healthy", "ill"))
    assert loaded.slides["encoder"] == "resnet18"
    for row in predictions(run).itertuples():
        with open_bag(slides.parent / "features" / f"{row.id}.h5") as bag:

            def chunks(bag=bag):
                return ((torch.from_numpy(x), torch.from_numpy(places)) for x, places in bag.chunks(2))

            p = loaded.probabilities(stream_logits(loaded.aggregator, chunks))
        assert p[0, 1].item() == pytest.approx(row.p_ill, abs=1e-5)
    again = load_slide_classifier(run)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), loaded.model.parameters(), strict=True))


def test_what_is_no_slide_classifier_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        load_slide_classifier(tmp_path / "none.ckpt")
    torch.save(
        {"state_dict": {}, "medsoft": {"task": {"kind": "binary", "classes": ["a", "b"]}, "backbone": "resnet18"}},
        tmp_path / "image.ckpt",
    )
    with pytest.raises(InputError, match="holds no slide classifier"):
        load_slide_classifier(tmp_path / "image.ckpt")


def test_predict_and_test_give_the_fit_s_own_answers(tmp_path, medsoft, run, slides):
    assert medsoft("test", f"--checkpoint={run}", f"--out={tmp_path / 'test'}")[0] == 0
    fitted = predictions(run).query("split == 'test'").set_index("id")["p_ill"]
    tested = predictions(tmp_path / "test").set_index("id")["p_ill"]
    assert tested.equals(fitted)
    new = tmp_path / "new.csv"
    pd.read_csv(slides).drop(columns=["label", "grade"]).to_csv(new, index=False)
    code, _, err = medsoft("predict", f"--checkpoint={run}", f"--data.table={new}", f"--out={tmp_path / 'new'}")
    assert code == 0, err
    predicted = predictions(tmp_path / "new").set_index("id")["p_ill"]
    assert len(predicted) == 40
    assert predicted[fitted.index].equals(fitted)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"encoder_sha256": "cd" * 32}, "cdcdcdcdcdcd"),
        ({"encoder": "uni"}, "encoder 'uni', not 'resnet18'"),
        ({"tile_settings": SETTINGS | {"mpp": 1.0}}, "mpp"),
    ],
)
def test_features_of_another_encoder_are_refused(tmp_path, medsoft, run, other, told):
    write_bag(tmp_path / "features" / "a.h5", np.ones((3, 6)), replace(FACTS, **other))
    (tmp_path / "new.csv").write_text("path,patient\na.svs,P1\n")
    code, _, err = medsoft(
        "predict", f"--checkpoint={run}", f"--data.table={tmp_path / 'new.csv'}", f"--data.features={tmp_path}/features"
    )
    assert code == 2
    assert "not what the checkpoint was trained on" in err
    assert told in err


def test_features_of_another_width_are_refused(tmp_path, medsoft, run):
    write_bag(tmp_path / "features" / "a.h5", np.ones((3, 7)))
    (tmp_path / "new.csv").write_text("path,patient\na.svs,P1\n")
    code, _, err = medsoft(
        "predict", f"--checkpoint={run}", f"--data.table={tmp_path / 'new.csv'}", f"--data.features={tmp_path}/features"
    )
    assert code == 2
    assert "7 features, not 6" in err


def test_a_model_of_images_is_not_asked_about_slides(tmp_path, medsoft, slides):
    torch.save({"state_dict": {}, "medsoft": {"task": {"kind": "binary", "classes": ["healthy", "ill"]}}}, "i.ckpt")
    code, _, err = medsoft("test", *words(slides, tmp_path / "out", "--checkpoint=i.ckpt"))
    assert code == 2
    assert "classifier of images, not of bags" in err


# ---- options


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--transforms.size=224", "unknown option --transforms.size"),
        ("--use.transforms=medsoft.data.transforms.fundus.Fundus", "takes no transforms"),
        ("--model.aggregator=clam", "unknown aggregator 'clam'"),
        ("--model.aggregator=torchmil:clam", "'clam' is not a model of torchmil. Models: torchmil:ABMIL"),
        ("--model.aggregator_args.width=3", "width"),
        ("--data.group=patient --model.aggregator_args.coordinates=true", "pools several slides"),
        ("--data.features=nowhere", "no such folder of feature files"),
        ("--data.tile_fracton=0.5", "the nearest is data.tile_fraction"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path, medsoft, slides, option, message):
    code, _, err = medsoft("fit", *words(slides, tmp_path / "run", *option.split(" ")))
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_data_show_says_that_bags_have_no_pictures(medsoft, slides):
    code, _, err = medsoft("data", "show", slides, "--config=histo")
    assert code == 2
    assert "slides tile draws pictures" in err


@pytest.mark.parametrize(("kind", "classes"), [("binary", 2), ("multiclass", 3), ("ordinal", 4), ("multilabel", 3)])
def test_every_task_has_an_aggregator_of_its_width(kind, classes):
    task = Task.of(kind, tuple("abcd"[:classes]))
    counts = np.ones((classes, 2) if kind == "multilabel" else classes)
    model = SlideClassifier(BagSpec(task, counts, 5, False, {}, None), "mean", {"dim": None}, class_weights="balanced")
    batch = {"features": torch.randn(2, 4, 5), "mask": torch.ones(2, 4, dtype=torch.bool)}
    p = model.objective.probabilities(model.logits(batch))
    assert p.shape == (2, classes)


def test_vectors_and_the_class_token_are_not_decayed():
    spec = BagSpec(Task.of("binary", ("a", "b")), np.ones(2), 5, False, {}, None)
    model = SlideClassifier(spec, aggregator_args={"dim": 16, "num_heads": 2})
    decayed, free = model.parameter_groups()
    names = {id(parameter): name for name, parameter in model.aggregator.named_parameters()}
    assert sorted(map(id, decayed["params"] + free["params"])) == sorted(names)
    assert decayed["weight_decay"] == 0.05
    assert free["weight_decay"] == 0
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert "cls_token" in {names[id(parameter)] for parameter in free["params"]}


# ---- bags in pieces


@pytest.mark.parametrize("attention", ["seqnorm", "softmax"])
def test_long_bags_are_predicted_in_pieces_with_the_same_answers(tmp_path, medsoft, slides, monkeypatch, attention):
    args = f"--model.aggregator_args={{attention: {attention}, dim: 16, num_heads: 2, depth: 2, coordinates: true}}"
    more = ["--trainer.max_epochs=1", "--data.cache=none", args]
    assert medsoft("fit", *words(slides, tmp_path / "run", *more))[0] == 0
    where = [f"--checkpoint={tmp_path / 'run'}", "--trainer.accelerator=cpu"]
    assert medsoft("predict", *where, f"--out={tmp_path / 'whole'}")[0] == 0

    def whole(bag):
        raise AssertionError(f"{bag.path} was held in memory as a whole")

    monkeypatch.setattr("medsoft.data.datasets.bag_dataset.read_good", whole)
    for cache in ("none", "memory"):
        options = ["--data.stream_above=0", f"--data.cache={cache}", f"--out={tmp_path / cache}"]
        code, _, err = medsoft("predict", *where, *options)
        assert code == 0, err
        one, other = (predictions(tmp_path / name) for name in ("whole", cache))
        assert one["id"].tolist() == other["id"].tolist()
        np.testing.assert_allclose(one["p_ill"], other["p_ill"], atol=1e-6)


def test_the_validation_of_a_training_may_come_in_pieces(tmp_path, medsoft, slides):
    for name, more in (("whole", []), ("pieces", ["--data.stream_above=0"])):
        code, _, err = medsoft("fit", *words(slides, tmp_path / name, "--trainer.max_epochs=2", *more))
        assert code == 0, err
    one, other = (predictions(tmp_path / name) for name in ("whole", "pieces"))
    np.testing.assert_allclose(one["p_ill"], other["p_ill"], atol=1e-6)
    weights_of = [torch.load(tmp_path / n / "checkpoints/last.ckpt", weights_only=True) for n in ("whole", "pieces")]
    for key, value in weights_of[0]["state_dict"].items():
        assert torch.equal(value, weights_of[1]["state_dict"][key])  # the training itself takes whole bags
