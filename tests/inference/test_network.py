"""Networks for other runtimes: one graph answers as the model does, at every size that it says it takes."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from medsoft.classifiers.image import Classifier
from medsoft.classifiers.slide import SlideClassifier
from medsoft.data.images.read import read_image
from medsoft.data.transforms.plain import Plain
from medsoft.errors import RunError
from medsoft.inference.export import network
from medsoft.inference.export.network import TOLERANCE
from medsoft.specs import BagSpec, Covariates, DataSpec
from medsoft.task import Task
from tests.builders.survival import simulate

BINARY = Task.of("binary", ("healthy", "ill"))
GRADES = Task.of("ordinal", ("0", "1", "2", "3"))
TINY = {"patch_size": 8, "depth": 1, "embed_dim": 16, "num_heads": 2}
TRANSFORMER = {"dim": 16, "num_heads": 2, "depth": 2, "coordinates": True}


@pytest.fixture(autouse=True)
def _onnx():
    pytest.importorskip("onnxruntime", reason="the optional packages for ONNX are missing")


def shaken(model):
    """Weights that answer differently to different inputs."""
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.3 * torch.randn_like(weight)
    return model.eval()


def of_images(backbone: str, task: Task = BINARY, **options: object) -> Classifier:
    return shaken(Classifier(DataSpec(task, 3, (32, 32), np.ones(len(task.classes))), backbone, options))


AGE_AND_SEX = Covariates(("age", "sex"), ((60.0, 10.0), (0.5, 0.5)))


def of_volumes_and_covariates() -> Classifier:
    spec = DataSpec(BINARY, 1, (16, 16, 8), np.ones(2), None, AGE_AND_SEX)
    return shaken(Classifier(spec, "vit_seqnorm_tiny_patch16_224", {**TINY, "spatial_dims": 3}))


def of_bags(name: str, covariates: Covariates | None = None, **options: object) -> SlideClassifier:
    spec = BagSpec(BINARY, np.ones(2), 12, True, {}, None, covariates=covariates)
    return shaken(SlideClassifier(spec, name, options))


MODELS = {
    "a transformer, grades": (lambda: of_images("vit_seqnorm_tiny_patch16_224", GRADES, **TINY), "onnx"),
    "a network of any size": (lambda: of_images("resnet10t"), "torch-export"),
    "landmarks of bags": (
        lambda: of_bags("transformer", attention="soft", **TRANSFORMER | {"depth": 1}),
        "torch-export",
    ),
    "volumes with covariates": (of_volumes_and_covariates, "torch-export"),
    "bags": (lambda: of_bags("transformer", **TRANSFORMER), "onnx"),
    "gated attention": (lambda: of_bags("abmil", dim=16, attention_dim=8), "torch-export"),
    "a mean and covariates": (lambda: of_bags("mean", AGE_AND_SEX, dim=16), "torch-export"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_graph_answers_as_the_model_at_every_size(tmp_path, name):
    make, format = MODELS[name]
    model = make()
    found = network._export(tmp_path / network.FILES[format], format, model, network.fixed_network(model))
    assert all(value <= TOLERANCE[output] / 10 for output, value in found["largest_difference"].items())
    axes = next(iter(found["inputs"].values()))
    expected = {"any size": ["batch", 3, "32*height", "32*width"], "bags": ["batch", "tiles", 12]}
    of_bag = isinstance(model, SlideClassifier)
    kind = "any size" if "any size" in name else "bags" if of_bag else ""
    shape = [model.spec.channels, *model.spec.image_size] if not of_bag else []
    assert axes == expected.get(kind, ["batch", *shape])
    assert len({json.dumps(sizes) for sizes in found["compared"]}) >= 3
    # The model itself keeps the form that is quickest for each length.
    assert all(module.form == "auto" for module in model.modules() if hasattr(module, "form"))


def of_survival(head: str) -> SlideClassifier:
    """With the baseline hazard, or the intervals, of simulated events; its risks are spread over several units."""
    _, hazard, targets = simulate(200)
    times = np.sort(targets[targets[:, 1] == 1, 0])
    task = Task.from_json({"kind": "survival", "classes": (), "times": (100, 400), "unit": "days", "logits": 1})
    spec = BagSpec(task, np.ones(0), 12, True, {}, None, event_times=times)
    intervals = None if head == "cox" else 4
    model = shaken(SlideClassifier(spec, "abmil", {"dim": 16, "attention_dim": 8}, survival=head, intervals=intervals))
    torch.nn.init.normal_(model.aggregator.head.weight)
    logits = torch.from_numpy(hazard)[:, None].float().repeat(1, model.objective.outputs)
    model.objective.learn(logits, torch.from_numpy(targets))
    return model


@pytest.mark.parametrize("head", ["cox", "discrete", "logistic"])
def test_onnx_runtime_gives_risk_and_survival_as_torch_does(tmp_path, head):
    import onnxruntime

    model = of_survival(head)
    found = network._export(tmp_path / "model.onnx", "onnx", model, network.fixed_network(model))
    assert list(found["outputs"]) == ["logits", "prediction"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    risks = []
    for bags, tiles in ((1, 1), (3, 40), (2, 700)):
        features = 2 * torch.randn(bags, tiles, 12)
        with torch.no_grad():
            logits = model.aggregator(features)
            expected = model.objective.probabilities(logits)
        own_logits, own = session.run(None, {"features": features.numpy()})
        np.testing.assert_allclose(own_logits, logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)
        assert own.shape == (bags, 3)
        assert (own[:, 1] >= own[:, 2]).all(), "who survives 400 days has survived 100"
        risks += own[:, 0].tolist()
    assert max(risks) - min(risks) > 0.1, "the answers differ"


def test_a_graph_with_other_answers_is_refused(tmp_path, monkeypatch):
    model = of_bags("mean", dim=16)
    other = of_bags("mean", dim=16)
    other.aggregator.head.bias.data += 0.01
    with pytest.raises(RunError, match="differ from the model's"):
        network._export(tmp_path / "model.pt2", "torch-export", model, network.fixed_network(other))


def test_a_bundles_network_gives_the_predictions_of_the_run(medsoft, run, images, tmp_path):
    import onnxruntime

    code, _, err = medsoft("export", run, "--out", tmp_path / "bundle", "--format", "onnx,torch-export")
    assert code == 0, err
    about = json.loads((tmp_path / "bundle/bundle.json").read_text())
    assert [one["file"] for one in about["networks"]] == ["model.onnx", "model.pt2"]
    assert about["networks"][0]["inputs"] == {"image": ["batch", 3, 32, 32]}
    assert "model.onnx" in (tmp_path / "bundle" / "README.md").read_text()
    assert about["networks"][0]["script"] == "run_onnx.py"
    assert about["preprocessing"]["recipe"] == "Plain"
    assert about["outputs"][-1]["columns"] == ["p_dark", "p_light"]
    for text in (json.dumps(about), (tmp_path / "bundle" / "README.md").read_text()):
        assert "augmentation" not in text
        assert "rotation" not in text

    known = pd.read_csv(run / "predictions.csv").set_index("id")
    config = yaml.safe_load((tmp_path / "bundle/config.yaml").read_text())
    transforms = Plain(**config["transforms"])
    files = [images.parent / "images" / f"{id}.png" for id in known.index]
    batch = np.stack([transforms.finish(transforms.prepare(read_image(str(file)))) for file in files])
    session = onnxruntime.InferenceSession(tmp_path / "bundle/model.onnx", providers=["CPUExecutionProvider"])
    _, p = session.run(None, {"image": batch})
    np.testing.assert_allclose(p[:, 1], known["p_light"], atol=1e-5)
    words = [sys.executable, "-I", tmp_path / "bundle" / "run_onnx.py", *files]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(pd.read_csv(io.StringIO(done.stdout))["p_light"], known["p_light"], atol=1e-3)
    program = torch.export.load(Path(tmp_path / "bundle/model.pt2")).module()
    np.testing.assert_allclose(program(torch.from_numpy(batch))[1][:, 1].detach(), known["p_light"], atol=1e-5)

    words = [f"--bundle={tmp_path / 'bundle'}", f"--data.table={images}", "--trainer.accelerator=cpu"]
    assert medsoft("predict", *words, f"--out={tmp_path / 'out'}")[0] == 0
