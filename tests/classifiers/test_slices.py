"""Slices of volumes under a pretrained encoder of pictures: shown as its pictures were, in training and ever after."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from medsoft.classifiers.slices import SliceClassifier
from medsoft.encoders.recipes import Recipe, own_recipe
from medsoft.errors import InputError
from medsoft.models.build import build_network
from medsoft.specs import DataSpec
from medsoft.storage.hashing import sha256
from medsoft.storage.weights_folder import VARIABLE, Weights, WeightsFolder
from medsoft.task import Task
from tests.builders.volumes import TINY_VOLUME, write_volumes

SIZES = {"depth": 1, "embed_dim": 16, "num_heads": 2, "patch_size": 8}
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
AGGREGATOR = {"dim": 16, "num_heads": 2, "depth": 1}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network("vit_tiny_patch16_224", 3, 16, SIZES)


@pytest.fixture
def mine(tmp_path, monkeypatch) -> WeightsFolder:
    """A folder of weights with an encoder of pictures, ``mine``, and weights of unknown scaling, ``unknown``."""
    path = tmp_path / "weights"
    path.mkdir()
    monkeypatch.setenv(VARIABLE, str(path))
    recipe = Recipe(
        "mine", "vit_tiny_patch16_224", tuple(MEAN), tuple(STD), 16, 16, "cls", arguments=SIZES,
        images=("photograph",), checked="own", stride=8,
    )  # fmt: skip
    found = WeightsFolder(path)
    for name, own in (("mine", own_recipe(recipe)), ("unknown", None)):
        file = path / f"{name}.safetensors"
        save_file(network().state_dict(), file)
        facts = (file.name, sha256(file), file.stat().st_size)
        found.add(name, Weights(*facts, "MIT", "here", name if own else "", own))
    return found


def model(channels: int = 1, **options: Any) -> SliceClassifier:
    torch.manual_seed(0)
    spec = DataSpec(Task.of("binary", ("small", "large")), channels, (16, 16, 4), np.array([4, 4]))
    return SliceClassifier(spec, encoder_args=SIZES, aggregator_args=AGGREGATOR, **options).eval()


@pytest.mark.parametrize(
    ("channels", "neighbours", "mean", "std"),
    [(1, 0, [0.2], [0.5]), (1, 1, MEAN, STD), (3, 0, MEAN, STD), (2, 1, MEAN * 2, STD * 2)],
)
def test_slices_are_scaled_as_the_encoders_pictures_were(channels, neighbours, mean, std):
    """A model that scales gives of slices what one that does not gives of scaled slices."""
    scales = model(channels, neighbours=neighbours, mean=MEAN, std=STD)
    plain = model(channels, neighbours=neighbours)
    plain.load_state_dict(scales.state_dict())
    volume = torch.rand(2, channels, 16, 16, 4, generator=torch.Generator().manual_seed(0))
    unscaled = plain.slices

    def scaled(volume_BCXYZ: Tensor) -> Tensor:
        return (unscaled(volume_BCXYZ) - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    with torch.no_grad():
        assert not torch.allclose(scales(volume), plain(volume), atol=1e-4)
        plain.slices = scaled  # type: ignore[method-assign]
        torch.testing.assert_close(scales(volume), plain(volume))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": MEAN}, "go together"),
        ({"mean": MEAN, "std": [1.0]}, "as many numbers each"),
        ({"mean": MEAN, "std": [0.0, 1.0, 1.0]}, "deviations above 0"),
        ({"pretrained": "mine", "encoder": "vit_tiny_patch16_224"}, r"needs model\.mean and model\.std"),
    ],
)
def test_a_scaling_that_is_none_is_refused(mine, options, message):
    with pytest.raises(InputError, match=message):
        model(neighbours=1, **options)


def completed(*typed: str, intensity: str = "auto", **given: Any) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    asked = {"encoder": "vit_tiny_patch16_224", "encoder_args": {"depth": 4}, "pretrained": None} | given
    options, transforms = {"mean": None, "std": None} | asked, {"intensity": intensity, "window": (-160.0, 240.0)}
    notes = SliceClassifier.complete(options, transforms, typed)
    return options, transforms, notes


def test_an_encoder_by_its_name_brings_network_weights_and_scaling(mine):
    options, transforms, notes = completed(encoder="mine")
    assert (options["encoder"], options["encoder_args"]) == ("vit_tiny_patch16_224", SIZES)
    assert (options["pretrained"], options["mean"], options["std"]) == ("mine", MEAN, STD)
    assert transforms["intensity"] == "picture"
    assert "mean 0.1, 0.2, 0.3" in notes[0]
    again = completed(**options, intensity="picture")
    assert again[0] == options, "a run's configuration, read again"
    typed = completed("model.encoder_args.drop_path_rate", encoder="mine", encoder_args={"drop_path_rate": 0.1})
    assert typed[0]["encoder_args"] == SIZES | {"drop_path_rate": 0.1}


def test_what_would_show_an_encoder_other_values_is_refused(mine):
    assert completed()[1]["intensity"] == "auto", "from scratch, nothing is changed"
    with pytest.raises(InputError, match=r"transforms\.intensity zscore: an encoder for pictures takes values between"):
        completed(pretrained="mine", intensity="zscore")
    with pytest.raises(InputError, match=r"model\.mean .*: mine was trained with \[0\.1, 0\.2, 0\.3\]"):
        completed(pretrained="mine", mean=[0.5] * 3, std=STD)
    with pytest.raises(InputError, match=r"unknown: no recipe says how .* model\.mean and model\.std"):
        completed(pretrained="unknown")
    assert completed(pretrained="unknown", mean=[0.5], std=[0.5])[0]["mean"] == [0.5]
    with pytest.raises(InputError, match="medicalnet-resnet10: is for volumes, not pictures"):
        completed(pretrained="medicalnet-resnet10")


def test_a_fit_its_predictions_and_its_bundle_scale_alike(medsoft, mine, tmp_path):
    table = write_volumes(tmp_path / "set", 8)
    words = [word for word in TINY_VOLUME if "backbone" not in word and "intensity" not in word]
    words += [f"--data.table={table}", "--data.classes=[small, large]", "--data.patient=patient", "--report=false"]
    words += ["--trainer.max_epochs=1", "--model.aggregator_args={dim: 16, num_heads: 2, depth: 1}"]
    run = tmp_path / "run"
    code, out, err = medsoft("fit", "--config=volume_slices", *words, "--model.encoder=mine", f"--out={run}")
    assert code == 0, err
    assert "Begins with mine: images are scaled with its mean 0.1, 0.2, 0.3" in out
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["model"]["mean"], config["model"]["std"]) == (MEAN, STD)
    assert config["transforms"]["intensity"] == "picture"
    for file in mine.path.iterdir():  # what follows needs no weights
        file.unlink()
    predict = ["predict", f"--data.table={table}", "--report=false"]
    code, _, err = medsoft(*predict, f"--checkpoint={run}", f"--out={tmp_path / 'of_run'}")
    assert code == 0, err
    bundle = tmp_path / "bundle"
    code, _, err = medsoft("export", run, "--out", bundle)
    assert code == 0, err
    code, _, err = medsoft(*predict, f"--bundle={bundle}", f"--out={tmp_path / 'of_bundle'}")
    assert code == 0, err
    found = [pd.read_csv(tmp_path / name / "predictions.csv", index_col="id") for name in ("of_run", "of_bundle")]
    of_run, of_bundle = (frame[["p_small", "p_large"]].sort_index() for frame in found)  # a run's are in its parts
    pd.testing.assert_frame_equal(of_run, of_bundle, rtol=1e-5)  # in batches of other samples
