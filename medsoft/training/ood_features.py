"""Fits a run's out-of-distribution detector to the model's features and inputs."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from medsoft.classifiers.base import TableClassifier
from medsoft.classifiers.out_of_distribution import Detector, Observed, learn_detector
from medsoft.errors import RunError
from medsoft.ops.distributed import of_all_processes
from medsoft.runs.run_folder import RunFolder
from medsoft.training.predict import Data


class FeatureReader(LightningModule):
    """Gives what the detector is shown of each sample in place of an answer."""

    def __init__(self, model: TableClassifier) -> None:
        super().__init__()
        self.model = model

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> tuple[Tensor, ...]:
        """On the CPU: index of the sample in its data set (B,), statistics of its input (B, S), its stored size.

        The size is (B, 2), and (B, 0) where it is not known. Then follow the features (B, D_l) of each layer.
        """
        layers = self.model.logits_and_layers(batch)[1]
        size = batch.get("stored_size", batch["index"].new_zeros((len(batch["index"]), 0)))
        return tuple(values.cpu() for values in (batch["index"], self.model.input_statistics(batch), size, *layers))


def observe(trainer: Trainer, model: TableClassifier, data: Data, split: str) -> Observed:
    """What the detector is shown of a loaded split, in its order, not augmented."""
    outputs: Any = trainer.predict(FeatureReader(model), data.split_dataloader(split)) or []
    _, inputs_NS, sizes, *layers = of_all_processes(*(torch.cat(parts).numpy() for parts in zip(*outputs, strict=True)))
    return Observed(layers, inputs_NS, sizes if sizes.shape[1] else None)


def keep_detector(trainer: Trainer, model: TableClassifier, data: Data, run: RunFolder, quantile: float) -> Detector:
    """Learn a run's detector from its training and validation part, and write it.

    Raises:
        RunError: the features are no numbers, or cannot be written.
    """
    train, val = (observe(trainer, model, data, split) for split in ("train", "val"))
    try:
        found = learn_detector(train, val, quantile, fingerprint(model))
        if trainer.is_global_zero:
            found.write(run.detector)
    except (ValueError, OSError) as error:
        raise RunError(f"{run.detector}: not written: {error}; everything saved before is kept") from None
    return found


def find_detector(run: RunFolder, model: TableClassifier) -> Detector | None:
    """What a run has kept, if it was kept for these very weights; else None. That of medsoft 0.1 is taken too.

    Raises:
        InputError: the file is damaged.
    """
    file = next((path for path in (run.detector, run.old_detector) if path.is_file()), None)
    if file is None:
        return None
    found = Detector.read(file)
    return found if found.weights == fingerprint(model) else None


def fingerprint(model: TableClassifier) -> str:
    """SHA-256 over the names and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
