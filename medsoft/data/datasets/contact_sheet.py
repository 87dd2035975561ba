"""Contact sheets: many images on one page, before and after the transforms."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medsoft.data.transforms import Transforms
from medsoft.data.transforms.pixels import round_to_uint8
from medsoft.storage.files import replacing

AUGMENTATIONS = 4
"""Random variants drawn of each sample: seeds 0 to 3 for the first, 4 to 7 for the second, …"""

CELL_INCHES, GAP_INCHES, LINE_INCHES, TITLE_INCHES = 1.8, 0.1, 0.13, 0.45
CAPTION_CHARACTERS = 28
TITLE_CHARACTERS_PER_INCH, TITLE_LINE_INCHES = 11.5, 0.2
FRAME_POINTS = 2
DPI = 130


def transforms_sheet(
    images: Sequence[np.ndarray], captions: Sequence[str], transforms: Transforms, title: str, out: Path
) -> None:
    """Draw a row for each sample: as read, as prepared for the model, and four random variants of that.

    Args:
        images: as read, each (H, W, 1) or (H, W, 3), any sizes.
        captions: one per sample, such as its id and class; the sizes are added.
        transforms: the recipe.
        title: above the page.
        out: the file, replaced only when complete; its folder is made.

    Raises:
        ValueError: no images, not one caption per image, or an image that ``transforms`` cannot prepare.
    """
    cells, texts = [], []
    for row, (image, caption) in enumerate(zip(images, captions, strict=True)):
        prepared = transforms.prepare(image)
        depth = "" if image.dtype == np.uint8 else f", {image.dtype}"
        cells += [image, prepared]
        texts += [f"{caption}\n{size_text(image)}{depth}", f"prepared\n{size_text(prepared)}"]
        for seed in range(row * AUGMENTATIONS, (row + 1) * AUGMENTATIONS):
            cells.append(transforms.augment(prepared, seed))
            texts.append(f"augmented\nseed {seed}")
    contact_sheet(cells, texts, 2 + AUGMENTATIONS, title, out)


def contact_sheet(
    images: Sequence[np.ndarray | None],
    captions: Sequence[str],
    columns: int,
    title: str,
    out: Path,
    frames: Sequence[str] | None = None,
) -> None:
    """Draw pictures with captions row by row on one page.

    Args:
        images: each (H, W, 1) or (H, W, 3), any sizes. Values other than 8 bits are stretched from smallest to largest.
            None leaves a place empty.
        captions: one a picture, drawn under it; may have several lines, of which long ones are shortened in the middle.
        columns: pictures per row, 1 or more.
        title: above the page, in as many lines as it needs.
        out: the file, PNG, PDF or SVG by its ending; replaced only when complete, its folder is made.
        frames: colours around the pictures, one a picture; a thin grey line by default.

    Raises:
        ValueError: no images, or not one caption per image.
    """
    from matplotlib.figure import Figure

    if not images or len(images) != len(captions):
        raise ValueError(f"{len(images)} pictures and {len(captions)} captions: give one caption per picture")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    row_inches = CELL_INCHES + LINE_INCHES * (1 + max(caption.count("\n") for caption in captions)) + 2 * GAP_INCHES
    width = columns * (CELL_INCHES + GAP_INCHES) + GAP_INCHES
    lines = textwrap.wrap(title, max(1, int(width * TITLE_CHARACTERS_PER_INCH)))
    title_inches = TITLE_INCHES + (len(lines) - 1) * TITLE_LINE_INCHES
    height = title_inches + rows * row_inches
    figure = Figure(figsize=(width, height), dpi=DPI)
    words = "\n".join(lines)
    figure.text(GAP_INCHES / width, 1 - title_inches / 2 / height, words, va="center", fontsize=11, parse_math=False)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        if image is None:
            continue
        row, column = divmod(place, columns)
        left = GAP_INCHES + column * (CELL_INCHES + GAP_INCHES)
        bottom = height - title_inches - row * row_inches - CELL_INCHES
        # Anchored to the bottom of its cell, so that the captions of a row stand on one line.
        axes = figure.add_axes(
            (left / width, bottom / height, CELL_INCHES / width, CELL_INCHES / height), anchor="S", xticks=[], yticks=[]
        )
        axes.imshow(eight_bits(image), cmap="gray", vmin=0, vmax=255)
        axes.spines[:].set_color(frames[place] if frames else "0.8")
        axes.spines[:].set_linewidth(FRAME_POINTS if frames else 0.5)
        text = "\n".join(shorten(line) for line in caption.split("\n"))
        axes.set_xlabel(text, fontsize=7, labelpad=3, parse_math=False)
    with replacing(out) as unfinished:
        figure.savefig(unfinished)


def eight_bits(image: np.ndarray) -> np.ndarray:
    """The picture as uint8, for the eye: anything but uint8 is stretched from its smallest to its largest value."""
    if image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    return round_to_uint8((image - low) / ((high - low) or 1.0) * 255)


def size_text(image: np.ndarray) -> str:
    """Width × height and kind of channels, as in ``512 × 340 colour``."""
    return f"{image.shape[1]} × {image.shape[0]} {'grey' if image.shape[2] == 1 else 'colour'}"


def shorten(line: str) -> str:
    """Cut the middle out of a line that is wider than a picture."""
    if len(line) <= CAPTION_CHARACTERS:
        return line
    half = (CAPTION_CHARACTERS - 1) // 2
    return f"{line[:half]}…{line[-half:]}"
