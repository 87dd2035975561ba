"""Applies an encoder: images or volumes in, pooled features or maps of tokens out, on any device."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from medsoft.data.transforms.base import Transforms
from medsoft.encoders.recipes import Recipe
from medsoft.errors import InputError, RunError, is_out_of_memory
from medsoft.models.token_map import token_map
from medsoft.slides.tiling.settings import Precision
from medsoft.system.logging import event

LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}
DTYPES = {"32": torch.float32, "16": torch.float16, "bf16": torch.bfloat16}

CPU_TILES = 4
"""A CPU gains nothing from more, and loses: large results between layers are given back to the system after each one,
and fetched anew (EfficientNet-Lite0: 19 ms of processor time a tile, against 43 with 64 at once)."""


CPU_PIXELS = CPU_TILES * 256 * 256
"""The same for larger images: four of 1536 px at once take 3.3 GB, one 1.8 GB, and it is not slower."""

Wanted = Literal["pooled", "tokens", "both"]


class Encoder:
    """A model that turns tiles, images or volumes into features, and what it must be shown.

    Pictures are (B, H, W, C) uint8: they are sent to the device as they are and normalised there. Volumes are
    (B, D, H, W, C) float32, of values as the recipe's ``intensity`` scales them; mean and deviation are applied here.
    H and W, or D, H and W, are the recipe's ``size``, or any other where it is for ``any_size``.

    Where memory does not do for a batch, half of it is tried, which is said once for each halving. On a CPU batches are
    always small.

    Attributes:
        name: of the recipe or model.
        sha256: of the file of weights; "" for random ones.
        init: ``weights`` or ``random``.
        recipe: how the model was built and what it is shown.
        settings: what decides the features besides weights and tiles; plain values, ready for JSON.
        precision: of the arithmetic: ``float32``, ``float16`` or ``bfloat16``.
        num_features: length of a tile's features, or of an image's pooled ones.
        prepare: makes a tile (S, S, C) uint8 the model's input (*size, C) uint8.

    Args:
        model: gives (B, F), or all tokens (B, N, D) for the pooling ``cls+mean``.
        recipe: mean, deviation, input size and pooling.
        sha256: as the attribute.
        seed: of random weights; None: they were loaded.
        device: where to compute.
        precision: anything but float32 is used through autocast.
        transforms: what prepares tiles in place of the recipe, as a run did in training.

    Raises:
        InputError: the model does not take the recipe's input, or gives no vector per tile.
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
            self._model = model.eval().requires_grad_(False).to(self._device).to(memory_format=LAYOUTS[recipe.dims])
            self._mean, self._std = (
                torch.tensor(values, device=self._device).view(-1, *[1] * recipe.dims)
                for values in (recipe.mean, recipe.std)
            )
            probe = self(self._blank())
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            size = " x ".join(map(str, dict.fromkeys(recipe.size)))
            kind, unit = ("tiles", "px") if recipe.dims == 2 else ("volumes", "voxels")
            raise InputError(f"--encoder {self.name}: takes no {kind} of {size} {unit}: {error}") from None
        if probe.ndim != 2:
            raise InputError(
                f"--encoder {self.name}: gives {probe.shape[1:]} per tile, not one vector; choose a pooling"
            )
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
        return self._encode_all(images_BHWC, "pooled")[0]

    def tokens(self, images_BHWC: np.ndarray) -> np.ndarray:
        """The map of tokens of prepared images: of patches, without class token and registers, or the last map.

        Args:
            images_BHWC: as of a call.

        Returns:
            (B, h, w, Ft) float32; of volumes (B, d, h, w, Ft).

        Raises:
            InputError: the model has no map.
            RunError: the device has not enough memory for a single image.
        """
        return self._encode_all(images_BHWC, "tokens")[1]

    def pooled_and_tokens(self, images_BHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a call gives and what ``tokens`` gives, in one pass."""
        return self._encode_all(images_BHWC, "both")

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """Of the tokens of an image of the recipe's size: (h, w), or (d, h, w)."""
        return self.tokens(self._blank()).shape[1:-1]

    @cached_property
    def num_token_features(self) -> int:
        """Length of a token's features."""
        return int(self.tokens(self._blank()).shape[-1])

    @cached_property
    def takes_any_size(self) -> bool:
        """Whether pictures of any size are taken as the model is, as by convolutional networks.

        A transformer that takes another size does so with resampled positions: that is another model, to be built.
        """
        if self.recipe.dims != 2 or hasattr(self._model, "patch_embed"):
            return False
        height, width = self.recipe.size
        larger = np.zeros((1, height + 96, width + 32, self.recipe.channels), np.uint8)
        try:
            return self.tokens(larger).shape[1:-1] != self.grid
        except (RuntimeError, ValueError, AssertionError):
            return False

    def _blank(self) -> np.ndarray:
        """One image of the recipe's size."""
        kind = np.uint8 if self.recipe.dims == 2 else np.float32
        return np.zeros((1, *self.recipe.size, self.recipe.channels), kind)

    def _encode_all(self, images_BHWC: np.ndarray, wanted: Wanted) -> tuple[np.ndarray, np.ndarray]:
        """Pooled features and maps; what is not wanted is empty. Threads that call at once take turns."""
        self.recipe.check_images("--encoder", images_BHWC.shape[-1], images_BHWC.ndim - 2)
        if len(images_BHWC) == 0:
            return np.empty((0, self.num_features), np.float32), np.empty(
                (0, *self.grid, self.num_token_features), np.float32
            )
        pooled, maps = [], []
        start = 0
        with self._lock:
            while start < len(images_BHWC):
                length = min(self._at_once(images_BHWC), len(images_BHWC) - start)
                try:
                    features, tokens = self._encode(images_BHWC[start : start + length], wanted)
                except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
                    if not is_out_of_memory(error):
                        raise
                    self._try_fewer_than(length)
                else:
                    pooled.append(features)
                    maps.append(tokens)
                    start += length
        return np.concatenate(pooled), np.concatenate(maps)

    def _at_once(self, images_BHWC: np.ndarray) -> int:
        """Images that are computed at once: on a CPU as many pixels as ``CPU_TILES`` tiles have."""
        most = self._most or len(images_BHWC)
        if self._device.type == "cpu" and self.recipe.dims == 2:
            most = min(most, CPU_PIXELS // math.prod(images_BHWC.shape[1:3]))
        return max(1, most)

    @torch.inference_mode()
    def _encode(self, images_BHWC: np.ndarray, wanted: Wanted) -> tuple[np.ndarray, np.ndarray]:
        # A view with the channels in front has the memory layout "channels last" already.
        image = torch.from_numpy(images_BHWC).to(self._device).movedim(-1, 1).float()
        image = ((image / 255 if self.recipe.dims == 2 else image) - self._mean) / self._std
        model: Any = self._model
        tokens = image.new_empty(0)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            if wanted == "pooled":
                output: Tensor = model(image)
            else:
                features = self._features(image)
                output = model.forward_head(features) if wanted == "both" else tokens
                tokens = token_map(model, features, image.shape[2:])
            if self.recipe.pooling == "cls+mean" and wanted != "tokens":
                patches_BND = output[:, model.num_prefix_tokens :]
                output = torch.cat([output[:, 0], patches_BND.mean(1)], dim=1)
        return output.float().cpu().numpy(), tokens.float().cpu().numpy()

    def _features(self, image: Tensor) -> Tensor:
        if not hasattr(self._model, "forward_features"):
            raise InputError(f"--encoder {self.name}: gives one vector, and no map of tokens: use --tokens false")
        model: Any = self._model
        features: Tensor = model.forward_features(image)
        return features

    def _try_fewer_than(self, tiles: int) -> None:
        if tiles == 1:
            raise RunError(
                f"{self._device} has no memory for a single tile of {self.recipe.input_px} px with {self.name}. "
                "Finished work is kept. Free its memory or use another device, then start again"
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
