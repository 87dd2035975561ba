"""What is in a sample table, as far as it decides how to go about it: counts, sizes, and what looks wrong."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medsoft.data.datasets.image_module import unreadable_pictures
from medsoft.data.facts.pictures import Facts, picture_facts
from medsoft.data.images.pixel_facts import PixelFacts
from medsoft.data.images.read import check_images
from medsoft.data.tables.cleaning import Duplicates
from medsoft.data.tables.duplicates import Content, content_of, pairs_in_words
from medsoft.data.tables.problems import Problem
from medsoft.data.tables.sample_table import SampleTable
from medsoft.data.volumes.check import VolumeFacts, check_volumes, volumes_notes
from medsoft.data.volumes.rows import VolumeFiles
from medsoft.system.progress import progress

MOST_READ = 300
"""So many pictures are decoded, spread over the table; a plan is to take seconds. ``data check`` reads all."""

MOST_VOLUMES = 30

EVEN = 10 / 255
"""Range of values, of the whole range, within which a line of pixels at an edge shows nothing: noise and JPEG."""

WIDE_BORDER = 0.1
"""Share of a picture's area from which on its border is worth a word."""


@dataclass
class Pictures:
    """What was seen of the pictures that were decoded.

    Attributes:
        n: how many.
        sides: (height, width) of each.
        channels: how many pictures have so many channels.
        bits: how many have so many bits a value.
        grey_in_colour: pictures stored in colour whose channels are all the same.
        borders: share of each picture's area that its edges leave empty.
        spacing: of volumes, (x, y, z) in mm of each.
        trivial: by path, facts of pictures by which a shortcut could be taken.
    """

    n: int = 0
    sides: list[tuple[int, ...]] = field(default_factory=list)
    channels: Counter[int] = field(default_factory=Counter)
    bits: Counter[int] = field(default_factory=Counter)
    grey_in_colour: int = 0
    borders: list[float] = field(default_factory=list)
    spacing: list[tuple[float, ...]] = field(default_factory=list)
    trivial: dict[str, Facts] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, image: np.ndarray) -> None:
        """Take note of a picture (H, W, C); may be called from several threads."""
        red_is_green = image.shape[2] == 3 and bool((image[..., 0] == image[..., 1]).all())
        is_grey_in_colour = red_is_green and bool((image[..., 1] == image[..., 2]).all())
        border = border_share(image)
        with self._lock:
            self.n += 1
            self.sides.append(image.shape[:2])
            self.channels[image.shape[2]] += 1
            self.bits[image.dtype.itemsize * 8] += 1
            self.grey_in_colour += is_grey_in_colour
            self.borders.append(border)

    @property
    def is_grey(self) -> bool:
        """Whether every picture is grey, however it is stored."""
        return self.n > 0 and self.channels[1] + self.grey_in_colour == self.n

    @property
    def long_side(self) -> int:
        """Median of the longer side, in px; 0 where nothing was read."""
        return int(np.median([max(sides) for sides in self.sides])) if self.sides else 0


@dataclass(frozen=True)
class TableFacts:
    """A table in numbers.

    Attributes:
        source: its name.
        unit: what a row is.
        task: kind of the question.
        rows: with a split; the rows of the part that candidates are developed on.
        test_rows: rows that are set aside for the report.
        groups: patients (else exams, else samples) of the development part.
        grouped_by: which of these.
        classes: by class, rows and groups of the development part; empty for numbers.
        test_groups: patients (and so on) of the test part.
        pictures: what was seen of them.
        near: pairs that look nearly alike and are not of one patient, or lie in two parts.
        same: pairs of equal content.
        wrong: what looks wrong, in sentences.
        notes: what else should be known.
    """

    source: str
    unit: str
    task: str
    rows: int
    test_rows: int
    groups: int
    grouped_by: str
    classes: Mapping[str, tuple[int, int]]
    test_groups: int
    pictures: Pictures
    near: int = 0
    same: int = 0
    wrong: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rarest(self) -> tuple[str, int] | None:
        """The class that fewest patients have, and how many; None without classes."""
        found = {name: groups for name, (_, groups) in self.classes.items()}
        return min(found.items(), key=lambda item: item[1]) if found else None

    @property
    def is_volume(self) -> bool:
        """Whether rows are volumes."""
        return self.unit == "volume"

    def in_words(self) -> list[str]:
        """The facts for the terminal, a line each."""
        by = f"{self.grouped_by}s"
        lines = [f"{self.source}: {self.rows + self.test_rows} {self.unit}s, {self.task}"]
        counted = f"{self.rows} {self.unit}s" + ("" if self.grouped_by == "sample" else f" of {self.groups} {by}")
        lines.append(
            f"To develop on: {counted}; set aside for the report: {self.test_rows} {self.unit}s"
            + ("" if self.grouped_by == "sample" or not self.test_rows else f" of {self.test_groups} {by}")
        )
        if self.classes:
            each = [
                f"{name} {rows}" + ("" if self.grouped_by == "sample" else f" ({groups} {by})")
                for name, (rows, groups) in self.classes.items()
            ]
            lines.append(f"Classes: {', '.join(each)}")
        lines += _pictures_in_words(self.pictures, self.unit)
        lines += [f"Note: {note}" for note in self.notes]
        return lines + [f"WARNING: {wrong}" for wrong in self.wrong]


