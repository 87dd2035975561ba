"""An encoder and a preparation that fit each other: from prepared pictures to tokens and pooled vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medsoft.data.features.provenance import EncoderIdentity, ImageProvenance
from medsoft.errors import InputError
from medsoft.inference.images.options import NATIVE, EncodeSettings
from medsoft.inference.images.preparation import (
    VOLUME,
    ImagePreparation,
    Place,
    Preparation,
    image_transforms,
    resolved,
)
from medsoft.inference.images.windows import MapEncoder, Windows, encode_map, filled_up, windows_of
from medsoft.registry import DEFAULTS


@dataclass(frozen=True, eq=False)
class Features:
    """Of one view of a sample.

    Attributes:
        tokens_NF: of all cells; None where they are not wanted.
        pooled_P: the pooled vector; of slices their mean.
        grid: of one picture's map, or of the volume's.
    """

    tokens_NF: np.ndarray | None
    pooled_P: np.ndarray
    grid: tuple[int, ...]


class Encoding:
    """Turns prepared samples into features.

    Attributes:
        settings: what was asked for.
        encoder: from pictures, or volumes, to features.
        preparation: from files to pictures.
        windows: how pictures larger than the encoder's input are divided; None: they never are.

    Args:
        settings: as the attribute.
        encoder: as the attribute.

    Raises:
        InputError: they do not fit each other.
    """

    def __init__(self, settings: EncodeSettings, encoder: MapEncoder) -> None:
        self.settings, self.encoder = settings, encoder
        recipe, given = encoder.recipe, settings.preparation
        self._is_whole = recipe.dims == 3
        if self._is_whole and not settings.channels:
            raise InputError(f"--encoder {encoder.name} is for volumes, and these are images")
        self.windows: Windows | None = None
        if not self._is_whole:
            self.windows = self._windows()
        stride = self.windows.stride if self.windows else 1
        self.preparation: Preparation
        if not settings.channels:
            transforms, name = image_transforms(given, recipe.channels)
            recipe.check_images("--encoder", transforms.channels, 2)
            self.preparation = ImagePreparation(given, transforms, name, tuple(recipe.size), stride)
        else:
            from medsoft.inference.images.volumes import SlicePreparation, WholePreparation  # MONAI takes seconds

            if self._is_whole:
                self.preparation = WholePreparation(given, settings.channels, recipe)
            else:
                self.preparation = SlicePreparation(
                    given, settings.channels, recipe.channels, int(recipe.size[0]), stride
                )
        self._pools_by_mean = settings.output.tokens and self.windows is not None and self._is_mean()

    def _windows(self) -> Windows | None:
        given = self.settings.preparation
        try:
            windows = windows_of(self.encoder, self._is_convolutional, given.window, given.overlap)
        except InputError:
            if self.settings.output.tokens or given.window or given.overlap:
                raise
            windows = None  # a model without a map
        own, size = self.encoder.recipe.size[0], given.size
        if windows is None and size not in (None, own):
            raise InputError(f"--size {size}: {self.encoder.name} takes its own size alone; leave it out")
        if windows is not None and windows.fixed and isinstance(size, int) and size < own:
            other = f", or build it for that size with --window {size}" if self.encoder.recipe.any_size else ""
            raise InputError(f"--size {size}: {self.encoder.name} takes {own} px: give no less{other}")
        if windows is not None and isinstance(size, int) and size < windows.stride:
            raise InputError(
                f"--size {size}: is less than the {windows.stride} px of one token of {self.encoder.name}: give "
                f"{windows.stride} or more"
            )
        return windows

    @property
    def rounded(self) -> str:
        """How pictures of a side that is no multiple of a token's become whole tokens, in words; "" where they are."""
        size = self.settings.preparation.size
        if self.windows is None or not isinstance(size, int) or size % self.windows.stride == 0:
            return ""
        tokens = -(-size // self.windows.stride)
        whole = tokens * self.windows.stride
        return f"; {size} is no multiple of a token's {self.windows.stride} px: filled up with black to {whole}"

    @property
    def _is_convolutional(self) -> bool:
        return bool(getattr(self.encoder, "takes_any_size", False))

    def _is_mean(self) -> bool:
        """Whether the pooled vector is the mean of the map: seen at noise, whatever the recipe calls it."""
        if self.encoder.num_features != self.encoder.num_token_features:
            return False
        recipe = self.encoder.recipe
        noise = np.random.default_rng(0).integers(0, 256, (1, *recipe.size, recipe.channels), dtype=np.uint8)
        pooled, tokens = self.encoder.pooled_and_tokens(noise)
        return bool(np.allclose(pooled[0], tokens[0].mean(axis=(0, 1)), rtol=1e-3, atol=1e-3 * np.abs(pooled).max()))

    @property
    def described(self) -> dict[str, Any]:
        """What decides how an original becomes the encoder's input, for the feature file."""
        windows = {} if self.windows is None else {"windows": self.windows.settings}
        return {**self.preparation.settings, **windows, "tokens": self.settings.output.tokens}

    @property
    def views(self) -> dict[str, Any]:
        """How augmented views are made, for the feature file; {} for none."""
        output = self.settings.output
        if not output.views:
            return {}
        return {"number": output.views, "seed": output.seed, "augmentation": self.preparation.augmentation}

    def facts(self, name: str, content: str, place: Place, cell: tuple[float, ...]) -> ImageProvenance:
        """What the feature file of a sample says of itself."""
        return ImageProvenance(
            name=name,
            quick_hash=content,
            size=place.size,
            unit=place.unit,
            cell=cell,
            preparation=self.described,
            encoder=self.encoder.name,
            encoder_sha256=self.encoder.sha256,
            encoder_init=self.encoder.init,
            encoder_settings=self.encoder.settings,
            precision=self.encoder.precision,
            engine=self.encoder.engine,
            views=self.views,
            affine=place.affine,
        )

    @property
    def identity(self) -> EncoderIdentity:
        """What feature files must have in common to be used together, of this run."""
        return self.facts("", "", Place((), "px"), ()).identity

    @property
    def kept_settings(self) -> EncodeSettings:
        """The settings as another call, in another folder and another day, can use them."""
        file = self.settings.encoder.file()
        encoder = self.settings.encoder
        kept = replace(encoder, encoder=encoder.name, weights=None if file is None else str(file))
        default = VOLUME if self.settings.channels else DEFAULTS["transforms"]
        return replace(self.settings, encoder=kept, preparation=resolved(self.settings.preparation, default))

    @property
    def num_features(self) -> int:
        """Of a row of ``features``."""
        return self.encoder.num_token_features if self.settings.output.tokens else self.encoder.num_features

    def cell_px(self, picture: np.ndarray, grid: tuple[int, ...]) -> tuple[float, ...]:
        """Size of a token in prepared pixels, along the axes of the grid."""
        if self.windows is not None:
            return (float(self.windows.stride),) * 2
        return tuple(side / cells for side, cells in zip(picture.shape, grid, strict=False))

    def encode(self, pictures: Sequence[np.ndarray]) -> list[Features]:
        """Features of pictures, or volumes, of one shape, each on its own.

        Raises:
            RunError: the device has not enough memory for a single one.
        """
        batch = self.settings.output.batch_size
        if self._is_large(pictures[0]):
            assert self.windows is not None
            found = [encode_map(self.encoder, one, self.windows, self._pools_by_mean, batch) for one in pictures]
            return [self._features(pooled, tokens) for pooled, tokens in found]
        features = []
        for first in range(0, len(pictures), batch):
            some = np.stack([self._filled(picture) for picture in pictures[first : first + batch]])
            if not self.settings.output.tokens:
                features += [Features(None, pooled, ()) for pooled in self.encoder(some)]
                continue
            vectors, maps = self.encoder.pooled_and_tokens(some)
            features += [self._features(*one) for one in zip(vectors, self._cut(maps, pictures[0]), strict=True)]
        return features

    def _features(self, pooled: np.ndarray, tokens: np.ndarray) -> Features:
        if not self.settings.output.tokens:
            return Features(None, pooled, ())
        return Features(tokens.reshape(-1, tokens.shape[-1]), pooled, tokens.shape[:-1])

    def rows(self, pictures: Sequence[np.ndarray]) -> int:
        """Tokens of all pictures of a sample."""
        first = pictures[0]
        if self.windows is None:
            return math.prod(self.encoder.grid) * len(pictures)
        rows, columns = (-(-length // self.windows.stride) for length in first.shape[:2])
        return int(rows * columns * len(pictures))

    def is_like(self, one: np.ndarray, other: np.ndarray) -> bool:
        """Whether two pictures can be encoded together."""
        return one.shape == other.shape and not self._is_large(one)

    def _is_large(self, picture: np.ndarray) -> bool:
        """Whether a picture needs windows."""
        return self.windows is not None and max(picture.shape[:2]) > self.windows.side * self.windows.stride

    def _filled(self, picture: np.ndarray) -> np.ndarray:
        """A picture of one window, filled up to what the encoder takes."""
        if self.windows is None:
            return picture
        stride, side = self.windows.stride, self.windows.side
        size = [side * stride if self.windows.fixed else -(-length // stride) * stride for length in picture.shape[:2]]
        return filled_up(picture, size)

    def _cut(self, maps: np.ndarray, picture: np.ndarray) -> np.ndarray:
        """Maps without the cells in which nothing of the picture lies."""
        if self.windows is None:
            return maps
        rows, columns = (-(-length // self.windows.stride) for length in picture.shape[:2])
        return maps[:, :rows, :columns]


def build_encoding(settings: EncodeSettings, device: str, precision: Any = None) -> Encoding:
    """The encoder and the preparation that settings ask for.

    Args:
        settings: as given.
        device: where to compute.
        precision: in place of the settings', where this process only needs to know what the encoder is.

    Raises:
        InputError: the encoder cannot be built, or does not fit the preparation.
    """
    return encoding_builder(settings)(device=device, **({} if precision is None else {"precision": precision}))


def encoding_builder(settings: EncodeSettings) -> Callable[..., Encoding]:
    """``build(device=…)``, which makes the encoding, in any process.

    Raises:
        InputError: the options of the encoder are not written as such.
    """
    return _Builder(settings)


@dataclass(frozen=True)
class _Builder:
    settings: EncodeSettings

    def __call__(self, device: str, precision: Any = None) -> Encoding:
        from medsoft.encoders.build import builder_of

        encoder = self.settings.encoder
        precision = precision or self.settings.output.precision
        engine = self.settings.output.engine
        build = builder_of(encoder, encoder.file(), None, precision, engine, of_tiles=False)
        made = build(device=device)
        size = self._other_size(made)
        if size is not None:
            made = build(device=device, input_size=size)
        return Encoding(self.settings, made)

    def _other_size(self, encoder: Any) -> tuple[int, ...] | None:
        """The size that the encoder must be built anew for; None where it takes what comes, or its own is asked for."""
        given, recipe = self.settings.preparation, encoder.recipe
        if recipe.dims == 3:
            side = given.size if given.size != NATIVE else None
            return None if side in (None, recipe.size[0]) else (int(side),) * 3
        if given.window in (None, recipe.size[0]) or encoder.takes_any_size:
            return None
        return (given.window, given.window)
