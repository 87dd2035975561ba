#!/usr/bin/env python
"""Images per second of ``medsoft fit`` against a bare PyTorch loop: same model and cached images, epochs in turn.

    python scripts/throughput.py EPOCHS [options of medsoft fit, --out among them]

Timed are the training steps of an epoch, loading and augmentation included, without validation. The bare loop has the
same batches and augmentation, AdamW, and nothing else: no clipping, no schedule, no log, no checkpoint. The first epoch
warms up and is left out.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from medsoft.training import trainer as training
from medsoft.workflows import fit as fitting


class SideBySide(Callback):
    """Times medsoft's epochs, and runs one of the bare loop after each."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {"medsoft fit": [], "bare loop": []}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.model = copy.deepcopy(nn.Sequential(pl_module.backbone, pl_module.head)).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.loader = trainer.datamodule.train_dataloader()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started, self.images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch["image"])
        self.seconds = time.perf_counter() - self.started

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rates["medsoft fit"].append(self.images / self.seconds)
        self.loader.batch_sampler.set_epoch(trainer.current_epoch)
        started, images = time.perf_counter(), 0
        for batch in self.loader:
            loss = pl_module.objective.loss(self.model(batch["image"].to(pl_module.device)), batch["target"])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            images += len(batch["image"])
        self.rates["bare loop"].append(images / (time.perf_counter() - started))


def main() -> None:
    """Run ``medsoft fit`` with the timer beside it."""
    side_by_side = SideBySide()
    with_callbacks = training.training_callbacks
    fitting.training_callbacks = lambda *args: [*with_callbacks(*args), side_by_side]
    fitting.fit([*sys.argv[2:], f"--trainer.max_epochs={sys.argv[1]}", "--figures=false"])
    medians = {name: statistics.median(rates[1:]) for name, rates in side_by_side.rates.items()}
    print({name: [round(rate, 1) for rate in rates] for name, rates in side_by_side.rates.items()})
    print(f"medians: {medians}, ratio {medians['medsoft fit'] / medians['bare loop']:.3f}")


if __name__ == "__main__":
    main()
