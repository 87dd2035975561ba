"""The verb ``slides tile``: tissue, tiles and a picture of every slide; a failed slide does not stop the others."""

from __future__ import annotations

import os
from functools import partial

from medsoft.errors import check_range
from medsoft.slides.find import find_slides
from medsoft.slides.source import SlideInput
from medsoft.slides.tiling.settings import TilingOptions

MOST_WORKERS = 4


def tile_slides(which: SlideInput, out: str, tiling: TilingOptions, workers: int | None = None) -> int:
    """Find the tissue of slides and cover it with tiles; slides that are already done are skipped.

    Args:
        which: the slides.
        out: Folder for slides.csv, tiles/, overviews/ and, if slides failed, errors.csv.
        tiling: which tiles; resolution and size must be given.
        workers: Number of slides processed at the same time; one per processor by default, 4 at most.

    Returns:
        0, or 3 if slides failed or most of them have no tissue.

    Raises:
        InputError: the call or the table is wrong.
    """
    settings = tiling.settings()
    workers = min(MOST_WORKERS, len(os.sched_getaffinity(0))) if workers is None else workers
    check_range("workers", workers, 1)
    sources = find_slides(which)

    # OpenCV and the readers of slides wait until the call is found to be right.
    from medsoft.slides.encoding.prefetch import each_in_threads
    from medsoft.slides.folder import SlidesFolder
    from medsoft.slides.progress import conclude, slides_progress
    from medsoft.slides.tiling.run import check_names, tile_one

    folder = SlidesFolder(out)
    check_names(sources, folder)
    folder.tidy()
    with slides_progress(len(sources), "tiling") as progress:
        one = partial(tile_one, folder=folder, settings=settings)
        for source, slide_status in each_in_threads(one, sources, workers, progress.look):
            progress.advance(slide_status.tiles or 0)
            progress.done(source, slide_status)
    print(f"{progress.slides} slides, {progress.tiles} tiles{progress.kept_in_words()}: {folder.slides_csv}")
    return conclude(progress, folder)
