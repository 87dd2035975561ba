"""Engines of encoders: the same features as PyTorch, or PyTorch."""

import csv
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from medsoft.cli.main import main
from medsoft.data.features.open import open_bag
from medsoft.encoders.build import Stated, build_encoder
from medsoft.encoders.engines import choose, runtimes
from medsoft.encoders.engines.choose import TOLERANCE, WORTH, Engines
from medsoft.errors import InputError
from tests.builders.feature_files import FACTS, numbers, write

CPU = torch.device("cpu")
SIDE = 64


def build(engine="torch", name="test_efficientnet", **more):
    stated = Stated(input_px=SIDE)
    return build_encoder(name, init="random", stated=stated, device="cpu", engine=engine, **more)


@pytest.fixture(scope="module")
def by_torch():
    return build()


def tiles(n=5):
    return np.random.default_rng(1).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


def off_by(share):
    """A runtime whose features are those of PyTorch, wrong by a share of the largest."""

    def runtime(graph, example_BHWC, dtype):
        def run(images_BHWC):
            with torch.inference_mode():
                found = [one.numpy() for one in graph(torch.from_numpy(images_BHWC))]
            return [one + share * np.abs(one).max() for one in found]

        return run

    return runtime


def broken(graph, example_BHWC, dtype):
    raise KeyError("no such operator")


@pytest.fixture
def two_runtimes(monkeypatch):
    """Put runtimes in the place of those that may be installed."""

    def put(**found):
        monkeypatch.setattr(choose, "RUNTIMES", found)
        monkeypatch.setattr(choose, "is_installed", lambda name: name in found)

    return put


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_a_runtime_computes_what_pytorch_does(engine, by_torch):
    if not runtimes.is_installed(engine):
        pytest.skip(f"{engine} is not installed")
    encoder = build(engine)
    expected, found = by_torch(tiles()), encoder(tiles())
    assert encoder.engine == engine
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert not np.array_equal(found, expected), "another library sums in another order"
    # A batch of another length, by the same graph.
    assert np.allclose(encoder(tiles(1)), expected[:1], atol=TOLERANCE * np.abs(expected).max())


def test_openvino_gives_maps_and_is_kept_from_reporting_its_use(by_torch):
    if not runtimes.is_installed("openvino"):
        pytest.skip("OpenVINO is not installed")
    encoder = build("openvino")
    for found, expected in zip(encoder.pooled_and_tokens(tiles()), by_torch.pooled_and_tokens(tiles()), strict=True):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert sys.modules["openvino.tools.ovc.telemetry_utils"].tm.__name__.endswith("telemetry_stub")


def test_auto_takes_a_runtime_where_there_is_enough_to_do(two_runtimes, by_torch, capsys):
    two_runtimes(openvino=off_by(1e-6), onnx=off_by(1e-6))
    encoder = build("auto")
    encoder.expect(WORTH - 1)
    assert np.array_equal(encoder(tiles()), by_torch(tiles()))
    assert encoder.engine == "torch"
    encoder.expect(1)
    assert encoder.engine == "openvino"
    assert not np.array_equal(encoder(tiles()), by_torch(tiles()))
    assert "Engine: openvino, in float32; features differ" in capsys.readouterr().out


def test_auto_goes_on_with_the_next_engine_where_one_does_not_agree(two_runtimes, by_torch, capsys):
    two_runtimes(openvino=off_by(2 * TOLERANCE), onnx=broken)
    encoder = build("auto")
    encoder.expect(WORTH)
    assert encoder.engine == "torch"
    assert np.array_equal(encoder(tiles()), by_torch(tiles()))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[2].split(":")[0] for line in lines] == [" not openvino", " not onnx"]
    assert "0.0002 of the largest, more than 0.0001. Going on with onnx" in lines[0]
    assert "cannot convert this network: KeyError" in lines[1]
    assert lines[1].endswith("Going on with torch")


@pytest.mark.parametrize(("runtime", "message"), [(off_by(0.01), "differ from PyTorch's by 0.01"), (broken, "cannot")])
def test_an_engine_that_was_asked_for_and_does_not_agree_is_refused(two_runtimes, runtime, message):
    two_runtimes(onnx=runtime)
    with pytest.raises(InputError, match=f"--engine onnx: .*{message}.*take --engine torch"):
        build("onnx")(tiles())


def test_pictures_of_many_sizes_are_left_to_pytorch(two_runtimes):
    two_runtimes(onnx=off_by(0.0))
    encoder = build("onnx")
    used = []
    for side in range(SIDE, SIDE + 32 * (choose.MOST_GRAPHS + 1), 32):
        encoder.tokens(np.zeros((1, side, side, 3), np.uint8))
        used.append(encoder.engine)
    assert used == ["onnx"] * choose.MOST_GRAPHS + ["torch"]


