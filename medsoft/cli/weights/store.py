"""The verbs ``weights add``, ``list`` and ``verify``: a folder of weights for machines without a network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from medsoft.encoders.recipes import Recipe, find_recipe, recipes
from medsoft.errors import InputError
from medsoft.storage.files import replacing
from medsoft.storage.weights_folder import Weights, WeightsFolder, check_name, sha256

if TYPE_CHECKING:
    from torch import nn


def add_weights(
    file: str,
    name: str,
    licence: str,
    source: str,
    recipe: str | None = None,
    sha256: str | None = None,
    folder: str | None = None,
    overwrite: bool = False,
) -> None:
    """Copy a file with weights into the folder of weights and add it to the manifest.

    The file must hold tensors alone; it is never unpickled. With a recipe it must fit the encoder, weight by weight.

    Args:
        file: Local file, .safetensors, a state dict or a medsoft checkpoint.
        name: Name that --weights and model.pretrained will accept instead of a path.
        licence: Licence of the weights, such as CC-BY-NC-ND-4.0.
        source: Where the file came from: an address or a description.
        recipe: Encoder that the weights are for (medsoft encoders), by whose name fit, encode and slides encode find
            them.
        sha256: Expected SHA-256 of the file, as stated by its authors.
        folder: Folder of weights, instead of the one that MEDSOFT_WEIGHTS names.
        overwrite: Replace weights of this name if there are any.

    Raises:
        InputError: no such file, another SHA-256, no weights, not those of the recipe, or the name is taken.
    """
    check_name(name)
    for option, text in (("licence", licence), ("source", source)):
        if not text.strip():
            raise InputError(f"--{option} must not be empty: others will rely on it")
    chosen, path = WeightsFolder.chosen(folder), Path(file)
    known = _known(recipe)
    if name in chosen.listed and not overwrite:
        raise InputError(f"{chosen.path}: already has weights {name!r}; --overwrite true replaces them")
    digest = _check(path, known, sha256)
    target = chosen.path / f"{name}{path.suffix}"
    if any(entry.file == target.name for other, entry in chosen.listed.items() if other != name):
        raise InputError(f"{target}: is the file of other weights in this folder; choose another --name")
    if path.resolve() != target.resolve():
        _copy(path, target, digest)
    size = target.stat().st_size
    before = chosen.listed.get(name)
    chosen.add(name, Weights(target.name, digest, size, licence.strip(), source.strip(), known.name if known else ""))
    if before is not None and before.file != target.name:
        (chosen.path / before.file).unlink(missing_ok=True)
    print(f"{name}: {target} ({size / 2**20:,.1f} MiB, SHA-256 {digest})")


def list_weights(folder: str | None = None) -> None:
    """List the folder of weights as recorded in its manifest; weights verify checks the files themselves.

    Args:
        folder: Folder of weights, instead of the one that MEDSOFT_WEIGHTS names.

    Raises:
        InputError: no folder is named, or its manifest cannot be read.
    """
    from rich.table import Table

    from medsoft.system.terminal import plain_console

    chosen = WeightsFolder.chosen(folder)
    console = plain_console()
    if not chosen.listed:
        print(f"{chosen.path}: no weights are listed here; add some with medsoft weights add")
        return
    table = Table("name", "recipe", "licence", "source", "MiB", "SHA-256", title=str(chosen.path))
    for name, one in chosen.listed.items():
        table.add_row(name, one.recipe, one.licence, one.source, f"{one.bytes / 2**20:,.1f}", f"{one.sha256[:12]}…")
    console.print(table)


def verify_weights(names: list[str] | None = None, folder: str | None = None) -> int:
    """Hash the files in the folder of weights and compare them with its manifest.

    Args:
        names: Names of the weights to verify; all if none is given.
        folder: Folder of weights, instead of the one that MEDSOFT_WEIGHTS names.

    Returns:
        0, or 3 if a file is missing or is not the one that was added.

    Raises:
        InputError: no folder is named, its manifest cannot be read, or a name is not in it.
    """
    chosen = WeightsFolder.chosen(folder)
    if unknown := [name for name in names or [] if name not in chosen.listed]:
        raise InputError(f"{chosen.path}: has no weights {', '.join(unknown)}")
    wrong = 0
    for name in names or chosen.listed:
        problem = chosen.problem(name)
        wrong += bool(problem)
        print(f"{name}: {problem or 'as it was added'}")
    listed = {one.file for one in chosen.listed.values()} | {chosen.manifest.name}
    others = sorted(path.name for path in chosen.path.glob("*") if path.is_file() and path.name not in listed)
    if others and not names:
        print(f"not listed, and not checked: {', '.join(others)}")
    return 3 if wrong else 0


def _known(recipe: str | None) -> Recipe | None:
    if recipe is None:
        return None
    found = find_recipe(recipe)
    if found is None:
        raise InputError(f"--recipe {recipe}: no recipe; there are {', '.join(recipes())}")
    if found.weights:
        raise InputError(f"--recipe {recipe}: its weights come with the package {found.weights}")
    return found


def _check(path: Path, recipe: Recipe | None, expected: str | None) -> str:
    """The file's SHA-256, once it is known to hold weights, of the recipe where there is one."""
    from medsoft.encoders.weights import check_weights, checked_sha256
    from medsoft.models.weights import read_weights

    digest = checked_sha256(path, expected)
    if recipe is None:
        read_weights(path)
    else:
        check_weights(_network(recipe), recipe, path)
    return digest


def _network(recipe: Recipe) -> nn.Module:
    """The recipe's network, where that can be without its weights: names and shapes are all that is compared.

    Raises:
        InputError: it cannot be built here.
    """
    import torch

    from medsoft.encoders.build import create_model

    try:
        with torch.device("meta"):
            return create_model(recipe)
    except InputError:  # MONAI's Swin transformer computes while it is built
        return create_model(recipe)


def _copy(path: Path, target: Path, digest: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    size, free = path.stat().st_size, shutil.disk_usage(target.parent).free
    if size > free:
        raise InputError(f"{target.parent}: {size:,} bytes are to be copied, {free:,} are free")
    with replacing(target) as temporary:
        shutil.copyfile(path, temporary)
        if sha256(temporary) != digest:
            raise InputError(f"{path}: changed while it was copied")
