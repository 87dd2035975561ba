"""The verb ``encoders``: which pretrained encoders there are, for what, and whether their weights are here."""

from __future__ import annotations

from typing import Any

from medsoft.encoders.recipes import (
    Images,
    Recipe,
    available_encoders,
    find_recipe,
    own_recipes,
    recipes,
    unknown_encoder,
)
from medsoft.errors import InputError
from medsoft.storage.weights_folder import VARIABLE


def list_encoders(name: str | None = None, images: Images | None = None, here: bool = False) -> None:
    """List the encoders that have a recipe, or say everything of one.

    Args:
        name: Encoder to describe.
        images: List only encoders for these images.
        here: List only encoders whose weights are on this machine.

    Raises:
        InputError: there is no such encoder, or the folder of weights cannot be read.
    """
    if name is not None:
        if images is not None or here:
            raise InputError("--images and --here are for the list: leave them out, or leave out the name")
        found = find_recipe(name)
        if found is None:
            raise unknown_encoder("medsoft encoders", name)
        _describe(found)
        return
    there = {recipe.name for recipe in available_encoders()}
    shown = [
        recipe
        for recipe in (*recipes().values(), *own_recipes().values())
        if (images is None or images in recipe.images) and (not here or recipe.name in there)
    ]
    _print_table(shown, there)


def _print_table(shown: list[Recipe], there: set[str]) -> None:
    from rich.table import Column, Table

    from medsoft.system.terminal import plain_console

    # One line each, within 100 columns. Names are typed again and never cut off; of the rest, the licence gives way.
    columns = [Column(name, no_wrap=True, min_width=len(name)) for name in ("for", "parameters", "features")]
    table = Table(
        Column("encoder", no_wrap=True, min_width=max(len(one.name) for one in shown) if shown else 0),
        *columns,
        Column("licence", no_wrap=True, overflow="ellipsis"),
        Column("weights", no_wrap=True, min_width=len("weights")),
        box=None,
        padding=(0, 2, 0, 0),
    )
    for recipe in shown:
        parameters = f"{recipe.parameters:,.0f} M" if recipe.parameters else ""
        weights = "here" if recipe.name in there else ""
        table.add_row(recipe.name, kinds_of(recipe), parameters, str(recipe.features or ""), recipe.licence, weights)
    plain_console().print(table)
    print(
        "medsoft encoders NAME says everything of one, and how it was checked.\n"
        "Weights that are not here are yours to get, and to add:\n"
        f"medsoft weights add FILE --recipe NAME (the folder is {VARIABLE})"
    )


def _describe(recipe: Recipe) -> None:
    from rich.table import Table

    from medsoft.system.terminal import plain_console

    table = Table("", "", title=recipe.name, show_header=False)
    for what, value in facts_of(recipe).items():
        table.add_row(what, value)
    plain_console().print(table)


def kinds_of(recipe: Recipe) -> str:
    """What an encoder is for, in words."""
    from medsoft.encoders.recipes import GENERAL

    return "any picture" if len(recipe.images) > GENERAL else ", ".join(recipe.images)


def facts_of(recipe: Recipe) -> dict[str, str]:
    """Everything that a recipe says, in words."""
    here = recipe.name in {one.name for one in available_encoders()}
    unit = "px" if recipe.dims == 2 else "voxels"
    of_package = f"those of the package {recipe.weights}" if recipe.weights else "yours"
    tile = (
        f"{recipe.tile_px} px at {recipe.tile_mpp or '--mpp'} µm/px, {recipe.fit}"
        if "histology" in recipe.images
        else ""
    )
    checked = recipe.checked + (f" ({recipe.checked_how})" if recipe.checked_how else "")
    size = " x ".join(map(str, recipe.size)) if recipe.input_size else str(recipe.input_px)
    window = f" ({recipe.window[0]:g} to {recipe.window[1]:g})" if recipe.window else ""
    spacing = " x ".join(f"{side:g}" for side in recipe.spacing_mm or ())
    values: dict[str, Any] = {
        "for": kinds_of(recipe),
        "architecture": recipe.architecture,
        "arguments": ", ".join(f"{key}={value}" for key, value in recipe.arguments.items()),
        "parameters": f"{recipe.parameters:g} M",
        "features": recipe.features or "",
        "pooling": recipe.pooling,
        "input": f"{size} {unit}, {recipe.channels} channel(s)" + (", or any" if recipe.any_size else ""),
        "token": f"{recipe.stride} {unit} a side" if recipe.stride else "",
        "tile": tile,
        "mean": ", ".join(f"{value:g}" for value in recipe.mean),
        "deviation": ", ".join(f"{value:g}" for value in recipe.std),
        "values of volumes": recipe.intensity + window,
        "spacing of volumes": f"{spacing} mm" if spacing else "",
        "weights": f"{of_package}; {'here' if here else 'not here'}",
        "left out of a file": ", ".join(recipe.left_out),
        "licence": recipe.licence,
        "source": recipe.source,
        "checked": checked,
    }
    return {what: str(value) for what, value in values.items() if value != ""}
