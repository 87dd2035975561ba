"""What all recipes share: the three steps, and randomness that depends on the seed alone."""

from __future__ import annotations

import copy
import random
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np

from medsoft.data.transforms import pixels
from medsoft.data.transforms.views import Symmetry
from medsoft.errors import InputError, check_range

if TYPE_CHECKING:
    import albumentations as A

    from medsoft.data.transforms.augment import Kind

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Customary. The 444 chest radiographs of Kermany have 0.58 and 0.29 after the percentile window.
GREY_MEAN, GREY_STD = (0.5,), (0.25,)


class Step(TypedDict):
    """One thing that ``prepare`` does.

    Attributes:
        step: its name, as in ``medsoft.inference.export.portable.steps``.
        options: its settings.
        what: the same in words.
    """

    step: str
    options: dict[str, Any]
    what: str


class Placement(NamedTuple):
    """Where a prepared picture lies in its original: a prepared pixel (x, y) begins at ``corner + scale * (x, y)``.

    Attributes:
        corner: (x, y) in pixels of the original; negative where black was added.
        scale: (x, y) pixels of the original for one of the prepared picture.
    """

    corner: tuple[float, float]
    scale: tuple[float, float]


class Transforms(ABC):
    """A recipe from picture to model input: ``finish(augment(prepare(image), seed))``, ``augment`` in training only.

    Instances can be pickled and sent to worker processes. ``prepare`` and ``finish`` may run in several threads at
    once, ``augment`` not.

    Attributes:
        size: (height, width) of the result.
        channels: 1 or 3.
        mean: one value per channel, for values from 0 to 1.
        std: one value per channel, for values from 0 to 1.
        augmentation: whether ``augment`` changes anything.
        fit: whether ``prepare`` adds black to reach the size (pad), or cuts off what goes beyond it (crop).
        rand_augment: strength of further operations of ``allowed`` kinds; 0 for none.
        allowed: kinds of operations that leave the recipe's labels as they are (see ``augment.rand_augment``).
    """

    fit: pixels.Fit = "pad"
    allowed: tuple[Kind, ...] = ()

    def __init__(
        self,
        size: int | tuple[int, int],
        channels: int,
        augmentation: bool,
        mean: list[float] | None,
        std: list[float] | None,
        rand_augment: float = 0.0,
    ) -> None:
        check_range("rand_augment", rand_augment, 0, 1)
        if rand_augment and not self.allowed:
            raise InputError(f"rand_augment: the recipe {type(self).__name__} allows no operations; leave it out")
        self.rand_augment = rand_augment
        self.size = (size, size) if isinstance(size, int) else (size[0], size[1])
        if min(self.size) < 1:
            raise InputError(f"size {size} must be 1 or more")
        if channels not in (1, 3):
            raise InputError(f"channels {channels} must be 1 or 3")
        self.channels = channels
        self.augmentation = augmentation
        self.mean = tuple(mean) if mean is not None else (IMAGENET_MEAN if channels == 3 else GREY_MEAN)
        self.std = tuple(std) if std is not None else (IMAGENET_STD if channels == 3 else GREY_STD)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise InputError(f"{name} has {len(values)} values for {channels} channels: give one per channel")
        if min(self.std) <= 0:
            raise InputError(f"std {list(self.std)} must be above 0")

    @abstractmethod
    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Make the picture that the model is shown, without any randomness.

        Args:
            image: (H, W, 1) or (H, W, 3), of any size.

        Returns:
            (*size, channels), uint8.

        Raises:
            ValueError: the values cannot be turned into 8 bits; the message has no file name.
        """

    def box(self, image: np.ndarray) -> tuple[int, int, int, int]:
        """What ``prepare`` shows of a picture, before it is scaled: (left, top, width, height); all of it here."""
        return 0, 0, image.shape[1], image.shape[0]

    def placement(self, image: np.ndarray) -> Placement:
        """Where the prepared picture lies in this one."""
        left, top, width, height = self.box(image)
        scaled, _ = pixels.scaled_size((height, width), self.size, self.fit)
        scale = (width / scaled[1], height / scaled[0])
        shifts = [place - first for first, place, _ in map(pixels.margins, scaled[::-1], self.size[::-1])]
        return Placement((left - shifts[0] * scale[0], top - shifts[1] * scale[1]), scale)

    def of_size(self, size: tuple[int, int]) -> Transforms:
        """The same recipe for another (height, width)."""
        other = copy.copy(self)
        for made in ("_pipeline", "_boxes"):
            other.__dict__.pop(made, None)
        other.size = size
        return other

    def steps(self) -> list[Step]:
        """What ``prepare`` does, in its order, as plain values for those who prepare images without medsoft.

        Whatever changes ``prepare`` changes this too: a test holds the two against each other.
        """
        name = type(self).__name__
        return [{"step": "own", "options": {}, "what": f"the recipe {name}, which does not say its steps"}]

    @property
    def symmetry(self) -> Symmetry:
        """Which mirroring and turning leaves the label as it is; none unless a recipe says so."""
        return "none"

    @abstractmethod
    def random_steps(self) -> list[A.BasicTransform]:
        """The random changes of ``augment``, in order."""

    def augment(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Change a prepared picture at random: the same picture and seed give the same result anywhere.

        Args:
            image: (*size, channels), uint8.
            seed: 0 or more, of any size.

        Returns:
            (*size, channels), uint8. ``image`` is left as it is.
        """
        if not self.augmentation:
            return image
        # Not set_random_seed: that seeds each step alike, and then mirroring left-right and top-bottom always
        # happen together. Here the steps draw from shared generators, one after the other.
        self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        augmented: np.ndarray = self._pipeline(image=image)["image"]
        return np.ascontiguousarray(augmented)

    def augment_with_mask(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """As ``augment``, with a mask that is mirrored, turned and scaled as the picture is.

        Args:
            image: (*size, channels), uint8.
            mask: (*size), uint8; 0 comes in from outside.
            seed: 0 or more.

        Returns:
            Both, of the same shapes; no value of the mask is mixed from others.
        """
        if not self.augmentation:
            return image, mask
        self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        changed = self._pipeline(image=image, mask=mask)
        return np.ascontiguousarray(changed["image"]), np.ascontiguousarray(changed["mask"])

    def augment_with_boxes(
        self, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, seed: int, least_seen: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As ``augment``, with boxes that are mirrored, turned and scaled as the picture is.

        A box that is turned becomes the upright one around it.

        Args:
            image: (*size, channels), uint8.
            boxes: (N, 4) x_min, y_min, x_max, y_max in pixels of the picture, within it.
            labels: (N,) whole numbers.
            seed: 0 or more.
            least_seen: share of a box that must stay in the picture for it to be kept.

        Returns:
            Picture, boxes and labels; boxes are cut off at the edges.
        """
        if not self.augmentation:
            return image, boxes, labels
        pipeline = self._with_boxes(least_seen)
        pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        changed = pipeline(image=image, bboxes=boxes, labels=labels)
        found = np.asarray(changed["bboxes"], np.float64).reshape(-1, 4)
        return np.ascontiguousarray(changed["image"]), found, np.asarray(changed["labels"], np.int64)

    def finish(self, image: np.ndarray) -> np.ndarray:
        """Scale to 0..1, subtract the mean, divide by the standard deviation.

        Args:
            image: (*size, channels), uint8.

        Returns:
            (channels, *size), float32, contiguous.
        """
        # Channels first before the arithmetic: three times as fast as after it.
        channels_first = np.ascontiguousarray(image.transpose(2, 0, 1))
        mean, std = (np.array(values, np.float32)[:, np.newaxis, np.newaxis] for values in (self.mean, self.std))
        finished: np.ndarray = (channels_first / np.float32(255) - mean) / std
        return finished

    @cached_property
    def _pipeline(self) -> A.Compose:
        import albumentations as A

        return A.Compose(self._all_steps())

    def _with_boxes(self, least_seen: float) -> A.Compose:
        if "_boxes" not in self.__dict__:
            import albumentations as A

            how = A.BboxParams(
                "pascal_voc", label_fields=["labels"], min_visibility=least_seen, clip=True, filter_invalid_bboxes=True
            )
            self.__dict__["_boxes"] = A.Compose(self._all_steps(), bbox_params=how)
        found: A.Compose = self.__dict__["_boxes"]
        return found

    def _all_steps(self) -> list[A.BasicTransform]:
        from medsoft.data.transforms.augment import rand_augment

        kinds = [kind for kind in self.allowed if kind != "colour" or self.channels == 3]
        return [*self.random_steps(), *rand_augment(self.rand_augment, kinds)]


def check_percentiles(percentiles: tuple[float, float]) -> None:
    """Raise InputError where a window's two percentiles are not rising numbers from 0 to 100."""
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise InputError(f"window {low:g}, {high:g} must be two rising percentiles between 0 and 100")
