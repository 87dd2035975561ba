"""From frames in any order to a grid in the patient: slices sorted by position, time points apart, nothing missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsoft.data.decode import ReadError
from medsoft.data.dicom.frames import OTHERS, TIMES, Frame

SAME_PLACE_MM = 1e-3
SAME_DIRECTION = 1e-3
UNEVEN = 0.1
"""Largest distance of a slice from its place on an even grid, as a share of the step between slices."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames on a grid.

    Attributes:
        frames: time points, each with its slices along the normal of their plane (column direction × row direction).
        affine: (4, 4) float64, from the indices (column, row, slice, 1) to mm in RAS+.
        seconds: of each time point since the first; empty where the files do not say it.
    """

    frames: list[list[Frame]]
    affine: np.ndarray
    seconds: tuple[float, ...] = ()


def stack(frames: Sequence[Frame]) -> Stack:
    """Sort the frames of one series.

    Raises:
        ReadError: frames without a position, of several orientations or spacings, at the same place without a time
            that tells them apart, missing slices, uneven steps, or a spacing of zero.
    """
    directions, spacing = _plane(frames)
    normal = np.cross(directions[0], directions[1])
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    starts = np.flatnonzero(np.diff(heights[order], prepend=-np.inf) > SAME_PLACE_MM)
    places = [[frames[i] for i in part] for part in np.split(order, starts[1:])]
    phases, seconds = _time_points(places)
    origins = np.array([frame.position for frame in phases[0]])
    step = _step(origins, normal, phases[0][0])
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = directions[0] * spacing[1], directions[1] * spacing[0]
    lps[:3, 2], lps[:3, 3] = step, origins[0]
    return Stack(phases, LPS_TO_RAS @ lps, seconds)


def _plane(frames: Sequence[Frame]) -> tuple[np.ndarray, tuple[float, ...]]:
    """Directions (2, 3) of columns and rows, and spacing of rows and columns, the same in all frames."""
    first = frames[0]
    if any(frame.position is None or frame.orientation is None for frame in frames):
        raise ReadError(
            "does not say where its frames lie in the patient (radiographs, ultrasound and loops do not): "
            "read it as images"
        )
    if any(frame.spacing is None for frame in frames):
        raise ReadError("does not say its PixelSpacing")
    orientations = np.array([frame.orientation for frame in frames])
    if np.abs(orientations - orientations[0]).max() > SAME_DIRECTION:
        different = len(np.unique(orientations.round(2), axis=0))
        raise ReadError(
            f"holds slices of {different} orientations (a localiser among them?): keep those of one orientation"
        )
    spacings = np.array([frame.spacing for frame in frames])
    if not (spacings > 0).all():
        raise ReadError("has a PixelSpacing of zero or below")
    if not np.allclose(spacings, spacings[0], rtol=1e-3):
        raise ReadError("holds slices of different PixelSpacing: keep those of one")
    directions = orientations[0].reshape(2, 3)
    if np.abs(directions @ directions.T - np.eye(2)).max() > 10 * SAME_DIRECTION:
        raise ReadError("has an ImageOrientationPatient that is no pair of right-angled directions")
    assert first.spacing is not None
    return directions, first.spacing


def _time_points(places: list[list[Frame]]) -> tuple[list[list[Frame]], tuple[float, ...]]:
    """Time points, each with one frame a place, and their seconds."""
    counts = sorted({len(frames) for frames in places})
    if counts == [1]:
        return [[frames[0] for frames in places]], ()
    if len(counts) > 1:
        raise ReadError(
            f"holds {counts[0]} to {counts[-1]} slices at one place: slices of a time point are missing, "
            "or others are there twice"
        )
    for name in TIMES:
        if not all(name in frame.keys for frames in places for frame in frames):
            continue
        rows = [sorted(frames, key=lambda frame: frame.keys[name]) for frames in places]
        phases = [list(phase) for phase in zip(*rows, strict=True)]
        times = np.array([[frame.keys[name] for frame in phase] for phase in phases])
        if (times[:-1].max(axis=1) < times[1:].min(axis=1)).all():
            return phases, _seconds(phases)
    for name, what in OTHERS.items():
        if len(found := {frame.keys.get(name) for frame in places[0]}) > 1:
            raise ReadError(f"holds {len(found)} {what} at every place: export each as a series of its own")
    raise ReadError(
        f"holds {counts[0]} slices at every place, and no time that tells them apart: copies, or several series in one"
    )


def _seconds(phases: list[list[Frame]]) -> tuple[float, ...]:
    for name, factor in (("AcquisitionTime", 1.0), ("TriggerTime", 1e-3), ("ContentTime", 1.0)):
        if all(name in frame.keys for phase in phases for frame in phase):
            first = np.array([min(frame.keys[name] for frame in phase) for phase in phases]) * factor
            if (np.diff(first) > 0).all():
                return tuple(float(value) for value in (first - first[0]).round(3))
    return ()


def _step(origins: np.ndarray, normal: np.ndarray, first: Frame) -> np.ndarray:
    """(3,) mm from a slice to the next."""
    n = len(origins)
    if n == 1:
        if not first.thickness or first.thickness <= 0:
            raise ReadError("is a single slice that does not say its SliceThickness")
        return normal * first.thickness
    heights = origins @ normal
    steps = np.diff(heights)
    usual = float(np.median(steps))
    gaps = np.flatnonzero(steps > 1.5 * usual)
    if len(gaps):
        missing = [round(steps[gap] / usual) - 1 for gap in gaps]
        raise ReadError(
            f"lacks slices: {n} are there, {usual:g} mm apart, with a gap of {steps[gaps[0]]:.4g} mm after slice "
            f"{gaps[0] + 1} ({sum(missing)} missing in all): copy the series again"
        )
    step: np.ndarray = (origins[-1] - origins[0]) / (n - 1)
    off = np.linalg.norm(origins - (origins[0] + np.arange(n)[:, np.newaxis] * step), axis=1)
    if off.max() > UNEVEN * usual:
        raise ReadError(
            f"has uneven steps between slices ({steps.min():.4g} to {steps.max():.4g} mm): resample it to an even grid"
        )
    return step
