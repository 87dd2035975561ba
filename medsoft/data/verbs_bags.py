"""What ``medsoft slides export`` does: features for other tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
from rich.console import Console
from rich.progress import track

from medsoft.data.bags.bag_file import Bag, BagError, open_bag
from medsoft.data.bags.trident import export_trident
from medsoft.data.problems import write_errors
from medsoft.errors import InputError
from medsoft.parsing import call

FORMATS: dict[str, Callable[[Bag, Path], int]] = {"trident": export_trident}


def export(argv: Sequence[str]) -> int:
    """Write feature files in the layout of another tool."""
    code: int = call(export_bags, argv, "slides export", positional="features", several=True)
    return code


def export_bags(features: list[str], out: str, format: Literal["trident"] = "trident", overwrite: bool = False) -> int:
    """Write feature files of medsoft in the layout of another tool, one file each, under the same names.

    Args:
        features: Feature files, or folders of them.
        out: Folder to write; errors.csv in it lists what could not be exported.
        format: trident, for which tiles that could not be read are left out.
        overwrite: Replace files that are there.

    Returns:
        0, or 3 if some could not be exported.

    Raises:
        InputError: there are no such files, two of them have the same name, or their place is taken.
    """
    targets = _targets(find_features(features), Path(out), overwrite)
    console = Console(highlight=False, markup=False)
    failures, left_out = [], 0
    for target, source in track(targets.items(), "Exporting", console=console, transient=True):
        try:
            with open_bag(source) as bag:
                left_out += FORMATS[format](bag, target)
        except BagError as error:
            failures.append({"path": str(source), "stage": "export", "reason": error.reason})
    console.print(f"Wrote {len(targets) - len(failures)} files to {out}", soft_wrap=True)
    if left_out:
        console.print(f"Left out: {left_out} tiles that could not be read; the layout has no place for them")
    if failures:
        write_errors(pd.DataFrame(failures), Path(out) / "errors.csv")
        console.print(f"{len(failures)} failed: see {Path(out) / 'errors.csv'}", soft_wrap=True)
    return 3 if failures else 0


def find_features(words: Sequence[str]) -> list[Path]:
    """The feature files that words on the command line name: files as they are, ``.h5`` files below folders.

    Raises:
        InputError: something is not there, or a folder has none.
    """
    found: list[Path] = []
    for word in words:
        path = Path(word)
        if not path.exists():
            raise InputError(f"{word}: there is no such file or folder")
        inside = (
            sorted(file for file in path.rglob("*.h5") if not file.name.startswith(".")) if path.is_dir() else [path]
        )
        if not inside:
            raise InputError(f"{word}: no feature files (*.h5) in this folder")
        found += inside
    return list(dict.fromkeys(found))


def _targets(sources: Sequence[Path], out: Path, overwrite: bool) -> dict[Path, Path]:
    """File to write to file to read."""
    targets: dict[Path, Path] = {}
    for source in sources:
        target = out / f"{source.stem}.h5"
        if target in targets:
            raise InputError(f"{targets[target]} and {source} would both become {target}: export them to two folders")
        if target.exists() and target.samefile(source):
            raise InputError(f"{target}: would replace the file it is made from: name another folder with --out")
        if target.exists() and not overwrite:
            raise InputError(f"{target}: is there already; --overwrite true replaces it")
        targets[target] = source
    return targets
