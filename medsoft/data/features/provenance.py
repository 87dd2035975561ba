"""The provenance of a bag's features: slide and tiles, or image and preparation; and the encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from medsoft.errors import InputError

Unit = Literal["um", "px", "mm"]
"""Of coordinates: µm of a slide, pixels of an image (voxels of a volume of unknown spacing), mm of a volume."""


APART = ("bfloat16",)
"""Precisions whose features are not used together with others. bfloat16 has 8 binary digits: features differ by about a
hundredth of the largest. float16 has 11, as many as the numbers of a feature file, and what engines compute in float32
differs by a millionth: these were always used together, so that a model that was trained on a GPU predicts on a CPU."""


class Encoded:
    """What all provenances say: of which content, and by which encoder."""

    quick_hash: str
    encoder: str
    encoder_sha256: str
    encoder_init: str
    encoder_settings: Mapping[str, Any]
    precision: str
    engine: str

    @property
    def shown(self) -> Mapping[str, Any]:
        """How the encoder was shown the original: settings of tiles, or of the preparation."""
        raise NotImplementedError

    @property
    def identity(self) -> EncoderIdentity:
        """What bags must have in common to be used together."""
        return EncoderIdentity(
            "medsoft",
            self.encoder,
            self.encoder_sha256 if self.encoder_init == "weights" else f"{self.encoder_init} weights",
            canonical(self.encoder_settings),
            canonical(self.shown),
            self.precision if self.precision in APART else "",
        )

    @property
    def compared(self) -> object:
        """What must be equal for a file to be what a new one would be; not names, engines, versions."""
        raise NotImplementedError


@dataclass(frozen=True)
class Provenance(Encoded):
    """What a slide's feature file says of itself; sizes of tiles follow from the settings and are stored besides.

    Attributes:
        slide: name of the slide's file.
        quick_hash: of the slide's file (``medsoft.storage.hashing.quick_hash``).
        size_px0: (width, height) of level 0.
        mpp: µm per level-0 pixel.
        mpp_origin: where ``mpp`` comes from.
        tile_settings: how the tiles were made, as ``TileSettings.as_dict()``: ``mpp``, ``tile_px``, ``overlap_px`` …
        encoder: name of the encoder.
        encoder_sha256: of its file of weights; "" for random weights.
        encoder_init: "weights", or "random" for an encoder that was never trained.
        encoder_settings: what else decides the features: architecture, normalisation, input size, pooling …; plain
            values, ready for JSON.
        precision: in which the encoder ran, such as "float32"; what is not in ``APART`` is recorded, not compared.
        bounds_px0: (x, y, width, height) of the part of level 0 that was scanned, whose corner QuPath counts from;
            None in files of version 0.1, which do not say it. Recorded, not compared.
        regions_from: the regions that the tiles were chosen by: the SHA-256 of their file, and how its coordinates were
            meant; "" for tiles of the whole slide.
        engine: what computed the encoder, such as "torch"; "" where it is not known. Recorded, not compared.
    """

    slide: str
    quick_hash: str
    size_px0: tuple[int, int]
    mpp: float
    mpp_origin: str
    tile_settings: Mapping[str, Any]
    encoder: str
    encoder_sha256: str
    encoder_init: str = "weights"
    encoder_settings: Mapping[str, Any] = field(default_factory=dict)
    precision: str = ""
    bounds_px0: tuple[int, int, int, int] | None = None
    regions_from: str = ""
    engine: str = ""

    @property
    def tile_px(self) -> int:
        """Side of a tile in pixels of the resolution at which it was read."""
        return int(self.tile_settings["tile_px"])

    @property
    def overlap_px(self) -> int:
        """How far neighbours overlap, in pixels of the resolution at which they were read."""
        return int(self.tile_settings["overlap_px"])

    @property
    def tile_um(self) -> float:
        """Side of a tile in µm."""
        return self.tile_px * float(self.tile_settings["mpp"])

    @property
    def tile_px0(self) -> float:
        """Side of a tile in level-0 pixels, not rounded."""
        return self.tile_um / self.mpp

    @property
    def shown(self) -> Mapping[str, Any]:
        """How the slide was cut into tiles."""
        return self.tile_settings

    @property
    def compared(self) -> object:
        """The slide's content, size and resolution, its regions and tiles, and the encoder."""
        return self.quick_hash, tuple(self.size_px0), self.mpp, self.regions_from, self.identity


