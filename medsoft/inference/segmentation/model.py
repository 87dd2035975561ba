"""Segmentation models for slides: trained by ``medsoft fit --config segmentation``, or built by a recipe."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from medsoft.classifiers.load import load_image_classifier
from medsoft.classifiers.segmentation.networks import import_decoders
from medsoft.classifiers.segmentation.segmenter import Segmenter
from medsoft.data.transforms.base import Transforms
from medsoft.encoders.encoder import choose_device, choose_precision
from medsoft.encoders.from_run import TRANSFORMS
from medsoft.encoders.requirements import weights_file
from medsoft.errors import InputError
from medsoft.inference.segmentation.recipes import SegmentationRecipe, find_segmentation_recipe
from medsoft.models.weights import check_finite, differences, read_weights
from medsoft.parsing.configurations import of_a_bundle, read_configuration
from medsoft.registry import DEFAULTS, find_class, short_name
from medsoft.runs.bundle import Bundle
from medsoft.runs.checkpoint_paths import Checkpoint, is_bundle
from medsoft.runs.checkpoints import find_checkpoints
from medsoft.slides.tiling.settings import Precision
from medsoft.storage.hashing import sha256


@dataclass(frozen=True)
class Named:
    """A model as the user names it.

    Attributes:
        option: that names it, for messages.
        names: runs, checkpoints, folders of cross-validations, or one bundle; with a recipe one file.
        recipe: of a published model; "" of one that medsoft trained.
        side: of its windows in pixels; None: that of its training.
    """

    option: str
    names: tuple[str, ...]
    recipe: str = ""
    side: int | None = None


@dataclass(frozen=True)
class _Built:
    """Networks that see the same picture, and how it is made."""

    networks: list[nn.Module]
    classes: tuple[str, ...]
    values_K: np.ndarray
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hashes: list[str]
    jpeg_quality: int | None = None
    mpp: float | None = None
    artefacts: tuple[str, ...] = ()


@dataclass(frozen=True)
class SlideMasks:
    """A segmentation model of slides (``MaskModel``), built at its first use in each process.

    Args:
        named: which model.
        device: ``auto``, ``cpu``, ``cuda`` …
        precision: as of an encoder.
    """

    named: Named
    device: str = "auto"
    precision: Precision = "auto"
    _lock: Any = field(default_factory=threading.Lock, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without the network: another process builds its own."""
        return {"named": self.named, "device": self.device, "precision": self.precision}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See ``__getstate__``."""
        self.__dict__.update(state, _lock=threading.Lock())

    @cached_property
    def built(self) -> _Built:
        """The networks on their device.

        Raises:
            InputError: there is no such model, or it does not take tiles of slides.
        """
        found = _by_recipe(self.named) if self.named.recipe else _trained(self.named)
        for network in found.networks:
            network.to(self._device).eval()
        _try(found, self.named, self._device)
        return found

    @property
    def name(self) -> str:
        """Of the model, for people."""
        return self.named.recipe or ", ".join(self.named.names)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its answers: the hashes of its weights, its recipe, its window and the number type."""
        precision = str(choose_precision(self.precision, self._device)).removeprefix("torch.")
        return {"sha256": self.built.hashes, "recipe": self.named.recipe, "side": self.side, "precision": precision}

    @property
    def fingerprint(self) -> str:
        """The hashes of its weights in one word, which takes the place of their paths in settings."""
        return "sha256:" + "+".join(self.built.hashes)

    @property
    def classes(self) -> tuple[str, ...]:
        """Beside the background, in the order of their values."""
        return self.built.classes

    @property
    def side(self) -> int:
        """Of its windows."""
        return self.built.side

    @property
    def values_K(self) -> np.ndarray:
        """Value in a map of each of its scores."""
        return self.built.values_K

    @cached_property
    def weights_hw(self) -> np.ndarray:
        """Of the pixels of a window, as MONAI's sliding window over images weighs them."""
        from monai.data.utils import compute_importance_map

        weights: np.ndarray = compute_importance_map((self.side, self.side), mode="gaussian").numpy()
        return weights

    def __call__(self, images_BHWC: np.ndarray) -> np.ndarray:
        """Scores (B, K, side, side): logits, or of several networks the mean of their probabilities."""
        built, dtype = self.built, choose_precision(self.precision, self._device)
        if built.jpeg_quality is not None:
            images_BHWC = np.stack([_compressed(image, built.jpeg_quality) for image in images_BHWC])
        with self._lock, torch.inference_mode(), torch.autocast(self._device.type, dtype, dtype != torch.float32):
            images = torch.from_numpy(images_BHWC).to(self._device).permute(0, 3, 1, 2).float() / 255
            mean, std = (
                torch.tensor(values, device=self._device).view(1, 3, 1, 1) for values in (built.mean, built.std)
            )
            logits = [network((images - mean) / std).float() for network in built.networks]
            if len(logits) == 1:
                scores: Tensor = logits[0]
            else:
                scores = torch.stack([one.softmax(dim=1) for one in logits]).mean(dim=0)
        found: np.ndarray = scores.cpu().numpy()
        return found

    @property
    def _device(self) -> torch.device:
        return choose_device(self.device)


def _compressed(image_HWC: np.ndarray, quality: int) -> np.ndarray:
    """An image as JPEG leaves it."""
    _, data = cv2.imencode(".jpg", image_HWC[..., ::-1], [int(cv2.IMWRITE_JPEG_QUALITY), quality])
    read = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert read is not None  # it was written a line above
    return np.asarray(read[..., ::-1])


