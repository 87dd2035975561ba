"""Names of everything below ``--out``, and the account of every slide: ``slides.csv`` and ``errors.csv``."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from medsoft.errors import InputError
from medsoft.files import own_partial_files, partial_file, remove_partial_files
from medsoft.slides.sources import SlideSource

ERROR_COLUMNS = ("id", "path", "stage", "reason")
KINDS = ("tiles", "overviews", "features", "heatmaps")
"""Folders with a file a slide."""


@dataclass(frozen=True)
class Outcome:
    """What became of one slide: its row of ``slides.csv``. None is an empty field: not known, or not reached.

    Attributes:
        status: "tiled", "encoded", "predicted", "no tissue" or "failed".
        stage: where it failed: "open", "tile", "encode", "predict", …
        reason: why it failed, in one line.
        warnings: what the user should look at, in one line.
        tiles: number of tiles.
        unreadable: how many of them could not be read; not known before they are encoded.
        mpp: µm per level-0 pixel.
        mpp_origin: where ``mpp`` comes from.
        tissue_mm2: area of tissue.
        seconds: time that the slide took.
        tile_mpp: µm per pixel of the tiles.
        tile_px: side of a tile, in pixels of that resolution.
        overlap_px: how far neighbours overlap, in the same pixels.
        min_tissue: least fraction of tissue in a tile.
        tissue: how tissue was found, as words ``name=value``.
        kept: whether an earlier run did the work; no field of the row.
    """

    status: str
    stage: str = ""
    reason: str = ""
    warnings: str = ""
    tiles: int | None = None
    unreadable: int | None = None
    mpp: float | None = None
    mpp_origin: str = ""
    tissue_mm2: float | None = None
    seconds: float | None = None
    tile_mpp: float | None = None
    tile_px: int | None = None
    overlap_px: int | None = None
    min_tissue: float | None = None
    tissue: str = ""
    kept: bool = field(default=False, compare=False)


COLUMNS = ("id", "path", *(one.name for one in fields(Outcome) if one.name != "kept"))


class SlidesFolder:
    """A folder of results. Several runs may write into it at once: each file appears whole, and no row is lost.

    Attributes:
        path: the folder.
        slides_csv: one row a slide, whatever became of it.
        errors_csv: the slides that failed; not there when none did.
        predictions_csv: probabilities, one row a slide or patient.

    Raises:
        InputError: the path is a file.
    """

    def __init__(self, out: str | Path) -> None:
        self.path = Path(out)
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {out}: is a file; name a folder")
        self.slides_csv = self.path / "slides.csv"
        self.errors_csv = self.path / "errors.csv"
        self.predictions_csv = self.path / "predictions.csv"
        self._lock = threading.Lock()

    def tiles(self, id: str) -> Path:
        """Where a slide's tiles lie."""
        return self.path / "tiles" / f"{id}.h5"

    def overview(self, id: str) -> Path:
        """Picture of a slide with tissue and tiles."""
        return self.path / "overviews" / f"{id}.jpg"

    def features(self, id: str) -> Path:
        """Features of a slide's tiles."""
        return self.path / "features" / f"{id}.h5"

    def heatmap(self, id: str, suffix: str) -> Path:
        """Heatmap of a slide: ``.png``, ``.tif`` or ``.geojson``."""
        return self.path / "heatmaps" / f"{id}{suffix}"

    def tidy(self) -> list[Path]:
        """Remove what killed runs left half-written.

        Returns:
            Half-written files of this machine that stay, as their run lives, or ended less than 10 s ago.
        """
        rest = []
        of_classes = [folder for folder in self.path.glob("heatmaps/*") if folder.is_dir()]
        for folder in (self.path, *map(self.path.joinpath, KINDS), *of_classes):
            remove_partial_files(folder)
            rest += own_partial_files(folder)
        return rest

    def record(self, source: SlideSource, outcome: Outcome) -> None:
        """``record_all`` of one slide."""
        self.record_all([(source, outcome)])

    def record_all(self, outcomes: Sequence[tuple[SlideSource, Outcome]]) -> None:
        """Put slides' rows into ``slides.csv`` in place of older ones, and write ``errors.csv`` anew.

        Columns of the user's table come last, so that ``slides.csv`` knows patient and label too.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        with self._lock, self._alone():
            rows = {**self.rows(), **{source.id: _row(source, outcome) for source, outcome in outcomes}}
            _write(self.slides_csv, rows)
            failed = {id: row for id, row in rows.items() if row["status"] == "failed"}
            if failed:
                _write(self.errors_csv, failed, ERROR_COLUMNS)
            else:
                self.errors_csv.unlink(missing_ok=True)

    def outcomes(self) -> dict[str, Outcome]:
        """What became of the slides so far, by id; {} before the first."""
        return {id: _outcome(row) for id, row in self.rows().items()}

    def rows(self) -> dict[str, dict[str, str]]:
        """The rows of ``slides.csv`` as text, by id; {} before the first."""
        if not self.slides_csv.is_file():
            return {}
        with self.slides_csv.open(newline="", encoding="utf-8") as file:
            return {row["id"]: row for row in csv.DictReader(file) if row.get("id")}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other runs from writing the tables meanwhile; file systems without locks go on without."""
        self.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDONLY)
        try:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file that appears whole or not at all, whichever runs write it at once.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    with partial_file(path) as file:
        rest = memoryview(content)
        while rest:  # an unbuffered file may take a part
            rest = rest[file.write(rest) :]


def _row(source: SlideSource, outcome: Outcome) -> dict[str, str]:
    values = {"id": source.id, "path": str(source.path), **asdict(outcome)}
    row = {name: _text(values[name]) for name in COLUMNS}
    return row | {name: value for name, value in source.row.items() if name not in row}


def _outcome(row: Mapping[str, str]) -> Outcome:
    def number(name: str) -> float | None:
        return float(row[name]) if row.get(name) else None

    def count(name: str) -> int | None:
        return int(row[name]) if row.get(name) else None

    return Outcome(
        status=row.get("status", ""),
        stage=row.get("stage", ""),
        reason=row.get("reason", ""),
        warnings=row.get("warnings", ""),
        tiles=count("tiles"),
        unreadable=count("unreadable"),
        mpp=number("mpp"),
        mpp_origin=row.get("mpp_origin", ""),
        tissue_mm2=number("tissue_mm2"),
        seconds=number("seconds"),
        tile_mpp=number("tile_mpp"),
        tile_px=count("tile_px"),
        overlap_px=count("overlap_px"),
        min_tissue=number("min_tissue"),
        tissue=row.get("tissue", ""),
    )


def _write(path: Path, rows: Mapping[str, Mapping[str, str]], columns: tuple[str, ...] = ()) -> None:
    names = columns or tuple(dict.fromkeys([*COLUMNS, *(name for row in rows.values() for name in row)]))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows.values())
    write_whole(path, text.getvalue().encode())


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
