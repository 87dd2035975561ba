"""Finds and opens the feature files that a slide table names, and compares them with each other."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medsoft.data.features.arrays import is_instance_table
from medsoft.data.features.bag import Frame
from medsoft.data.features.encoded_folder import encode_json, encode_settings
from medsoft.data.features.names import CHANGED_IMAGE, OF_BAGS, Located, is_bag_name, locate_features, why_of_another
from medsoft.data.features.open import Bag, open_bag
from medsoft.data.features.provenance import AnyProvenance, EncoderIdentity, ImageProvenance, Provenance
from medsoft.data.tables.problems import Problem
from medsoft.data.tables.sample_table import make_ids
from medsoft.errors import BagError, InputError
from medsoft.storage.fingerprints import array_hash, row_hash

SUFFIXES = OF_BAGS
ROWS_AT_ONCE = 16_384
COMPARED_ROWS = 256
"""Tiles at the start of a bag by which copies are told."""
ADVICE = {
    "slide": "encode these slides again (medsoft slides encode)",
    "image": "encode these images again (medsoft encode)",
    "volume": "encode these volumes again (medsoft encode)",
    "bag": "write these files again",
}
OF_ENCODE = ("image", "volume")
ENCODE = {"slide": "medsoft slides encode", "image": "medsoft encode", "volume": "medsoft encode"}

Kind = tuple[EncoderIdentity, int]
"""What bags must have in common to be used together: which encoder saw which tiles, and the number of features."""


@dataclass(frozen=True)
class BagSummary:
    """What was found in a feature file.

    Attributes:
        num_tiles: tiles that were read; unreadable ones are not counted.
        num_features: features per tile.
        frame: what the tiles' places are counted in (``Bag.frame``); "" where they are not known.
        identity: which encoder saw which tiles.
        facts: what a file of medsoft says besides; None of a file of another tool.
        slide: name of the slide that it was made from; "" where the file does not say.
        num_pooled: length of the file's own pooled vector; None where it has none.
        num_views: augmented views that are stored besides.
        content: hash of the number of tiles and the features of the first ones: equal for copies, whatever wrote them;
            "" where contents are not read.
    """

    num_tiles: int
    num_features: int
    frame: Frame
    identity: EncoderIdentity
    facts: AnyProvenance | None
    slide: str
    content: str
    num_pooled: int | None = None
    num_views: int = 0

    @property
    def images(self) -> dict[str, Any] | None:
        """As ``slides``, of the file of an image or a volume."""
        if not isinstance(self.facts, ImageProvenance):
            return None
        plain = {name: getattr(self.facts, name) for name in ("encoder", "encoder_sha256", "encoder_init", "unit")}
        settings = {name: dict(getattr(self.facts, name)) for name in ("encoder_settings", "preparation")}
        found: dict[str, Any] = json.loads(json.dumps(plain | settings))
        return found

    @property
    def slides(self) -> dict[str, Any] | None:
        """How the slide became features, in plain numbers and text, for the model to remember; None if unknown."""
        if not isinstance(self.facts, Provenance):
            return None
        plain = {name: getattr(self.facts, name) for name in ("encoder", "encoder_sha256", "encoder_init")}
        settings = {name: dict(getattr(self.facts, name)) for name in ("encoder_settings", "tile_settings")}
        tiles = {name: getattr(self.facts, name) for name in ("tile_px", "tile_um", "overlap_px")}
        found: dict[str, Any] = json.loads(json.dumps(plain | settings | tiles))
        return found | {"mpp": float(found["tile_settings"]["mpp"])}


class BagFiles:
    """Finds and checks the feature files of a table; a ``SampleFiles`` for ``read_table``.

    Args:
        folder: of the feature files, or that relative paths of the table start from.
        by_name: the table names slides, whose feature files bear their names; else it names feature files.
        contents: read every file to its end too.
        one_bag_a_patient: check what pooling the slides of a patient needs.
        slides: folder that the table's paths of slides start from; the slides that are there are compared.
        unit: what a bag is called in messages: "slide", "image", "volume", or "bag" of any other data.
        pooled: the files' own vectors are read in place of their tokens, where they have some.

    Attributes:
        summaries: by path, of the files that can be used.
        notes: sentences on what could not be checked.
        sources: by path of a feature file, the slide that the table names for it, whether that is there or not.
    """

    def __init__(
        self,
        folder: Path,
        by_name: bool,
        contents: bool,
        one_bag_a_patient: bool,
        slides: Path | None = None,
        unit: str = "slide",
        pooled: bool = False,
    ) -> None:
        self.folder, self.by_name = Path(os.path.abspath(folder)), by_name  # noqa: PTH100 (links keep their names)
        self.in_one_table = by_name and is_instance_table(self.folder) and self.folder.is_file()
        if not self.folder.is_dir() and not self.in_one_table:
            raise InputError(
                f"{folder}: no such folder of feature files (data.features, or data.root). medsoft encode makes one of "
                "images; a file that medsoft plan has written says in its first lines with which options"
            )
        self.contents, self.one_bag_a_patient = contents, one_bag_a_patient
        self.slides, self.unit, self.pooled = slides, unit, pooled
        self.summaries: dict[str, BagSummary] = {}
        self.notes: list[str] = []
        self.sources: dict[str, Path] = {}
        self._values: list[str] = []
        self._rivals: list[tuple[int, ...]] = []

    def locate_all(self, values: Sequence[str], ids: Sequence[str]) -> list[str]:
        """The feature file of each row, else the one that was expected; see ``locate_features``.

        Raises:
            InputError: the folder, or the table of all bags, cannot be read.
        """
        self._values = list(values)
        if self.in_one_table:
            found = [
                Located(f"{self.folder}#{value or id}" if value or id else "")
                for value, id in zip(values, ids, strict=True)
            ]
        elif self.by_name:
            found = locate_features(self.folder, values, self._ids_of_encode(values, ids) or ids)
        else:
            found = [Located(os.path.normpath(self.folder / value) if value else "") for value in values]
        self._rivals = [one.rivals for one in found]
        paths = [one.path for one in found]
        if self.slides is not None:
            rows = [row for row, value in enumerate(values, start=1) if value and self._names_a_slide(row)]
            self.sources = {paths[row - 1]: self.slides / values[row - 1] for row in rows}
        return paths

    def _ids_of_encode(self, values: Sequence[str], ids: Sequence[str]) -> list[str] | None:
        """The ids that ``medsoft encode`` gave the rows; None of features of slides, or where the table has ids."""
        of_encode = self.unit in OF_ENCODE or encode_json(self.folder) is not None
        if any(ids) or self.slides is None or not of_encode or any(map(is_bag_name, values)):
            return None
        paths = pd.Series([os.path.normpath(self.slides / value) if value else "" for value in values], dtype=object)
        return make_ids(paths, self.slides).tolist()

    def check(self, frame: pd.DataFrame, answers: Sequence[object]) -> list[Problem]:
        """Files that are missing, damaged, empty or of another slide, and features that do not belong together."""
        problems = self._missing(frame)
        there: dict[str, int] = {}
        for row, path in zip(frame["row"], frame["path"], strict=True):
            if self._is_there(row, path) and (first := there.setdefault(path, row)) != row:
                if self._names_a_slide(row) or self._names_a_slide(first):
                    same = os.path.normpath(self._values[first - 1]) == os.path.normpath(self._values[row - 1])
                    problems += [] if same else [_of_another((first, row), "two slides with one feature file")]
                message = f"the same file as row {first}"
                problems.append(Problem("duplicate", (row,), message, f"keep one row of each {self.unit}"))
        problems += self._unusable(there)
        rows = {path: row for path, row in there.items() if path in self.summaries}
        problems += self._of_other_slides(rows)
        target_of = dict(zip(frame["row"], answers, strict=True))
        problems += self._same_slides(rows, target_of)
        problems += self._kinds(rows)
        return problems + (_patients(frame, target_of) if self.one_bag_a_patient else [])

    def _missing(self, frame: pd.DataFrame) -> list[Problem]:
        problems = []
        encode = f"encode these {self.unit}s first ({self._command()}), or " if self.unit in ENCODE else ""
        advice = f"files are looked for in {self.folder}: {encode}correct data.features (data.root)"
        for row, path, rivals in zip(frame["row"], frame["path"], self._rivals, strict=True):
            if not path:
                problems.append(Problem("empty path", (row,), "the path is empty", "fill it in or delete the row"))
            elif self._is_there(row, path):
                continue
            elif rivals:
                others = ", ".join(str(other + 1) for other in rivals[:10]) + (", ..." if len(rivals) > 10 else "")
                message = f"a file of its name is there, but the slide of row {others} has the same name"
                problems.append(_of_another((row,), message))
            elif Path(path).is_dir():
                problems.append(Problem("unusable features", (row,), "is a directory, not a file", ADVICE[self.unit]))
            else:
                problems.append(Problem("missing features", (row,), "no such feature file", advice))
        return problems

    def _is_there(self, row: int, path: str) -> bool:
        """Whether there is something to open; a pipe or a device is, and is then refused for what it is."""
        if not path or self._rivals[row - 1]:
            return False
        return self.in_one_table or (Path(path).exists() and not Path(path).is_dir())

    def _names_a_slide(self, row: int) -> bool:
        """Whether a row of the table names a slide, and not a feature file."""
        return self.by_name and not self.in_one_table and not is_bag_name(self._values[row - 1])

    def _of_other_slides(self, rows: dict[str, int]) -> list[Problem]:
        """Files that say of themselves that they were made from another slide than the row names."""
        named = {path: row for path, row in rows.items() if self._names_a_slide(row) and self._values[row - 1]}

        def why(path: str) -> str:
            summary, value = self.summaries[path], self._values[named[path] - 1]
            slide = self.slides / value if self.slides is not None and self.contents else None
            return why_of_another(summary.slide, summary.facts, value, slide)

        with ThreadPoolExecutor() as pool:
            reasons = dict(zip(named, pool.map(why, named), strict=True))
        silent = sum(not self.summaries[path].slide for path in named)
        if silent and self.unit == "slide":
            self.notes.append(
                f"{silent} of {len(rows)} feature files do not say from which slide they were made: they are matched "
                "by their names alone"
            )
        return [self._other(named[path], self.summaries[path], reason) for path, reason in reasons.items() if reason]

    def _other(self, row: int, summary: BagSummary, reason: str) -> Problem:
        """The problem of a file that was made from something else than the row names, or than is there now."""
        if isinstance(summary.facts, ImageProvenance) and reason == CHANGED_IMAGE:
            return Problem("changed since encoding", (row,), reason, f"encode it again: {self._command()}")
        return _of_another((row,), reason)

    def _command(self) -> str:
        """What encodes the table's images."""
        record, about = encode_json(self.folder), ""
        if record is not None:
            encoder = (encode_settings(self.folder) or {}).get("encoder", {}).get("encoder", "NAME")
            about = f" TABLE --encoder {encoder} --out {record.parent}, with the other options as in {record}"
        return f"{ENCODE.get(self.unit, ENCODE['image'])}{about}"

    def _unusable(self, rows: dict[str, int]) -> list[Problem]:
        """Open (and read) every file; fills ``summaries``."""
        with ThreadPoolExecutor() as pool:  # bound by the disk
            found = pool.map(lambda path: _summary(path, self.contents, self.pooled), rows)
            reasons = {}
            for path, summary in zip(rows, found, strict=True):
                if isinstance(summary, BagSummary):
                    self.summaries[path] = summary
                else:
                    reasons[path] = summary
        return [
            Problem("unusable features", (rows[path],), reason, ADVICE["bag" if _is_own(path) else self.unit])
            for path, reason in reasons.items()
        ]

    def _same_slides(self, rows: dict[str, int], target_of: dict[int, object]) -> list[Problem]:
        problems = []
        first: dict[str, int] = {}
        for path, row in rows.items():
            summary = self.summaries[path]
            known = summary.facts is not None and summary.facts.quick_hash
            earlier = min(first.setdefault(key, row) for key in (known or path, summary.content or path))
            same = f"the same {self.unit}" if known else "the same features"
            if target_of[earlier] != target_of[row]:
                message, advice = f"{same} under two labels", "find out which label is right"
                problems.append(Problem("contradiction", (earlier, row), message, advice, skippable=False))
            elif earlier != row:
                message = f"{same} as row {earlier}"
                problems.append(Problem("duplicate", (row,), message, f"keep one row of each {self.unit}"))
        return problems

    def _kinds(self, rows: dict[str, int]) -> list[Problem]:
        rows_of: dict[Kind, list[int]] = defaultdict(list)
        for path, row in rows.items():
            rows_of[self.summaries[path].identity, self.summaries[path].num_features].append(row)
        if len(rows_of) < 2:
            return []
        advice = "a model learns from one encoder and one way of tiling: encode all slides alike"
        if self.unit != "slide":
            advice = "all bags need the same features, from the same tool"
        first, *others = sorted(rows_of, key=lambda kind: -len(rows_of[kind]))
        told = {first: describe(*first)} | {other: differences(first, other) for other in others}
        return [
            Problem("different features", tuple(rows_of[kind]), words, advice, skippable=False)
            for kind, words in told.items()
        ]


