"""Applies an encoder: images or volumes in, pooled features or maps of tokens out, on any device."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from medsoft.data.features.provenance import APART
from medsoft.data.transforms.base import Transforms
from medsoft.encoders.engines.choose import TORCH, Engines, check_images, difference
from medsoft.encoders.engines.graph import Graph, Wanted
from medsoft.encoders.recipes import Recipe
from medsoft.errors import InputError, RunError, is_out_of_memory
from medsoft.slides.tiling.settings import Engine, Precision
from medsoft.system.logging import event

LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}
DTYPES = {"32": torch.float32, "16": torch.float16, "bf16": torch.bfloat16}

CPU_TILES = 4
"""A CPU gains nothing from more, and loses: large results between layers are given back to the system after each one,
and fetched anew (EfficientNet-Lite0: 19 ms of processor time a tile, against 43 with 64 at once)."""


CPU_PIXELS = CPU_TILES * 256 * 256
"""The same for larger images: four of 1536 px at once take 3.3 GB, one 1.8 GB, and it is not slower."""


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
        engine: what computes on a CPU: ``torch``, ``onnx``, ``openvino``, or the fastest that computes the same
            (``medsoft.encoders.engines``).

    Raises:
        InputError: the model does not take the recipe's input, or gives no vector per tile; or no such engine is here.
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
        engine: Engine = "torch",
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
        self._engines = Engines(engine, self._device, precision)
        self._lock = threading.Lock()
        # Tiles that are computed at once; None: all that are given.
        self._most: int | None = CPU_TILES if self._device.type == "cpu" else None
        try:
            self._model = model.eval().requires_grad_(False).to(self._device).to(memory_format=LAYOUTS[recipe.dims])
            self._graphs = {wanted: Graph(self._model, recipe, wanted).to(self._device) for wanted in get_args(Wanted)}
            probe = self._encode_all(self._blank(), "pooled", by_torch=True)[0]
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            size = " x ".join(map(str, dict.fromkeys(recipe.size)))
            kind, unit = ("tiles", "px") if recipe.dims == 2 else ("volumes", "voxels")
            raise InputError(f"--encoder {self.name}: takes no {kind} of {size} {unit}: {error}") from None
        if probe.ndim != 2:
            raise InputError(
                f"--encoder {self.name}: gives {probe.shape[1:]} per tile, not one vector; choose a pooling"
            )
        self.num_features = probe.shape[1]

    def change_model(self, change: Callable[[nn.Module], nn.Module]) -> None:
        """Put the model that ``change`` makes of this one in its place, such as ``torch.compile``."""
        for graph in self._graphs.values():
            graph.model = change(self._model)

    @property
    def engine(self) -> str:
        """What computed the last images, or after ``expect`` will compute the next."""
        return self._engines.used

    def expect(self, images: int, of_own_size: bool = True) -> None:
        """So many more images are to come: what is worth it for them is prepared.

        Args:
            images: their number.
            of_own_size: whether all have the recipe's size, and are wanted pooled.

        Raises:
            InputError: the engine that was asked for does not compute this encoder.
        """
        with self._lock:
            self._engines.expect(images)
            if of_own_size:
                self._engines.find(self._graphs["pooled"], self._blank().shape[1:])

    @property
    def note(self) -> str:
        """One sentence on a precision that is not exact, with its error on this encoder; "" for others."""
        if self.precision not in APART:
            return ""
        emulated = self._device.type == "cpu" and self._engines.used == TORCH and not has_bfloat16()
        return (
            f"In {self.precision} features differ from those in float32 by up to {self._error():.1g} of the largest; "
            "the two are not used together."
            + (" This processor does not compute in it: PyTorch emulates it, slowly." if emulated else "")
        )

    def _error(self) -> float:
        """How far pooled features in this precision are from those in float32, as a share of the largest feature."""
        images = torch.from_numpy(check_images(self._blank().shape[1:], self.recipe.dims == 2)).to(self._device)
        graph = self._graphs["pooled"]
        with torch.inference_mode():
            exact = [one.float().cpu().numpy() for one in graph(images)]
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                found = [one.float().cpu().numpy() for one in graph(images)]
        return difference(found, exact)

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
        return self._tokens_by_torch(self._blank()).shape[1:-1]

    @cached_property
    def num_token_features(self) -> int:
        """Length of a token's features."""
        return int(self._tokens_by_torch(self._blank()).shape[-1])

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
            return self._tokens_by_torch(larger).shape[1:-1] != self.grid
        except (RuntimeError, ValueError, AssertionError):
            return False

    def _blank(self) -> np.ndarray:
        """One image of the recipe's size."""
        kind = np.uint8 if self.recipe.dims == 2 else np.float32
        return np.zeros((1, *self.recipe.size, self.recipe.channels), kind)

    def _tokens_by_torch(self, images_BHWC: np.ndarray) -> np.ndarray:
        """As ``tokens``, for a look at the network: no engine is prepared for it."""
        return self._encode_all(images_BHWC, "tokens", by_torch=True)[1]

    def _encode_all(
        self, images_BHWC: np.ndarray, wanted: Wanted, by_torch: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
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
                    features, tokens = self._encode(images_BHWC[start : start + length], wanted, by_torch)
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
    def _encode(self, images_BHWC: np.ndarray, wanted: Wanted, by_torch: bool) -> tuple[np.ndarray, np.ndarray]:
        if wanted != "pooled" and not hasattr(self._model, "forward_features"):
            raise InputError(f"--encoder {self.name}: gives one vector, and no map of tokens: use --tokens false")
        graph = self._graphs[wanted]
        run = None if by_torch else self._engines.find(graph, images_BHWC.shape[1:])
        if run is not None:
            found = run(images_BHWC)
        else:
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                found = [one.float().cpu().numpy() for one in graph(torch.from_numpy(images_BHWC).to(self._device))]
        nothing = np.empty(0, np.float32)
        return nothing if wanted == "tokens" else found[0], nothing if wanted == "pooled" else found[-1]

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


def has_bfloat16() -> bool:
    """Whether this processor computes in bfloat16 by itself."""
    found = torch.cpu.get_capabilities()
    return any(bool(value) for name, value in found.items() if "bf16" in name)


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
