"""Pseudonyms for patients, exams and images, made with a secret that the user keeps."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path

from medsoft.errors import InputError

SALT_BYTES = 32
DIGITS = 16
"""Hexadecimal digits of a name: for a million patients, two share one with a chance of 3 in 100 million."""


def default_salt() -> Path:
    """Where the salt lies if the user names no other place: the user's own, so that all tables agree."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "medsoft" / "salt"


def load_salt(path: Path) -> tuple[bytes, str]:
    """Read the salt, or make it where there is none, readable by its owner alone.

    Returns:
        The salt, and a sentence for the user: that it was made, or that others can read it; "" where all is well.

    Raises:
        InputError: the file is no salt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(SALT_BYTES) + "\n")
        said = (
            f"made a new salt, {path}, readable by you alone. Keep it: with another one the same patient gets another "
            "name. Do not share it: with it, names can be found from patient numbers"
        )
    except FileExistsError:
        open_to_others = stat.S_IMODE(path.stat().st_mode) & 0o077
        said = f"{path} can be read by others; chmod 600 {path} keeps it to you" if open_to_others else ""
    text = path.read_text(encoding="ascii", errors="replace").strip()
    if not re.fullmatch(f"[0-9a-f]{{{2 * SALT_BYTES}}}", text):
        raise InputError(f"{path}: is not a salt ({2 * SALT_BYTES} hexadecimal digits); name another file with --salt")
    return bytes.fromhex(text), said


def pseudonym(salt: bytes, kind: str, value: str) -> str:
    """HMAC-SHA256 of a value under the salt, its first 16 digits; "" for "".

    Args:
        salt: the secret.
        kind: what is named ("patient", "exam"), so that equal values of two kinds do not get equal names.
        value: such as a PatientID.
    """
    if not value:
        return ""
    return hmac.new(salt, f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()[:DIGITS]
