"""The benchmark of slide aggregators: what is measured and written. Never how long it took."""

import csv
import json
import sys

import pytest
import torch

from medsoft.benchmark.aggregators import NAMES, OverData

OURS = ["mean", "softmax", "seqnorm"]
SMALL = ["--features=24", "--dim=32", "--num_heads=2", "--sample_seconds=0", "--threads=1", "--device=cpu"]


@pytest.fixture
def benchmark(medsoft, tmp_path):
    def run(*words: str) -> list[dict[str, str]]:
        code, _, err = medsoft("benchmark", "aggregators", *SMALL, f"--out={tmp_path}", *words)
        assert code == 0, err
        with (tmp_path / "aggregators.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    return run


def test_each_aggregator_is_measured_in_both_passes(benchmark, tmp_path):
    rows = benchmark("--tiles=32", f"--names={','.join(OURS)}")
    measured = {(row["name"], row["pass"]) for row in rows if float(row["median_ms"]) > 0}
    assert measured == {(name, way) for name in OURS for way in ("forward", "forward+backward")}
    assert all(row["rounds"] == "7" and float(row["extra_bytes"]) > 0 for row in rows)
    assert all(float(row["to_softmax"]) == 1 for row in rows if row["name"] == "softmax")
    assert (tmp_path / "aggregators.png").is_file()
    record = json.loads((tmp_path / "aggregators.json").read_text())
    assert record["options"]["features"] == 24


def test_models_of_torchmil_are_measured_beside_ours(benchmark):
    pytest.importorskip("torchmil", reason="the models are in an optional package: pip install 'medsoft[mil]'")
    rows = benchmark("--tiles=20", "--names=mean,torchmil:ABMIL")
    names = {row["name"] for row in rows if float(row["median_ms"]) > 0}
    assert names == {"mean", "torchmil:ABMIL"}


def test_a_model_of_torchmil_that_is_not_installed_is_refused_first(medsoft, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmil", None)
    code, _, err = medsoft("benchmark", "aggregators", *SMALL, f"--out={tmp_path}", "--names=torchmil:ABMIL")
    assert code == 2
    assert "--names: torchmil:ABMIL: torchmil is not installed: pip install 'medsoft[mil]'" in err


def test_the_memory_of_training_grows_with_the_bag_and_that_of_the_mean_less(benchmark):
    rows = benchmark("--tiles=512,1024", "--names=seqnorm,mean")
    extra = {
        (row["name"], row["tiles"]): float(row["extra_bytes"]) for row in rows if row["pass"] == "forward+backward"
    }
    assert 1.8 < extra["seqnorm", "1024"] / extra["seqnorm", "512"] < 2.2
    assert extra["mean", "1024"] < extra["seqnorm", "1024"] / 4


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("torchmil:")])
def test_features_are_data_and_need_no_gradient(name):
    module = OverData(name, features=8, dim=16, num_heads=2, depth=2)
    x = torch.randn(1, 10, 8, requires_grad=True)
    module(x).sum().backward()
    assert x.grad is None
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--names=clam", "--names: unknown 'clam'"),
        ("--num_heads=5", "--dim 32 is not divisible by --num_heads 5"),
        ("--tiles=0", "--tiles 0"),
        ("--features=0", "--features 0 must be 1 or more"),
        ("--rounds=3", "--rounds 3"),
    ],
)
def test_a_wrong_option_is_said(medsoft, tmp_path, option, message):
    code, _, err = medsoft("benchmark", "aggregators", *SMALL, f"--out={tmp_path / 'none'}", option)
    assert code == 2
    assert message in err
    assert not (tmp_path / "none").exists()
