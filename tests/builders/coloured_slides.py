"""Slides of plain colours as pictures, and an encoder without a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medsoft.cluster.client import Cluster
from medsoft.cluster.options import Workers
from medsoft.data.features.open import open_bag
from medsoft.inference.slides.encode_cohort import EncodeJob, encode_slides
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.progress import slides_progress
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.settings import EncodingSettings, TileSettings

SETTINGS = TileSettings(mpp=1.0, tile_px=64, min_tissue=0.5)


class Colours:
    """An encoder without a network: mean colour, its square, and the colour of a corner."""

    name, sha256, init, precision = "colours", "ab" * 32, "weights", "float32"
    engine = "torch"
    num_features = 9
    settings = {"input_px": 64}  # noqa: RUF012 (as encoders have it)

    def expect(self, images, of_own_size=True):
        """Nothing is worth preparing."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def prepare(self, tile_HWC):
        return tile_HWC

    def __call__(self, images_BHWC):
        self.batches.append(len(images_BHWC))
        mean_B3 = images_BHWC.mean((1, 2), dtype=np.float64) / 255
        return np.concatenate([mean_B3, mean_B3**2, images_BHWC[:, 0, 0] / 255], axis=1).astype(np.float32)


def picture(seed: int, side: tuple[int, int] = (640, 512), tissue: tuple[int, int, int, int] = (60, 60, 580, 450)):
    """White glass with a stained rectangle (left, upper, right, lower) of noise."""
    width, height = side
    pixels = np.full((height, width, 3), 245, np.uint8)
    left, upper, right, lower = tissue
    noise = np.random.default_rng(seed).integers(-20, 20, (lower - upper, right - left, 3))
    pixels[upper:lower, left:right] = np.clip(np.array([190, 100, 170]) + noise, 0, 255)
    return pixels


def write_slide(path: Path, seed: int, **kinds) -> SlideSource:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, **kinds)).save(path)
    return SlideSource(path.stem, path, 1.0, "option")


def encode(sources, folder, encoder=None, settings=SETTINGS, dtype="float16", **encoding):
    """Encode slides in this process."""
    sources, encoder = list(sources), encoder or Colours()
    job = EncodeJob(
        out=folder.path,
        where=Workers(),
        build=type(encoder),
        sha256=encoder.sha256,
        tiles=settings,
        encoding=EncodingSettings(**{"batch_size": 5, "workers": 2} | encoding),
        dtype=dtype,
    )
    with Cluster(job.where, folder) as cluster, slides_progress(len(sources), "encoding") as progress:
        return encode_slides(sources, folder, job, encoder, cluster, progress)


def features(folder: SlidesFolder, id: str) -> np.ndarray:
    with open_bag(folder.features(id)) as bag:
        return bag.read()


def statuses(folder: SlidesFolder) -> dict[str, str]:
    return {id: slide_status.status for id, slide_status in folder.slide_statuses().items()}
