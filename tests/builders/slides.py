"""Slides as small pyramids, and a checkpoint of a slide classifier that fits them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from medsoft.classifiers.slide import SlideClassifier
from medsoft.data.features.open import open_bag
from medsoft.data.images.write_pyramid import write_pyramid
from medsoft.specs import BagSpec, Covariates
from medsoft.task import Task
from tests.builders.survival import simulate

BINARY = Task.of("binary", ("normal", "tumour"))


ENCODER = ["--encoder", "test_efficientnet", "--encoder-init", "random", "--input-px", 32, "--device", "cpu"]


TILES = ["--mpp", 1, "--tile", 32]


def write_slide(path: Path, seed: int, tissue: bool = True) -> None:
    """640 x 512 px of glass, 0.5 µm/px, with a stained rectangle of noise."""
    pixels = np.full((512, 640, 3), 245, np.uint8)
    if tissue:
        noise = np.random.default_rng(seed).integers(-20, 20, (390, 520, 3))
        pixels[60:450, 60:580] = np.clip(np.array([190, 100, 170]) + noise, 0, 255)
    write_pyramid(path, (640, 512), lambda x, y, w, h: pixels[y : y + h, x : x + w], 0.5, downsamples=(1, 4))


def write_checkpoint(
    path: Path,
    features: Path,
    task: Task = BINARY,
    aggregator: str = "abmil",
    scale: tuple[float, float] = (0.0, 1.0),
    weight: float = 0.5,
    covariates: Covariates | None = None,
    group: str = "slide",
) -> Path:
    """A classifier with random weights for features like those of a file; its aggregator is one of those below."""
    with open_bag(features) as bag:
        facts = bag.facts
        slides = None
        if facts is not None:
            slides = {name: getattr(facts, name) for name in ("encoder", "encoder_sha256", "encoder_init")}
            slides |= {name: dict(getattr(facts, name)) for name in ("encoder_settings", "tile_settings")}
        kind = (bag.num_features, True, asdict(bag.identity), slides, scale if task.kind == "regression" else None)
        spec = BagSpec(task, np.ones(len(task.classes)), *kind, covariates=covariates, group=group)
    name, options = AGGREGATORS.get(aggregator, (aggregator, {"dim": 8}))
    torch.manual_seed(0)
    model = SlideClassifier(spec, name, options)
    torch.nn.init.normal_(model.aggregator.head.weight, std=weight)
    if model.objective.learns:
        risks_NK, targets_N2 = torch.randn(40, model.objective.outputs), torch.from_numpy(simulate(40)[2])
        model.objective.learn(risks_NK, targets_N2)
    if model.covariates is not None:
        torch.nn.init.normal_(model.covariates.linear.weight)
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)
    return path


AGGREGATORS = {
    "abmil": ("abmil", {"dim": 16, "attention_dim": 8}),
    "mean": ("mean", {"dim": 16}),
    "seqnorm": ("transformer", {"attention": "seqnorm", "dim": 16, "num_heads": 2, "coordinates": True}),
    "softmax": ("transformer", {"attention": "softmax", "dim": 16, "num_heads": 2}),
}
