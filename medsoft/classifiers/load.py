"""Loads a trained classifier from a bundle or a run, without a table or trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medsoft.classifiers.base import TableClassifier
from medsoft.classifiers.slide import load_slide_classifier
from medsoft.data.masks.read import MaskValues
from medsoft.errors import InputError
from medsoft.parsing.configurations import of_a_bundle, read_configuration
from medsoft.parsing.lightning_cli import classes_of
from medsoft.registry import DEFAULTS
from medsoft.runs.bundle import Bundle
from medsoft.runs.checkpoint_io import AtomicCheckpointIO
from medsoft.runs.checkpoint_paths import Checkpoint, is_bundle
from medsoft.runs.checkpoints import load_weights
from medsoft.specs import Covariates, DataSpec, SegmentationSpec
from medsoft.task import Task


def load_classifier(bundle: Bundle, trusted: bool = False) -> TableClassifier:
    """The classifier of a bundle, of slides, images or volumes, in evaluation mode on the CPU.

    Args:
        bundle: found to be whole.
        trusted: whether classes other than medsoft's own may be imported.

    Raises:
        InputError: its configuration and its weights do not fit each other, or it names classes that are not trusted.
    """
    known = bundle.about["model"]
    if "aggregator" in known:
        return load_slide_classifier(bundle).model
    config: dict[str, Any] = of_a_bundle(read_configuration(bundle.config))
    return _of_images(bundle.path, known, config, trusted)


def load_image_classifier(checkpoint: Checkpoint) -> TableClassifier:
    """The classifier of a run on images, volumes or masks, or of a bundle, in evaluation mode on the CPU.

    Args:
        checkpoint: in a run, or a bundle's folder with its configuration.

    Raises:
        InputError: its configuration and its weights do not fit each other, or it names classes of others.
    """
    assert checkpoint.config is not None, "to be checked by the caller"
    if is_bundle(checkpoint.file):
        return load_classifier(Bundle(checkpoint.file))
    known = AtomicCheckpointIO().load_checkpoint(checkpoint.file).get("medsoft", {})
    return _of_images(checkpoint.file, known, of_a_bundle(read_configuration(checkpoint.config)), trusted=False)


def _of_images(weights: Path, known: dict[str, Any], config: dict[str, Any], trusted: bool) -> TableClassifier:
    """Build a classifier from what its weights and its configuration say, and load the weights (a file or a bundle)."""
    if "image_size" not in known:
        raise InputError(f"{weights}: does not say the size of its images: train and export it with this medsoft")
    classes = classes_of(DEFAULTS | (config.get("use") or {}), trusted)
    task = Task.from_json(known["task"])
    counts = np.ones(task.class_counts_shape)  # they only weigh the loss
    size = tuple(known["image_size"])
    beside = known.get("covariates")
    covariates = Covariates(tuple(beside["names"]), None) if beside else None  # the weights bring their scale
    spec = DataSpec(task, known["channels"], size, counts, known.get("target_scale"), covariates)
    if task.has_masks:
        spec = SegmentationSpec(task, known["channels"], size, counts, MaskValues(task.classes))
    model: TableClassifier = classes["model"](spec, **config.get("model", {}))
    load_weights(model, weights)
    return model.eval()
