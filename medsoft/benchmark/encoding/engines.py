"""``medsoft benchmark engines``: milliseconds per tile of an encoder, by what computes it on this CPU."""

from __future__ import annotations

import csv
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import nn

from medsoft.benchmark.machine import machine, machine_line
from medsoft.benchmark.options import FEWEST_ROUNDS, choices, cpu_threads
from medsoft.encoders.build import Stated, build_encoder
from medsoft.encoders.encoder import Encoder
from medsoft.encoders.engines.choose import difference
from medsoft.encoders.recipes import find_recipe
from medsoft.errors import InputError, check_range
from medsoft.slides.tiling.settings import Engine, Precision
from medsoft.storage.files import replacing
from medsoft.system.terminal import plain_console

TORCH = "torch"
WAYS: dict[str, tuple[Engine, Precision]] = {
    TORCH: ("torch", "32"),
    "compile": ("torch", "32"),
    "torch-bf16": ("torch", "bf16"),
    "onnx": ("onnx", "32"),
    "openvino": ("openvino", "32"),
    "openvino-bf16": ("openvino", "bf16"),
}
"""Engine and precision of what is compared. ``torch`` is eager, with channels last."""
COLUMNS = ("encoder", "way", "rounds", "median_ms", "q1_ms", "q3_ms", "ratio", "difference", "note")


@dataclass
class _Contender:
    """A way of computing, with what was measured of it; ``note`` says why it was not."""

    way: str
    encoder: Encoder | None = None
    seconds: list[float] = field(default_factory=list)
    difference: float | None = None
    note: str = ""


def engines(
    encoders: str = "efficientnet_lite0,vit_small_patch16_224",
    ways: str = "torch,onnx,openvino",
    input_px: int = 224,
    tiles: int = 16,
    threads: int = 0,
    rounds: int = 7,
    seed: int = 0,
    out: str = "benchmark",
) -> int:
    """Measure what computes encoders fastest on this CPU, each way once in every round, and how far features differ.

    Weights are random: they change neither the time nor, but for rounding, how far ways differ. Writes engines.csv (a
    row per case) and engines.json (versions, machine, options).

    Args:
        encoders: Recipes or timm models, separated by commas.
        ways: What to compare, separated by commas: torch (eager, channels last), compile (torch.compile),
            torch-bf16, onnx, openvino, openvino-bf16.
        input_px: Side of the tiles of a timm model without a recipe, in pixels.
        tiles: Tiles that each way encodes per round.
        threads: CPU threads; 0 keeps PyTorch's default.
        rounds: Number of rounds, 7 or more; each way is timed once per round.
        seed: Seed of tiles and of the order within rounds.
        out: Folder to write the results to.

    Returns:
        0, or 3 where a way could not be measured.

    Raises:
        InputError: an option is out of range or names nothing.
    """
    options = dict(locals())
    chosen = list(dict.fromkeys([TORCH, *choices("--ways", ways, WAYS)]))
    names = [name.strip() for name in encoders.split(",") if name.strip()]
    if not names:
        raise InputError("--encoders is empty: name recipes or timm models")
    check_range("--rounds", rounds, FEWEST_ROUNDS)
    check_range("--tiles", tiles, 1)
    check_range("--input-px", input_px, 1)
    console = plain_console()
    rows: list[dict[str, Any]] = []
    with cpu_threads(threads):
        found = machine()
        record = {"benchmark": "engines", "options": options, "machine": found}
        with replacing(Path(out) / "engines.json") as file:
            file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        console.print(machine_line(found))
        for name in names:
            contenders = _measure(name, chosen, input_px, tiles, rounds, seed)
            rows += _rows(name, contenders, tiles)
            _write(rows, Path(out) / "engines.csv")
            console.print(_terminal_table(rows[-len(contenders) :], name))
            for one in contenders:
                if one.note:
                    console.print(f"  {one.way}: {one.note}", soft_wrap=True)
    console.print(f"Table: {Path(out)}; load average at the start {found['load_average'][0]}")
    return 3 if any(row["note"] for row in rows) else 0


def _measure(name: str, ways: list[str], input_px: int, tiles: int, rounds: int, seed: int) -> list[_Contender]:
    contenders = [_Contender(way) for way in ways]
    images: np.ndarray | None = None
    expected: np.ndarray | None = None
    for contender in contenders:
        try:
            encoder = _build(name, contender.way, input_px)
            if images is None:
                shape = (tiles, *encoder.recipe.size, encoder.recipe.channels)
                images = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
            features = encoder(images)
        except Exception as error:  # one way that is not here must not end the others
            if contender.way == TORCH:
                raise
            contender.note = " ".join(str(error).split())[:200] or type(error).__name__
            continue
        expected = features if expected is None else expected
        contender.encoder, contender.difference = encoder, difference([features], [expected])
    assert images is not None
    order = random.Random(seed)
    ready = [contender for contender in contenders if contender.encoder is not None]
    for _ in range(rounds):
        for contender in order.sample(ready, len(ready)):
            assert contender.encoder is not None
            contender.seconds.append(_seconds(contender.encoder, images))
    return contenders


def _build(name: str, way: str, input_px: int) -> Encoder:
    engine, precision = WAYS[way]
    stated = None if find_recipe(name) else Stated(input_px=input_px)
    encoder = build_encoder(name, init="random", stated=stated, device="cpu", precision=precision, engine=engine)
    if way == "compile":
        encoder.change_model(lambda model: cast(nn.Module, torch.compile(model)))
    return encoder


def _seconds(encode: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> float:
    begin = time.perf_counter()
    encode(images)
    return time.perf_counter() - begin


def _rows(name: str, contenders: list[_Contender], tiles: int) -> list[dict[str, Any]]:
    """Median and quartiles of each, in ms per tile; how many times as fast as PyTorch it is."""
    reference = statistics.median(contenders[0].seconds)
    rows = []
    for one in contenders:
        row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"encoder": name, "way": one.way, "note": one.note}
        if one.seconds:
            q1, median, q3 = (1e3 * value / tiles for value in np.quantile(one.seconds, (0.25, 0.5, 0.75)))
            row |= {"rounds": len(one.seconds), "median_ms": median, "q1_ms": q1, "q3_ms": q3}
            row |= {"ratio": reference / statistics.median(one.seconds), "difference": one.difference}
        rows.append(row)
    return rows


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{cell:.6g}" if isinstance(cell, float) else cell for name, cell in row.items()})


def _terminal_table(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("", overflow="fold")
    for heading in ("ms a tile", "IQR %", "× torch", "largest difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        if row["median_ms"] is None:
            table.add_row(row["way"], *"––––")
            continue
        spread = 100 * (row["q3_ms"] - row["q1_ms"]) / row["median_ms"]
        cells = (f"{row['median_ms']:.1f}", f"{spread:.0f}", f"{row['ratio']:.2f}", f"{row['difference']:.1g}")
        table.add_row(row["way"], *cells)
    return table
