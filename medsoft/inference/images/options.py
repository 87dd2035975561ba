"""What ``medsoft encode`` can be asked for; light to import, and kept as plain values in ``encode.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from medsoft.data.images.read import MAX_PIXELS
from medsoft.data.volumes.volume import MAX_VOXELS
from medsoft.encoders.requirements import EncoderOptions
from medsoft.errors import InputError, check_range
from medsoft.parsing.options import Settings
from medsoft.slides.tiling.settings import Engine, Precision

NATIVE = "native"
Size = int | Literal["native"]


@dataclass(frozen=True)
class ImageInput(Settings):
    """Which images or volumes to encode.

    Attributes:
        table: CSV, Parquet, Excel (.xlsx) or MedMNIST-style .npz with one row per image or volume; labels are not
            needed.
        root: Folder that relative paths start from; the table's own folder if not given.
        path: Column with the image files or volumes; several volume columns, separated by commas, become channels.
        id: Column with a unique id for each row, which names its feature file; taken from the file name if not given.
        kind: image or volume; auto decides by the files, or by the column kind that medsoft data index writes.
        missing: What to do if a row names some of its volumes but not all: error, or zeros for the missing channels.
        laterality: Column with left or right, for volumes.
        box: Six columns x0,y0,z0,x1,y1,z1 with a bounding box in voxels, for volumes.
        mask: Column with masks on the same grids as the volumes.
        on_error: skip leaves out rows with a problem, such as a missing file, and lists them in errors.csv.
    """

    table: str
    root: str | None = None
    path: str = "path"
    id: str | None = None
    kind: Literal["auto", "image", "volume"] = "auto"
    missing: Literal["error", "zeros"] = "error"
    laterality: str | None = None
    box: str | list[str] | None = None
    mask: str | None = None
    on_error: Literal["error", "skip"] = "error"


@dataclass(frozen=True)
class PreparationSettings(Settings):
    """How images become the encoder's input.

    Attributes:
        transforms: Recipe of the modality: plain, fundus, dermoscopy, chest_xray, histology or volume; plain (for
            volumes volume) if neither this nor --config is given.
        config: A shipped configuration or a file, whose transforms and their settings are used.
        transforms_args: Settings of the recipe as JSON, such as '{"clahe":2}'; they win over those of --config.
        size: Side of the square that images are prepared to, in pixels, or native for the original's resolution; the
            encoder's own input by default. Of volumes, the side of the slices, or of the cube of a 3D encoder.
        aspect: square adds black or crops to a square, as in training; keep makes size the short side and adds nothing.
        window: Side of the windows in which images larger than it are read, in pixels.
        overlap: Least overlap of two windows in pixels.
        axis: Axis of a volume that slices are perpendicular to; z gives axial slices.
        step: Distance between the slices that are encoded; 2 takes every second slice.
        max_pixels: Images with more pixels than this are refused.
        max_voxels: Volumes with more voxels than this are refused.
        voi: Show grey DICOM images with the window that the file itself states.
        select: Which DICOM image to use where a volume has several at each position, such as EchoTime=20, or a list of
            conditions.
    """

    transforms: str | None = None
    config: str | None = None
    transforms_args: dict[str, Any] | None = None
    size: Size | None = None
    aspect: Literal["square", "keep"] = "square"
    window: int | None = None
    overlap: int | None = None
    axis: Literal["x", "y", "z"] = "z"
    step: int = 1
    max_pixels: int = MAX_PIXELS
    max_voxels: int = MAX_VOXELS
    voi: bool = False
    select: str | list[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, int):
            check_range("size", self.size, 1)
        if self.size == NATIVE and self.aspect == "keep":
            raise InputError("--size native keeps the aspect already: leave out --aspect")
        for name in ("window", "step", "max_pixels", "max_voxels"):
            check_range(name, getattr(self, name) or 1, 1)
        check_range("overlap", self.overlap or 0, 0)


@dataclass(frozen=True)
class OutputSettings(Settings):
    """What is stored of each image.

    Attributes:
        tokens: Store the map of tokens with their places; false stores the pooled vector alone.
        views: Augmented views that are stored besides, made by the recipe's augmentation (flips, turns, colour).
        seed: Another seed gives other views.
        dtype: Data type of the stored tokens.
        batch_size: Images or windows per step.
        workers: Number of threads that read and prepare images ahead; one by default, and with a GPU one per processor,
            8 at most.
        precision: Data type of the computation; auto uses 16 on a GPU, and 32 on a CPU. Features in bf16 are not used
            together with others.
        engine: What computes on a CPU, torch, onnx or openvino; auto takes onnx, else openvino, where it is installed
            and agrees with PyTorch.
    """

    tokens: bool = True
    views: int = 0
    seed: int = 0
    dtype: Literal["float16", "float32"] = "float16"
    batch_size: int = 8
    workers: int | None = None
    precision: Precision = "auto"
    engine: Engine = "auto"

    def __post_init__(self) -> None:
        check_range("views", self.views, 0, 1000)
        check_range("seed", self.seed, 0)
        check_range("batch_size", self.batch_size, 1)
        check_range("workers", 1 if self.workers is None else self.workers, 1)


@dataclass(frozen=True)
class EncodeSettings:
    """Encoder, preparation and what is stored: all that decides a feature file besides the image.

    Attributes:
        encoder: which.
        preparation: of the images.
        output: what is stored.
        channels: of volumes, those of each column; () of images.
    """

    encoder: EncoderOptions
    preparation: PreparationSettings
    output: OutputSettings
    channels: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for ``encode.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EncodeSettings:
        """From ``as_dict``.

        Raises:
            InputError: they are of another version, or damaged.
        """
        try:
            return cls(
                EncoderOptions(**values["encoder"]),
                PreparationSettings(**values["preparation"]),
                OutputSettings(**values["output"]),
                tuple(values["channels"]),
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"encode.json: these settings are of another version, or damaged: {error}") from None
