"""From Python as from the command line: what is loaded predicts, explains and embeds, and a fit leaves a run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import medsoft
from medsoft.api import Model, Run
from medsoft.errors import InputError
from medsoft.evaluation.tables.predictions import read_predictions
from tests.builders.bags import TINY_BAGS, write_slides

pytestmark = pytest.mark.long

SMALL = {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory, table) -> Run:
    return medsoft.fit(
        out=tmp_path_factory.mktemp("api") / "run",
        data__table=table,
        data__label="label",
        data__classes=["dark", "light"],
        data__patient="patient",
        transforms__size=32,
        model__backbone_args=SMALL,
        model__warmup_epochs=0,
        trainer__accelerator="cpu",
        trainer__max_epochs=1,
        figures=False,
        report=False,
        shortcuts=False,
    )


@pytest.fixture(scope="module")
def model(run) -> Model:
    return medsoft.load(run.path)


@pytest.fixture
def files(table) -> list[Path]:
    return sorted((table.parent / "images").iterdir())[:3]


def test_importing_loads_nothing_heavy():
    code = "import sys, medsoft; medsoft.__version__; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "pandas", "sklearn", "lightning"} & set(loaded)
    assert {"load", "fit", "evaluate", "open_slide", "open_bag", "read_volume"} <= set(dir(medsoft))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = medsoft.lode


def test_a_fit_leaves_the_run_that_the_command_line_leaves(run):
    assert run.epochs["epoch"].tolist() == [1]
    assert run.metrics["test"]["n"] == (run.predictions["split"] == "test").sum()
    assert run.errors.empty
    assert "Run: " in run.log


def test_files_arrays_and_tables_get_what_the_command_line_gives(run, model, files, table, medsoft, tmp_path):
    words = ["predict", f"--checkpoint={run.path}", f"--data.table={table}", f"--out={tmp_path / 'all'}"]
    assert medsoft(*words)[0] == 0
    known = read_predictions(tmp_path / "all" / "predictions.csv")[0].set_index("id")["p_light"]
    of_files = model.predict(files)
    np.testing.assert_allclose(of_files["p_light"], known.loc[of_files["id"]], atol=1e-7)
    arrays = [np.asarray(Image.open(file)) for file in files]
    np.testing.assert_allclose(model.predict(arrays)["p_light"], of_files["p_light"], atol=1e-7)
    frame = pd.read_csv(table).head(3)
    frame["path"] = [str(table.parent / path) for path in frame["path"]]
    kept = model.predict(frame, out=tmp_path / "kept", figures=False, report=False)
    np.testing.assert_allclose(kept["p_light"], known.loc[kept["id"]], atol=1e-7)
    assert kept["patient"].tolist() == frame["patient"].tolist()
    assert (tmp_path / "kept" / "predictions.csv").is_file()


def test_embeddings_are_what_the_last_layer_reads(run, model, files):
    embedded = model.embed(files)
    assert embedded.shape == (3, 32)
    state = torch.load(run.path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    logits = torch.tensor(embedded.to_numpy()) @ state["head.weight"].T + state["head.bias"]
    p = logits.softmax(dim=1)[:, 1] if logits.shape[1] == 2 else logits[:, 0].sigmoid()
    np.testing.assert_allclose(p, model.predict(files)["p_light"], atol=1e-5)


def test_explanations_of_the_two_answers_of_an_image_are_opposite(model, files):
    light, dark = (model.explain(files[:1], answer)[0] for answer in ("light", "dark"))
    assert (light.answer, light.contributions.shape) == ("light", (4, 4))
    np.testing.assert_allclose(light.contributions, -dark.contributions, atol=1e-6)
    predicted = model.predict(files[:1]).iloc[0]
    assert model.explain(files[:1])[0].answer == ("light" if predicted["p_light"] > 0.5 else "dark")


def test_bags_are_predicted_embedded_and_explained(tmp_path):
    slides = write_slides(tmp_path / "set", n=12)
    from medsoft.cli.main import main

    where = [f"--data.table={slides}", f"--data.features={slides.parent / 'features'}", f"--out={tmp_path / 'run'}"]
    assert main(["fit", *TINY_BAGS, *where, "--trainer.max_epochs=1"]) == 0
    model = medsoft.load(tmp_path / "run")
    files = sorted((slides.parent / "features").iterdir())[:2]
    predicted = model.predict(files)
    assert model.embed(files).shape[0] == 2
    for file, explained in zip(files, model.explain(files, "ill"), strict=True):
        with medsoft.open_bag(file) as bag:
            assert explained.contributions.shape == (int(bag.good_N.sum()),)
    # An array says nothing of the encoder that made it.
    with pytest.raises(InputError, match="encoder not known, not 'resnet18'"):
        model.predict([np.zeros((4, 6))])
    assert set(predicted["id"]) == {file.stem for file in files}


def test_predictions_are_evaluated_with_and_without_a_folder(run, model, tmp_path):
    found = medsoft.evaluate(run.predictions, draws=20)
    assert {"val", "test"} == set(found["split"])
    again = medsoft.evaluate(run.path, tmp_path / "evaluation", draws=20, figures=False, report=False)
    pd.testing.assert_frame_equal(found, again)
    assert (tmp_path / "evaluation" / "evaluation.json").is_file()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "there is no sample"),
        (["nowhere.png"], "nowhere.png: no such file"),
        (np.zeros((8, 8)), "images are uint8 or uint16"),
        (np.zeros((8, 8, 4), np.uint8), r"images are \(H, W\)"),
        ([np.zeros((8, 8), np.uint8), "a.png"], "files and arrays together"),
    ],
)
def test_what_is_no_sample_is_one_message(model, inputs, message):
    with pytest.raises(InputError, match=message):
        model.predict(inputs)


def test_wrong_options_and_folders_are_the_messages_of_the_command_line(tmp_path, model, files):
    with pytest.raises(InputError, match=r"the nearest is data\.table"):
        medsoft.fit("fundus", out=tmp_path / "run", data__tabel="x.csv")
    with pytest.raises(InputError, match="no folder of a run"):
        medsoft.load(tmp_path)
    with pytest.raises(InputError, match="the model knows dark, light"):
        model.explain(files[:1], "grey")
