"""What a candidate costs, from a short measurement on this machine: a few pictures read, a few steps of training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medsoft.benchmark.memory import peak_extra_bytes

STEPS = 3
"""Steps of training that are timed, after one that sets things up; the median counts."""

SLOW = 2.0
"""Seconds of a step of which one is enough: its time varies little, and three would make the user wait."""

PICTURES = 4
"""Pictures that are encoded to time an encoder, after one that sets things up."""

OF_A_FOLD = 2.0
"""Seconds that a fold takes besides: writing, evaluating, the out-of-distribution detector. Measured with three folds
of a tiny network on one core: 1.0 s a fold; doubled, because tables are larger than those 60 rows."""

VALIDATION_IS_CHEAPER = 1 / 3
"""A pass without gradients takes about a third of one with them."""


NOISE = 1.25
"""Predicted times that differ by less than this factor may be in the other order at the next measurement."""


@dataclass(frozen=True)
class Cost:
    """What a candidate takes.

    Attributes:
        seconds: of all its folds, without features.
        features: seconds for the features that it reads, where they are not there yet.
        bytes: the most memory that a step takes, beyond weights and data; None where that was not measured.
        fold: seconds of one fold.
    """

    seconds: float
    features: float = 0.0
    bytes: int | None = None

    @property
    def all(self) -> float:
        """Seconds with features."""
        return self.seconds + self.features


def cheapest_first(seconds: Sequence[float]) -> list[int]:
    """Positions of predicted times, the shortest first; those that the measurement cannot tell apart keep their order.

    Times within ``NOISE`` of the shortest of them count as the same. So two calls on one table agree on the order, as
    long as no candidate lies just at that border.
    """
    left = sorted(range(len(seconds)), key=lambda place: seconds[place])
    order: list[int] = []
    while left:
        tied = [place for place in left if seconds[place] <= NOISE * seconds[left[0]]]
        order += sorted(tied)
        left = left[len(tied) :]
    return order


@dataclass(frozen=True)
class Step:
    """A training step as it was measured.

    Attributes:
        read: seconds to read and prepare a sample once.
        load: seconds to make a batch of what was read.
        train: seconds of a step, forward and backward.
        bytes: the most memory that a step takes.
        batch: samples of a step.
    """

    read: float
    load: float
    train: float
    bytes: int
    batch: int


def measure_step(data: Any, model: Any, device: torch.device) -> Step:
    """Time a few steps of a training on a few of its own samples.

    Args:
        data: a data module that has read its table, for this measurement alone: its table is cut down.
        model: for the data.
        device: where to compute.

    Raises:
        InputError: the samples cannot be read.
    """
    known = np.flatnonzero(data.task.known(data.samples.frame))
    data.samples = data.samples.select(np.isin(np.arange(len(data.samples)), known)).with_split("train")
    _take_scales(data, model)
    known = np.arange(len(known))
    batch = min(int(data.batch_size), len(known))
    rows = known[np.unique(np.linspace(0, len(known) - 1, batch).round().astype(int))]
    keep = np.isin(np.arange(len(data.samples)), rows)
    data.samples = data.samples.select(keep)
    data.load(["train"])  # starts what is started once, such as a process that reads features
    began = time.perf_counter()
    data.load(["train"])
    read = (time.perf_counter() - began) / len(rows)
    data.num_workers = 0
    loader = data.train_dataloader()
    first = _moved(next(iter(loader)), device)
    load = _median(lambda: next(iter(loader)))
    model = model.to(device).train()

    def step() -> None:
        loss = model.objective.loss(model.logits(first), first["target"])
        if loss.requires_grad:
            loss.mean().backward()
        model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    began = time.perf_counter()
    step()
    first_seconds = time.perf_counter() - began
    seconds = first_seconds if first_seconds > SLOW else _median(step)
    return Step(read, load, seconds, peak_extra_bytes(step, device), len(rows))


def _take_scales(data: Any, model: Any) -> None:
    """Give the model what a training takes from its own part: the scale of a regression's targets, of covariates."""
    data.stage = "fit"
    scale = data.target_scale
    if scale is not None:
        mean, sd = scale
        model.objective.restore({"target_scale": (mean, sd or 1.0)})
    if getattr(model, "covariates", None) is not None:
        model.covariates.covariates = data.covariates


def training_seconds(step: Step, rows: int, folds: int, val_fraction: float, epochs: int, batch: int) -> float:
    """Seconds of a cross-validation.

    Args:
        step: as measured.
        rows: that take part.
        folds: of them.
        val_fraction: share of the rows outside the reported part that chooses checkpoints.
        epochs: of each fold.
        batch: samples of a step.
    """
    inside = rows * (1 - 1 / folds)
    train, val = inside * (1 - val_fraction), inside * val_fraction
    a_step = (step.train + step.load) * batch / step.batch
    of_epoch = math.ceil(train / batch) * a_step + val / batch * a_step * VALIDATION_IS_CHEAPER
    at_end = (
        rows / batch * a_step * VALIDATION_IS_CHEAPER
    )  # val and reported part are predicted, the detector sees train
    return folds * (rows * step.read + epochs * of_epoch + at_end + OF_A_FOLD)


def seconds_each(work: Callable[[int], object], n: int = PICTURES) -> float:
    """Median seconds of ``work(0)`` to ``work(n)``, the first of which is not counted."""
    times = []
    for index in range(n + 1):
        began = time.perf_counter()
        work(index)
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:])) if n else times[0]


def _median(work: Callable[[], object]) -> float:
    return seconds_each(lambda _: work(), STEPS)


def _moved(batch: Any, device: torch.device) -> Any:
    return {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
