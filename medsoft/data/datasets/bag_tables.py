"""Tables of bags for ``medsoft data check`` and ``split``: recognises them, and describes their feature files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

from medsoft.data.datasets.bag_index import SUFFIXES, BagFiles
from medsoft.data.tables.reading import text
from medsoft.data.volumes.rows import Kind

AnyKind = Literal["auto", "image", "volume", "bag"]
"""What the rows of a table are."""


def bag_files(
    table: str, source: pd.DataFrame, kind: AnyKind, features: str | None, root: str | None, path: str, contents: bool
) -> BagFiles | None:
    """The feature files of a table of bags; None of another table.

    Args:
        table: its folder is that of the feature files where neither ``features`` nor ``root`` is given.
        source: the table as loaded.
        kind: auto takes a table for one of bags where its paths are feature files.
        features: folder of feature files that bear the names of slides; makes it one of bags.
        root: folder that relative paths start from.
        path: column of the slides, or of feature files.
        contents: read every file to its end.

    Raises:
        InputError: there is no such folder.
    """
    paths = text(source[path]) if path in source else pd.Series([], dtype=object)
    are_features = not paths.empty and paths[paths != ""].str.lower().str.endswith(SUFFIXES).all()
    if kind in ("image", "volume") or not (features or kind == "bag" or are_features):
        return None
    return BagFiles(Path(features or root or Path(table).parent), features is not None, contents, False)


def plain_kind(kind: AnyKind) -> Kind:
    """The kind where the table is not of bags."""
    return "auto" if kind == "bag" else kind


def described(files: BagFiles) -> str:
    """In words, what the feature files are."""
    found = list(files.summaries.values())
    if not found:
        return "Bags: no feature file can be used"
    tiles = sorted(bag.num_tiles for bag in found)
    widths = " or ".join(map(str, sorted({bag.num_features for bag in found})))
    coordinates = sum(bag.frame != "" for bag in found)
    return (
        f"Bags: {len(found)} feature files of {tiles[0]} to {tiles[-1]} tiles (median {tiles[len(tiles) // 2]}), "
        f"{widths} features per tile; {coordinates} with coordinates"
    )
