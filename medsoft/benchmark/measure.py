"""Measures calls side by side: in each round every call runs once, in a newly shuffled order.

A machine's speed drifts, with its temperature and with other people's work. Contenders that are measured one after the
other are compared across that drift; interleaved, they share it.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medsoft.benchmark.counting import count
from medsoft.benchmark.memory import peak_extra_bytes

FORWARD, BACKWARD = "forward", "forward+backward"
PASSES = (FORWARD, BACKWARD)
MEASURED = (
    *("rounds", "calls", "median_ms", "q1_ms", "q3_ms", "extra_bytes", "output_bytes"),
    *("flops", "bytes_moved", "tflops_per_s", "gb_per_s", "note"),
)
"""Columns of every row; None where a case was left out, and then ``note`` says why."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """What is measured.

    Attributes:
        labels: its columns of the table; the same labels at another size are the same contender.
        build: makes the module, in float32 on the CPU.
        arguments: of each call, beside the input.
        compiled: measured through ``torch.compile``, one graph, fixed shapes.
    """

    labels: Mapping[str, Any]
    build: Callable[[], nn.Module]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    compiled: bool = False


@dataclass(frozen=True)
class Conditions:
    """How is measured.

    Attributes:
        device: where.
        dtype: of inputs and weights.
        rounds: each contender runs once a round.
        max_seconds: a call that is predicted to take longer is left out.
        sample_seconds: calls are repeated until a round's sample lasts as long.
        seed: seed of weights, inputs and the order within rounds.
    """

    device: torch.device
    dtype: torch.dtype
    rounds: int
    max_seconds: float
    sample_seconds: float
    seed: int

    def columns(self) -> Row:
        """What a table says of them in each row."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"dtype": dtype, "device": self.device.type, "threads": torch.get_num_threads()}


class Forecast:
    """Predicts the time of a call from the next smaller size, in proportion to the operations counted."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], float] = {}

    def predict(self, key: tuple[Any, ...], flops: int) -> float | None:
        """Seconds; None where no smaller size was measured."""
        return self._known[key] * flops if key in self._known else None

    def learn(self, key: tuple[Any, ...], flops: int, seconds: float) -> None:
        """Keep what a size took."""
        self._known[key] = seconds / max(flops, 1)


@dataclass
class _Case:
    """A contender in one of the passes, ready to run."""

    row: Row
    call: Callable[[], object]
    calls: int
    seconds: list[float] = field(default_factory=list)


def measure(
    contenders: Sequence[Contender],
    size: Mapping[str, Any],
    shape: tuple[int, ...],
    conditions: Conditions,
    forecast: Forecast,
) -> list[Row]:
    """Measure contenders on one input, forward and forward + backward.

    Args:
        contenders: in the order of the table.
        size: columns that say what is the same for all of them here.
        shape: of the input, which is standard normal and needs a gradient, as in the middle of a network.
        conditions: how.
        forecast: of smaller sizes; learns from this one.

    Returns:
        A row for each contender and pass: labels, size, conditions, and what ``MEASURED`` names: median and quartiles
        over the rounds, the peak of extra memory, operations and bytes; a ``note`` where a case was left out.
    """
    torch.compiler.reset()  # what was compiled for other shapes would count against the limit of recompilations
    x = _input(shape, conditions)
    rows: list[Row] = []
    cases: list[_Case] = []
    for contender in contenders:
        for name in PASSES:
            row: Row = {**contender.labels, "compiled": contender.compiled, "pass": name, **size}
            row |= conditions.columns() | dict.fromkeys(MEASURED)
            rows.append(row)
            try:
                case = _prepare(row, contender, x, conditions, forecast)
            except RuntimeError as error:  # out of memory, or not to be compiled
                row["note"] = "failed: " + str(error).strip().partition("\n")[0]
                continue
            if case is not None:
                cases.append(case)
    _run_rounds(cases, conditions)
    for case in cases:
        _conclude(case)
    return rows


def _input(shape: tuple[int, ...], conditions: Conditions) -> Tensor:
    torch.manual_seed(conditions.seed)
    return torch.randn(shape, device=conditions.device, dtype=conditions.dtype).requires_grad_()


def _prepare(row: Row, contender: Contender, x: Tensor, conditions: Conditions, forecast: Forecast) -> _Case | None:
    """Count, warm up and weigh a case; None, and a note in its row, where it would take too long."""
    torch.manual_seed(conditions.seed)
    module = contender.build().to(device=conditions.device, dtype=conditions.dtype)
    module.train(row["pass"] == BACKWARD)
    bound = partial(_call, module, row["pass"], contender.arguments)
    counts = count(lambda: bound(_input(x.shape, conditions)))
    row.update(flops=counts.flops, bytes_moved=counts.bytes)
    key = (*contender.labels.items(), contender.compiled, row["pass"])
    predicted = forecast.predict(key, counts.flops)
    if predicted is not None and predicted > conditions.max_seconds:
        row["note"] = f"skipped: a call would take about {predicted:.0f} s (--max_seconds {conditions.max_seconds:g})"
        return None
    call = bound(x, compiled=contender.compiled)
    row["output_bytes"] = _output_bytes(call())
    seconds = _seconds(call, 1, conditions.device)
    if seconds < conditions.sample_seconds:  # one short call alone says little
        seconds = _seconds(call, 5, conditions.device)
    forecast.learn(key, counts.flops, seconds)
    if seconds > conditions.max_seconds:
        row["note"] = f"skipped: a call took {seconds:.0f} s (--max_seconds {conditions.max_seconds:g})"
        return None
    row["extra_bytes"] = peak_extra_bytes(call, conditions.device)
    return _Case(row, call, calls=max(1, round(conditions.sample_seconds / seconds)))


def _call(
    module: nn.Module, which: str, arguments: Mapping[str, Any], x: Tensor, compiled: bool = False
) -> Callable[[], tuple[Tensor, ...]]:
    """The call that is measured: it returns the output, and with it the gradients where there are any."""
    wanted = [x, *module.parameters()]
    run = partial(torch.compile(module, fullgraph=True, dynamic=False) if compiled else module, **arguments)

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (run(x),)

    def forward_backward() -> tuple[Tensor, ...]:
        y = run(x)
        # Some backbones own weights that an input size leaves unused.
        return y, *torch.autograd.grad(y, wanted, gradient, allow_unused=True)

    if which == FORWARD:
        return forward
    with torch.no_grad():
        gradient = torch.randn_like(module(x, **arguments))
    return forward_backward


def _output_bytes(results: tuple[Tensor, ...]) -> int:
    return results[0].numel() * results[0].element_size()


def _run_rounds(cases: Sequence[_Case], conditions: Conditions) -> None:
    order = random.Random(conditions.seed)
    gc.collect()
    gc.disable()  # a collection would be charged to whoever runs at that moment
    try:
        for _ in range(conditions.rounds):
            for case in order.sample(cases, len(cases)):
                case.seconds.append(_seconds(case.call, case.calls, conditions.device))
    finally:
        gc.enable()


def _seconds(call: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds a call, over some in a row."""
    if device.type == "cuda":
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end)) / 1000 / calls
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls


def _conclude(case: _Case) -> None:
    q1, median, q3 = np.quantile(case.seconds, (0.25, 0.5, 0.75))
    row = case.row
    row.update(rounds=len(case.seconds), calls=case.calls)
    row.update(median_ms=1e3 * median, q1_ms=1e3 * q1, q3_ms=1e3 * q3)
    row["tflops_per_s"] = row["flops"] / median / 1e12
    row["gb_per_s"] = row["bytes_moved"] / median / 1e9
