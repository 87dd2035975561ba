"""A folder of weights with a manifest: files by name, with their hash, licence and source.

``weights.json`` lists them: ``{"format": 1, "weights": {NAME: {file, sha256, bytes, licence, source, recipe}}}``. The
environment variable ``MEDSOFT_WEIGHTS`` says where the folder is. A listed file is hashed at every load, and refused
where it is not the one that was added.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from medsoft.errors import InputError
from medsoft.storage.files import replacing
from medsoft.storage.own_files import read_json_object, require_file, value_of

VARIABLE = "MEDSOFT_WEIGHTS"
MANIFEST = "weights.json"
FORMAT = 1
SHA256 = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Weights:
    """What the manifest says of one file.

    Attributes:
        file: its name within the folder.
        sha256: of all its bytes.
        bytes: its size.
        licence: as whoever added it said.
        source: where it came from: an address, or words.
        recipe: the encoder that it is for; "" for none.
        own_recipe: that encoder's recipe, plain values, where no version of medsoft has it: what it must be shown is
            then listed beside the weights, whose name is the encoder's.
    """

    file: str
    sha256: str
    bytes: int
    licence: str
    source: str
    recipe: str = ""
    own_recipe: dict[str, Any] | None = None


class WeightsFolder:
    """A folder of weights.

    Attributes:
        path: the folder.
        manifest: its ``weights.json``.
        listed: what is in it, by name.

    Args:
        path: the folder; one without a manifest is empty.

    Raises:
        InputError: the manifest cannot be read, or is none.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{path}: is no folder of weights, but a file")
        self.manifest = self.path / MANIFEST
        self.listed: dict[str, Weights] = _read(self.manifest) if self.manifest.exists() else {}

    @classmethod
    def chosen(cls, folder: str | None = None) -> WeightsFolder:
        """The folder that an option or ``MEDSOFT_WEIGHTS`` names.

        Raises:
            InputError: neither does, or its manifest cannot be read.
        """
        path = folder or os.environ.get(VARIABLE)
        if not path:
            raise InputError(f"which folder of weights? Name it with --folder, or set {VARIABLE}")
        return cls(path)

    def checked(self, name: str) -> Path:
        """The file of this name, whose bytes are those that were added.

        Raises:
            InputError: it is not listed, missing, or another one.
        """
        if name not in self.listed:
            raise InputError(f"{self.path}: has no weights {name!r}; it has {_names(self.listed)}")
        if problem := self.problem(name):
            raise InputError(f"{self.path}: the weights {name!r} are refused: {problem}")
        return self.path / self.listed[name].file

    def problem(self, name: str) -> str:
        """Why the file of a listed name cannot be used, in words; "" where it can."""
        entry = self.listed[name]
        file = self.path / entry.file
        try:
            size = file.stat().st_size
            found = sha256(file) if size == entry.bytes else ""
        except OSError as error:
            return f"{entry.file}: {error.strerror}"
        if size != entry.bytes:
            return f"{entry.file} has {size:,} bytes, not {entry.bytes:,}: it was changed or cut short"
        return "" if found == entry.sha256 else f"{entry.file} was changed: its SHA-256 is {found}, not {entry.sha256}"

    def add(self, name: str, entry: Weights) -> None:
        """List a file that lies in the folder, in place of what bore its name before.

        Raises:
            InputError: no name for weights.
            OSError: the manifest cannot be written.
        """
        check_name(name)
        self.listed[name] = entry
        values = {"format": FORMAT, "weights": {key: _facts(self.listed[key]) for key in sorted(self.listed)}}
        with replacing(self.manifest) as temporary:
            temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def find_weights(given: str) -> Path:
    """The file that an option for weights means: a path, or a name in the folder of weights.

    What is listed in a manifest is hashed, also where it is named by its path.

    Raises:
        InputError: a name that is that of a file here too; or the file is not the one that was added.
    """
    path = Path(given)
    folder = WeightsFolder(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
    if folder is not None and given in folder.listed:
        if path.is_file():
            raise InputError(f"{given}: is a file here, and weights in {folder.path} too; write ./{given} for the file")
        return folder.checked(given)
    if not path.exists():
        if folder is not None and NAME.fullmatch(given):
            raise InputError(f"{given}: no such file, and no weights of this name in {folder.path}, which has "
                             f"{_names(folder.listed)}")  # fmt: skip
        return path
    beside = WeightsFolder(path.parent)
    for name, entry in beside.listed.items():
        if entry.file == path.name:
            beside.checked(name)
    return path


def weights_for(recipe: str, digest: str | None) -> Path | None:
    """Weights that the user has not named: those of this SHA-256, or else the only ones for this recipe.

    Raises:
        InputError: several are for the recipe; or the file is not the one that was added.
    """
    if not os.environ.get(VARIABLE):
        return None
    folder = WeightsFolder(os.environ[VARIABLE])
    if digest:
        fitting = [name for name, entry in folder.listed.items() if entry.sha256 == digest.lower()][:1]
    else:
        fitting = [name for name, entry in folder.listed.items() if entry.recipe == recipe]
    if len(fitting) > 1:
        raise InputError(f"{folder.path}: has several weights for {recipe} ({_names(fitting)}): choose with --weights")
    return folder.checked(fitting[0]) if fitting else None


def check_name(name: str) -> None:
    """Check that this can name weights.

    Raises:
        InputError: it could be taken for a path, or has other characters.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"--name {name}: letters, digits, dots, hyphens and underscores, a letter or digit first")


def sha256(path: Path) -> str:
    """SHA-256 of all bytes of a file, 64 hexadecimal digits."""
    require_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _facts(entry: Weights) -> dict[str, Any]:
    """What the manifest says of one file; a recipe only where it has its own, as earlier versions know none."""
    return {key: value for key, value in asdict(entry).items() if value is not None}


def _read(manifest: Path) -> dict[str, Weights]:
    values = read_json_object(manifest)
    if value_of(values, "format", int, manifest) != FORMAT:
        raise InputError(f"{manifest}: has format {values['format']}, this medsoft reads {FORMAT}")
    found = {}
    for name, said in value_of(values, "weights", dict, manifest).items():
        if not isinstance(said, dict) or not said.keys() <= Weights.__dataclass_fields__.keys():
            raise InputError(f"{manifest}: is no list of weights: what it says of {name!r} are not the facts of a file")
        said = {"recipe": "", **said}
        kinds: dict[str, type] = {field.name: str for field in fields(Weights)} | {"bytes": int, "own_recipe": dict}
        there = {key: kind for key, kind in kinds.items() if key in said or key != "own_recipe"}
        found[name] = Weights(**{key: value_of(said, key, kind, manifest) for key, kind in there.items()})
        # A manifest from elsewhere must not point out of its folder.
        if not NAME.fullmatch(name) or Path(found[name].file).name != found[name].file:
            raise InputError(
                f"{manifest}: {name!r} with the file {found[name].file!r}: a plain name is needed for both"
            )
        if not SHA256.fullmatch(found[name].sha256) or found[name].bytes < 0:
            raise InputError(f"{manifest}: what it says of {name!r} is no SHA-256, or no size")
    return found


def _names(names: dict[str, Weights] | list[str]) -> str:
    return ", ".join(names) or "none"