def border_share(image: np.ndarray) -> float:
    """Share of a picture's area in rows and columns at its edges that show nothing.

    Args:
        image: (H, W, C) of any real type.
    """
    grey_HW = image.astype(np.float32).mean(axis=2)
    limit = EVEN * (255 if image.dtype == np.uint8 else 65535 if image.dtype == np.uint16 else float(np.ptp(grey_HW)))
    used_H, used_W = (np.flatnonzero(np.ptp(grey_HW, axis=axis) > limit) for axis in (1, 0))
    if not len(used_H) or not len(used_W):
        return 1.0
    inside = (used_H[-1] - used_H[0] + 1) * (used_W[-1] - used_W[0] + 1)
    return float(1 - inside / grey_HW.size)


def look_at(
    samples: SampleTable, unit: str, files: VolumeFiles | None = None, max_pixels: int | None = None
) -> TableFacts:
    """Count a table, and decode some of its pictures.

    Args:
        samples: with labels; rows of the split test are set aside, all others are developed on.
        unit: what a row is.
        files: of a table of volumes.
        max_pixels: as for ``read_image``.
    """
    assert samples.task is not None
    frame = samples.frame
    is_test = (frame["split"] == "test").to_numpy()
    groups = samples.groups
    classes = {
        name: (int((there & ~is_test).sum()), len(set(groups[there & ~is_test])))
        for name, there in samples.task.members(frame).items()
    }
    rows = _spread(len(frame), MOST_VOLUMES if files is not None else MOST_READ)
    read = samples.select(np.isin(np.arange(len(frame)), rows))
    pictures = Pictures()
    wrong: list[str] = []
    notes: list[str] = []
    near = same = 0
    if files is not None:
        wrong, notes, same = _look_at_volumes(read, files, pictures)
    elif unit == "image":
        wrong, notes, near, same = _look_at_images(read, pictures, max_pixels)
    if len(rows) < len(frame) and pictures.n:
        notes = [*notes, f"{len(rows)} of {len(frame)} {unit}s were opened; medsoft data check opens all"]
    by = samples.grouped_by
    if by == "sample":
        notes = [*notes, "patients are not named (data.patient): every row is taken for a patient of its own"]
    return TableFacts(
        samples.source.name, unit, samples.task.kind, int((~is_test).sum()), int(is_test.sum()),
        len(set(groups[~is_test])), by, classes, len(set(groups[is_test])), pictures, near, same, tuple(wrong),
        tuple(notes),
    )  # fmt: skip


def unreadable(
    samples: SampleTable, unit: str, files: VolumeFiles | None = None, max_pixels: int | None = None
) -> list[Problem]:
    """The rows of a whole table whose files cannot be read, as ``medsoft data check`` finds them.

    Args:
        samples: any.
        unit: what a row is.
        files: of a table of volumes.
        max_pixels: as for ``read_image``.
    """
    rows = samples.frame["row"].tolist()
    if files is not None:
        with progress("checking volumes", len(rows)) as step:
            problems, _, _ = check_volumes(files, rows, "refuse", None, 2**31, step)
        return [problem for problem in problems if problem.skippable]
    if unit != "image":
        return []
    paths = samples.frame["path"].tolist()
    limit: dict[str, Any] = {} if max_pixels is None else {"max_pixels": max_pixels}
    with progress("checking pictures", len(paths)) as step:
        failures = check_images(paths, progress=step, **limit)
    reason_of = dict(zip(failures["path"], failures["reason"], strict=True))
    reasons = {place: reason_of[path] for place, path in enumerate(paths) if path in reason_of}
    return unreadable_pictures(samples, reasons)


