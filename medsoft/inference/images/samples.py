"""The rows of a table as images or volumes to encode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from medsoft.data.sample_hash import joined_hash, sample_hash
from medsoft.data.tables.labels import words
from medsoft.data.tables.reading import load_source, text
from medsoft.data.tables.sample_table import SampleTable, read_table
from medsoft.data.volumes.rows import VolumeFiles, VolumeRow, volume_files
from medsoft.errors import InputError
from medsoft.inference.images.options import ImageInput
from medsoft.slides.source import LONGEST_ID, is_too_long
from medsoft.system.progress import progress


@dataclass(frozen=True)
class ImageSample:
    """An image or a volume to encode.

    Attributes:
        id: unique; names the feature file.
        path: absolute, as the table's column has it.
        volume: the files of a volume; None of an image.
        row: the table's row, as text.
    """

    id: str
    path: str
    volume: VolumeRow | None = None
    row: dict[str, str] = field(default_factory=dict)

    def content(self) -> str:
        """Hash of all that is read for it; equal to ``sample_hash`` of its path where that is all.

        Raises:
            OSError: a file cannot be read.
        """
        if self.volume is None:
            return sample_hash(self.path)
        files = [*self.volume.paths, self.volume.mask]
        if len(list(filter(None, files))) == 1 and self.volume.box is None and not self.volume.side:
            return sample_hash(self.path)
        hashes = [sample_hash(path) if path else "" for path in files]
        return joined_hash([*hashes, repr(self.volume.box), self.volume.side])


@dataclass(frozen=True)
class Samples:
    """The samples of a table.

    Attributes:
        samples: those that can be encoded.
        is_volume: whether they are volumes.
        dropped: rows that were left out: ``id``, ``path``, ``stage``, ``reason``.
        notes: sentences on what was decided while reading.
    """

    samples: list[ImageSample]
    is_volume: bool
    dropped: pd.DataFrame
    notes: tuple[str, ...]


def find_samples(given: ImageInput) -> Samples:
    """The images or volumes of a table, checked but not opened.

    Raises:
        TableError: rows have problems, and are not to be skipped.
        InputError: the table cannot be read, or its columns are not there.
    """
    with progress("reading the table"):
        source = load_source(given.table)
    files = volume_files(
        given.table, source, given.kind, given.root, given.path, given.missing, given.laterality, words(given.box),
        given.mask,
    )  # fmt: skip
    with progress("checking the table"):
        table = read_table(
            given.table, source=source, files=files, root=given.root, path=files.columns[0] if files else given.path,
            label=None, id=given.id, split=None, require_labels=False, on_error=given.on_error,
        )  # fmt: skip
    rows = {index + 1: row for index, row in enumerate(_texts(source))}
    samples = samples_of(table, files, rows)
    if long := [sample.id for sample in samples if is_too_long(sample.id)]:
        raise InputError(
            f"{len(long)} ids have more than {LONGEST_ID} bytes, and could not name a file; the first is {long[0]!r}"
        )
    return Samples(samples, files is not None, table.dropped, table.notes)


def samples_of(
    table: SampleTable, files: VolumeFiles | None, rows: dict[int, dict[str, str]] | None = None
) -> list[ImageSample]:
    """The rows of a checked table.

    Args:
        table: of images, or of volumes.
        files: of the volumes; None for images.
        rows: the source's rows as text, by their number from 1; None: they are not to be known.
    """
    numbered: Iterable[tuple[Any, Any, Any]] = table.frame[["id", "path", "row"]].itertuples(index=False, name=None)
    return [
        ImageSample(id, path, files.of(row) if files else None, (rows or {}).get(row, {})) for id, path, row in numbered
    ]


def _texts(source: pd.DataFrame) -> list[dict[str, str]]:
    columns = {str(name): text(source[name]).tolist() for name in source}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
