"""``medsoft benchmark tiles``: tiles per second, read by medsoft and by a bare OpenSlide loop."""

from __future__ import annotations

import csv
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from medsoft.benchmark.machine import machine, machine_line
from medsoft.benchmark.options import FEWEST_ROUNDS, numbers
from medsoft.benchmark.reading import (
    Close,
    Job,
    Run,
    from_level_0,
    job_for,
    with_medsoft,
    with_openslide,
    with_the_decoder,
)
from medsoft.errors import InputError, SlideError, check_range
from medsoft.slides.reading.direct.levels import DirectLevels
from medsoft.slides.reading.slide import Slide, open_slide
from medsoft.storage.files import replacing
from medsoft.system.terminal import plain_console

Row = dict[str, Any]
Open = Callable[[Job], tuple[Run, Close]]

COLUMNS = (
    *("part", "name", "workers", "mpp", "tile_px", "tiles", "unreadable", "rounds"),
    *("median_s", "q1_s", "q3_s", "tiles_per_s", "ratio", "to", "equal_tiles", "reader"),
)


@dataclass
class _Contender:
    """A way of reading, with what was measured of it."""

    part: str
    name: str
    job: Job
    open: Open
    seconds: list[float] = field(default_factory=list)
    unreadable: int = 0


def tiles(
    slide: str,
    mpp: float | None = None,
    tile: int = 256,
    workers: str = "1,2",
    rounds: int = 7,
    max_tiles: int = 1000,
    slide_mpp: float | None = None,
    seed: int = 0,
    out: str = "benchmark",
) -> int:
    """Measure how many tiles of a slide are read per second, each way once in every round.

    Side by side, over the same tiles: medsoft's own reading, a bare OpenSlide loop, and, where medsoft decodes the
    file's tiles itself, the decoder alone, which no reading can outrun. Of a slide with several levels, also tiles of
    the second level's resolution, read from the best level and from level 0. Opening is not counted, and all files
    are opened anew in every round, so that no way finds its own tiles of the round before.

    Writes tiles.csv (a row per case) and tiles.json (versions, machine, options, the slide).

    Args:
        slide: The file.
        mpp: resolution of the tiles in µm per pixel; that of the slide's finest level if not given.
        tile: Side of the tiles in pixels.
        workers: Numbers of threads, separated by commas.
        rounds: Number of rounds, 7 or more; each way is timed once per round.
        max_tiles: Read at most about this many tiles, in a block at the middle of a large slide.
        slide_mpp: resolution of the slide's finest level in µm per pixel, if its file does not state it.
        seed: Seed of the order within rounds.
        out: Folder to write the results to.

    Returns:
        0, or 3 where tiles could not be read.

    Raises:
        InputError: an option is out of range, or the slide cannot be used.
    """
    options = dict(locals())
    all_workers = numbers("--workers", workers)
    check_range("--rounds", rounds, FEWEST_ROUNDS)
    check_range("--tile", tile, 1)
    check_range("--max-tiles", max_tiles, 1)
    try:
        with open_slide(Path(slide), slide_mpp) as opened:
            contenders = _contenders(opened, mpp or opened.mpp, tile, max_tiles, all_workers)
            facts = _facts(opened)
    except SlideError as error:
        raise InputError(f"{slide}: {error.reason}") from None
    found = machine()
    record = {"benchmark": "tiles", "options": options, "slide": facts, "machine": found}
    with replacing(Path(out) / "tiles.json") as file:
        file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console = plain_console()
    console.print(machine_line(found))
    equal = _compare(contenders)  # also the warm-up: afterwards the system holds the file in memory
    order = random.Random(seed)
    for _ in range(rounds):
        for contender in order.sample(contenders, len(contenders)):
            _time(contender)
    rows = _rows(contenders, equal, facts["reader"])
    _write(rows, Path(out) / "tiles.csv")
    console.print(_terminal_table(rows, f"{Path(slide).name}, read by {facts['reader']}"))
    console.print(f"Table: {Path(out)}")
    return 3 if any(row["unreadable"] for row in rows) else 0