def describe(identity: EncoderIdentity, num_features: int) -> str:
    """In words, what bags must have in common to be used together."""
    return f"{num_features} features: {identity}"


def differences(first: Kind, other: Kind) -> str:
    """In words, what ``other`` has otherwise than ``first``; "" for nothing."""
    width = [f"{other[1]} features, not {first[1]}"] if first[1] != other[1] else []
    return "; ".join(width + first[0].differences(other[0]))


def read_good(bag: Bag) -> tuple[np.ndarray, np.ndarray | None]:
    """Features (N, F) float32 and ``Bag.places`` (N, A) float32, where known, of the tiles that were read.

    Raises:
        BagError: the file is damaged, or features of such a tile are no finite numbers.
    """
    features_NF = np.empty((int(bag.good_N.sum()), bag.num_features), np.float32)
    start = 0
    for x_nF, _ in bag.chunks(ROWS_AT_ONCE):  # the whole bag is held once, and not a second time while it is picked
        features_NF[start : start + len(x_nF)] = x_nF
        start += len(x_nF)
    places_NA = bag.places
    return features_NF, None if places_NA is None else places_NA[bag.good_N]


def _summary(path: str, contents: bool, pooled: bool) -> BagSummary | str:
    """What is in a file, or in one line why it cannot be used."""
    try:
        with open_bag(path) as bag:
            own = bag.pooled if pooled else None  # its tokens are then never read
            for first in range(0, bag.num_tiles if contents and own is None else 0, ROWS_AT_ONCE):
                bag.read(first, min(first + ROWS_AT_ONCE, bag.num_tiles))
            seen = bag.read(0, COMPARED_ROWS if contents else 0) if own is None else own
            content = row_hash(bag.num_tiles, array_hash(seen)) if contents else ""
            about = (int(bag.good_N.sum()), bag.num_features, bag.frame, bag.identity, bag.facts, bag.slide, content)
            return BagSummary(*about, None if bag.pooled is None else bag.pooled.shape[1], bag.num_views)
    except BagError as error:
        return error.reason


def _of_another(rows: tuple[int, ...], message: str) -> Problem:
    advice = (
        "correct the table; or, where a row means a file all the same, name the feature file itself in data.path "
        "(with .h5 at its end)"
    )
    return Problem("features of another slide", rows, message, advice)


def _patients(frame: pd.DataFrame, target_of: dict[int, object]) -> list[Problem]:
    """What stands against one bag per patient: rows without a patient, patients with two labels."""
    problems = []
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, patient in zip(frame["row"], frame["patient"], strict=True):
        rows_of[patient].append(row)
    for row in rows_of.pop("", []):
        advice = "fill it in, or delete the row (data.group patient makes one bag per patient)"
        problems.append(Problem("missing patient", (row,), "the patient is empty", advice))
    for rows in rows_of.values():
        if len({target_of[row] for row in rows}) > 1:
            advice = "with data.group patient all slides of a patient carry the patient's label"
            message = "a patient with slides of different labels"
            problems.append(Problem("contradiction", tuple(rows), message, advice, skippable=False))
    return problems


def _is_own(path: str) -> bool:
    """Whether features are those of a table, which no command of medsoft writes."""
    return path.partition("#")[0].lower().endswith((".csv", ".parquet"))
