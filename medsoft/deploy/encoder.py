"""A tile encoder at work: pictures of 8 bits in, features out, on any device."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from medsoft.data.transforms.base import Transforms
from medsoft.errors import InputError, RunError, is_out_of_memory
from medsoft.logs import event
from medsoft.slides.recipes import Recipe

Precision = Literal["auto", "32", "16", "bf16"]
DTYPES = {"32": torch.float32, "16": torch.float16, "bf16": torch.bfloat16}

CPU_TILES = 4
"""A CPU gains nothing from more, and loses: large results between layers are given back to the system after each one,
and fetched anew (EfficientNet-Lite0: 19 ms of processor time a tile, against 43 with 64 at once)."""


class Encoder:
    """A model that turns tiles into features, and what it must be shown.

    Tiles are sent to the device as they are and normalised there. Where memory does not do for a batch, half of it is
    tried, which is said once for each halving. On a CPU batches are always small.

    Attributes:
        name: of the recipe or model.
        sha256: of the file of weights; "" for random ones.
        init: ``weights`` or ``random``.
        recipe: how the model was built and what it is shown.
        settings: what decides the features besides weights and tiles; plain values, ready for JSON.
        precision: of the arithmetic: ``float32``, ``float16`` or ``bfloat16``.
        num_features: length of a tile's features.
        prepare: makes a tile (S, S, 3) uint8 the model's input (input_px, input_px, 3) uint8.

    Args:
        model: gives (B, F), or all tokens (B, N, D) for the pooling ``cls+mean``.
        recipe: mean, deviation, input size and pooling.
        sha256: as the attribute.
        seed: of random weights; None: they were loaded.
        device: where to compute.
        precision: anything but float32 is used through autocast.
        transforms: what prepares tiles in place of the recipe, as a run did in training.

    Raises:
        InputError: the model does not take the recipe's input, or gives no vector a tile.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        sha256: str,
        *,
        seed: int | None = None,
        device: torch.device | None = None,
        precision: torch.dtype = torch.float32,
        transforms: Transforms | None = None,
    ) -> None:
        self.name, self.sha256, self.recipe = recipe.name, sha256, recipe
        self.init = "weights" if seed is None else "random"
        self.settings: dict[str, Any] = recipe.settings
        if seed is not None:
            self.settings["seed"] = seed
        self.prepare: Callable[[np.ndarray], np.ndarray] = recipe.prepare
        if transforms is not None:
            self.settings["transforms"] = type(transforms).__name__
            self.prepare = transforms.prepare
        self.precision = str(precision).removeprefix("torch.")
        self._dtype = precision
        self._device = device or torch.device("cpu")
        self._lock = threading.Lock()
        # Tiles that are computed at once; None: all that are given.
        self._most: int | None = CPU_TILES if self._device.type == "cpu" else None
        try:
            self._model = model.eval().requires_grad_(False).to(self._device).to(memory_format=torch.channels_last)
            self._mean, self._std = (
                torch.tensor(values, device=self._device).view(3, 1, 1) for values in (recipe.mean, recipe.std)
            )
            probe = self(np.zeros((1, recipe.input_px, recipe.input_px, 3), np.uint8))
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            raise InputError(f"--encoder {self.name}: takes no tiles of {recipe.input_px} px: {error}") from None
        if probe.ndim != 2:
            raise InputError(f"--encoder {self.name}: gives {probe.shape[1:]} a tile, not one vector; choose a pooling")
        self.num_features = probe.shape[1]

    def __call__(self, images_BHWC: np.ndarray) -> np.ndarray:
        """Encode prepared tiles; threads that call at once take turns.

        A tile's features do not depend on the others of its batch, but for rounding.

        Args:
            images_BHWC: (B, input_px, input_px, 3) uint8; B may be 0.

        Returns:
            (B, F) float32.

        Raises:
            RunError: the device has not enough memory for a single tile.
        """
        if len(images_BHWC) == 0:
            return np.empty((0, self.num_features), np.float32)
        with self._lock:
            return self._encode_all(images_BHWC)

    def _encode_all(self, images_BHWC: np.ndarray) -> np.ndarray:
        features = []
        start = 0
        while start < len(images_BHWC):
            length = min(self._most or len(images_BHWC), len(images_BHWC) - start)
            try:
                features.append(self._encode(images_BHWC[start : start + length]))
            except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
                if not is_out_of_memory(error):
                    raise
                self._try_fewer_than(length)
            else:
                start += length
        return np.concatenate(features)

    @torch.inference_mode()
    def _encode(self, images_BHWC: np.ndarray) -> np.ndarray:
        # A view with the channels in front has the memory layout "channels last" already.
        image_BCHW = torch.from_numpy(images_BHWC).to(self._device).permute(0, 3, 1, 2).float()
        image_BCHW = (image_BCHW / 255 - self._mean) / self._std
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            output: Tensor = self._model(image_BCHW)
            if self.recipe.pooling == "cls+mean":
                patches_BND = output[:, self._model.num_prefix_tokens :]
                output = torch.cat([output[:, 0], patches_BND.mean(1)], dim=1)
        features: np.ndarray = output.float().cpu().numpy()
        return features

    def _try_fewer_than(self, tiles: int) -> None:
        if tiles == 1:
            raise RunError(
                f"{self._device} has no memory for a single tile of {self.recipe.input_px} px with {self.name}. "
                "What was finished is kept. Free its memory or use another device, then start again"
            ) from None
        self._most = tiles // 2
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        event("memory", "warning", device=self._device.type, tiles=tiles, going_on_with=self._most)
        print(f"{self._device} has no memory for {tiles} tiles at once: going on with {self._most}", file=sys.stderr)


def choose_device(name: str) -> torch.device:
    """The device of this name; ``auto`` is a GPU where there is one.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(f"--device {name}: not on this machine; medsoft doctor says what is here") from None
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of number to compute in.

    Raises:
        InputError: unknown, or of no use on this device.
    """
    if name not in get_args(Precision):
        raise InputError(f"--precision {name}: one of {', '.join(get_args(Precision))}")
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name == "16" and device.type == "cpu":
        raise InputError("--precision 16 is for GPUs: on a CPU use 32 or bf16")
    return DTYPES[name]
