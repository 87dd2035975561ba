"""The verb ``data masks``: outlines that were drawn in other programs become masks and a sample table."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pandas as pd

from medsoft.data.images.read import MAX_PIXELS, read_sample
from medsoft.data.masks.draw import draw_areas
from medsoft.data.masks.read import MOST_CLASSES
from medsoft.data.masks.write import write_mask
from medsoft.data.tables.labels import words
from medsoft.data.tables.problems import Problem, TableError
from medsoft.data.tables.reading import load_source, text, write_table
from medsoft.data.tables.sample_table import read_table
from medsoft.errors import InputError, ReadError, SlideError
from medsoft.slides.annotations.annotation import AnnotationFile, listed
from medsoft.slides.annotations.pictures import is_coco, read_coco
from medsoft.slides.annotations.read import read_annotations
from medsoft.system.progress import progress

TABLE = "masks.csv"


def masks(
    table: str,
    annotations: str,
    classes: str | list[str],
    out: str,
    path: str = "path",
    root: str | None = None,
    other_classes: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Draw masks from outlines: GeoJSON, labelme, COCO, XML of ASAP and others, one file per image or COCO for all.

    Writes ``masks/<id>.png`` and ``masks.csv``: the table with the column ``mask``, for medsoft fit --config
    segmentation.

    Args:
        table: CSV, Parquet or Excel (.xlsx) with one row per image.
        annotations: Column with the files of the outlines, or one COCO file (.json) of all images, which finds them by
            the names of their files.
        classes: Names of the classes in the order of their values 1, 2, …; where regions overlap, the later one counts.
        out: Folder to create.
        path: Column with the image paths.
        root: Folder that relative paths start from; the table's folder if not given.
        other_classes: Leave out regions of other classes; otherwise they are an error.
        max_pixels: Images with more pixels than this are refused.

    Raises:
        InputError: the options or the table are wrong.
        TableError: images or outlines of some rows cannot be read; all are listed, and nothing is written.
    """
    names = words(classes)
    if not names or len(set(names)) != len(names) or len(names) > MOST_CLASSES:
        raise InputError(f"--classes {', '.join(names)}: name 1 to {MOST_CLASSES} classes, each once")
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {out}: already exists; name a new folder")
    source = load_source(table)
    samples = read_table(table, source=source, root=root, path=path, label=None, require_labels=False)
    base = Path(os.path.abspath(root or Path(table).parent))  # noqa: PTH100 (as read_table)
    if annotations in source:
        files = text(source[annotations]).tolist()
        of_all = None
    elif Path(annotations).suffix.lower() == ".json" and Path(annotations).is_file():
        files, of_all = [], _coco(Path(annotations))
    else:
        raise InputError(f"--annotations {annotations}: no column of {table}, and no COCO file (.json)")

    problems: list[Problem] = []
    drawn: dict[int, AnnotationFile] = {}
    paths, ids, rows = (samples.frame[name].tolist() for name in ("path", "id", "row"))
    for index, file in enumerate(paths):
        try:
            found = _of_all(of_all, file, base) if of_all is not None else _of_file(files[index], base)
        except SlideError as error:
            problems.append(Problem("unusable outlines", (rows[index],), str(error), "correct these files"))
            continue
        if found is None:
            continue
        if unnamed := {name: n for name, n in found.classes.items() if name not in names and not other_classes}:
            said = f"regions of classes that are not named: {listed(Counter(unnamed))}"
            advice = "name them with --classes, or leave them out with --other-classes"
            problems.append(Problem("other classes", (rows[index],), said, advice))
        drawn[index] = found
    masks_ = [""] * len(paths)
    pixels: Counter[str] = Counter()
    with progress("drawing masks", len(drawn)) as step:
        for index, found in drawn.items():
            try:
                size = read_sample(paths[index], max_pixels=max_pixels).shape[:2]
                _check_size(found, size)
            except ReadError as error:
                problems.append(Problem("unusable image", (rows[index],), error.reason, "export these images again"))
                continue
            regions = sorted(
                ((names.index(one.name) + 1, one.area) for one in found.regions if one.name in names),
                key=lambda one: one[0],
            )
            mask = draw_areas(regions, size)
            pixels.update({name: int((mask == value).sum()) for value, name in enumerate(names, start=1)})
            masks_[index] = f"masks/{ids[index]}.png"
            if not problems:
                write_mask(folder / masks_[index], mask)
            step()
    if problems:
        raise TableError(table, problems)
    if not any(masks_):
        raise InputError(f"{table}: no image has outlines in {annotations}")
    frame = source.assign(mask=masks_)
    frame[path] = [os.path.relpath(file, folder) for file in paths]
    write_table(pd.DataFrame(frame), folder / TABLE)
    without = masks_.count("")
    print(f"{len(drawn)} masks: " + ", ".join(f"{name} {pixels[name]} px" for name in names))
    if without:
        print(f"Note: {without} images have no outlines; their rows have no mask, and fit wants them filled or deleted")
    print(f"Wrote {folder / TABLE}")


def _coco(file: Path) -> dict[str, AnnotationFile]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        if not is_coco(content):
            raise InputError(f"--annotations {file}: no COCO file (images, annotations and categories)")
        return read_coco(content)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"--annotations {file}: cannot be read: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"--annotations {file}: holds {error}") from None


def _of_all(of_all: dict[str, AnnotationFile], file: str, base: Path) -> AnnotationFile | None:
    """The outlines of an image by its path as it stands in the table, else by its file's name."""
    return of_all.get(os.path.relpath(file, base), of_all.get(Path(file).name))


def _of_file(file: str, base: Path) -> AnnotationFile | None:
    return read_annotations(base / file) if file else None


def _check_size(found: AnnotationFile, size: tuple[int, ...]) -> None:
    """Raise ReadError where outlines were drawn on an image of another size, or lie outside."""
    if found.size_px is not None and found.size_px != (size[1], size[0]):
        raise ReadError(
            f"is {size[1]} x {size[0]} px, and its outlines are of an image of {found.size_px[0]} x {found.size_px[1]}"
        )
    bounds = [one.area.bounds for one in found.regions]
    if bounds and (
        min(box[0] for box in bounds) >= size[1]
        or min(box[1] for box in bounds) >= size[0]
        or max(max(box[2:]) for box in bounds) <= 0
    ):
        raise ReadError(f"is {size[1]} x {size[0]} px, and its outlines lie outside of it")
