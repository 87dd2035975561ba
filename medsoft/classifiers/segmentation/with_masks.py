"""What models of masks have in common, of images and of volumes: windows, steps, ensembles, and what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medsoft.classifiers.base import TableClassifier
from medsoft.classifiers.segmentation.measure import measure
from medsoft.data.masks.read import Mask, MaskValues
from medsoft.errors import check_range

WINDOWS = 4
"""Windows of a large image in one step of the network."""


class WithMasks(TableClassifier):
    """A model whose answer to a sample is a mask; a subclass makes ``backbone``, the network, and says how.

    Attributes:
        backbone: from images (B, C, ...) to logits (B, K, ...).
        masks: folder that predicted masks are written to; None for none.
        others: models that predict together with this one.
    """

    backbone: Any
    values: MaskValues
    masks: Path | None
    others: tuple[WithMasks, ...]

    def measure_with(self, values: MaskValues, overlap: float, tolerance: float) -> None:
        """Take how masks are predicted and measured.

        Args:
            values: what the values of mask files mean.
            overlap: share of a window that the next one shows again.
            tolerance: of the surface Dice, in the unit of ``spacing_of``.

        Raises:
            InputError: a number is out of its range.
        """
        check_range("model.overlap", overlap, 0, 0.9)
        check_range("model.tolerance", tolerance, 0)
        self.values, self.overlap, self.tolerance = values, overlap, tolerance
        self.masks, self.others = None, ()

    def mask_of(self, p_Kx: np.ndarray, batch: dict[str, Any], index: int) -> Mask:
        """The most probable class of each pixel of the input.

        Args:
            p_Kx: probabilities (K, ...) on the grid of the prepared sample.
            batch: that it is of.
            index: of the sample in the batch.
        """
        raise NotImplementedError

    def spacing_of(self, batch: dict[str, Any], index: int) -> tuple[float, ...]:
        """Distances of neighbours along the axes of the input."""
        raise NotImplementedError

    def write(self, folder: Path, mask: Mask, batch: dict[str, Any], index: int) -> None:
        """Write a predicted mask."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, ...) to logits (B, K, ...), float32; larger ones than the model is made for by windows."""
        size = tuple(self.spec.image_size)
        if tuple(image.shape[2:]) == size:
            logits: Tensor = self.backbone(image)
            return logits.float()
        from monai.inferers import sliding_window_inference

        found = sliding_window_inference(image, size, WINDOWS, self.backbone, overlap=self.overlap, mode="gaussian")
        assert isinstance(found, Tensor)
        return found.float()

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, K, ...) of a batch of images."""
        found: Tensor = self(batch["image"])
        return found

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Overlap on the input's own grid; distances of outlines wait for the predictions."""
        logits = self.logits(batch)
        target = batch["target"]
        losses = torch.stack([self.objective.loss(logits[i : i + 1], target[i : i + 1]) for i in range(len(logits))])
        answers = self._answers(batch, logits, surfaces=False)
        known = [1.0 if bool(truth.any()) else float("nan") for truth in batch["truth"]]
        nothing = losses.new_zeros(len(losses), 1)
        self._outputs.append((batch["index"], answers, torch.tensor(known), losses, nothing))

    def diverged(self, answers: np.ndarray, losses: np.ndarray) -> bool:
        """Whether the losses are no numbers; the answers may be undefined."""
        return not np.isfinite(losses).all()

    def join(self, others: Sequence[WithMasks]) -> None:
        """Predict with the mean of the probabilities of this model and of these, which see the same pictures."""
        self.others = tuple(others)

    def on_predict_start(self) -> None:
        """Bring the models of an ensemble to the device."""
        for other in self.others:
            other.to(self.device).eval()

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> tuple[Tensor, ...]:
        """(index of the sample in its data set (B,), what is measured of its mask (B, P)); writes the masks."""
        return batch["index"], self._answers(batch, self.logits(batch), surfaces=True, write=True)

    def _answers(self, batch: dict[str, Any], logits: Tensor, surfaces: bool, write: bool = False) -> Tensor:
        p = self.objective.probabilities(logits)
        for other in self.others:
            p = p + other.objective.probabilities(other.logits(batch))
        p_BKx: np.ndarray = (p / (1 + len(self.others))).cpu().numpy()
        rows = []
        for index, truth in enumerate(batch["truth"]):
            mask = self.mask_of(p_BKx[index], batch, index)
            if write and self.masks is not None:
                self.write(self.masks, mask, batch, index)
            classes, spacing = len(self.spec.task.classes), self.spacing_of(batch, index)
            rows.append(measure(mask, truth.cpu().numpy(), classes, spacing, self.tolerance, surfaces))
        return torch.from_numpy(np.stack(rows))
