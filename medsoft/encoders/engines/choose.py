"""Which engine computes an encoder, and whether it computes what PyTorch does."""

from __future__ import annotations

import time
from typing import get_args

import numpy as np
import torch

from medsoft.encoders.engines.graph import Graph
from medsoft.encoders.engines.runtimes import RUNTIMES, Run, is_installed
from medsoft.errors import InputError
from medsoft.slides.tiling.settings import Engine
from medsoft.system.logging import event

TORCH = "torch"
TOLERANCE = 1e-4
"""Largest difference from PyTorch's features that is let through in float32, as a share of the largest feature. The
same sums in another order differ by about 1e-6; a feature file in float16 rounds by 5e-4."""
WORTH = 256
"""Images from which on ``auto`` takes a runtime: to convert a network takes seconds, as do so many images."""
MOST_GRAPHS = 4
"""Sizes of images that a runtime is prepared for; PyTorch computes those of further sizes."""
CHECKED = 3
"""Images that are compared."""


class Engines:
    """The engines of one encoder: each of its graphs is converted when it is first needed, and compared.

    Attributes:
        used: name of the engine that computed the last images, or will compute the next.

    Args:
        asked: ``auto`` takes the first of ``RUNTIMES`` that computes what PyTorch does, on a CPU, in float32, and
            where there are ``WORTH`` images; it falls back to PyTorch.
        device: where the encoder computes.
        dtype: of its arithmetic.

    Raises:
        InputError: no such engine, it is not installed, or it does not compute on this device.
    """

    def __init__(self, asked: Engine, device: torch.device, dtype: torch.dtype) -> None:
        if asked not in get_args(Engine):
            raise InputError(f"--engine {asked}: one of {', '.join(get_args(Engine))}")
        self._is_asked = asked not in ("auto", TORCH)
        if self._is_asked and device.type != "cpu":
            raise InputError(f"--engine {asked} computes on the CPU: give --device cpu too, or leave it out")
        if self._is_asked and not is_installed(asked):
            extra = "export" if asked == "onnx" else asked
            raise InputError(f"--engine {asked}: not installed: pip install 'medsoft[{extra}]'")
        self.used = TORCH
        self._dtype = dtype
        is_exact = device.type == "cpu" and dtype == torch.float32
        auto = [name for name in RUNTIMES if is_installed(name)] if asked == "auto" and is_exact else []
        self._names = [asked] if self._is_asked else auto
        self._is_on = self._is_asked
        self._expected = 0
        self._runs: dict[tuple[str, tuple[int, ...]], Run | None] = {}

    def expect(self, images: int) -> None:
        """So many more images are to come: from ``WORTH`` on, ``auto`` takes a runtime."""
        self._expected += images
        self._is_on = self._is_on or self._expected >= WORTH

    def find(self, graph: Graph, shape: tuple[int, ...]) -> Run | None:
        """What computes a graph for images (H, W, C) or (D, H, W, C); None for PyTorch.

        Raises:
            InputError: the engine that was asked for cannot compute this encoder as PyTorch does.
        """
        if not self._is_on or not self._names:
            self.used = TORCH
            return None
        key = graph.wanted, shape
        if key not in self._runs:
            if len(self._runs) >= MOST_GRAPHS:
                self.used = TORCH
                return None
            self._runs[key] = self._first_that_agrees(graph, shape)
        run = self._runs[key]
        self.used = TORCH if run is None else self._names[0]
        return run

    def _first_that_agrees(self, graph: Graph, shape: tuple[int, ...]) -> Run | None:
        """The first engine of the list that computes the graph; those that do not are left out from then on."""
        images = check_images(shape, graph.is_of_pictures)
        with torch.inference_mode():
            expected = [one.float().numpy() for one in graph(torch.from_numpy(images))]
        while self._names:
            name, since = self._names[0], time.perf_counter()
            reason = ""
            try:
                run = RUNTIMES[name](graph, images, self._dtype)
                found = difference(run(images), expected)
            except InputError as error:
                reason = str(error)
            except Exception as error:  # each library names what it cannot convert by exceptions of its own
                reason = f"cannot convert this network: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            else:
                if self._dtype != torch.float32 or found <= TOLERANCE:
                    seconds = time.perf_counter() - since
                    event("engine", engine=name, precision=_word(self._dtype), difference=found, seconds=seconds)
                    print(
                        f"Engine: {name}, in {_word(self._dtype)}; features differ from those of PyTorch in float32 by "
                        f"at most {found:.1g} of the largest"
                    )
                    return run
                reason = f"its features differ from PyTorch's by {found:.1g} of the largest, more than {TOLERANCE:g}"
            if self._is_asked:
                raise InputError(f"--engine {name}: {reason.removeprefix(f'--engine {name}: ')}; take --engine torch")
            self._names.pop(0)
            event("engine", "warning", engine=TORCH, instead_of=name)
            print(f"Engine: not {name}: {reason}. Going on with {self._names[0] if self._names else TORCH}")
        return None


def check_images(shape: tuple[int, ...], is_of_pictures: bool) -> np.ndarray:
    """Images to compare engines on, the same for all: noise, a smooth gradient, and a dark one."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, shape).astype(np.float32)
    smooth = np.broadcast_to(np.linspace(0, 255, shape[-2], dtype=np.float32)[:, None], shape)
    images = np.stack([noise, smooth, noise / 16])
    assert len(images) == CHECKED
    return images.astype(np.uint8) if is_of_pictures else images / 255


def difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest difference of all outputs, as a share of the largest value of each; infinite for no number."""
    largest = 0.0
    for one, right in zip(found, expected, strict=True):
        if one.shape != right.shape:
            return float("inf")
        share = float(np.abs(one - right).max() / max(float(np.abs(right).max()), 1e-12))
        largest = max(largest, share if np.isfinite(share) else float("inf"))
    return largest


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
