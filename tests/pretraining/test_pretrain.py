"""``medsoft pretrain`` from the command line to weights that other verbs take."""

import json
import re
import shutil
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from medsoft.encoders.backbone import pretrained_backbone
from medsoft.encoders.build import build_encoder
from medsoft.pretraining.images import UnlabelledImages, make_transforms
from medsoft.pretraining.options import ImageOptions
from medsoft.pretraining.views import AugmentedImages
from medsoft.training.callbacks import StopGracefully

pytestmark = pytest.mark.long

TINY = [
    "--size=32",
    "--backbone-args={patch_size: 8, depth: 1, embed_dim: 32, num_heads: 2, drop_path_rate: 0.2}",
    "--batch-size=8",
    "--max-epochs=2",
    "--warmup-epochs=0",
    "--device=cpu",
]
LITE = ["--teacher=efficientnet-lite0"]
BY_PATIENT = ["--patient=patient", "--val-fraction=0.2", "--id=key", "--path=path"]


@pytest.fixture(scope="module")
def with_split(tmp_path_factory, table):
    """A copy of the table whose last 10 rows are the test part, with a broken image among the others."""
    folder = tmp_path_factory.mktemp("split")
    shutil.copytree(table.parent / "images", folder / "images")
    frame = pd.read_csv(table, dtype=str)
    frame["split"] = ["train"] * 30 + ["test"] * 10
    frame["key"] = [f"K{row}" for row in range(40)]
    (folder / frame["path"][3]).write_bytes(b"no image")
    frame.to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, with_split):
    from medsoft.cli.main import main

    folder = tmp_path_factory.mktemp("distilled")
    out, own = folder / "run", ["--name=small", f"--folder={folder / 'weights'}", "--licence=CC0"]
    assert main(["pretrain", str(with_split), *LITE, *BY_PATIENT, *TINY, *own, f"--out={out}"]) == 3
    return out


@pytest.fixture
def by_name(distilled, monkeypatch):
    """The folder of weights that has the same weights under the name ``small``."""
    monkeypatch.setenv("MEDSOFT_WEIGHTS", str(distilled.parent / "weights"))
    return distilled.parent / "weights"


def test_a_distillation_leaves_weights_numbers_and_what_it_has_seen(distilled, with_split):
    facts = json.loads((distilled / "pretrain.json").read_text())
    assert facts["method"] == "distillation"
    assert facts["teacher"]["name"] == "efficientnet-lite0"
    assert facts["left_out"] == {"test": 10}
    assert facts["images"]["train"] + facts["images"]["val"] == 29
    assert facts["held_out"].keys() == {"val_cosine", "val_neighbours"}
    history = pd.read_csv(distilled / "metrics.csv")
    assert history["epoch"].tolist() == [1, 2]
    # What is told at the end is of the weights that are kept: those of the best epoch.
    best = history.loc[history["val_loss"].idxmin()]
    assert facts["held_out"]["val_cosine"] == pytest.approx(best["val_cosine"], abs=2e-3)
    assert pd.read_csv(distilled / "errors.csv")["reason"].str.contains("damaged|not").all()


def test_no_image_of_the_test_part_is_seen(distilled, with_split):
    seen = pd.read_csv(distilled / "backbone.seen.csv")
    rows = pd.read_csv(with_split)
    assert set(seen["id"]) == set(rows["key"][:30]) - {"K3"}
    assert seen["content"].str.fullmatch(r"[0-9a-f]{32}").all()


def test_a_patient_is_learnt_from_or_held_out_but_not_both(distilled, with_split):
    rows = pd.read_csv(with_split)
    patient = dict(zip(rows["key"], rows["patient"], strict=True))
    seen = pd.read_csv(distilled / "backbone.seen.csv")
    parts = seen.groupby(seen["id"].map(patient))["part"].nunique()
    assert (parts == 1).all()


