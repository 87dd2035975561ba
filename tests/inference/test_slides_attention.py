"""Slides whose model gives attention in place of contributions, or neither."""

import csv
import json

import numpy as np
import pytest
import torch

from medsoft.classifiers.slide import load_slide_classifier
from medsoft.data.features.open import open_bag
from tests.builders.bags import write_bag
from tests.builders.slides import write_checkpoint


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    pytest.importorskip("torchmil", reason="the models are in an optional package: pip install 'medsoft[mil]'")
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("features")
    for name, tiles in (("a", 12), ("b", 9)):
        write_bag(folder / f"{name}.h5", rng.normal(size=(tiles, 6)).astype(np.float32), unreadable=(2,))
    return [folder / "a.h5", folder / "b.h5"]


def test_heatmaps_are_of_attention_and_say_so(medsoft, features, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "m.ckpt", features[0], aggregator="torchmil:PatchGCN")
    code, _, err = medsoft("slides", "predict", *features, "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert code == 0, err
    model = load_slide_classifier(checkpoint).aggregator
    for path in features:
        name = path.stem
        about = json.loads((tmp_path / "out" / "heatmaps" / f"{name}.json").read_text())
        assert about["quantity"] == "attention of torchmil:PatchGCN"
        assert about["sum_of_contributions"] is None
        assert about["parts"] == {}
        with (tmp_path / "out" / "heatmaps" / f"{name}.csv").open(newline="") as file:
            found = [float(row["attention"]) for row in csv.DictReader(file)]
        with open_bag(path) as bag:
            x, places = (torch.from_numpy(values[bag.good_N])[None] for values in (bag.read(), bag.coords_N2_px0))
        np.testing.assert_allclose(found, model.attention_of_tiles(x, places), rtol=1e-4)
        with torch.no_grad():
            logits = model(x, None, places)[0]
        assert about["logit"] == pytest.approx(float(logits[1] - logits[0]), rel=1e-4)


def test_a_model_that_gives_neither_has_no_heatmaps(medsoft, features, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "m.ckpt", features[0], aggregator="torchmil:DTFDMIL")
    words = ["slides", "predict", *features, "--checkpoint", checkpoint, "--out", tmp_path / "out"]
    code, _, err = medsoft(*words)
    assert code == 0, err
    assert not (tmp_path / "out" / "heatmaps").exists()
    code, _, err = medsoft(*words, "--heatmap", "true")
    assert code == 2
    assert "no heatmaps: torchmil:DTFDMIL gives no contributions or attention of its tiles" in err
