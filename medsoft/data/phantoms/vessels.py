"""Retinal vessels as branching, tapering paths: arcades that bend around the fovea, shorter trunks on the nasal side.

Lengths are in field radii, the eye is a right one: the optic disc lies to the right of the fovea.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from medsoft.data.phantoms.drawing import Points

STEP = 0.02  # between two points of a path
AVASCULAR_ZONE = 0.12  # radius around the fovea that vessels leave free
PIECES = 4  # of a vessel, each thinner than the last
GENERATIONS = 2  # of branches after the trunk


def grow_vessels(
    rng: np.random.Generator, disc: Points, fovea: Points, width: float
) -> tuple[list[Points], list[float]]:
    """Grow the vessels of one kind, arteries or veins, from the optic disc.

    Args:
        rng: draws every choice.
        disc: centre of the optic disc, (2,).
        fovea: centre of the macula, (2,).
        width: of a trunk at the disc.

    Returns:
        Paths (K, 2) and the width of each.
    """
    pieces: list[tuple[Points, float]] = []
    for side in (-1, 1):  # above, below
        arcade = side * (math.pi / 2 + rng.uniform(-0.1, 0.35)), side * rng.uniform(1.5, 2.1)
        nasal = side * rng.uniform(0.45, 1.1), side * rng.uniform(-0.4, 0.6)
        macular = side * (math.pi - rng.uniform(0.2, 0.6)), side * rng.uniform(-0.6, 0.2)
        for (heading, bend), share, length in ((arcade, 1.0, 1.9), (nasal, 0.7, 0.8), (macular, 0.4, 0.5)):
            start = disc + rng.normal(0, 0.02, 2)
            pieces += _grow(rng, start, heading, bend, share * width, length, fovea, GENERATIONS)
    return [path for path, _ in pieces], [piece_width for _, piece_width in pieces]


def _grow(
    rng: np.random.Generator,
    start: Points,
    heading: float,
    bend: float,
    width: float,
    length: float,
    fovea: Points,
    generations: int,
) -> Iterator[tuple[Points, float]]:
    path = _path(rng, start, heading, bend, length)
    stop = (np.hypot(*path.T) > 1.05) | (np.hypot(*(path - fovea).T) < AVASCULAR_ZONE)
    path = path[: int(stop.argmax())] if stop.any() else path
    if len(path) < 2 * PIECES:
        return
    joints = np.linspace(0, len(path) - 1, PIECES + 1).astype(int)
    for i in range(PIECES):
        yield path[joints[i] : joints[i + 1] + 1], width * (1 - 0.5 * i / PIECES)
    if generations == 0:
        return
    for at in np.arange(rng.uniform(0.1, 0.25), 1.0, 0.3 / max(length, 0.4)):
        i = int(at * (len(path) - 1))
        side = rng.choice((-1, 1))
        dx, dy = path[i + 1] - path[i]
        yield from _grow(
            rng,
            path[i],
            math.atan2(dy, dx) + side * rng.uniform(0.45, 0.95),
            -side * rng.uniform(0.0, 1.5),
            width * (1 - 0.5 * at) * rng.uniform(0.45, 0.75),
            length * rng.uniform(0.25, 0.5),
            fovea,
            generations - 1,
        )


def _path(rng: np.random.Generator, start: Points, heading: float, bend: float, length: float) -> Points:
    """A path (K, 2) whose bend fades along the way, winding a little from side to side."""
    along = np.arange(0, length, STEP)
    winding = rng.uniform(0.08, 0.22) * np.sin(2 * math.pi * (along / rng.uniform(0.2, 0.5) + rng.uniform()))
    headings = heading + bend * 1.2 * (1 - np.exp(-along / 1.2)) + winding
    steps = STEP * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    return start + np.cumsum(steps, axis=0)
