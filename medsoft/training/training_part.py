"""What predictions need of the training part, such as a baseline hazard: learnt from the weights that were chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from medsoft.classifiers.base import TableClassifier
from medsoft.ops.distributed import of_all_processes
from medsoft.runs.checkpoint_io import AtomicCheckpointIO
from medsoft.training.predict import Data


class _LogitReader(LightningModule):
    """Gives index, logits and target of each sample."""

    def __init__(self, model: TableClassifier) -> None:
        super().__init__()
        self.model = model

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> tuple[Tensor, ...]:
        return batch["index"].cpu(), self.model.logits(batch).cpu(), batch["target"].cpu()


def learn_from_training_part(trainer: Trainer, model: TableClassifier, data: Data, checkpoint: Path) -> None:
    """Let the objective learn from the training part, not augmented, and keep it in the checkpoint.

    Nothing is done for an objective that needs nothing.

    Args:
        trainer: of the run.
        model: with the checkpoint's weights.
        data: with its training part loaded.
        checkpoint: its file.

    Raises:
        RunError: the checkpoint cannot be written.
    """
    if not model.objective.learns:
        return
    outputs: Any = trainer.predict(_LogitReader(model), data.split_dataloader("train")) or []
    _, logits, target = of_all_processes(*(torch.cat(parts).numpy() for parts in zip(*outputs, strict=True)))
    model.objective.learn(torch.from_numpy(logits), torch.from_numpy(target))
    if trainer.is_global_zero:
        files = AtomicCheckpointIO()
        state = files.load_checkpoint(checkpoint)
        state["medsoft"] |= model.objective.state()
        files.save_checkpoint(state, checkpoint)
