"""``medsoft benchmark aggregators``: time and memory of slide aggregators as bags grow."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medsoft.benchmark.measure import Contender, Forecast, measure
from medsoft.benchmark.options import choices, conditions_from, cpu_threads, numbers
from medsoft.benchmark.report import Report
from medsoft.errors import InputError, check_range
from medsoft.layers.attention import ATTENTION
from medsoft.models.aggregators import build_aggregator
from medsoft.models.aggregators.torchmil import PREFIX, find_model

POOLING = ("mean", "max", "abmil")
OF_TORCHMIL = tuple(PREFIX + name for name in ("ABMIL", "TransformerABMIL", "CLAM_SB", "DSMIL", "TransMIL"))
"""Without those that make a graph, or draw groups of tiles: what they do does not depend on shapes alone."""
NAMES = (*ATTENTION, *POOLING, *OF_TORCHMIL)
"""What can be measured: the transformer with each attention, what pools without it, and models of torchmil."""


class OverData(nn.Module):
    """An aggregator whose input is data: training then needs no gradient of the features, nor memory for it."""

    def __init__(self, name: str, features: int, dim: int, num_heads: int, depth: int) -> None:
        super().__init__()
        options: dict[str, Any] = {"dim": dim}
        if name in ATTENTION:
            options |= {"attention": name, "num_heads": num_heads, "depth": depth}
        self.aggregator = build_aggregator("transformer" if name in ATTENTION else name, features, 2, **options)

    def forward(self, x_BNF: Tensor) -> Tensor:
        """Logits (B, 2)."""
        logits_BC: Tensor = self.aggregator(x_BNF.detach())
        return logits_BC


def aggregators(
    tiles: str = "16000,64000",
    features: int = 1024,
    dim: int = 512,
    num_heads: int = 8,
    depth: int = 2,
    names: str = "seqnorm,softmax,sima,abmil,mean",
    batch_size: int = 1,
    dtype: str = "float32",
    device: str = "auto",
    threads: int = 0,
    rounds: int = 7,
    max_seconds: float = 60.0,
    sample_seconds: float = 0.05,
    seed: int = 0,
    out: str = "benchmark",
) -> int:
    """Measure time and peak memory of slide aggregators, each once in every round.

    Writes aggregators.csv (a row per case), aggregators.json (versions, machine, options) and aggregators.png.

    Args:
        tiles: Tiles in a bag, separated by commas.
        features: Number of features per tile.
        dim: Width of the aggregators.
        num_heads: Attention heads of the transformers.
        depth: Attention layers of the transformers.
        names: Aggregators to measure, separated by commas: mean, max, abmil, the attention mechanism of a transformer,
            or a model of torchmil with its own defaults, such as torchmil:TransMIL.
        batch_size: Bags in a batch.
        dtype: data type of features and weights: float32, float64, bfloat16 or float16.
        device: device to compute on: auto, cpu or cuda.
        threads: CPU threads; 0 keeps PyTorch's default.
        rounds: Number of rounds, 7 or more; each case is timed once per round.
        max_seconds: Cases whose calls are predicted to take longer, judging by the last smaller bag, are skipped.
        sample_seconds: Calls are repeated until a timing lasts at least this many seconds.
        seed: Seed of weights, features and the order within rounds.
        out: Folder to write the results to.

    Returns:
        0, or 3 where a case failed.

    Raises:
        InputError: an option is out of range or names nothing.
    """
    options = dict(locals())
    lengths = numbers("--tiles", tiles)
    for name, value in (("features", features), ("dim", dim), ("num_heads", num_heads), ("depth", depth)):
        check_range(f"--{name}", value, 1)
    check_range("--batch_size", batch_size, 1)
    if dim % num_heads:
        raise InputError(f"--dim {dim} is not divisible by --num_heads {num_heads}")
    chosen = choices("--names", names, NAMES)
    for name in set(chosen) & set(OF_TORCHMIL):
        try:
            find_model(name)
        except ValueError as error:
            raise InputError(f"--names: {error}") from None
    contenders = [
        Contender({"name": name}, partial(OverData, name, features, dim, num_heads, depth)) for name in chosen
    ]
    conditions = conditions_from(device, dtype, rounds, max_seconds, sample_seconds, seed)
    with cpu_threads(threads):
        report = Report("aggregators", Path(out), options)
        facts = f"{features} features, D = {dim}, depth {depth}, batch {batch_size}, {dtype}, {conditions.device}"
        forecast = Forecast()
        for length in lengths:
            size = {"tiles": length, "features": features, "width": dim, "depth": depth, "batch": batch_size}
            rows = measure(contenders, size, (batch_size, length, features), conditions, forecast)
            _add_ratio(rows)
            report.add(rows, f"{length:,} tiles, {facts}")
        report.draw("aggregators.png", "tiles", "tiles of a bag", "Slide aggregators", facts, only={})
    return report.finish()


def _add_ratio(rows: list[dict[str, Any]]) -> None:
    """Time over softmax's in the same pass, where that was measured."""
    softmax = {row["pass"]: row["median_ms"] for row in rows if row["name"] == "softmax"}
    for row in rows:
        reference = softmax.get(row["pass"])
        row["to_softmax"] = row["median_ms"] / reference if row["median_ms"] and reference else None
