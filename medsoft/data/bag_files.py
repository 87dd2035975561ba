"""The feature files that a slide table names: found, opened, and compared with each other."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medsoft.data.bags.bag_file import Bag, BagError, open_bag
from medsoft.data.bags.facts import EncoderIdentity, FeatureFacts
from medsoft.data.problems import Problem
from medsoft.errors import InputError

SUFFIXES = (".h5", ".pt")
ROWS_AT_ONCE = 16_384

Kind = tuple[EncoderIdentity, int]
"""What bags must have in common to be used together: which encoder saw which tiles, and the number of features."""


@dataclass(frozen=True)
class BagSummary:
    """What was found in a feature file.

    Attributes:
        num_tiles: tiles that were read; unreadable ones are not counted.
        num_features: features a tile.
        has_places: whether the tiles' places in µm are known.
        identity: which encoder saw which tiles.
        facts: what a file of medsoft says besides; None of a file of another tool.
    """

    num_tiles: int
    num_features: int
    has_places: bool
    identity: EncoderIdentity
    facts: FeatureFacts | None

    @property
    def slides(self) -> dict[str, Any] | None:
        """How the slide became features, in plain numbers and text, for the model to remember; None if unknown."""
        if self.facts is None:
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

    Attributes:
        summaries: by path, of the files that can be used.
    """

    def __init__(self, folder: Path, by_name: bool, contents: bool, one_bag_a_patient: bool) -> None:
        self.folder, self.by_name = Path(os.path.abspath(folder)), by_name  # noqa: PTH100 (links keep their names)
        if not self.folder.is_dir():
            raise InputError(f"{folder}: no such folder of feature files (data.features, or data.root)")
        self.contents, self.one_bag_a_patient = contents, one_bag_a_patient
        self.summaries: dict[str, BagSummary] = {}

    def locate(self, value: str, id: str) -> str:
        """The feature file of a row: the first name that exists, else the one that was expected."""
        if not value and not id:
            return ""
        if not self.by_name:
            return os.path.normpath(self.folder / value) if value else ""
        names = _names(value, id)
        found = next((name for name in names if (self.folder / name).is_file()), None)
        return str(self.folder / (found or f"{id or Path(value).stem}{SUFFIXES[0]}"))

    def check(self, frame: pd.DataFrame) -> list[Problem]:
        """Files that are missing, damaged, empty or there twice, and features that do not belong together."""
        problems = self._missing(frame)
        there: dict[str, int] = {}
        for row, path in zip(frame["row"], frame["path"], strict=True):
            if Path(path).is_file() and there.setdefault(path, row) != row:
                message = f"the same file as row {there[path]}"
                problems.append(Problem("duplicate", (row,), message, "keep one row of each slide"))
        problems += self._unusable(there)
        rows = {path: row for path, row in there.items() if path in self.summaries}
        answers = [column for column in frame if column == "target" or str(column).startswith("target_")]
        target_of = dict(zip(frame["row"], frame[answers].fillna(-1).itertuples(index=False, name=None), strict=True))
        problems += self._same_slides(rows, target_of)
        problems += self._kinds(rows)
        return problems + (_patients(frame, target_of) if self.one_bag_a_patient else [])

    def _missing(self, frame: pd.DataFrame) -> list[Problem]:
        problems = []
        advice = (
            f"files are looked for in {self.folder}: encode these slides first (medsoft slides encode), or correct "
            "data.features (data.root)"
        )
        for row, path in zip(frame["row"], frame["path"], strict=True):
            if not path:
                problems.append(Problem("empty path", (row,), "the path is empty", "fill it in or delete the row"))
            elif not Path(path).is_file():
                problems.append(Problem("missing features", (row,), "no such feature file", advice))
        return problems

    def _unusable(self, rows: dict[str, int]) -> list[Problem]:
        """Open (and read) every file; fills ``summaries``."""
        advice = "encode these slides again (medsoft slides encode)"
        with ThreadPoolExecutor() as pool:  # bound by the disk
            found = pool.map(lambda path: _summary(path, self.contents), rows)
            reasons = {}
            for path, summary in zip(rows, found, strict=True):
                if isinstance(summary, BagSummary):
                    self.summaries[path] = summary
                else:
                    reasons[path] = summary
        return [Problem("unusable features", (rows[path],), reason, advice) for path, reason in reasons.items()]

    def _same_slides(self, rows: dict[str, int], target_of: dict[int, tuple[Any, ...]]) -> list[Problem]:
        problems = []
        first: dict[str, int] = {}
        for path, row in rows.items():
            facts = self.summaries[path].facts
            earlier = first.setdefault(facts.quick_hash, row) if facts else row
            if target_of[earlier] != target_of[row]:
                message, advice = "the same slide under two labels", "find out which label is right"
                problems.append(Problem("contradiction", (earlier, row), message, advice, skippable=False))
            elif earlier != row:
                message = f"the same slide as row {earlier}"
                problems.append(Problem("duplicate", (row,), message, "keep one row of each slide"))
        return problems

    def _kinds(self, rows: dict[str, int]) -> list[Problem]:
        rows_of: dict[Kind, list[int]] = defaultdict(list)
        for path, row in rows.items():
            rows_of[self.summaries[path].identity, self.summaries[path].num_features].append(row)
        if len(rows_of) < 2:
            return []
        advice = "a model learns from one encoder and one way of tiling: encode all slides alike"
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
    """Features (N, F) float32 and places (N, 2) float32 in µm, where known, of the tiles that were read.

    Raises:
        BagError: the file is damaged, or features of such a tile are no finite numbers.
    """
    features_NF = np.empty((int(bag.good_N.sum()), bag.num_features), np.float32)
    start = 0
    for x_nF, _ in bag.chunks(ROWS_AT_ONCE):  # the whole bag is held once, and not a second time while it is picked
        features_NF[start : start + len(x_nF)] = x_nF
        start += len(x_nF)
    return features_NF, None if bag.coords_N2_um is None else bag.coords_N2_um[bag.good_N]


