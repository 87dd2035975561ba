"""``medsoft benchmark attention``: every mechanism against softmax, and against a floor of two matrix products.

Axes: ``B`` batch, ``N`` tokens, ``D`` model width, ``H`` heads.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

from medsoft.benchmark.floor import Floor
from medsoft.benchmark.measure import Contender, Forecast, Row, measure
from medsoft.benchmark.options import choices, conditions_from, cpu_threads, numbers
from medsoft.benchmark.report import Report
from medsoft.errors import InputError, check_range
from medsoft.layers.attention import build_attention

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "softmax": ("softmax", {}),
    "seqnorm": ("seqnorm", {"form": "auto"}),
    "seqnorm:reordered": ("seqnorm", {"form": "reordered"}),
    "seqnorm:moments": ("seqnorm", {"form": "moments"}),
    "sima": ("sima", {}),
    "relu_linear": ("relu_linear", {}),
    "soft": ("soft", {"inverse": "converged"}),
    "soft:newton": ("soft", {"inverse": "newton"}),
    "soft_norm": ("soft_norm", {"inverse": "converged"}),
}
"""What can be measured: a name of ``medsoft.layers.attention.ATTENTION``, and which of its forms."""


def attention(
    tokens: str = "196,1024,4096,16384,65536",
    widths: str = "384",
    head_width: int = 64,
    batch_size: int = 1,
    mechanisms: str = ",".join(FORMS),
    dtype: str = "float32",
    device: str = "auto",
    threads: int = 0,
    rounds: int = 7,
    max_seconds: float = 20.0,
    sample_seconds: float = 0.05,
    compile: bool = False,
    seed: int = 0,
    out: str = "benchmark",
) -> int:
    """Measure time and peak memory of attention, each mechanism once in every round.

    Writes attention.csv (a row per case), attention.json (versions, machine, options) and a picture for each width.

    Args:
        tokens: Numbers of tokens N, separated by commas; on square grids if all are squares, otherwise in bags.
        widths: Model widths D, separated by commas.
        head_width: Width of a head; each D must be divisible by it.
        batch_size: Sequences in a batch.
        mechanisms: Mechanisms to measure, separated by commas; the floor is always measured.
        dtype: data type of inputs and weights: float32, float64, bfloat16 or float16.
        device: device to compute on: auto, cpu or cuda.
        threads: CPU threads; 0 keeps PyTorch's default.
        rounds: Number of rounds, 7 or more; each case is timed once per round.
        max_seconds: Cases whose calls are predicted to take longer, judging by the last smaller N, are skipped.
        sample_seconds: Calls are repeated until a timing lasts at least this many seconds.
        compile: Measure torch.compile as well.
        seed: Seed of weights, inputs and the order within rounds.
        out: Folder to write the results to.

    Returns:
        0, or 3 where a case failed.

    Raises:
        InputError: an option is out of range or names nothing.
    """
    options = dict(locals())
    names = choices("--mechanisms", mechanisms, FORMS)
    lengths, all_widths = numbers("--tokens", tokens), numbers("--widths", widths)
    check_range("--batch_size", batch_size, 1)
    check_range("--head_width", head_width, 1)
    for width in all_widths:
        if width % head_width:
            raise InputError(f"--widths {width} is not divisible by --head_width {head_width}")
    conditions = conditions_from(device, dtype, rounds, max_seconds, sample_seconds, seed)
    all_square = all(math.isqrt(length) ** 2 == length for length in lengths)  # one kind of tokens along a line
    tokens_are = "tokens on a square grid" if all_square else "tokens in bags"
    with cpu_threads(threads):
        report = Report("attention", Path(out), options)
        for width in all_widths:
            forecast = Forecast()
            heads = width // head_width
            facts = f"{tokens_are}, D = {width}, {heads} heads, batch {batch_size}, {dtype}, {conditions.device}"
            for length in lengths:
                grid = (math.isqrt(length), math.isqrt(length)) if all_square else None
                grid_text = f"{grid[0]}x{grid[1]}" if grid else "bag"
                size = {"tokens": length, "width": width, "heads": heads, "batch": batch_size, "grid": grid_text}
                contenders = _contenders(names, width, heads, grid, compile)
                rows = measure(contenders, size, (batch_size, length, width), conditions, forecast)
                _add_ratios(rows)
                report.add(rows, f"N = {length:,}, {facts}")
            report.draw(f"attention_{width}.png", "tokens", "tokens N", "Attention", facts, only={"width": width})
    return report.finish()


def _contenders(
    names: list[str], width: int, heads: int, grid: tuple[int, int] | None, compiled: bool
) -> list[Contender]:
    found = [Contender({"name": "floor", "mechanism": "floor", "form": ""}, Floor, {"grid": grid})]
    for name in names:
        mechanism, options = FORMS[name]
        labels = {"name": name, "mechanism": mechanism, "form": next(iter(options.values()), "")}
        if mechanism in ("soft", "soft_norm"):
            options = options | {"spatial_dims": 0 if grid is None else 2}
        build = partial(build_attention, mechanism, width, heads, **options)
        found += [Contender(labels, build, {"grid": grid}, flag) for flag in ((False, True) if compiled else (False,))]
    return found


def _add_ratios(rows: list[Row]) -> None:
    """Time over the floor's and softmax's in the same pass, neither of them compiled; extra memory over the output."""
    reference = {(row["name"], row["pass"]): row["median_ms"] for row in rows if not row["compiled"]}
    for row in rows:
        for other in ("floor", "softmax"):
            median = reference.get((other, row["pass"]))
            row[f"to_{other}"] = row["median_ms"] / median if row["median_ms"] and median else None
        row["extra_to_output"] = row["extra_bytes"] / row["output_bytes"] if row["median_ms"] else None