def test_engines_that_cannot_be_had_are_refused_before_the_work(monkeypatch):
    with pytest.raises(InputError, match="--engine tpu: one of auto, torch, onnx, openvino"):
        Engines("tpu", CPU, torch.float32)
    with pytest.raises(InputError, match="--engine onnx computes on the CPU"):
        Engines("onnx", torch.device("cuda"), torch.float32)
    monkeypatch.setattr(choose, "is_installed", lambda name: False)
    with pytest.raises(InputError, match=r"--engine onnx: not installed: pip install 'medsoft\[export\]'"):
        Engines("onnx", CPU, torch.float32)
    assert Engines("auto", CPU, torch.float32).used == "torch"


def test_onnx_runtime_is_for_float32(by_torch):
    graph = by_torch._graphs["pooled"]
    with pytest.raises(InputError, match="--engine onnx computes in float32"):
        runtimes.onnx_runtime(graph, tiles(), torch.bfloat16)


def test_bfloat16_states_its_error(by_torch):
    assert by_torch.note == ""
    encoder = build(precision="bf16")
    error = float(encoder.note.split("by up to ")[1].split()[0])
    assert 1e-4 < error < 0.1
    found, expected = encoder(tiles()), by_torch(tiles())
    assert 1e-4 < np.abs(found - expected).max() / np.abs(expected).max() < 0.1


def test_features_in_bfloat16_are_a_kind_of_their_own_and_engines_are_not(tmp_path):
    others = [replace(FACTS, precision="float32"), replace(FACTS, precision="float32", engine="openvino")]
    assert {one.identity for one in (FACTS, *others)} == {FACTS.identity}
    coarse = replace(FACTS, precision="bfloat16", engine="torch")
    assert FACTS.identity.differences(coarse.identity) == ["precision 'bfloat16', not float32 or float16"]
    assert "computed in bfloat16" in str(coarse.identity)
    assert (coarse.identity.precision_to_take("auto"), FACTS.identity.precision_to_take("auto")) == ("bf16", "auto")
    with pytest.raises(InputError, match="--precision bf16: the model was trained on features in float32 or float16"):
        FACTS.identity.precision_to_take("bf16")
    path = write(tmp_path / "a.h5", *numbers(), facts=coarse)
    with open_bag(path) as bag:
        assert (bag.facts.engine, bag.facts.precision) == ("torch", "bfloat16")
        assert bag.identity == coarse.identity


def test_a_feature_file_says_which_engine_made_it(tmp_path, capsys):
    if not runtimes.is_installed("openvino"):
        pytest.skip("OpenVINO is not installed")
    from PIL import Image

    for name, picture in zip("ab", tiles(2), strict=True):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    (tmp_path / "t.csv").write_text("path\na.png\nb.png\n")
    encoder = ("--encoder", "test_efficientnet", "--encoder-init", "random", "--input-px", str(SIDE))
    command = ["encode", str(tmp_path / "t.csv"), *encoder, "--device", "cpu", "--tokens", "false"]
    out = ["--out", str(tmp_path / "out")]
    assert main([*command, "--engine", "openvino", *out]) == 0
    with open_bag(tmp_path / "out" / "features" / "a.h5") as bag:
        assert (bag.facts.engine, bag.facts.precision) == ("openvino", "float32")
    # Another engine finds the work done; another precision does it again.
    assert main([*command, "--engine", "torch", *out]) == 0
    assert "2 kept from earlier runs" in capsys.readouterr().out
    assert main([*command, "--precision", "bf16", *out]) == 0
    said = capsys.readouterr().out
    assert "kept" not in said
    assert "In bfloat16 features differ from those in float32 by up to" in said
    with open_bag(tmp_path / "out" / "features" / "a.h5") as bag:
        assert (bag.facts.engine, bag.facts.precision) == ("torch", "bfloat16")


def test_the_benchmark_compares_ways_and_says_which_is_not_here(two_runtimes, tmp_path, capsys):
    two_runtimes(openvino=off_by(1e-6))
    ways = ("--ways", "openvino,onnx", "--encoders", "test_efficientnet", "--input-px", str(SIDE))
    small = ("--tiles", "2", "--rounds", "7", "--threads", "1", "--seed", "1", "--out", str(tmp_path))
    assert main(["benchmark", "engines", *ways, *small]) == 3
    with (tmp_path / "engines.csv").open() as file:
        rows = {row["way"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["torch", "openvino", "onnx"]
    assert (rows["torch"]["ratio"], rows["torch"]["difference"]) == ("1", "0")
    assert float(rows["openvino"]["ratio"]) > 0
    assert float(rows["openvino"]["difference"]) == pytest.approx(1e-6, rel=0.1)
    assert "not installed" in rows["onnx"]["note"]
    assert "onnx: --engine onnx: not installed" in capsys.readouterr().out
