#!/usr/bin/env python
"""Which score tells unfamiliar pictures from a run's own test part: the table of docs/uncertainty.md.

    python scripts/unfamiliar.py RUN FOLDER [FOLDER …]

RUN is a run of medsoft fit on pictures; of each FOLDER up to 100 pictures are prepared by the run's recipe and shown to
its model. Printed are the AUROC of each score for those pictures against the run's test part and, after the stroke, the
share of them beyond the 0.99 quantile of the validation part's scores; first, that share of the run's own test part.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from medsoft.data.read import read_image
from medsoft.learn.checkpoints import find_checkpoint, load_weights
from medsoft.learn.command_line import CommandLine
from medsoft.learn.familiar import learn_familiar
from medsoft.learn.quiet import quieten

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif")
QUANTILE = 0.99


@torch.no_grad()
def look(model: Any, pictures: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, D), and the highest probability of each picture (n,)."""
    batches = [
        model.logits_and_features({"image": torch.stack(pictures[i : i + 64])}) for i in range(0, len(pictures), 64)
    ]
    probabilities = torch.cat([model.objective.probabilities(logits) for logits, _ in batches])
    return torch.cat([features for _, features in batches]).numpy(), probabilities.max(dim=1).values.numpy()


def prepared(folder: Path, transforms: Any) -> list[torch.Tensor]:
    """Up to 100 pictures of a folder as the model sees them; grey ones as three equal channels where it wants three."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    pictures = [read_image(str(file)) for file in files[:: max(len(files) // 100, 1)][:100]]
    if transforms.channels == 3:
        pictures = [np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image for image in pictures]
    return [torch.from_numpy(transforms.finish(transforms.prepare(image))) for image in pictures]


def main(run: str, folders: list[Path]) -> None:
    quieten()
    checkpoint = find_checkpoint(run)
    line = CommandLine("fit", ["--config", str(checkpoint.config)])
    data, model = line.datamodule, line.model.eval()
    load_weights(model, checkpoint.file)
    data.load(["train", "val", "test"])
    shown = {
        split: [
            torch.as_tensor(sample["image"])
            for sample in (data._parts[split][1][i] for i in range(len(data.part(split))))
        ]
        for split in ("train", "val", "test")
    }
    shown |= {folder.name: prepared(folder, data.transforms) for folder in folders}
    features, certain = {}, {}
    for name, pictures in shown.items():
        features[name], certain[name] = look(model, pictures)
    target = data.part("train").targets
    ours = learn_familiar(features["train"], features["val"], QUANTILE)
    means = [features["train"][target == k].mean(axis=0) for k in np.unique(target)]
    centred = np.concatenate(
        [features["train"][target == k] - m for k, m in zip(np.unique(target), means, strict=True)]
    )
    of_class = learn_familiar(centred, centred, QUANTILE)
    near = NearestNeighbors(n_neighbors=5).fit(normalize(features["train"]))
    scores = {
        "Mahalanobis": lambda name: ours.distance(features[name]),
        "Mahalanobis, nearest class": lambda name: np.min(
            [of_class.distance(features[name] - m) for m in means], axis=0
        ),
        "5th neighbour": lambda name: near.kneighbors(normalize(features[name]))[0][:, -1],
        "1 − highest probability": lambda name: 1 - certain[name],
    }
    print(f"{run}: train {len(target)}, val {len(shown['val'])}, test {len(shown['test'])}")
    for what, score in scores.items():
        limit, own = np.quantile(score("val"), QUANTILE, method="higher"), score("test")
        cells = [f"own test {np.mean(own > limit):.2f}"]
        for folder in folders:
            other = score(folder.name)
            truth = np.repeat([0, 1], [len(own), len(other)])
            auroc = roc_auc_score(truth, np.concatenate([own, other]))
            cells.append(f"{folder.name} {auroc:.3f}/{np.mean(other > limit):.2f}")
        print(f"  {what:28s}{'  '.join(cells)}")


if __name__ == "__main__":
    main(sys.argv[1], [Path(word) for word in sys.argv[2:]])