def _spread(n: int, most: int) -> np.ndarray:
    """Places spread evenly over n, at most so many."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def _look_at_images(
    read: SampleTable, pictures: Pictures, max_pixels: int | None
) -> tuple[list[str], list[str], int, int]:
    paths = read.frame["path"].tolist()
    places: dict[str, list[int]] = {}
    for place, path in enumerate(paths):
        places.setdefault(path, []).append(place)
    contents: list[Content | None] = [None] * len(paths)
    depth = PixelFacts()

    def seen(path: str, image: np.ndarray) -> None:
        pictures.look(image)
        pictures.trivial[path] = picture_facts(path, image)
        depth.look(path, image)
        found = content_of(image)
        for place in places[path]:
            contents[place] = found

    done: list[str] = []
    limit: dict[str, Any] = {} if max_pixels is None else {"max_pixels": max_pixels}
    with progress("looking at pictures", len(paths)) as step:
        failures = check_images(places, progress=step, seen=seen, notes=done, **limit)
    wrong = (
        [f"{len(failures)} pictures cannot be read or show nothing; the first {failures['reason'].iloc[0]}"]
        if len(failures)
        else []
    )
    twice = Duplicates.find(read, contents)
    if twice.same:
        wrong.append(
            f"{pairs_in_words(len(twice.same))} of pictures are identical: medsoft data check --out lists them"
        )
    if twice.near:
        where = "two splits" if read.has_split else f"two {read.grouped_by}s"
        wrong.append(
            f"{pairs_in_words(len(twice.near))} of pictures in {where} look nearly the same: medsoft data check --out "
            "lists them"
        )
    notes = [f"{n} pictures: {note}" for note, n in Counter(done).most_common()]
    if note := depth.depth_note():
        wrong.append(note)
    return wrong, notes, len(twice.near), len(twice.same)


def _look_at_volumes(read: SampleTable, files: VolumeFiles, pictures: Pictures) -> tuple[list[str], list[str], int]:
    rows = read.frame["row"].tolist()
    with progress("looking at volumes", len(rows)) as step:
        problems, facts, keys = check_volumes(files, rows, "refuse", None, 2**31, step)
    for fact in facts:
        _note_volume(pictures, fact)
    wrong = [f"row {problem.rows[0]}: {problem.message}" for problem in problems[:3]]
    if len(problems) > 3:
        wrong.append(f"and {len(problems) - 3} more of the volumes that were opened")
    same = len(keys) - len(set(keys.values()))
    if same:
        wrong.append(f"{pairs_in_words(same)} of volumes are identical: medsoft data check --out lists them")
    return wrong, volumes_notes(facts), same


def _note_volume(pictures: Pictures, fact: VolumeFacts) -> None:
    pictures.n += 1
    pictures.sides.append(fact.shape)
    pictures.channels[fact.channels] += 1
    pictures.spacing.append(fact.spacing_mm)


def _pictures_in_words(pictures: Pictures, unit: str) -> list[str]:
    if not pictures.n:
        return []
    sizes = " × ".join(_range(side) for side in zip(*pictures.sides, strict=False))
    what = "voxels" if pictures.spacing else "px (height × width)"
    lines = [f"Size: {sizes} {what}"]
    if pictures.spacing:
        lines[0] += f", spacing {' × '.join(_range(side) for side in zip(*pictures.spacing, strict=True))} mm"
        return lines
    kinds = [f"{n} {'grey' if channels == 1 else 'in colour'}" for channels, n in sorted(pictures.channels.items())]
    about = f"Pixels: {', '.join(kinds)}, {' and '.join(str(bits) for bits in sorted(pictures.bits))} bits"
    if pictures.grey_in_colour:
        about += f"; {pictures.grey_in_colour} are stored in colour and grey in fact"
    lines.append(about)
    wide = [share for share in pictures.borders if share >= WIDE_BORDER]
    if wide:
        lines.append(
            f"Borders: {len(wide)} of {pictures.n} {unit}s have empty edges, {float(np.median(wide)):.0%} of their area"
        )
    return lines


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low}–{high}"
