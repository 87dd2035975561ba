"""The benchmarks: what is counted, what is weighed, what is left out, and what is written. Never how long it took."""

import csv
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from medsoft.benchmark.attention import attention
from medsoft.benchmark.backbones import backbones
from medsoft.benchmark.counting import count
from medsoft.benchmark.figure import figure_scaling, spread
from medsoft.benchmark.floor import Floor
from medsoft.benchmark.measure import BACKWARD, FORWARD, Conditions, Contender, Forecast, measure
from medsoft.benchmark.memory import peak_extra_bytes
from medsoft.benchmark.options import cpu_threads
from medsoft.errors import InputError
from medsoft.layers.attention import ATTENTION

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
CONDITIONS = Conditions(CPU, torch.float32, rounds=7, max_seconds=60, sample_seconds=0, seed=0)
COLUMNS = (
    *("name", "mechanism", "form", "compiled", "pass", "tokens", "width", "heads", "batch", "grid", "dtype", "device"),
    *("threads", "rounds", "calls", "median_ms", "q1_ms", "q3_ms", "extra_bytes", "output_bytes", "flops"),
    *("bytes_moved", "tflops_per_s", "gb_per_s", "note", "to_floor", "to_softmax", "extra_to_output"),
)
MEASURED = ["softmax", "seqnorm:moments", "soft:newton"]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ---- memory


def test_memory_of_a_known_allocation_is_exact():
    def call():
        temporary = torch.empty(3_000_000, dtype=torch.uint8)
        del temporary
        first, second = torch.empty(1_000_000, dtype=torch.uint8), torch.empty(1_500_000, dtype=torch.uint8)
        return first, second

    assert peak_extra_bytes(call, CPU) == 3_000_000


def test_what_was_there_before_is_not_counted_and_freeing_it_earns_nothing():
    held = [torch.empty(5_000_000, dtype=torch.uint8)]

    def call():
        held.clear()
        return torch.empty(2_000_000, dtype=torch.uint8)

    assert peak_extra_bytes(call, CPU) == 2_000_000


def test_what_is_saved_for_backward_counts():
    x = torch.randn(500_000)
    deep = nn.Sequential(*[nn.Tanh() for _ in range(6)])

    def training():
        return torch.autograd.grad(deep(x.requires_grad_()).sum(), x)

    with torch.no_grad():
        assert peak_extra_bytes(lambda: deep(x), CPU) == 2 * x.nbytes  # an input and an output at a time
    assert 7 * x.nbytes <= peak_extra_bytes(training, CPU) < 9 * x.nbytes  # six outputs, and one gradient or two


