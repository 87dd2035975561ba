"""The folder that ``medsoft encode`` leaves: where its feature files are, and what was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medsoft.data.features.names import is_bag_name
from medsoft.errors import InputError
from medsoft.storage.own_files import read_json_object

FEATURES, ENCODE_JSON = "features", "encode.json"


def features_folder(given: Path) -> Path:
    """The folder of the feature files: what is given, or ``features`` in it, as the verbs that encode leave it."""
    inner = given / FEATURES
    if not inner.is_dir() or any(is_bag_name(file.name) for file in given.iterdir()):
        return given
    return inner


def encode_json(folder: Path) -> Path | None:
    """The record of what was asked for, of a folder of feature files or the one that it lies in; None without."""
    there = (place / ENCODE_JSON for place in (folder, folder.parent))
    return next((file for file in there if file.is_file()), None)


def encode_settings(folder: Path) -> dict[str, Any] | None:
    """How the images of a folder became features, in plain values; None where it does not say.

    Raises:
        InputError: its record is damaged.
    """
    file = encode_json(folder)
    if file is None:
        return None
    settings = read_json_object(file).get("settings")
    if not isinstance(settings, dict):
        raise InputError(f"{file}: is damaged; encode the images again")
    return settings


def portable(settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings without the place of the weights on this machine."""
    encoder = dict(settings.get("encoder") or {})
    return settings | {"encoder": encoder | {"weights": None}}
