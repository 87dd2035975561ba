"""Encoders whose maps can be told in advance: a small convolutional network, and the brightest pixel of each patch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from medsoft.encoders.recipes import Recipe

STRIDE = 8


class MapOfConvolutions:
    """Three convolutions of stride 2: a receptive field of 15 px, and padding with zeros."""

    name, sha256, init, precision = "convolutions", "", "random", "float32"
    engine = "torch"
    takes_any_size = True
    num_features = num_token_features = 5
    grid = (8, 8)

    def expect(self, images, of_own_size=True):
        """Nothing is worth preparing."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        sizes = [(3, 8), (8, 8), (8, self.num_features)]
        layers = [layer for a, b in sizes for layer in (nn.Conv2d(a, b, 3, 2, 1), nn.Tanh())]
        self._model = nn.Sequential(*layers).eval()
        self.settings: dict[str, object] = {"architecture": self.name}
        self.recipe = SimpleNamespace(size=(64, 64), channels=3, dims=2, check_images=lambda *_: None)

    def __call__(self, images_BHWC: np.ndarray) -> np.ndarray:
        return self.pooled_and_tokens(images_BHWC)[0]

    def pooled_and_tokens(self, images_BHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            map_BFhw = self._model(torch.from_numpy(images_BHWC).permute(0, 3, 1, 2) / 255.0 + 1)
        tokens = map_BFhw.permute(0, 2, 3, 1).numpy()
        return tokens.mean(axis=(1, 2)), tokens


class BrightestOfVolume:
    """A token is the largest value of its block of 8 voxels; of volumes of 16 x 16 x 8 voxels."""

    name, sha256, init, precision = "brightest of volume", "", "random", "float32"
    engine = "torch"
    num_features, num_token_features = 1, 1
    grid = (2, 2, 1)

    def expect(self, images, of_own_size=True):
        """Nothing is worth preparing."""

    def __init__(self) -> None:
        self.settings: dict[str, object] = {"architecture": self.name}
        self.recipe = Recipe(
            name=self.name,
            architecture="",
            mean=(0.0,),
            std=(1.0,),
            input_px=16,
            input_size=(16, 16, 8),
            tile_px=16,
            pooling="mean",
            dims=3,
            channels=1,
            intensity="percentiles",
        )

    def __call__(self, volumes_BDHWC: np.ndarray) -> np.ndarray:
        return self.pooled_and_tokens(volumes_BDHWC)[0]

    def pooled_and_tokens(self, volumes_BDHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert volumes_BDHWC.shape[1:] == (16, 16, 8, 1)
        tokens = volumes_BDHWC.reshape(-1, 2, 8, 2, 8, 1, 8, 1).max(axis=(2, 4, 6))
        return tokens.mean(axis=(1, 2, 3)), tokens


class Brightest:
    """A token is the largest value of its patch of 8 px, and its number in the window; of windows of 32 px alone."""

    name, sha256, init, precision = "brightest", "", "random", "float32"
    engine = "torch"
    num_features, num_token_features = 1, 2
    grid = (4, 4)

    def expect(self, images, of_own_size=True):
        """Nothing is worth preparing."""

    def __init__(self, takes_any_size: bool = False) -> None:
        self.takes_any_size = takes_any_size
        self.settings: dict[str, object] = {"architecture": self.name}
        self.recipe = SimpleNamespace(size=(32, 32), channels=3, dims=2, any_size=True, check_images=lambda *_: None)

    def __call__(self, images_BHWC: np.ndarray) -> np.ndarray:
        return images_BHWC.max(axis=(1, 2))[:, :1].astype(np.float32)

    def pooled_and_tokens(self, images_BHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        B, H, W, _ = images_BHWC.shape
        assert self.takes_any_size or (H, W) == (32, 32)
        patches = images_BHWC.reshape(B, H // STRIDE, STRIDE, W // STRIDE, STRIDE, 3)
        brightest = patches.max(axis=(2, 4, 5)).astype(np.float32)
        number = np.broadcast_to(np.arange(H // STRIDE)[:, None] * 100.0 + np.arange(W // STRIDE), brightest.shape)
        return self(images_BHWC), np.stack([brightest, number.astype(np.float32)], axis=-1)
