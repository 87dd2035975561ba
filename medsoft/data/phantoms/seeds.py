"""Independent streams of random numbers, one per purpose, so that draws from one do not shift the others."""

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
    SLIDE_LABEL = 7
    SLIDE_TISSUE = 8
    SLIDE_REGIONS = 9
    SLIDE_STAIN = 10
    SLIDE_ARTEFACTS = 11
    SLIDE_CELLS = 12
    VOLUME_PATIENT = 13
    VOLUME_BREAST = 14
    VOLUME_NOISE = 15
    VOLUME_LABEL = 16


def stream(seed: int, purpose: Purpose, *numbers: int) -> np.random.Generator:
    """The random numbers of one purpose for the photograph, slide, patient or group of patients with this number.

    Further numbers name a part of it: the row and the column of a block, and what is drawn there.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, *numbers)))