def test_the_weights_are_those_of_the_student_and_fit_takes_them(distilled, fit):
    state = load_file(distilled / "backbone.safetensors")
    kept = torch.load(distilled / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert state.keys() == {name.removeprefix("backbone.") for name in kept if name.startswith("backbone.")}
    assert all(torch.equal(state[name], kept[f"backbone.{name}"]) for name in state)
    out, _ = fit(
        f"--model.encoder={distilled}",
        "--model.backbone_args=null",
        "--trainer.max_epochs=1",
        "--report=false",
        "--out=run",
    )
    assert "Run: run" in out


def test_the_result_is_an_encoder_by_its_name_and_by_its_folder(by_name, distilled, medsoft):
    names = ("small", str(distilled))
    encoders = [build_encoder(name, device="cpu") for name in names]
    tile = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
    features = [encoder(tile) for encoder in encoders]
    assert features[0].shape == (2, 32)
    assert np.array_equal(*features)
    assert encoders[0].tokens(tile).shape == (2, 4, 4, 32)
    image = torch.from_numpy(tile).permute(0, 3, 1, 2) / 255
    for name in names:
        backbone = pretrained_backbone(name, 3, (32, 32)).eval()
        scale = [torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std)]
        with torch.no_grad():
            found = backbone((image - scale[0]) / scale[1]).numpy()
        assert np.allclose(found, features[0], atol=1e-4)
    assert encoders[0].recipe.any_size
    assert (encoders[0].recipe.stride, encoders[0].recipe.features, encoders[0].recipe.licence) == (8, 32, "CC0")
    assert medsoft("weights", "verify", "small")[0] == 0


def test_encode_takes_the_result_by_name_and_by_folder(by_name, distilled, medsoft, table):
    for number, encoder in enumerate(("small", distilled)):
        code, said, err = medsoft("encode", table, f"--encoder={encoder}", "--device=cpu", f"--out=features{number}")
        assert code == 0, err
        assert "40 of 40 images encoded" in said


def test_ids_stay_out_of_the_folder_of_weights(by_name, distilled):
    beside = pd.read_csv(by_name / "small.seen.csv")
    assert beside.columns.tolist() == ["part", "content"]
    assert pd.read_csv(distilled / "backbone.seen.csv")["content"].tolist() == beside["content"].tolist()


def test_a_name_that_is_taken_is_refused_before_work_starts(by_name, medsoft, table):
    code, _, err = medsoft("pretrain", table, *LITE, *TINY, "--name=small", "--out=again")
    assert code == 2
    assert "already has weights 'small'; --overwrite true" in err
    code, _, err = medsoft("pretrain", table, *LITE, *TINY, "--name=UNI", "--overwrite", "--out=again")
    assert code == 2
    assert "is a recipe of medsoft" in err


def test_a_pretraining_teaches_the_next_one(by_name, medsoft, table):
    code, said, err = medsoft("pretrain", table, "--teacher=small", *TINY, "--max-epochs=1", "--out=next")
    assert code == 0, err
    assert "cosine with small" in said


def test_a_run_on_any_kind_of_image_teaches(tmp_path, medsoft, fit, with_split):
    words = [
        "--data.positive=light",
        "--use.transforms=fundus",
        "--trainer.max_epochs=1",
        "--report=false",
        "--data.on_error=skip",
    ]
    fit(*words, "--out=teacher", on=with_split, code=3)
    own = ["--transforms=fundus", "--max-epochs=1", "--exclude=val,test", "--out=student"]
    code, said, err = medsoft("pretrain", with_split, "--teacher=teacher", *TINY, *own)
    assert code == 3, err
    assert "cosine with vit_seqnorm_tiny_patch16_224" in said


def test_images_are_shown_as_in_a_configuration_of_fit():
    options = ImageOptions(config="fundus", transforms_args={"jitter": 0.3}).resolved
    assert (options.transforms, options.px, options.config) == ("fundus", 224, None)
    assert make_transforms(options).jitter == 0.3
    assert ImageOptions(config="fundus", size=64).resolved.px == 64
    assert ImageOptions().resolved.transforms == "plain"


