"""Names of everything below ``--out`` of ``medsoft encode``, and the record of every image: ``encoded.csv``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from medsoft import __version__
from medsoft.data.features.provenance import EncoderIdentity
from medsoft.errors import InputError
from medsoft.inference.images.options import EncodeSettings
from medsoft.inference.images.samples import ImageSample
from medsoft.slides.records import Records, as_text, write_whole
from medsoft.storage.files import own_partial_files, remove_partial_files

FEATURES = "features"
ENCODE_JSON = "encode.json"


@dataclass(frozen=True)
class ImageStatus:
    """What became of an image or a volume: its row of ``encoded.csv``.

    Attributes:
        status: "encoded" or "failed".
        stage: where it failed: "table", "open", "encode".
        reason: why it failed, in one line.
        warnings: what the user should look at, in one line.
        tokens: rows of features; 1 for a pooled vector alone.
        size: of the original, "4288 x 2848".
        unit: of the tokens' coordinates.
        cell: size of a token's cell in it, "32 x 32".
        views: augmented views that are stored besides.
        seconds: time that it took.
        kept: whether an earlier run did the work; no field of the row.
    """

    status: str
    stage: str = ""
    reason: str = ""
    warnings: str = ""
    tokens: int | None = None
    size: str = ""
    unit: str = ""
    cell: str = ""
    views: int | None = None
    seconds: float | None = None
    kept: bool = field(default=False, compare=False)

    @property
    def tiles(self) -> int | None:
        """The tokens, under the word that the progress has for them."""
        return self.tokens

    @property
    def unreadable(self) -> int | None:
        """None: an image is read as a whole."""
        return None

    @property
    def is_without_tiles(self) -> bool:
        """False: no tissue is looked for."""
        return False

    @property
    def in_words(self) -> str:
        """One line on what became of it."""
        words = f"{self.status} at {self.stage}" if self.stage else f"{self.status}, {self.tokens} tokens"
        return words + (f": {self.reason}" if self.reason else "")


COLUMNS = ("id", "path", *(one.name for one in fields(ImageStatus) if one.name != "kept"))


class ImagesFolder:
    """The folder of ``medsoft encode``. Several runs may write into it at once: see ``Records``.

    Attributes:
        path: the folder.
        encoded_csv: one row per image, whatever became of it.
        errors_csv: the images that failed; not there when none did.
        encode_json: what was asked for, so that the same can be done to new images.

    Raises:
        InputError: the path is a file.
    """

    def __init__(self, out: str | Path) -> None:
        self.path = Path(out)
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {out}: is a file; name a folder")
        self.encoded_csv = self.path / "encoded.csv"
        self.encode_json = self.path / ENCODE_JSON
        self._records = Records(self.path, self.encoded_csv, COLUMNS, "images")
        self.errors_csv = self._records.errors_csv

    def features(self, id: str) -> Path:
        """Features of an image."""
        return self.path / FEATURES / f"{id}.h5"

    def tidy(self) -> list[Path]:
        """Remove what killed runs left half-written; gives what stays, as its run lives or has just ended."""
        rest = []
        for folder in (self.path, self.path / FEATURES):
            remove_partial_files(folder)
            rest += own_partial_files(folder)
        return rest

    def record_all(self, statuses: Sequence[tuple[ImageSample, ImageStatus]]) -> None:
        """Put images' rows into ``encoded.csv`` in place of older ones, and write ``errors.csv`` anew.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        if statuses:
            self._records.record({sample.id: _row(sample, status) for sample, status in statuses})

    def finish(self) -> None:
        """All rows are in the tables from now on; a large one is there as Parquet too."""
        self._records.finish()

    def paths(self) -> dict[str, str]:
        """Of which image each row of ``encoded.csv`` is, by id; {} before the first.

        Raises:
            InputError: it is damaged.
        """
        return {id: row.get("path", "") for id, row in self._records.rows().items()}

    def write_settings(self, settings: EncodeSettings, identity: EncoderIdentity) -> None:
        """Write ``encode.json``.

        Raises:
            OSError: it cannot be written.
        """
        values = {"medsoft": __version__, "settings": settings.as_dict(), "identity": asdict(identity)}
        write_whole(self.encode_json, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())

    def read_settings(self) -> tuple[EncodeSettings, EncoderIdentity]:
        """What was asked for, and which features that gave.

        Raises:
            InputError: there is no ``encode.json``, or it is damaged.
        """
        try:
            values: Any = json.loads(self.encode_json.read_text(encoding="utf-8"))
            return EncodeSettings.from_dict(values["settings"]), EncoderIdentity(**values["identity"])
        except OSError as error:
            raise InputError(f"{self.encode_json}: cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self.encode_json}: is damaged; encode the images again") from None


def by_x(sizes: Sequence[float]) -> str:
    """Sizes as text: "4288 x 2848"."""
    return " x ".join(f"{side:.6g}" for side in sizes)


def _row(sample: ImageSample, status: ImageStatus) -> dict[str, str]:
    values: Mapping[str, Any] = {"id": sample.id, "path": sample.path, **asdict(status)}
    row = {name: as_text(values[name]) for name in COLUMNS}
    return row | {name: value for name, value in sample.row.items() if name not in row}
