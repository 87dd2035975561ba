"""Stacks frames in any order to a grid in the patient: sorts slices by position, separates time points, finds gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsoft.data.dicom import tell_apart
from medsoft.data.dicom.frames import Frame
from medsoft.data.dicom.tell_apart import ACQUIRED, CLOCKS, CONTRAST, HALF_DAY_S, OTHERS, POSITIONS
from medsoft.errors import ReadError

SAME_PLACE_MM = 1e-3
SAME_DIRECTION = 1e-3
UNEVEN = 0.1
"""Largest distance of a slice from its place on an even grid, as a share of the step between slices."""

BACKWARDS_S = 1.0
"""How far the clock may run against the order that the files state, as it does within a heart beat."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames on a grid.

    Attributes:
        frames: time points, each with its slices along the normal of their plane (column direction × row direction).
        affine: (4, 4) float64, from the indices (column, row, slice, 1) to mm in RAS+.
        seconds: of each time point since the first; empty where the files do not say it.
        told_by: what tells the time points apart, in words; "" for one.
    """

    frames: list[list[Frame]]
    affine: np.ndarray
    seconds: tuple[float, ...] = ()
    told_by: str = ""


def stack(frames: Sequence[Frame], select: Sequence[str] = ()) -> Stack:
    """Sort the frames of one series.

    Args:
        frames: those that are left of the series after ``medsoft.data.dicom.series.choose``.
        select: as ``parse_select`` returns it; of it, a time point is chosen here.

    Raises:
        ReadError: frames without a position, of several orientations or spacings; several at one place that differ in
            more than time, or have no time that tells them apart; missing slices, uneven steps, or a spacing of zero.
    """
    directions, spacing = _plane(frames)
    normal = np.cross(directions[0], directions[1])
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    starts = np.flatnonzero(np.diff(heights[order], prepend=-np.inf) > SAME_PLACE_MM)
    places = [[frames[i] for i in part] for part in np.split(order, starts[1:])]
    for part in np.split(order, starts[1:]):
        if np.linalg.norm(positions[part] - positions[part[0]], axis=1).max() > UNEVEN * min(spacing):
            raise ReadError("holds slices that lie side by side: export each stack as a series")
    phases, seconds, told_by = _time_points(places)
    if (point := tell_apart.time_point(select)) is not None:
        if not 1 <= point <= len(phases):
            raise ReadError(f"has {len(phases)} time points, not the one that select asks for ({point})")
        phases, seconds, told_by = [phases[point - 1]], (), ""
    origins = np.array([frame.position for frame in phases[0]])
    step = _step(origins, normal, phases[0][0])
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = directions[0] * spacing[1], directions[1] * spacing[0]
    lps[:3, 2], lps[:3, 3] = step, origins[0]
    return Stack(phases, LPS_TO_RAS @ lps, seconds, told_by)


def _plane(frames: Sequence[Frame]) -> tuple[np.ndarray, tuple[float, ...]]:
    """Directions (2, 3) of columns and rows, and spacing of rows and columns, the same in all frames."""
    first = frames[0]
    if any("MOSAIC" in str(frame.keys.get("ImageType", "")) for frame in frames):
        raise ReadError("holds mosaics, pictures of many slices side by side: export it as single slices")
    if any(frame.position is None or frame.orientation is None for frame in frames):
        raise ReadError(
            "does not state the position of its frames in the patient (radiographs, ultrasound and loops do not): "
            "read it as images"
        )
    if any(frame.spacing is None for frame in frames):
        raise ReadError("does not state its PixelSpacing")
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
        raise ReadError("has an ImageOrientationPatient that is not a pair of perpendicular directions")
    assert first.spacing is not None
    return directions, first.spacing


Phases = list[list[Frame]]


def _time_points(places: list[list[Frame]]) -> tuple[Phases, tuple[float, ...], str]:
    """Time points, each with one frame a place; their seconds, and what tells them apart."""
    counts = sorted({len(frames) for frames in places})
    if counts == [1]:
        return [[frames[0] for frames in places]], (), ""
    keys = [[frame.keys for frame in frames] for frames in places]
    others = tell_apart.differences(keys, OTHERS)
    choice = ""
    if others:
        name, values = next(iter(others.items()))
        choice = tell_apart.how_to_choose(name, values[0])
        choice = f"{choice}, or export each as a series of its own"
    if len(counts) > 1:
        raise ReadError(
            f"holds {counts[0]} to {counts[-1]} slices at one place: "
            + (f"{tell_apart.listed(others)}: {choice}" if others else "slices of a time point are missing, or ")
            + ("" if others else "others are there twice")
        )
    if others:
        raise ReadError(f"holds {counts[0]} images at every place: {tell_apart.listed(others)}: {choice}")
    with_time = tell_apart.differences(keys, (*POSITIONS, *CONTRAST))
    for name in (*POSITIONS, *CLOCKS):
        if (phases := _separated_by(name, places)) is not None:
            told_by = tell_apart.listed(with_time) or ("dates and times" if "without" not in name else "times")
            return phases, _seconds(phases, name), told_by
    if with_time:
        name, values = next(iter(with_time.items()))
        raise ReadError(
            f"holds {counts[0]} images at every place: {tell_apart.listed(with_time)}, and no time that agrees with "
            f"them: {tell_apart.how_to_choose(name, values[0])}"
        )
    raise ReadError(
        f"holds {counts[0]} images at every place, and no time that tells them apart: copies, or several series in one"
    )


def _separated_by(name: str, places: list[list[Frame]]) -> Phases | None:
    """Time points that do not overlap in a number; None where it tells them not apart."""
    everything = [frame.keys.get(name) for frames in places for frame in frames]
    values = [value for value in everything if isinstance(value, float)]
    if len(values) < len(everything) or ("without a date" in name and max(values) - min(values) >= HALF_DAY_S):
        return None
    rows = [sorted(frames, key=lambda frame: _number(frame, name)) for frames in places]
    phases = [list(phase) for phase in zip(*rows, strict=True)]
    times = np.array([[_number(frame, name) for frame in phase] for phase in phases])
    if not (times[:-1].max(axis=1) < times[1:].min(axis=1)).all():
        return None
    if name in ("TemporalPositionIdentifier", "AcquisitionNumber"):
        begun = next((first for clock in ACQUIRED if (first := _first_times(phases, clock)) is not None), None)
        steps = np.ones(1) if begun is None else np.diff(begun)
        if steps.min() < -BACKWARDS_S:
            raise ReadError(f"has acquisition times that contradict its {name}: correct the header")
        if name == "AcquisitionNumber" and steps.min() <= 0:  # several acquisitions, but not one after the other
            return None
    return phases


def _number(frame: Frame, name: str) -> float:
    value = frame.keys[name]
    assert isinstance(value, float)
    return value


def _first_times(phases: Phases, clock: str) -> np.ndarray | None:
    """When each time point begins; None where a frame does not say it, or times without a date lie far apart."""
    if not all(clock in frame.keys for phase in phases for frame in phase):
        return None
    times = [[_number(frame, clock) for frame in phase] for phase in phases]
    if "without a date" in clock and max(map(max, times)) - min(map(min, times)) >= HALF_DAY_S:
        return None
    return np.array([min(phase) for phase in times])


def _seconds(phases: Phases, name: str) -> tuple[float, ...]:
    """Of each time point since the first: by what tells them apart where that is a time, else by the clock."""
    units = {"TemporalPositionTimeOffset": 1.0, "TriggerTime": 1e-3} | dict.fromkeys(CLOCKS, 1.0)
    names = [name] if name in units else [*CLOCKS, "TemporalPositionTimeOffset", "TriggerTime"]
    for one in names:
        first = _first_times(phases, one)
        if first is not None and (np.diff(first) > 0).all():
            return tuple(float(value) for value in ((first - first[0]) * units[one]).round(3))
    return ()


def _step(origins: np.ndarray, normal: np.ndarray, first: Frame) -> np.ndarray:
    """(3,) mm from a slice to the next."""
    n = len(origins)
    if n == 1:
        if not first.thickness or first.thickness <= 0:
            raise ReadError("is a single slice that does not state its SliceThickness")
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