def _summary(path: str, contents: bool) -> BagSummary | str:
    """What is in a file, or in one line why it cannot be used."""
    try:
        with open_bag(path) as bag:
            for start in range(0, bag.num_tiles if contents else 0, ROWS_AT_ONCE):
                bag.read(start, min(start + ROWS_AT_ONCE, bag.num_tiles))
            has_places = bag.coords_N2_um is not None
            return BagSummary(int(bag.good_N.sum()), bag.num_features, has_places, bag.identity, bag.facts)
    except BagError as error:
        return error.reason


def _names(value: str, id: str) -> list[str]:
    """Names that a slide's feature file may bear, the surest first, in the folder of features.

    Tools write ``<slide>.h5``, with or without the slide's own suffix; slides of the same name in several folders get
    longer names (``<folder>-<slide>.h5``).
    """
    if value.endswith(SUFFIXES):
        return [value]
    parts = Path(value).parts
    names = ["-".join(parts[i:]).lstrip("/") for i in range(len(parts))]  # the longest first
    stems = [*([id] if id else []), *(stem for name in names for stem in (name, Path(name).stem))]
    return [stem + suffix for stem in dict.fromkeys(stems) for suffix in SUFFIXES]


def _patients(frame: pd.DataFrame, target_of: dict[int, tuple[Any, ...]]) -> list[Problem]:
    """What stands against one bag a patient: rows without a patient, patients with two labels."""
    problems = []
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, patient in zip(frame["row"], frame["patient"], strict=True):
        rows_of[patient].append(row)
    for row in rows_of.pop("", []):
        advice = "fill it in, or delete the row (data.group patient makes one bag a patient)"
        problems.append(Problem("missing patient", (row,), "the patient is empty", advice))
    for rows in rows_of.values():
        if len({target_of[row] for row in rows}) > 1:
            advice = "with data.group patient all slides of a patient bear the patient's label"
            message = "a patient with slides of different labels"
            problems.append(Problem("contradiction", tuple(rows), message, advice, skippable=False))
    return problems