def _contenders(slide: Slide, mpp: float, tile_px: int, max_tiles: int, all_workers: Sequence[int]) -> list[_Contender]:
    slide.check_mpp(mpp)
    job = job_for(slide, mpp, tile_px, max_tiles)
    if not len(job.coords_N2_px0):
        raise SlideError(f"is smaller than one tile of {tile_px} px at {mpp:.4g} µm/px")
    ways: list[tuple[str, Open]] = [("medsoft", with_medsoft)]
    if slide.reader != "picture":
        ways.append(("openslide", with_openslide))
    if isinstance(slide.levels, DirectLevels):
        ways.append(("decoder", with_the_decoder))
    found = [_Contender("reading", name, replace(job, workers=n), way) for n in all_workers for name, way in ways]
    if len(slide.level_downsamples) > 1 and slide.level_downsamples[1] >= 2:
        factor = slide.level_downsamples[1]
        coarse = job_for(slide, slide.mpp * factor, tile_px, max(1, round(max_tiles / factor**2)))
        if len(coarse.coords_N2_px0):
            found.append(_Contender("levels", "best level", coarse, with_medsoft))
            found.append(_Contender("levels", "level 0", coarse, from_level_0))
    return found


def _facts(slide: Slide) -> dict[str, Any]:
    return {
        "name": slide.name,
        "size_px0": list(slide.size_px0),
        "mpp": slide.mpp,
        "mpp_origin": slide.mpp_origin,
        "level_downsamples": list(slide.level_downsamples),
        "reader": slide.reader,
        "notes": list(slide.notes),
    }


def _time(contender: _Contender) -> None:
    run, close = contender.open(contender.job)
    unreadable = 0

    def keep(_: int, tile: np.ndarray | None) -> None:
        nonlocal unreadable
        unreadable += tile is None

    start = time.perf_counter()
    run(keep)
    contender.seconds.append(time.perf_counter() - start)
    contender.unreadable = unreadable
    close()


def _compare(contenders: Sequence[_Contender]) -> int | None:
    """Run each way once; how many tiles are the same, pixel for pixel, as medsoft and OpenSlide read them."""
    by_name: dict[str, dict[int, int | None]] = {}
    for contender in contenders:
        run, close = contender.open(contender.job)
        sums: dict[int, int | None] = {}
        run(partial(_keep_sum, sums))
        close()
        if contender.part == "reading":
            by_name.setdefault(contender.name, sums)
    if "openslide" not in by_name:
        return None
    return sum(theirs == by_name["medsoft"][row] for row, theirs in by_name["openslide"].items())


def _keep_sum(sums: dict[int, int | None], row: int, tile: np.ndarray | None) -> None:
    sums[row] = None if tile is None else hash(tile.tobytes())


def _rows(contenders: Sequence[_Contender], equal: int | None, reader: str) -> list[Row]:
    """Median, quartiles and rate of each; its rate over that of what it is compared with."""
    rates = {}
    for c in contenders:
        rates[c.part, c.name, c.job.workers] = len(c.job.coords_N2_px0) / statistics.median(c.seconds)
    rows = []
    for c in contenders:
        to = "level 0" if c.part == "levels" else "openslide"
        rate, other = rates[c.part, c.name, c.job.workers], rates.get((c.part, to, c.job.workers))
        q1, median, q3 = np.quantile(c.seconds, (0.25, 0.5, 0.75))
        values = (
            *(c.part, c.name, c.job.workers, c.job.mpp, c.job.tile_px, len(c.job.coords_N2_px0), c.unreadable),
            *(len(c.seconds), median, q1, q3, rate, rate / other if other else None, to if other else None),
            *(equal if c.name == "medsoft" else None, reader),
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _write(rows: Sequence[Row], path: Path) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
            )


def _terminal_table(rows: Sequence[Row], title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("", overflow="fold")
    for heading in ("workers", "µm/px", "tiles", "tiles/s", "IQR %", "ratio", "equal"):
        table.add_column(heading, justify="right", no_wrap=True)
    part = rows[0]["part"]
    for row in rows:
        if row["part"] != part:
            table.add_section()
            part = row["part"]
        spread = 100 * (row["q3_s"] - row["q1_s"]) / row["median_s"]
        table.add_row(
            row["name"],
            str(row["workers"]),
            f"{row['mpp']:.4g}",
            str(row["tiles"]),
            f"{row['tiles_per_s']:,.0f}",
            f"{spread:.0f}",
            "–" if row["ratio"] is None else f"{row['ratio']:.2f}",
            "–" if row["equal_tiles"] is None else str(row["equal_tiles"]),
        )
    return table
