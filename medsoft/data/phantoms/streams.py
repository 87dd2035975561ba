"""Independent streams of random numbers, one a purpose, so that what one draws does not shift the others."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What the random numbers are for; a purpose keeps its number, or all phantoms change."""

    LABEL = 0
    CAMERA = 1
    PIGMENT = 2
    ANATOMY = 3
    LESIONS = 4
    ARTEFACTS = 5
    OPTICS = 6


def stream(seed: int, purpose: Purpose, number: int) -> np.random.Generator:
    """The random numbers of one purpose for the photograph, patient or pair of patients with this number."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, number)))
