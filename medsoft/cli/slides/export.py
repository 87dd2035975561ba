"""The verb ``slides export``: feature files for other tools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from medsoft.data.features.open import Bag, open_bag
from medsoft.data.features.other_tools.trident import export_trident
from medsoft.data.tables.problems import write_errors
from medsoft.errors import BagError, InputError
from medsoft.storage.walk import passed_in_words, special_kind, walk
from medsoft.system.progress import progress
from medsoft.system.terminal import plain_console

FORMATS: dict[str, Callable[[Bag, Path], int]] = {"trident": export_trident}


def export_bags(features: list[str], out: str, format: Literal["trident"] = "trident", overwrite: bool = False) -> int:
    """Write medsoft's feature files in the layout of another tool, under the same names.

    Args:
        features: Feature files, or folders of them.
        out: Folder to write to; its errors.csv lists what could not be exported.
        format: Layout to write; trident omits tiles that could not be read.
        overwrite: Replace existing files.

    Returns:
        0, or 3 if some could not be exported.

    Raises:
        InputError: there are no such files, two of them have the same name, or their place is taken.
    """
    targets = _targets(find_features(features), Path(out), overwrite)
    console = plain_console()
    failures, left_out = [], 0
    with progress("exporting", len(targets)) as step:
        for target, source in targets.items():
            try:
                with open_bag(source) as bag:
                    left_out += FORMATS[format](bag, target)
            except BagError as error:
                failures.append({"path": str(source), "stage": "export", "reason": error.reason})
            step()
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
        InputError: something is not there, a folder has none, or a part of it cannot be opened.
    """
    found: list[Path] = []
    passed: Counter[str] = Counter()
    for word in words:
        path = Path(word)
        if not path.exists():
            raise InputError(f"{word}: there is no such file or folder")
        if kind := special_kind(path):
            raise InputError(f"{word}: is {kind}, not a file")
        if not path.is_dir():
            found.append(path)
            continue
        walked = walk(path)
        if problems := walked.problems:
            raise InputError("\n".join(f"{place}: {reason}" for place, reason in problems))
        walked.keep(lambda file: file.suffix == ".h5")
        if not walked.files:
            raise InputError(f"{word}: no feature files (*.h5) in this folder")
        passed += walked.passed
        found += walked.files
    if line := passed_in_words(passed):
        print(line)
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
            raise InputError(f"{target}: already exists; --overwrite true replaces it")
        targets[target] = source
    return targets
