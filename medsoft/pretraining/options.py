"""What the user says of a pretraining: images, views, network, teacher and optimisation; checked without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from medsoft.data.images.read import MAX_PIXELS
from medsoft.errors import InputError, check_range
from medsoft.parsing.configurations import find_configuration, read_configuration
from medsoft.parsing.options import Settings
from medsoft.registry import DEFAULTS

SIZE = 224
"""Side of the input in px where nobody says another."""


@dataclass(frozen=True)
class ImageOptions(Settings):
    """Which images are learnt from, and how they are shown.

    Attributes:
        table: CSV, Parquet, Excel (.xlsx) or MedMNIST-style .npz with one row per image, or a folder that is searched
            for images.
            Labels are not read.
        root: Folder that relative paths start from; the table's own folder if not given.
        path: Column with the image files.
        patient: Column with the patient; images of one patient are all learnt from or all held out.
        id: Column with a unique id for each image; taken from the file name if not given.
        split: Column with train, val and test; used if the table has it.
        rename_splits: What other names in the split column stand for, such as {"validation": "val"}.
        splits_from: CSV with id and split that overrides the table's, such as the split.csv of a run.
        exclude: Parts of the split that are not shown to the network, separated by commas; none for all images.
        val_fraction: Fraction of the images that is held out to measure how close the network has come, where the table
            has no val part.
        max_pixels: Images with more pixels than this are left out (decompression bombs).
        config: A shipped configuration, such as fundus, or a file, whose transforms and their settings are used.
        transforms: How images are prepared and augmented: plain, fundus, dermoscopy, chest_xray or histology; plain if
            neither this nor --config is given.
        transforms_args: Settings of these transforms, such as {"jitter": 0.2}; they win over those of --config.
        size: Side of the square input in pixels; that of --config, or 224.
        cache_gib: Prepared images are kept in memory if they need less than this many GiB.
    """

    table: str | None = None
    root: str | None = None
    path: str = "path"
    patient: str | None = None
    id: str | None = None
    split: str = "split"
    rename_splits: dict[str, str] | None = None
    splits_from: str | None = None
    exclude: str = "test"
    val_fraction: float = 0.1
    max_pixels: int = MAX_PIXELS
    config: str | None = None
    transforms: str | None = None
    transforms_args: dict[str, Any] | None = None
    size: int | None = None
    cache_gib: float = 4.0

    def __post_init__(self) -> None:
        check_range("--val-fraction", self.val_fraction, 0.01, 0.9)
        check_range("--max-pixels", self.max_pixels, 1)
        check_range("--size", 8 if self.size is None else self.size, 8)
        check_range("--cache-gib", self.cache_gib, 0)

    @property
    def px(self) -> int:
        """Side of the square input."""
        return SIZE if self.size is None else self.size

    @property
    def resolved(self) -> ImageOptions:
        """The same without a configuration's file, which may not be there when a stopped run is resumed.

        Raises:
            InputError: there is no such configuration, it is for other transforms than --transforms names, or for
                images that are not square.
        """
        arguments = dict(self.transforms_args or {})
        if "size" in arguments:
            raise InputError("--transforms-args: size is an option of its own: --size")
        if self.config is None:
            return replace(self, transforms=self.transforms or DEFAULTS["transforms"])
        found = read_configuration(find_configuration(self.config))
        name = str((found.get("use") or {}).get("transforms", DEFAULTS["transforms"]))
        if self.transforms not in (None, name):
            raise InputError(f"--config {self.config} is of {name}, not {self.transforms}: leave one out")
        values = dict(found.get("transforms") or {})
        size = values.pop("size", SIZE) if self.size is None else self.size
        if not isinstance(size, int):
            raise InputError(f"--config {self.config}: has images of {size} px, which are not square: give --size")
        values.pop("size", None)
        return replace(self, config=None, transforms=name, transforms_args=(values | arguments) or None, size=size)

    @property
    def excluded(self) -> tuple[str, ...]:
        """Names of the parts that are left out.

        Raises:
            InputError: a name that is none of a part, or the one that is learnt from.
        """
        names = tuple(word.strip() for word in self.exclude.split(",") if word.strip())
        names = () if names == ("none",) else names
        if wrong := [name for name in names if name not in ("val", "test")]:
            raise InputError(f"--exclude {self.exclude}: {wrong[0]!r} cannot be left out: give val, test or none")
        return names


@dataclass(frozen=True)
class NetworkOptions(Settings):
    """The network that learns, and its teacher.

    Attributes:
        backbone: Name of a timm model, such as vit_seqnorm_tiny_patch16_224, or one of medsoft's SOFT networks.
        backbone_args: Keyword arguments for the backbone, such as {"depth": 6}.
        teacher: Encoder whose features are learnt: a recipe's name, or the folder of a run or a pretraining. Without
            one, the network learns from views of the same image (DINO; needs medsoft[pretrain]).
        teacher_weights: Local file with the teacher's weights, or its name in MEDSOFT_WEIGHTS, where they come with no
            package.
        token_weight: Weight of the loss on the map of tokens, beside 1 for the pooled features (with a teacher).
        local_views: Small views of each image, beside two large ones (without a teacher).
        prototypes: Outputs of the head whose assignments the views must agree on (without a teacher).
        momentum: How much of the slow copy of the network stays at each step, at the start; it rises to 1 (without a
            teacher).
    """

    backbone: str = "vit_seqnorm_tiny_patch16_224"
    backbone_args: dict[str, Any] | None = None
    teacher: str | None = None
    teacher_weights: str | None = None
    token_weight: float = 1.0
    local_views: int = 4
    prototypes: int = 2048
    momentum: float = 0.99

    def __post_init__(self) -> None:
        check_range("--token-weight", self.token_weight, 0)
        check_range("--local-views", self.local_views, 0, 32)
        check_range("--prototypes", self.prototypes, 2)
        check_range("--momentum", self.momentum, 0, 1)
        if self.teacher_weights is not None and self.teacher is None:
            raise InputError("--teacher-weights are of a teacher: name it with --teacher")


@dataclass(frozen=True)
class LearningOptions(Settings):
    """How it is trained.

    Attributes:
        max_epochs: Number of epochs; the cosine learning rate schedule ends with the last one.
        batch_size: Images per step.
        lr: Peak learning rate of AdamW.
        weight_decay: Weight decay of matrices and kernels.
        warmup_epochs: Epochs of linear warm-up.
        clip: Largest norm of the gradients.
        num_workers: Processes that load images; chosen automatically if not given.
        device: Where to compute: auto, cpu, cuda, cuda:1 or mps.
        precision: Lightning's precision, such as bf16-mixed on a GPU.
        seed: Of held-out images, weights, order and augmentation.
    """

    max_epochs: int = 100
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: float = 5.0
    clip: float = 1.0
    num_workers: int | None = None
    device: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("--max-epochs", self.max_epochs, 1)
        check_range("--batch-size", self.batch_size, 2)
        check_range("--lr", self.lr, 0)
        check_range("--weight-decay", self.weight_decay, 0)
        check_range("--warmup-epochs", self.warmup_epochs, 0)
        check_range("--clip", self.clip, 0)
        check_range("--num-workers", self.num_workers or 0, 0)
        check_range("--seed", self.seed, 0, 2**32 - 1)
