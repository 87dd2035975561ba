"""The teacher of a distillation: a frozen encoder that sees the student's view in its own scale and size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medsoft.encoders.build import build_encoder, create_model
from medsoft.encoders.from_run import Run, find_run, load_run
from medsoft.encoders.recipes import Recipe, find_recipe
from medsoft.encoders.requirements import EncoderOptions
from medsoft.encoders.weights import checked_sha256
from medsoft.errors import InputError
from medsoft.pretraining.networks import features_and_map


class Teacher:
    """A frozen encoder.

    It is no ``nn.Module``, so that it is neither trained nor saved with the student.

    Args:
        model: gives the features.
        recipe: what it is shown.
        sha256: of its weights.
        channels: of the images; grey ones are shown to a teacher for colours as three equal channels.

    Raises:
        InputError: it takes no such images, or gives no map of tokens.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, sha256: str, channels: int) -> None:
        self.recipe, self.sha256 = recipe, sha256
        self._model = model.eval().requires_grad_(False)
        wanted = recipe.channels
        if wanted < channels:
            raise InputError(
                f"--teacher {recipe.name}: takes images of {wanted} channel, but --transforms makes {channels}: choose "
                "transforms for grey images, such as chest_xray"
            )
        self._repeat = wanted // channels
        self._mean = torch.tensor(recipe.mean).view(-1, 1, 1)
        self._std = torch.tensor(recipe.std).view(-1, 1, 1)
        try:
            self(torch.zeros(1, channels, recipe.input_px, recipe.input_px, dtype=torch.uint8))
        except (RuntimeError, ValueError, AssertionError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f"--teacher {recipe.name}: cannot teach: {error}") from None

    @property
    def note(self) -> str:
        """What the user should know of how it sees the images; "" for nothing."""
        return "" if self._repeat == 1 else f"{self.recipe.name} sees the grey images as three equal channels"

    def to(self, device: torch.device) -> None:
        """Move it to a device."""
        self._model.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)

    def __call__(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features of 8-bit images: pooled (B, F), and of the places (B, D, h, w).

        Images of another size than the encoder's are resampled to it.
        """
        side = self.recipe.input_px
        image = image_BCHW.to(self._mean.device).float() / 255
        if image.shape[1] != len(self._mean):
            image = image.repeat(1, self._repeat, 1, 1)
        if tuple(image.shape[2:]) != (side, side):
            image = F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        with torch.no_grad():
            return features_and_map(self._model, (image - self._mean) / self._std, self.recipe.pooling)


def load_teacher(name: str, weights: str | None, channels: int) -> Teacher:
    """The encoder of this name as a teacher.

    Args:
        name: of a recipe, or the folder of a run on images or of a pretraining.
        weights: as the user names them; None where they come with a package or lie in the folder of weights.
        channels: of the images.

    Raises:
        InputError: there is no such encoder, its weights are missing, or it cannot teach.
    """
    known = find_recipe(name)
    if known is not None and known.dims == 3:
        raise InputError(f"--teacher {name}: is an encoder of volumes, and medsoft pretrain learns from images")
    try:
        run = find_run(name) if known is None else None
        if isinstance(run, Run):  # of any kind of image: the student's transforms prepare them
            recipe, _ = run.recipe(of_tiles=False)
            if len(set(recipe.size)) > 1:
                raise InputError(f"--encoder {name}: was trained on images of {recipe.size} px, which are not square")
            model = create_model(recipe)
            load_run(model, run.checkpoint)
            return Teacher(model, recipe, checked_sha256(run.checkpoint, None), channels)
        options = EncoderOptions(name, weights=weights)
        encoder: Any = build_encoder(options.name, options.file(), device="cpu", precision="32")
    except InputError as error:
        said = str(error).replace(". To try things out without: --encoder-init random", "")
        said = said.replace("--encoder", "--teacher").replace("--weights", "--teacher-weights")
        raise InputError(said) from None
    return Teacher(encoder._model, encoder.recipe, encoder.sha256, channels)