@dataclass(frozen=True)
class ImageProvenance(Encoded):
    """What the feature file of an image or a volume says of itself.

    Attributes:
        name: of the image's file or folder, without its path.
        quick_hash: of the content (``medsoft.data.sample_hash.sample_hash``).
        size: (width, height) in pixels of the original, or (X, Y, Z) in voxels of the volume as it was prepared.
        unit: of coordinates and cells.
        cell: size of a token's cell in that unit, in the order of the coordinates: (x, y) or (x, y, z); () where
            there are no tokens.
        preparation: what decides how the original becomes the encoder's input: ``transforms``, ``size``, ``steps``,
            ``tokens``, windows …; plain values, ready for JSON.
        encoder: name of the encoder.
        encoder_sha256: of its file of weights; "" for random weights.
        encoder_init: "weights", or "random" for an encoder that was never trained.
        encoder_settings: what else decides the features; plain values.
        precision: as of ``Provenance``.
        views: how the augmented views were made (``number``, ``seed``, ``augmentation``); {} where there are none.
            Bags with and without views can be used together.
        affine: (4, 4) of a volume: coordinates to mm of the patient (RAS+), row by row; () of an image.
        engine: as of ``Provenance``.
    """

    name: str
    quick_hash: str
    size: tuple[int, ...]
    unit: Unit
    cell: tuple[float, ...]
    preparation: Mapping[str, Any]
    encoder: str
    encoder_sha256: str
    encoder_init: str = "weights"
    encoder_settings: Mapping[str, Any] = field(default_factory=dict)
    precision: str = ""
    views: Mapping[str, Any] = field(default_factory=dict)
    affine: tuple[float, ...] = ()
    engine: str = ""

    @property
    def slide(self) -> str:
        """The name, under the word that the code for bags has for it."""
        return self.name

    @property
    def shown(self) -> Mapping[str, Any]:
        """How the original was prepared."""
        return self.preparation

    @property
    def compared(self) -> object:
        """The content, its size, its preparation, the encoder, and the views."""
        return self.quick_hash, tuple(self.size), self.identity, canonical(self.views)


AnyProvenance = Provenance | ImageProvenance


@dataclass(frozen=True)
class EncoderIdentity:
    """Which encoder saw which tiles: features are comparable where all of this is equal.

    Plain text throughout, so that it can be stored (``dataclasses.asdict``) and compared years later. What a file of
    another tool does not say is "".

    Attributes:
        origin: "medsoft", "trident", "clam" or "stamp". Another tool reads and scales tiles in its own way.
        encoder: name of the encoder.
        weights: SHA-256 of its weights, or "random weights".
        settings: architecture, normalisation, input size, pooling …, as JSON with sorted keys.
        tiles: size and resolution of tiles and how tissue was found, or how an image was prepared, as JSON with sorted
            keys.
        precision: of the arithmetic, where it is one of ``APART``; "" for the others, which can be used together.
    """

    origin: str
    encoder: str = ""
    weights: str = ""
    settings: str = ""
    tiles: str = ""
    precision: str = ""

    def __str__(self) -> str:
        weights = self.weights if self.weights.endswith(" weights") else f"weights {self.weights[:12] or 'not known'}"
        shown = f"{self.shown_as} {self.tiles or 'not known'}"
        computed = f", computed in {self.precision}" if self.precision else ""
        return f"{self.encoder or 'encoder not known'}, {weights}, {shown}{computed} ({self.origin})"

    @property
    def shown_as(self) -> str:
        """The word for ``tiles``: an image has none, it was prepared as a whole."""
        return "preparation" if '"transforms":' in self.tiles else "tiles"

    def precision_to_take(self, asked: Literal["auto", "32", "16", "bf16"]) -> Literal["auto", "32", "16", "bf16"]:
        """In which precision further images must be encoded, to be used with these features.

        Args:
            asked: ``auto`` for the one that fits.

        Raises:
            InputError: another one is asked for.
        """
        own: Literal["auto", "bf16"] = "bf16" if self.precision in APART else "auto"
        if (own == "bf16") != (asked == "bf16") and asked != "auto":
            there = self.precision or "float32 or float16"
            raise InputError(f"--precision {asked}: the model was trained on features in {there}: leave it out")
        return own if asked == "auto" else asked

    def differences(self, other: EncoderIdentity) -> list[str]:
        """What ``other`` has otherwise, one entry a fact: "encoder 'uni', not 'resnet18'".

        Of another tool's files only tool and encoder are named: their settings do not bear the same names.
        """
        mine, theirs = _flat(self), _flat(other)
        if self.origin != other.origin:
            mine, theirs = ({name: flat[name] for name in ("origin", "encoder")} for flat in (mine, theirs))
        names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        return [f"{name} {_shown(name, theirs.get(name))}, not {_shown(name, mine.get(name))}" for name in names]


def canonical(values: Mapping[str, Any]) -> str:
    """JSON with sorted keys: equal text for equal values, 1 and 1.0 among them."""
    return json.dumps(_plain(values), sort_keys=True, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _flat(identity: EncoderIdentity) -> dict[str, Any]:
    """Each fact under a name of its own, those within JSON too: ``tiles.tissue.method``."""
    flat: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{name}.{key}", inner)
        else:
            flat[name] = value

    for name, value in asdict(identity).items():
        parsed = json.loads(value) if name in ("settings", "tiles") and value else value
        add(identity.shown_as if name == "tiles" else name, parsed)
    return flat


def _shown(name: str, value: Any) -> str:
    if name == "precision" and not value:
        return "float32 or float16"
    return "not known" if value in (None, "") else repr(value)
