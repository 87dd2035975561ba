"""The command of ``medsoft encode`` that makes the features which a candidate reads."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

from medsoft.inference.images.options import EncodeSettings, ImageInput


def encode_command(which: ImageInput, settings: EncodeSettings, out: str) -> str:
    """What a user types to encode these images in this way, for a shell.

    Args:
        which: the images.
        settings: how; channels of volumes follow from the table.
        out: folder of the result.
    """
    words = ["medsoft", "encode", which.table]
    for part in (settings.encoder, which, settings.preparation, settings.output):
        words += _options(part)
    return shlex.join([*words, "--out", out])


def _options(part: Any) -> Iterator[str]:
    """Options with another value than their default."""
    for field in fields(part):
        value = getattr(part, field.name)
        default = None if field.default is MISSING else field.default
        if field.name != "table" and value != default:
            yield f"--{field.name}"
            yield value if isinstance(value, str) else json.dumps(value)