def test_fit_warns_where_test_images_were_seen(distilled, fit, with_split):
    """The split of the fit is its own, so that some of its test images were learnt from."""
    words = [
        f"--model.encoder={distilled}",
        *(
            "--model.backbone_args=null",
            "--data.positive=light",
            "--trainer.max_epochs=1",
            "--report=false",
            "--data.on_error=skip",
        ),
    ]
    table = with_split.with_name("all.csv")
    pd.read_csv(with_split).drop(columns="split").to_csv(table, index=False)
    out, _ = fit(*words, "--out=all", on=table, code=3)
    assert re.search(r"WARNING: \d of \d test images were seen in the pretraining", out)
    out, _ = fit(*words, "--out=own", on=with_split, code=3)
    assert "seen in the pretraining" not in out


def test_stopped_and_resumed_it_ends_with_the_same_weights(tmp_path, medsoft, monkeypatch, distilled, with_split):
    def ask(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 0):
            self._ask(signal.SIGTERM)
        original(self, trainer, pl_module, outputs, batch, batch_idx)

    original = StopGracefully.on_train_batch_end
    monkeypatch.setattr(StopGracefully, "on_train_batch_end", ask)
    out = tmp_path / "run"
    got, _, err = medsoft("pretrain", with_split, *LITE, *BY_PATIENT, *TINY, f"--out={out}")
    assert got == 143, err
    assert "medsoft pretrain --resume run" in err
    assert not (out / "backbone.safetensors").exists()
    monkeypatch.setattr(StopGracefully, "on_train_batch_end", original)
    assert medsoft("pretrain", "--resume", out)[0] == 3
    a, b = (load_file(run / "backbone.safetensors") for run in (out, distilled))
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_resume_takes_no_other_options_and_no_other_images(tmp_path, medsoft, distilled, with_split):
    code, _, err = medsoft("pretrain", "--resume", distilled, "--lr=1e-4")
    assert code == 2
    assert "--lr: --resume goes on with the options" in err
    code, _, err = medsoft("pretrain", "--resume", tmp_path)
    assert code == 2
    assert "no folder of a pretraining" in err
    run, table = tmp_path / "run", tmp_path / "set" / "labels.csv"
    shutil.copytree(distilled, run)
    shutil.copytree(with_split.parent, table.parent)
    pd.read_csv(table, dtype=str)[2:].to_csv(table, index=False)
    options = (run / "pretrain.yaml").read_text().replace(str(with_split), str(table)).replace("name: small", "name: a")
    (run / "pretrain.yaml").write_text(options)
    code, _, err = medsoft("pretrain", "--resume", run)
    assert code == 2
    assert "not those that this pretraining began with" in err


def test_without_a_teacher_a_folder_of_images_is_learnt_from(tmp_path, medsoft, table):
    pytest.importorskip("lightly", reason="the optional package for pretraining without a teacher is missing")
    out = tmp_path / "run"
    code, said, err = medsoft(
        "pretrain",
        table.parent / "images",
        *TINY,
        "--local-views=2",
        "--prototypes=32",
        "--momentum=0.9",
        f"--out={out}",
    )
    assert code == 0, err
    assert "there is no split: all images are used" in said
    facts = json.loads((out / "pretrain.json").read_text())
    assert facts["teacher"] is None
    assert facts["held_out"]["val_spread"] > 1.5
    kept = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    state = load_file(out / "backbone.safetensors")
    assert all(torch.equal(state[name], kept[f"slow_backbone.{name}"]) for name in state)
    assert not all(torch.equal(state[name], kept[f"backbone.{name}"]) for name in state)


