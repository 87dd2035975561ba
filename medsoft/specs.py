"""What a model must know of the data it is built for: data modules fill these, and networks are made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medsoft.task import Task


class Spec:
    """What any model must know of the data.

    Not a dataclass: jsonargparse would offer a dataclass's fields as options.

    Args:
        task: the question and its classes.
        class_counts: (C,) training samples a class; for multilabel (L, 2): negatives and positives a label; empty for
            a regression.
        target_scale: mean and standard deviation of a regression's training targets, in their unit; else None.
        event_times: times of the training part's events, rising, of a survival task; else None.
    """

    def __init__(
        self,
        task: Task,
        class_counts: np.ndarray,
        target_scale: tuple[float, float] | None = None,
        event_times: np.ndarray | None = None,
    ) -> None:
        self.task = task
        self.class_counts = class_counts
        self.target_scale = target_scale
        self.event_times = event_times


@dataclass(frozen=True)
class Covariates:
    """Numbers about a patient that the model sees beside the image.

    Attributes:
        names: of their columns.
        scale: mean and standard deviation of each in the training part; None where a checkpoint will bring them.
    """

    names: tuple[str, ...]
    scale: tuple[tuple[float, float], ...] | None


class DataSpec(Spec):
    """What a model must know of images.

    Args:
        task: the question and its classes.
        channels: image channels.
        image_size: (height, width) in px that the model sees; (x, y, z) in voxels of volumes.
        class_counts: as for ``Spec``.
        target_scale: as for ``Spec``.
        covariates: joined at the head; None for none.
        event_times: as for ``Spec``.
    """

    def __init__(
        self,
        task: Task,
        channels: int,
        image_size: tuple[int, ...],
        class_counts: np.ndarray,
        target_scale: tuple[float, float] | None = None,
        covariates: Covariates | None = None,
        event_times: np.ndarray | None = None,
    ) -> None:
        super().__init__(task, class_counts, target_scale, event_times)
        self.channels = channels
        self.image_size = image_size
        self.covariates = covariates


class BagSpec(Spec):
    """What a model must know of bags of encoded tiles.

    Args:
        task: the question and its classes.
        class_counts: as for ``Spec``.
        num_features: features a tile.
        has_coordinates: whether every bag comes with its tiles' places, in the frame of one slide, image or volume.
        identity: which encoder saw which tiles, as text: bags are comparable where all of it is equal.
        slides: how the slides became features (encoder, resolution, tile and tissue settings), plain numbers and
            text; None where the feature files do not say it.
        target_scale: as for ``Spec``.
        frame: what those places are counted in: "um", "mm", "cells" or "cells_3d" (``Bag.frame``).
        images: as ``slides``, where images or volumes became features.
        event_times: as for ``Spec``.
        covariates: joined at the head; None for none.
        group: what one bag is of: "slide" (or any one file), or "patient".
    """

    def __init__(
        self,
        task: Task,
        class_counts: np.ndarray,
        num_features: int,
        has_coordinates: bool,
        identity: dict[str, str],
        slides: dict[str, Any] | None,
        target_scale: tuple[float, float] | None = None,
        frame: str = "um",
        images: dict[str, Any] | None = None,
        event_times: np.ndarray | None = None,
        covariates: Covariates | None = None,
        group: str = "slide",
    ) -> None:
        super().__init__(task, class_counts, target_scale, event_times)
        self.num_features = num_features
        self.has_coordinates = has_coordinates
        self.identity = identity
        self.slides = slides
        self.frame = frame
        self.images = images
        self.covariates = covariates
        self.group = group


class SegmentationSpec(DataSpec):
    """What a model must know of images with masks.

    Args:
        task: the question and its classes.
        channels: image channels.
        image_size: (height, width) in px that the model sees.
        class_counts: as for ``Spec``.
        values: what the values of mask files mean (``medsoft.data.masks.read.MaskValues``).
    """

    def __init__(
        self, task: Task, channels: int, image_size: tuple[int, ...], class_counts: np.ndarray, values: Any
    ) -> None:
        super().__init__(task, channels, image_size, class_counts)
        self.values = values
