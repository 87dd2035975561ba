"""What says that two samples hold the same content, however their files were written."""

from __future__ import annotations

import hashlib

import numpy as np

DIGITS = 32


def array_hash(array: np.ndarray) -> str:
    """Hash of an array's values, type and shape: equal for a picture and its lossless re-encoding.

    Args:
        array: any shape of a numeric type. The byte order of the type does not matter.

    Returns:
        32 hexadecimal digits of a SHA-256.
    """
    values = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{values.dtype.str} {values.shape}".encode())
    digest.update(values.data)
    return digest.hexdigest()[:DIGITS]


def row_hash(*values: object) -> str:
    """Hash of what a table's row says; the values are kept apart, so that ("ab", "c") is not ("a", "bc").

    Returns:
        32 hexadecimal digits of a SHA-256, from which ids and labels cannot be read off.
    """
    digest = hashlib.sha256()
    for value in values:
        word = str(value).encode()
        digest.update(len(word).to_bytes(8, "little"))
        digest.update(word)
    return digest.hexdigest()[:DIGITS]