def _try(built: _Built, named: Named, device: torch.device) -> None:
    """Check that the networks answer windows of this side, before a slide is read.

    Raises:
        InputError: they do not.
    """
    wanted = (1, len(built.values_K), built.side, built.side)
    try:
        with torch.inference_mode():
            shapes = {tuple(network(torch.zeros(1, 3, *wanted[2:], device=device)).shape) for network in built.networks}
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--tile {built.side}: the model takes no such windows: {reason}") from None
    if shapes != {wanted}:
        raise InputError(f"{named.option}: answers windows of {built.side} px with {shapes}, not {wanted}")


def _trained(named: Named) -> _Built:
    """Models of ``medsoft fit --config segmentation``, which see the same pictures."""
    if len(named.names) == 1 and is_bundle(named.names[0]):
        bundle = Bundle(named.names[0])
        members = [(Checkpoint(bundle.path, bundle.config), bundle.weights)]
    else:
        members = [(one, one.file) for one in find_checkpoints(list(named.names))]
    loaded = [_member(named, checkpoint) for checkpoint, _ in members]
    model, transforms = loaded[0]
    for (other, others), (checkpoint, _) in zip(loaded[1:], members[1:], strict=True):
        if other.spec.task != model.spec.task or _seen(others) != _seen(transforms):
            raise InputError(f"{checkpoint.file} finds other classes than {members[0][0].file}, or sees other pictures")
    classes = tuple(model.spec.task.classes)
    return _Built(
        [one.backbone for one, _ in loaded],
        classes,
        np.arange(1 + len(classes), dtype=np.uint8),
        named.side or transforms.size[0],
        transforms.mean,
        transforms.std,
        [sha256(weights) for _, weights in members],
    )


def _seen(transforms: Transforms) -> tuple[Any, ...]:
    """What decides the picture that a model is shown."""
    return transforms.steps(), transforms.mean, transforms.std


def _member(named: Named, checkpoint: Checkpoint) -> tuple[Segmenter, Transforms]:
    where = f"{named.option} {checkpoint.file}"
    if checkpoint.config is None:
        raise InputError(
            f"{where}: lies in no run, which says what its images must look like: name the run's "
            "folder; the weights of a published model need its recipe"
        )
    config = of_a_bundle(read_configuration(checkpoint.config))
    use = config.get("use") or {}
    roles = {role: short_name(role, str(use.get(role, DEFAULTS[role]))) for role in ("data", "model", "transforms")}
    if roles["data"] != "masks" or roles["model"] != "segmenter":
        raise InputError(
            f"{where}: this model ({roles['model']} on {roles['data']}) says no class of every pixel: name a run of "
            "medsoft fit --config segmentation"
        )
    transforms: Transforms | None = None
    if roles["transforms"] in TRANSFORMS:
        recipe: type[Transforms] = find_class("transforms", roles["transforms"], Transforms, trusted=False)
        transforms = recipe(**(config.get("transforms") or {}))
    if transforms is None or getattr(transforms, "window", None):
        raise InputError(
            f"{where}: prepares whole images ({roles['transforms']}, with what is brightest in them, or their border), "
            f"which windows of a slide are not: train with transforms {' or '.join(TRANSFORMS)}, without a window"
        )
    height, width = transforms.size
    if transforms.channels != 3 or height != width:
        raise InputError(
            f"{where}: its input is {width} x {height} px of {transforms.channels} channel(s), but windows of slides "
            "are square and have colours: train with transforms.channels 3 and one transforms.size"
        )
    model = load_image_classifier(checkpoint)
    assert isinstance(model, Segmenter)
    return model, transforms


def _by_recipe(named: Named) -> _Built:
    """A published model with the weights of the user's file."""
    recipe = find_segmentation_recipe(named.option.replace("weights", "recipe"), named.recipe)
    if len(named.names) != 1:
        raise InputError(f"{named.option}: the recipe {recipe.name} takes one file of weights")
    file = weights_file(named.names[0])
    network: nn.Module = getattr(import_decoders(named.option), recipe.architecture)(
        recipe.encoder, encoder_weights=None, in_channels=3, classes=len(recipe.outputs)
    )
    load_weights_of(network, recipe, file)
    values = {name: value for value, name in enumerate(recipe.classes, start=1)} | {"": 0}
    return _Built(
        [network],
        recipe.classes,
        np.array([values[name] for name in recipe.outputs], np.uint8),
        named.side or recipe.side,
        recipe.mean,
        recipe.std,
        [sha256(file)],
        recipe.jpeg_quality,
        recipe.mpp,
        recipe.artefacts,
    )


def load_weights_of(network: nn.Module, recipe: SegmentationRecipe, file: Path) -> None:
    """Load a file of weights into a recipe's network, in place; the file is never unpickled.

    Raises:
        InputError: no such file, no plain state dict, or weights of another network.
    """
    try:
        state = read_weights(file)
    except InputError as error:
        raise InputError(
            f"{error}. {recipe.name}: where its authors publish a whole model ({recipe.source}), write its "
            "state_dict() with torch.save where you trust the file, and name that"
        ) from None
    own = network.state_dict()
    counts = {key for key in own if key.endswith("num_batches_tracked") and key not in state}
    state |= {key: own[key] for key in counts}  # only trainings count
    if differ := differences(own, state):
        raise InputError(f"{file}: these are not weights of {recipe.name} ({recipe.architecture}): {differ}")
    check_finite(state, str(file))
    network.load_state_dict(state)


def names_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, absolute where they are files here, as other processes may run in other folders."""
    names = [given] if isinstance(given, str) else list(given)
    return tuple(str(Path(name).absolute()) if Path(name).exists() else name for name in names)