WEIGH = """
import torch
from medsoft.benchmark.memory import peak_extra_bytes

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

x = torch.randn(8192, 256, requires_grad=True)
layers = torch.nn.Sequential(torch.nn.Linear(256, 768), torch.nn.GELU(), torch.nn.Linear(768, 256), torch.nn.Tanh())
call = lambda: torch.autograd.grad(layers(x).sum(), [x, *layers.parameters()])
call()
resident = []
for _ in range(3):
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    before = status("VmRSS")
    call()
    resident.append(status("VmHWM") - before)
print(peak_extra_bytes(call, torch.device("cpu")), *resident)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of the resident set is Linux's")
def test_the_peak_agrees_with_the_resident_set_of_the_process():
    # Large pieces go straight back to the system, so that the resident set follows what is held.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1048576", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", WEIGH], capture_output=True, text=True, check=True, env=environment)
    counted, *resident = map(int, done.stdout.split())
    assert counted > 8 * 8192 * 256 * 4  # what is saved between the layers, and gradients
    # The system may take pages of libraries back, or read some in, during one call or another.
    assert min(resident, key=lambda one: abs(one - counted)) == pytest.approx(counted, rel=0.05)


# ---- operations and bytes


def test_the_floor_is_two_products_forward_and_five_with_backward():
    N, D = 64, 16
    product = 2 * N * D * D
    rows = measure([Contender({"name": "floor"}, Floor)], {}, (1, N, D), CONDITIONS, Forecast())
    assert [row["flops"] for row in rows] == [2 * product, 5 * product]
    x, T = N * D * 4, D * D * 4
    assert rows[0]["bytes_moved"] == 3 * x + T + x + T  # xᵀ and x to T; x and T to y


def test_the_floors_gradient_is_that_of_its_definition():
    x = torch.randn(2, 9, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Floor(), x)
    torch.testing.assert_close(Floor()(x), torch.stack([each @ (each.T @ each) for each in x]))


def test_views_and_reserved_memory_move_nothing():
    counts = count(lambda: lambda: torch.empty(100).view(10, 10).T.expand(3, 10, 10))
    assert (counts.flops, counts.bytes) == (0, 0)


def test_an_expanded_tensor_is_read_once():
    assert count(lambda: lambda: torch.zeros(1, 10).expand(1000, 10) + 0).bytes == 40 + 40 + 40_000


@pytest.mark.parametrize("mechanism", sorted(ATTENTION))
def test_operations_grow_linearly_but_for_softmax(mechanism):
    """The forecast rests on them."""

    def flops(length):
        attn = ATTENTION[mechanism](64, 2)
        with torch.no_grad():
            return count(lambda: lambda: attn(torch.empty(1, length, 64))).flops

    ratio = flops(80_000) / flops(40_000)
    assert ratio > 3.5 if mechanism == "softmax" else ratio == pytest.approx(2, rel=0.01)


# ---- measuring


def test_each_contender_runs_once_a_round_in_a_changing_order():
    calls: list[str] = []

    def contender(name):
        module = nn.Linear(4, 4)
        module.register_forward_hook(lambda *_: calls.append(name))
        return Contender({"name": name}, lambda: module)

    rows = measure([contender(name) for name in "abc"], {}, (1, 8, 4), CONDITIONS, Forecast())
    assert all(row["rounds"] == 7 and row["calls"] == 1 for row in rows)
    rounds = [calls[start : start + 6] for start in range(len(calls) - 42, len(calls), 6)]
    assert all(sorted(each) == list("aabbcc") for each in rounds)  # forward, and forward + backward
    assert len({tuple(each) for each in rounds}) > 1


def test_a_call_that_would_take_too_long_is_left_out_and_said_so():
    forecast = Forecast()
    quick = [Contender({"name": "layer"}, lambda: nn.Linear(4, 4))]
    (forward, _) = measure(quick, {}, (1, 8, 4), CONDITIONS, forecast)
    assert forward["note"] is None
    forecast.learn((("name", "layer"), False, FORWARD), forward["flops"], seconds=10.0)
    (forward, backward) = measure(quick, {}, (1, 80, 4), CONDITIONS, forecast)
    assert forward["note"] == "skipped: a call would take about 100 s (--max_seconds 60)"
    assert forward["median_ms"] is None
    assert forward["flops"] > 0
    assert backward["median_ms"] > 0


def test_a_contender_that_fails_leaves_the_others():
    def broken():
        raise RuntimeError("no memory\nand a long story")

    contenders = [Contender({"name": "bad"}, broken), Contender({"name": "good"}, lambda: nn.Linear(4, 4))]
    rows = measure(contenders, {}, (1, 8, 4), CONDITIONS, Forecast())
    assert [row["note"] for row in rows] == ["failed: no memory"] * 2 + [None] * 2


def test_half_precision_is_that_of_inputs_and_weights():
    conditions = Conditions(CPU, torch.bfloat16, rounds=7, max_seconds=60, sample_seconds=0, seed=0)
    rows = measure([Contender({"name": "layer"}, lambda: nn.Linear(4, 4))], {}, (1, 8, 4), conditions, Forecast())
    assert {row["dtype"] for row in rows} == {"bfloat16"}
    assert {row["output_bytes"] for row in rows} == {8 * 4 * 2}


# ---- the verbs


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run of everything at tiny sizes: its folder and its table."""
    out = tmp_path_factory.mktemp("attention")
    code = attention(
        tokens="36,16",
        widths="64",
        head_width=32,
        mechanisms=",".join(MEASURED),
        device="cpu",
        sample_seconds=0,
        out=str(out),
    )
    assert code == 0
    return out, table(out / "attention.csv")


def test_a_row_for_each_case_with_all_columns(measured):
    _, rows = measured
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 2 * 2 * (1 + len(MEASURED))
    assert {row["mechanism"] for row in rows} == {"floor", *(name.partition(":")[0] for name in MEASURED)}
    assert [row["tokens"] for row in rows] == sorted((row["tokens"] for row in rows), key=int)
    assert {row["grid"] for row in rows} == {"4x4", "6x6"}
    assert {(row["heads"], row["rounds"], row["note"]) for row in rows} == {("2", "7", "")}
    assert {row["output_bytes"] for row in rows if row["tokens"] == "36"} == {str(36 * 64 * 4)}
    for row in rows:
        assert float(row["q1_ms"]) <= float(row["median_ms"]) <= float(row["q3_ms"])
        assert float(row["extra_to_output"]) >= 1


def test_ratios_are_those_of_the_medians(measured):
    _, rows = measured
    median = {(row["name"], row["tokens"], row["pass"]): float(row["median_ms"]) for row in rows}
    for row in rows:
        for other in ("floor", "softmax"):
            ratio = float(row["median_ms"]) / median[other, row["tokens"], row["pass"]]
            assert float(row[f"to_{other}"]) == pytest.approx(ratio, rel=1e-4)


