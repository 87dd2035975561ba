"""Names of everything below ``--out``, and the record of every slide: ``slides.csv`` and ``errors.csv``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from medsoft.errors import InputError
from medsoft.slides.records import Records, as_text, write_whole
from medsoft.slides.source import SlideSource
from medsoft.storage.files import own_partial_files, remove_partial_files

__all__ = ["COLUMNS", "NO_TISSUE", "TOO_LITTLE_TISSUE", "SlideStatus", "SlidesFolder", "write_whole"]

NO_TISSUE = "no tissue was found"
TOO_LITTLE_TISSUE = "no tile has enough tissue"
NOT_IN_REGIONS = "no tile with enough tissue lies"
"""Goes on as ``RegionSettings.in_words``."""
WITH_ARTEFACTS = "every tile with enough tissue has artefacts"
KINDS = ("tiles", "overviews", "features", "heatmaps", "segmentation")
"""Folders with a file a slide."""


@dataclass(frozen=True)
class SlideStatus:
    """What became of one slide: its row of ``slides.csv``. None is an empty field: not known, or not reached.

    Attributes:
        status: "tiled", "segmented", "encoded", "predicted", "no tissue" or "failed".
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
        tile_regions: which tiles regions have left, in words; "" where they were those of the whole slide.
        tile_quality: the limits of artefacts in tiles, or "measured"; "" where they were not looked for.
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
    tile_regions: str = ""
    tile_quality: str = ""
    kept: bool = field(default=False, compare=False)

    @property
    def is_without_tiles(self) -> bool:
        """Whether nothing was found on the slide that could be tiled."""
        return self.reason.startswith(("no tissue", TOO_LITTLE_TISSUE))

    @property
    def in_words(self) -> str:
        """One line on what became of the slide."""
        words = [f"{self.status} at {self.stage}" if self.stage else self.status]
        words += [f"{self.tiles} tiles"] if self.tiles else []
        words += [f"{self.unreadable} of them unreadable"] if self.unreadable else []
        words += [f"{self.tissue_mm2:.3g} mm² tissue"] if self.tissue_mm2 else []
        line = ("kept, " if self.kept else "") + ", ".join(words) + (f": {self.reason}" if self.reason else "")
        return line + (f"; look at it: {self.warnings}" if self.warnings else "")


COLUMNS = ("id", "path", *(one.name for one in fields(SlideStatus) if one.name != "kept"))

NUMBERS = frozenset(
    ("tiles", "unreadable", "mpp", "tissue_mm2", "seconds", "tile_mpp", "tile_px", "overlap_px", "min_tissue")
)
"""Columns of ``slides.csv`` that are numbers; see ``SlideStatus``."""


class SlidesFolder:
    """A folder of results. Several runs may write into it at once: each file appears whole, and no row is lost.

    Attributes:
        path: the folder.
        slides_csv: one row per slide, whatever became of it; above 10,000 slides there is slides.parquet beside it.
        errors_csv: the slides that failed; not there when none did.
        predictions_csv: probabilities, one row per slide or patient.

    Raises:
        InputError: the path is a file.
    """

    def __init__(self, out: str | Path) -> None:
        self.path = Path(out)
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {out}: is a file; name a folder")
        self.slides_csv = self.path / "slides.csv"
        self._records = Records(self.path, self.slides_csv, COLUMNS, "slides", NUMBERS)
        self.errors_csv = self._records.errors_csv
        self.predictions_csv = self.path / "predictions.csv"

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

    def segmentation(self, id: str, suffix: str) -> Path:
        """Segmentation of a slide: ``.ome.tif``, ``.geojson``, ``.jpg`` or ``.json``."""
        return self.path / "segmentation" / f"{id}{suffix}"

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

    def record(self, source: SlideSource, slide_status: SlideStatus) -> None:
        """``record_all`` of one slide."""
        self.record_all([(source, slide_status)])

    def record_all(self, slide_statuses: Sequence[tuple[SlideSource, SlideStatus]]) -> None:
        """Put slides' rows into ``slides.csv`` in place of older ones, and write ``errors.csv`` anew.

        Columns of the user's table come last, so that ``slides.csv`` knows patient and label too.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        self._records.record({source.id: _row(source, slide_status) for source, slide_status in slide_statuses})

    @contextmanager
    def recording(self) -> Iterator[None]:
        """The rows of all slides are in the tables when the block ends, however it ends; large ones as Parquet too.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        try:
            yield
        except BaseException:
            with suppress(OSError, InputError):  # what has ended the block is what matters; the rows are kept
                self._records.finish()
            raise
        self._records.finish()

    def slide_statuses(self) -> dict[str, SlideStatus]:
        """What became of the slides so far, by id; {} before the first.

        Raises:
            InputError: ``slides.csv`` is damaged.
        """
        try:
            return {id: _slide_status(row) for id, row in self.rows().items()}
        except ValueError:
            raise InputError(f"{self.slides_csv}: is damaged: it has invalid numbers; restore or remove it") from None

    def rows(self) -> dict[str, Mapping[str, str]]:
        """The rows of ``slides.csv`` as text, by id; {} before the first.

        Raises:
            InputError: it is damaged, or cannot be read.
        """
        return self._records.rows()


def _row(source: SlideSource, slide_status: SlideStatus) -> dict[str, str]:
    values = {"id": source.id, "path": source.place, **asdict(slide_status)}
    row = {name: as_text(values[name]) for name in COLUMNS}
    return row | {name: value for name, value in source.row.items() if name not in row}


def _slide_status(row: Mapping[str, str]) -> SlideStatus:
    def number(name: str) -> float | None:
        return float(row[name]) if row.get(name) else None

    def count(name: str) -> int | None:
        return int(row[name]) if row.get(name) else None

    return SlideStatus(
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
        tile_regions=row.get("tile_regions", ""),
    )
