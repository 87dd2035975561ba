"""From encoded images to models and back: ``--data.features`` of ``medsoft encode``, and predictions from pictures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.builders.image_features import write_encoded_images, write_encoded_volumes
from tests.builders.images import write_images

pytestmark = pytest.mark.long

QUIET = ["--figures=false", "--report=false", "--trainer.accelerator=cpu"]
BARE = ["--ood_quantile=null", "--shortcuts=false"]
PROBE = ["--config=probe", "--data.patient=patient", *QUIET, *BARE]
TINY = "{attention: seqnorm, dim: 24, num_heads: 2, depth: 2, coordinates: true, standardise: true}"
TOKENS = [
    "--config=tokens",
    "--data.patient=patient",
    f"--model.aggregator_args={TINY}",
    "--trainer.max_epochs=2",
    *QUIET,
]


def where(table: Path, features: Path, out: Path) -> list[str]:
    return [f"--data.table={table}", f"--data.features={features}", f"--out={out}"]


# ---- features and tables


def test_a_probe_takes_the_folder_that_encode_left_and_its_views(tmp_path, medsoft):
    table = write_encoded_images(tmp_path / "set", views=2)
    code, out, err = medsoft(
        "fit", *PROBE, "--data.positive=ill", *where(table, tmp_path / "set" / "encoded", tmp_path / "run")
    )
    assert code == 0, err
    assert "5 standardised features" in out  # of the encoder's own vector, not of tokens
    assert "views of them" in out


@pytest.mark.parametrize("write", [write_encoded_images, write_encoded_volumes], ids=["pixels", "mm"])
def test_tokens_are_learnt_at_their_places_and_answer_again_from_the_checkpoint(tmp_path, medsoft, write):
    table = write(tmp_path / "set", n=36, views=1)
    words = where(table, tmp_path / "set" / "encoded", tmp_path / "run")
    code, _, err = medsoft("fit", *TOKENS, *QUIET, "--data.positive=ill", "--model.lr=1e-2", *words)
    assert code == 0, err
    again = [f"--checkpoint={tmp_path / 'run'}", f"--out={tmp_path / 'again'}", *QUIET]
    code, _, err = medsoft("test", *again)
    assert code == 0, err
    first = pd.read_csv(tmp_path / "run" / "predictions.csv").query("split == 'test'").reset_index(drop=True)
    pd.testing.assert_frame_equal(first, pd.read_csv(tmp_path / "again" / "predictions.csv"))


def test_rows_without_features_are_named(tmp_path, medsoft):
    table = write_encoded_images(tmp_path / "set")
    (tmp_path / "set" / "encoded" / "features" / "image 03 ä.h5").unlink()
    code, _, err = medsoft(
        "fit", *PROBE, "--data.positive=ill", *where(table, tmp_path / "set" / "encoded", tmp_path / "run")
    )
    assert code == 2
    assert "missing features" in err
    assert "row 4" in err
    assert "medsoft encode" in err


def test_an_image_that_changed_after_encoding_is_recognised(tmp_path, medsoft):
    table = write_encoded_images(tmp_path / "set")
    Image.fromarray(np.full((12, 16, 3), 7, np.uint8)).save(tmp_path / "set" / "images" / "image 05 ä.png")
    code, _, err = medsoft(
        "fit", *PROBE, "--data.positive=ill", *where(table, tmp_path / "set" / "encoded", tmp_path / "run")
    )
    assert code == 2
    assert "changed since encoding" in err
    assert "row 6" in err
    assert "encode it again: medsoft encode" in err


def test_features_of_two_scalings_are_not_mixed(tmp_path, medsoft):
    from dataclasses import replace

    from medsoft.data.features.open import open_bag
    from tests.builders.image_features import OF_IMAGES, write_image_features

    table = write_encoded_images(tmp_path / "set")
    file = tmp_path / "set" / "encoded" / "features" / "image 02 ä.h5"
    with open_bag(file) as bag:
        own = bag.facts
    imagenet = {**OF_IMAGES.encoder_settings, "mean": [0.485, 0.456, 0.406]}
    write_image_features(file, replace(own, encoder_settings=imagenet, views={}))
    code, _, err = medsoft(
        "fit", *PROBE, "--data.positive=ill", *where(table, tmp_path / "set" / "encoded", tmp_path / "run")
    )
    assert code == 2
    assert "different features" in err
    assert "0.485" in err


# ---- predictions from pictures


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A probe on images that ``medsoft encode`` has seen, of a folder beside new images."""
    from medsoft.cli.main import main

    folder = tmp_path_factory.mktemp("trained")
    table = write_images(folder / "set", 24, per_patient=2)
    encoder = ["--encoder=efficientnet-lite0", "--size=64", f"--out={folder / 'encoded'}"]
    assert main(["encode", str(table), *encoder]) == 0
    words = [*PROBE, "--data.positive=light", *where(table, folder / "encoded", folder / "run")]
    assert main(["fit", *words]) == 0
    return folder


