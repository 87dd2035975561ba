"""The features that a model reads its answer from, and what a run keeps of them to know the unfamiliar."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from medsoft.errors import RunError
from medsoft.learn.familiar import Familiar, learn_familiar
from medsoft.learn.outcome import Data
from medsoft.learn.processes import of_all_processes
from medsoft.learn.run_folder import RunFolder
from medsoft.learn.table_classifier import TableClassifier


class FeatureReader(LightningModule):
    """Gives the features of each sample in place of an answer."""

    def __init__(self, model: TableClassifier) -> None:
        super().__init__()
        self.model = model

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> tuple[Tensor, Tensor]:
        """Index of the sample in its data set (B,), and its features (B, D) float32 on the CPU."""
        return batch["index"].cpu(), self.model.logits_and_features(batch)[1].cpu()


def read_features(trainer: Trainer, model: TableClassifier, data: Data, split: str) -> np.ndarray:
    """(N, D) features of a loaded split, in its order, not augmented."""
    outputs: Any = trainer.predict(FeatureReader(model), data.split_dataloader(split)) or []
    _, features_ND = of_all_processes(*(torch.cat(parts).numpy() for parts in zip(*outputs, strict=True)))
    return features_ND


def keep_familiar(trainer: Trainer, model: TableClassifier, data: Data, run: RunFolder, quantile: float) -> Familiar:
    """Learn what is familiar from a run's training part, with its threshold from the validation part, and write it.

    Raises:
        RunError: the features are no numbers, or cannot be written.
    """
    train, val = (read_features(trainer, model, data, split) for split in ("train", "val"))
    try:
        found = learn_familiar(train, val, quantile, fingerprint(model))
        if trainer.is_global_zero:
            found.write(run.familiar)
    except (ValueError, OSError) as error:
        raise RunError(f"{run.familiar}: not written: {error}; what was saved before is kept") from None
    return found


def find_familiar(run: RunFolder, model: TableClassifier) -> Familiar | None:
    """What a run has kept, if it was kept for these very weights; else None.

    Raises:
        InputError: the file is damaged.
    """
    if not run.familiar.is_file():
        return None
    found = Familiar.read(run.familiar)
    return found if found.weights == fingerprint(model) else None


def fingerprint(model: TableClassifier) -> str:
    """SHA-256 over the names and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