def test_the_record_says_with_what_it_was_measured(measured):
    out, rows = measured
    record = json.loads((out / "attention.json").read_text(encoding="utf-8"))
    assert record["options"]["tokens"] == "36,16"
    assert record["machine"]["torch"] == torch.__version__
    assert record["machine"]["threads"] == int(rows[0]["threads"])
    assert {path.name for path in out.iterdir()} == {"attention.csv", "attention.json", "attention_64.png"}


def test_lengths_that_are_no_squares_make_bags(tmp_path):
    attention(
        tokens="16,17", widths="32", head_width=32, mechanisms="soft", sample_seconds=0, device="cpu", out=str(tmp_path)
    )
    assert {row["grid"] for row in table(tmp_path / "attention.csv")} == {"bag"}


def test_the_number_of_threads_is_as_before_afterwards():
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert CONDITIONS.columns()["threads"] == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--rounds 6", "7 or more"),
        ("--mechanisms softmax,seqnrom", "one of softmax, seqnorm"),
        ("--mechanisms ,", "is empty"),
        ("--tokens 196,many", "whole numbers"),
        ("--tokens 0", "1 or more"),
        ("--widths 100", "not divisible by --head_width 64"),
        ("--head_width 0", "1 or more"),
        ("--batch_size 0", "1 or more"),
        ("--batch 8", "--batch is now called --batch_size"),
        ("--dtype float", "one of float32"),
        ("--device gpu", "one of auto, cpu, cuda"),
        ("--threads -1", "0 or more"),
        ("--max_seconds -1", "0 or more"),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_nothing(medsoft, tmp_path, options, message):
    code, _, error = medsoft("benchmark", "attention", *options.split(), "--out", tmp_path / "out")
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_missed():
    with pytest.raises(InputError, match="no GPU"):
        attention(device="cuda")


def test_backbones_over_sizes(tmp_path):
    """Memory of a backbone without softmax grows with its pixels, beyond what is fixed."""
    models = "vit_seqnorm_tiny_patch16_224:depth=1:embed_dim=64:num_heads=2:form=moments"
    assert backbones(models, sizes="256,384,512", channels=1, device="cpu", sample_seconds=0, out=str(tmp_path)) == 0
    rows = table(tmp_path / "backbones.csv")
    assert len(rows) == 2 * 3
    assert {row["channels"] for row in rows} == {"1"}
    for which in (FORWARD, BACKWARD):
        chosen = [row for row in rows if row["pass"] == which]
        small, middle, large = (int(row["extra_bytes"]) for row in chosen)
        assert (large - middle) / (middle - small) == pytest.approx((512**2 - 384**2) / (384**2 - 256**2), rel=0.25)
    assert (tmp_path / "backbones.png").stat().st_size > 10_000


def test_backbones_over_volumes(tmp_path):
    """Cubes; softmax's memory grows faster than that of a backbone without it."""
    small = "depth=1:embed_dim=32:num_heads=2"
    models = f"vit_softmax_tiny_patch8_224:{small},vit_seqnorm_tiny_patch8_224:{small}:form=moments"
    options = {"volumes": True, "sizes": "16,32", "device": "cpu", "sample_seconds": 0}
    assert backbones(models, **options, out=str(tmp_path)) == 0
    rows = table(tmp_path / "backbones.csv")
    assert [(row["voxels"], row["channels"]) for row in rows[:4:3]] == [("4096", "1"), ("4096", "1")]
    assert {row["voxels"] for row in rows} == {"4096", "32768"}
    assert all(float(row["median_ms"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--models vit_seqnrm_tiny_patch16_224", "the nearest is vit_seqnorm_tiny_patch16_224"),
        ("--models soft_tiny:inverse", "key=value"),
        ("--models ,", "is empty"),
        ("--sizes big", "whole numbers"),
    ],
)
def test_a_wrong_model_or_size_is_one_line(medsoft, tmp_path, options, message):
    code, _, error = medsoft("benchmark", "backbones", *options.split(), "--out", tmp_path / "out")
    assert code == 2
    assert message in error
    assert not (tmp_path / "out").exists()


# ---- the picture


def test_names_of_lines_stay_apart_and_near():
    assert spread([0.1, 0.5], gap=0.1) == [0.1, 0.5]
    places = spread([0.50, 0.51, 0.52, 0.9], gap=0.1)
    assert places == pytest.approx([0.41, 0.51, 0.61, 0.9])
    assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(places))


def test_every_measured_line_bears_its_name(measured):
    _, rows = measured
    numbers = [
        row | {key: float(row[key]) for key in ("tokens", "median_ms", "extra_bytes")} | {"compiled": False}
        for row in rows
    ]
    figure = figure_scaling(numbers, "tokens", "tokens N", "Attention", "a machine")
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert {text.get_text() for text in axes.texts} == {"floor", *MEASURED}
        assert axes.get_xscale() == axes.get_yscale() == "log"