def test_new_pictures_are_encoded_as_those_of_the_training(tmp_path, medsoft, trained):
    table = write_images(tmp_path / "new", 6)
    code, out, err = medsoft(
        "predict", f"--checkpoint={trained / 'run'}", f"--data.table={table}", f"--out={tmp_path / 'out'}", *QUIET
    )
    assert code == 0, err
    assert "encoding 6 images with efficientnet-lite0" in out
    assert "encoded. It is kept, for --data.features" in out
    assert len(list((tmp_path / "out" / "encoded" / "features").glob("*.h5"))) == 6
    found = pd.read_csv(tmp_path / "out" / "predictions.csv")
    by_hand = tmp_path / "by_hand"
    assert medsoft("encode", table, "--encoder=efficientnet-lite0", "--size=64", f"--out={by_hand}")[0] == 0
    words = [f"--checkpoint={trained / 'run'}", *where(table, by_hand, tmp_path / "again"), *QUIET]
    code, out, err = medsoft("predict", *words)
    assert code == 0, err
    assert "encoding" not in out
    pd.testing.assert_frame_equal(found, pd.read_csv(tmp_path / "again" / "predictions.csv"))


def test_a_bundle_predicts_from_pictures_too(tmp_path, medsoft, trained):
    code, out, _ = medsoft("export", trained / "run", f"--out={tmp_path / 'bundle'}")
    assert code == 0
    assert "The weights of efficientnet-lite0 come with the package" in out
    code, _, err = medsoft("export", trained / "run", "--encoder=file.pt", f"--out={tmp_path / 'other'}")
    assert (code, "come with the package" in err) == (2, True)
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "efficientnet-lite0, frozen: " in card
    assert "Weights at the start" not in card
    model = json.loads((trained / "run" / "facts.json").read_text())["model"]
    assert model["encoder_of_features"] == "efficientnet-lite0"
    text = (tmp_path / "bundle" / "bundle.json").read_text()
    assert "efficientnet-lite0" in text
    assert str(trained) not in text  # no place on this machine
    table = write_images(tmp_path / "new", 4)
    words = [f"--bundle={tmp_path / 'bundle'}", f"--data.table={table}", f"--out={tmp_path / 'out'}", *QUIET]
    code, _, err = medsoft("predict", *words)
    assert code == 0, err
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 4


def test_without_the_encoder_the_message_says_what_to_do(tmp_path, medsoft, trained, monkeypatch):
    from medsoft.errors import InputError

    def gone(settings):
        def build(**options):
            raise InputError("--encoder efficientnet-lite0 needs its weights")

        return build

    monkeypatch.setattr("medsoft.workflows.encode_first.encoding_builder", gone)
    table = write_images(tmp_path / "new", 4)
    words = [f"--checkpoint={trained / 'run'}", f"--data.table={table}", f"--out={tmp_path / 'out'}", *QUIET]
    code, _, err = medsoft("predict", *words)
    assert code == 2
    assert "cannot be made here: --encoder efficientnet-lite0 needs its weights" in err
    assert "medsoft encode" in err


def test_an_ensemble_encodes_the_pictures_once(tmp_path, medsoft, trained):
    words = where(trained / "set" / "labels.csv", trained / "encoded", tmp_path / "run")
    assert medsoft("fit", *PROBE, "--data.positive=light", "--model.head=knn", *words)[0] == 0
    table = write_images(tmp_path / "new", 4)
    both = ["--checkpoint", f"{trained / 'run'}", f"{tmp_path / 'run'}"]
    code, out, err = medsoft("predict", *both, f"--data.table={table}", f"--out={tmp_path / 'out'}", *QUIET)
    assert code == 0, err
    assert out.count("encoding 4 images") == 1
    assert "2 models" in out
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 4


def test_a_stopped_prediction_goes_on_with_what_was_encoded(tmp_path, medsoft, trained):
    table = write_images(tmp_path / "new", 4)
    shutil.copytree(trained / "encoded", tmp_path / "out" / "encoded")
    words = [f"--checkpoint={trained / 'run'}", f"--data.table={table}", f"--out={tmp_path / 'out'}", *QUIET]
    code, _, err = medsoft("predict", *words)
    assert code == 0, err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    words = [f"--checkpoint={trained / 'run'}", f"--data.table={table}", f"--out={tmp_path / 'other'}", *QUIET]
    code, _, err = medsoft("predict", *words)
    assert code == 2
    assert "holds files already" in err
