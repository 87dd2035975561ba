"""What a training can find out before it begins, with Lightning's Tuner: a batch that fits, and a learning rate.

Both work on a copy of the model and with a trainer of their own, so that the training is the same as if their result
had been given. The result is written into the run's configuration in place of the question, so that the run can be
repeated and resumed.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.tuner.tuning import Tuner
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from medsoft.classifiers.base import TableClassifier
from medsoft.data.datasets.base import TableDataModule
from medsoft.data.datasets.sampling import SampleKey
from medsoft.errors import InputError, RunError
from medsoft.evaluation.figures.learning import rate_curve
from medsoft.runs.checkpoint_io import AtomicCheckpointIO
from medsoft.storage.files import replacing
from medsoft.system.memory import available_memory
from medsoft.system.progress import progress

SHARE_OF_MEMORY = 0.5
"""Of a machine's free memory, what the tensors that a step keeps for its gradients may fill."""

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
"""Learning rates that the range test goes through, and in how many steps."""

SMOOTHING, LEAST = 4.0, 20
"""Width in steps of the smoothing of the losses, and from how many steps on a suggestion is made."""

Array = npt.NDArray[np.float64]


class _Trial(LightningModule):
    """Some steps of a copy of a model.

    Args:
        model: copied.
        loader: of the training part, of batches of a size.
        batch_size: of the first try; the Tuner changes it.
    """

    def __init__(self, model: TableClassifier, loader: Callable[[int], DataLoader[Any]], batch_size: int) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.loader, self.batch_size = loader, batch_size
        self.losses: list[float] = []

    def train_dataloader(self) -> DataLoader[Any]:
        if self.batch_size < 1:
            raise RunError("not enough memory for one sample: lower transforms.size, or choose a smaller model")
        return self.loader(self.batch_size)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.model.training_loss(batch)
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The model's, whose groups keep their rates in proportion whatever rate a scheduler gives all of them."""
        groups = self.model.parameter_groups()
        optimizer = torch.optim.AdamW(groups, lr=self.model.lr)
        scales = [group["lr"] / self.model.lr if self.model.lr else 1.0 for group in optimizer.param_groups]

        def scale(*_: Any, back: bool = False) -> None:
            for group, factor in zip(optimizer.param_groups, scales, strict=True):
                group["lr"] = group["lr"] / factor if back else group["lr"] * factor

        if all(scales):
            optimizer.register_step_pre_hook(scale)
            optimizer.register_step_post_hook(lambda *_: scale(back=True))
        return optimizer


def check_tuning(config: Any, processes: int, resumed: bool) -> None:
    """Check that what is asked to be found out can be.

    Args:
        config: the parsed command line.
        processes: that train together.
        resumed: whether a stopped run goes on.

    Raises:
        InputError: it cannot.
    """
    batch, rate = config.trainer.get("batch"), config.lr_find
    asked = "trainer.batch" if batch else "lr_find" if rate else None
    if asked is None:
        return
    if resumed:
        raise InputError(f"{asked}: the stopped run goes on with the values that it began with; leave it out")
    if processes > 1:
        raise InputError(f"{asked}: found out by one process alone; find it with --trainer.devices=1, then give it")
    if batch and "max_tiles" in config.data:
        raise InputError(
            "trainer.batch: bags differ in length, so that no number of them is known to fit: leave it out, and see "
            "data.max_tiles"
        )


def find_batch(config: Any, model: TableClassifier, data: TableDataModule[Any], trainer: Trainer) -> str:
    """Choose the largest batch that fits, up to the samples of one step as configured, and accumulate the rest.

    So what is learnt stays the same (but for batch normalisation, which sees the smaller batches), and only memory and
    time change. On a GPU the Tuner tries sizes until memory does; a CPU's system would end the process instead, so that
    there the need of a sample is measured and compared with the memory that is free.

    Args:
        config: the parsed command line; gets the result.
        model: as it begins.
        data: with its training part loaded; gets the batch size.
        trainer: of the training; gets the accumulation.

    Returns:
        What to tell the user.

    Raises:
        RunError: not even one sample fits.
    """
    accumulated = int(trainer.accumulate_grad_batches)
    a_step = data.batch_size * accumulated
    most = min(a_step, len(data.part("train")))
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if on_cpu:
        fits, why = _fits_in_memory(model, data, most)
    else:
        fits, why = _fits_by_trying(config, model, data, most), "tried"
    parts = math.ceil(a_step / fits)
    size = math.ceil(a_step / parts)
    data.batch_size = config.data.batch_size = size
    trainer.accumulate_grad_batches = config.trainer.accumulate_grad_batches = parts
    config.trainer.batch = None
    of = f"{parts} of them accumulated to a step of {a_step}" if parts > 1 else f"all {a_step} samples of a step"
    return f"trainer.batch auto: data.batch_size {size}, {of} ({why})"


def _fits_by_trying(config: Any, model: TableClassifier, data: TableDataModule[Any], most: int) -> int:
    """Half of the samples as often as memory does not suffice."""
    with tempfile.TemporaryDirectory() as folder, progress("finding a batch that fits"):
        trainer = _trainer(config, folder, max_epochs=1)
        trial = _Trial(model, _loader_of(data), most)
        # Above the first size nothing is tried: it is what a step needs.
        with _quiet():
            found = Tuner(trainer).scale_batch_size(trial, mode="power", init_val=most, max_val=most + 1)
    return min(most, found or most)