def test_without_a_teacher_and_without_lightly_it_says_what_to_install(medsoft, table, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "lightly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightly", None)
    code, _, err = medsoft("pretrain", table, *TINY, "--out=run")
    assert code == 2
    assert "pip install 'medsoft[pretrain]'" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-size=64"], "fewer than a batch of 64"),
        (["--teacher=uni"], "--teacher uni needs its weights: --teacher-weights"),
        (["--teacher=efficientnet-lite9"], "did you mean efficientnet-lite0"),
        (["--backbone=vit_seqnorm_tny"], "did you mean vit_seqnorm_tiny"),
        (["--backbone-args={img_size: 64}"], "img_size follows from --size"),
        (["--backbone-args={depth: 1, global_pool: avg}"], "loses what seqnorm attention computes"),
        (["--transforms=fundsu"], "did you mean fundus"),
        (["--transforms-args={jiter: 0.2}"], "plain does not take these settings"),
        (["--config=fundus", "--transforms=plain"], "is of fundus, not plain"),
        (["--transforms-args={size: 3}"], "size is an option of its own"),
        (["--exclude=train"], "'train' cannot be left out"),
        (["--patient=person"], "person"),
        (["--name=eyes"], "which folder of weights"),
        (["--folder=weights"], "give --name too"),
        (["--val-fraction=2"], "between 0.01 and 0.9"),
    ],
)
def test_a_wrong_call_is_one_message_before_work_starts(medsoft, table, tmp_path, options, said):
    code, _, err = medsoft("pretrain", table, *LITE, *TINY, "--out=run", *options)
    assert code == 2
    assert said in err
    assert err.startswith("medsoft: error: ")
    assert not (tmp_path / "run").exists()


def test_no_table_and_no_weights_for_the_teacher_of_a_name(medsoft):
    assert "missing: TABLE" in medsoft("pretrain", *LITE)[2]
    assert "name it with --teacher" in medsoft("pretrain", "t.csv", "--teacher-weights=x.safetensors")[2]
    assert "no such table" in medsoft("pretrain", "t.csv", *LITE)[2]


def test_a_table_of_volumes_is_refused(medsoft, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"x")
    (tmp_path / "t.csv").write_text("path\na.nii.gz\n")
    code, _, err = medsoft("pretrain", "t.csv", *LITE, *TINY)
    assert code == 2
    assert "learns from images" in err


def test_where_no_image_can_be_read_it_says_why(medsoft, tmp_path):
    for i in range(12):
        (tmp_path / f"{i}.png").write_bytes(b"no image %d" % i)
    code, _, err = medsoft("pretrain", tmp_path, *LITE, *TINY, "--out=run")
    assert code == 2
    assert "no image can be read; the first" in err
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_ends_the_training(medsoft, table, monkeypatch):
    from medsoft.pretraining.distil import Distillation

    monkeypatch.setattr(Distillation, "loss", lambda self, batch: self.pooled_head.bias.sum() * float("nan"))
    code, _, err = medsoft("pretrain", table, *LITE, *TINY, "--out=run")
    assert code == 1
    assert "the loss is not a number. Lower --lr" in err


def test_grey_images_are_learnt_from_with_a_teacher_for_colours(medsoft, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(16):
        Image.fromarray(rng.integers(0, 255, (36, 36), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    line = ["--transforms=chest_xray", "--transforms-args={jitter: 0.1}", "--max-epochs=1", "--token-weight=0.5"]
    code, said, err = medsoft("pretrain", tmp_path, *LITE, *TINY, *line, "--seed=3", "--out=run")
    assert code == 0, err
    assert "three equal channels" in said


def test_a_held_out_copy_of_a_learnt_image_is_left_out(tmp_path, table):
    frame = pd.read_csv(table, dtype=str)
    frame["split"] = ["train"] * 30 + ["val"] * 10
    shutil.copytree(table.parent / "images", tmp_path / "images")
    # The same pixels in another file.
    Image.open(tmp_path / frame["path"][0]).save(tmp_path / frame["path"][35], compress_level=1)
    frame.to_csv(tmp_path / "t.csv", index=False)
    options = ImageOptions(table=str(tmp_path / "t.csv"), size=32)
    data = UnlabelledImages(options, make_transforms(options), 8, 0, 0, AugmentedImages)
    data.load()
    assert data.errors["reason"].str.contains("cannot be held out").tolist() == [True]
    assert (len(data.part("train")), len(data.part("val"))) == (30, 9)
