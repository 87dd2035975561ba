"""Published segmentation models of slides: facts about their architecture and what they are shown; no weights.

Facts of GrandQC are from its repository (github.com/cpath-ukk/grandqc), from TRIDENT's loader of its weights
(github.com/mahmoodlab/TRIDENT), and from Weng et al., Nature Communications 15, 10685 (2024).
"""

from __future__ import annotations

from dataclasses import dataclass

from medsoft.data.transforms.base import IMAGENET_MEAN, IMAGENET_STD
from medsoft.errors import InputError


@dataclass(frozen=True)
class SegmentationRecipe:
    """A published model.

    Attributes:
        name: of the recipe.
        architecture: class of segmentation-models-pytorch.
        encoder: name of its encoder there.
        outputs: the class of each channel; "" for background.
        artefacts: which of them are artefacts; () of other models.
        mpp: µm per pixel.
        side: of its input, in pixels.
        source: page of the weights, and their licence.
        jpeg_quality: with which its training images were compressed, as its input is to be; None: not at all.
        mean: of its input, for values from 0 to 1.
        std: likewise.
    """

    name: str
    architecture: str
    encoder: str
    outputs: tuple[str, ...]
    artefacts: tuple[str, ...]
    mpp: float
    side: int
    source: str
    jpeg_quality: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def classes(self) -> tuple[str, ...]:
        """Beside the background, in the order of the channels."""
        return tuple(name for name in self.outputs if name)


ARTEFACTS = ("fold", "dark_spot", "pen", "bubble", "out_of_focus")
"""Of GrandQC: dark spots and foreign objects are one class, edges and air bubbles another."""

OUTPUTS = ("", "normal_tissue", *ARTEFACTS, "")
"""Channels 0 to 7 of GrandQC's models of artefacts; the first is unused in their training, the last the glass."""

RECIPES = {
    recipe.name: recipe
    for recipe in (
        SegmentationRecipe(
            "grandqc-tissue",
            "UnetPlusPlus",
            "timm-efficientnet-b0",
            ("tissue", ""),
            (),
            10.0,
            512,
            "zenodo.org/records/14507273, CC BY-NC 4.0",
            jpeg_quality=80,
        ),
        *(
            SegmentationRecipe(
                f"grandqc-artefacts-mpp{mpp}",
                "Unet",
                "timm-efficientnet-b0",
                OUTPUTS,
                ARTEFACTS,
                mpp,
                512,
                "zenodo.org/records/14041538, CC BY-NC-SA 4.0",
            )
            for mpp in (1.0, 1.5, 2.0)
        ),
    )
}


def find_segmentation_recipe(option: str, name: str) -> SegmentationRecipe:
    """The recipe of this name.

    Raises:
        InputError: there is none.
    """
    if name not in RECIPES:
        raise InputError(f"{option} {name}: the recipes are {', '.join(RECIPES)}")
    return RECIPES[name]