def _fits_in_memory(model: TableClassifier, data: TableDataModule[Any], most: int) -> tuple[int, str]:
    """How many samples' tensors fill a part of the memory that is free, and how that was found."""
    need, free = kept_bytes(model, data), available_memory()
    fits = most if need == 0 else int(free * SHARE_OF_MEMORY / need)
    if fits < 1:
        raise RunError("not enough memory for one sample: lower transforms.size, or choose a smaller model")
    said = f"a sample keeps {need / 2**20:,.1f} MiB in a step, and {free / 2**30:,.1f} GiB are free"
    return min(most, fits), said


def kept_bytes(model: TableClassifier, data: TableDataModule[Any]) -> int:
    """Bytes that autograd keeps for one more sample of a step; 0 for a training part of fewer than three."""
    if len(data.part("train")) < 3:
        return 0
    trial, dataset = copy.deepcopy(model), data.dataset("train")

    def kept(n: int) -> int:
        batch = default_collate([dataset[SampleKey(0, index)] for index in range(n)])
        batch = {name: value.to(model.device) for name, value in batch.items()}
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = trial.training_loss(batch)  # held until the sizes are known, so that no place is counted twice
        total = sum(sizes.values())
        del loss
        return total

    return max(0, kept(3) - kept(2))


@dataclass(frozen=True)
class RangeTest:
    """What the losses of rising learning rates say.

    Attributes:
        rates: (N,) of each step.
        losses: (N,) as they were.
        smooth: (N,) smoothed.
        suggestion: the rate at which the smoothed loss falls most steeply, by factor of the rate.
    """

    rates: Array
    losses: Array
    smooth: Array
    suggestion: float

    @classmethod
    def of(cls, rates: Array, losses: Array) -> RangeTest:
        """Read a suggestion off the losses.

        Lightning's own takes the slope by the rate itself, which is steepest among the smallest rates whatever happens
        there, and of losses that lag behind by up to fifty steps.

        Raises:
            RunError: too few losses are numbers, or they do not fall.
        """
        known = np.isfinite(losses)
        rates, losses = rates[known], losses[known]
        if len(losses) < LEAST:
            raise RunError(
                f"lr_find: {len(losses)} steps gave a loss, of {LEAST} that are needed; give model.lr instead"
            )
        smooth = gaussian_filter1d(losses, SMOOTHING, mode="nearest")
        lowest = int(smooth.argmin())
        slope = np.gradient(smooth, np.log(rates))[: lowest + 1]
        if lowest == 0 or slope.min() >= 0:
            raise RunError("lr_find: the loss falls at no learning rate; give model.lr instead")
        return cls(rates, losses, smooth, float(f"{rates[int(slope.argmin())]:.2g}"))

    def write(self, table: Path, picture: Path, note: str = "") -> None:
        """Write the losses as a table, and draw them."""
        frame = pd.DataFrame({"lr": self.rates, "loss": self.losses, "smooth": self.smooth})
        with replacing(table) as temporary:
            frame.to_csv(temporary, index=False, float_format="%.6g")
        rate_curve(self.rates, self.losses, self.smooth, self.suggestion, picture, note)


def find_rate(config: Any, model: TableClassifier, data: TableDataModule[Any]) -> RangeTest:
    """Train a copy with rising learning rates, and take the one at which the loss falls most steeply.

    The method is of L. N. Smith 2017 (arXiv 1506.01186). Layers that learn slower, and the weight decay, are as in the
    training; a part that is frozen at first takes part, as it will later.

    Args:
        config: the parsed command line; gets the result.
        model: as it begins; gets the result.
        data: with its training part loaded.

    Raises:
        RunError: the losses say nothing.
    """
    with tempfile.TemporaryDirectory() as folder, progress("learning rate range test"):
        trial = _Trial(model, _loader_of(data), data.batch_size)
        trainer = _trainer(config, folder, accumulate_grad_batches=1, max_epochs=-1, max_steps=STEPS)
        with _quiet():
            found: Any = Tuner(trainer).lr_find(
                trial, min_lr=LOWEST, max_lr=HIGHEST, num_training=STEPS, update_attr=False
            )
    n = min(len(trial.losses), len(found.results["lr"]))
    test = RangeTest.of(np.array(found.results["lr"][:n], float), np.array(trial.losses[:n], float))
    model.lr = config.model.lr = test.suggestion
    config.lr_find = False
    return test


def _loader_of(data: TableDataModule[Any]) -> Callable[[int], DataLoader[Any]]:
    def loader(batch_size: int) -> DataLoader[Any]:
        before, data.batch_size = data.batch_size, batch_size
        try:
            return data.train_dataloader()
        finally:
            data.batch_size = before

    return loader


TAKEN = ("accelerator", "devices", "precision", "gradient_clip_val", "gradient_clip_algorithm", "deterministic")
"""Options of the training that its trials have too."""


def _trainer(config: Any, folder: str, **options: Any) -> Trainer:
    own = {name: config.trainer[name] for name in TAKEN}
    return Trainer(
        **{**own, **options},
        default_root_dir=folder,
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The Tuner's bar is hidden; a stop by the user, which Lightning answers by ending the process, is one again."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except SystemExit:
        raise KeyboardInterrupt from None
