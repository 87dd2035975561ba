"""Writes a folder of phantom slides: pyramidal TIFFs, tumour outlines, their sample table, and a note."""

from __future__ import annotations

import csv
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from medsoft.errors import InputError, check_range
from medsoft.system.child_processes import protect_children
from medsoft.system.cores import usable_cores
from medsoft.system.progress import tracked

TABLE = "labels.csv"
NEGATIVE, POSITIVE = "normal", "tumour"
SMALLEST_PX, LARGEST_PX = 1024, 100_000
FINEST_MPP, COARSEST_MPP = 0.25, 2.0
GROUP = (0, 1, 2, 3, 0, 1)  # the patients of six slides in a row: two patients with two slides, two with one
DESCRIPTION = "PHANTOM drawn by medsoft: no tissue, no patient"
README = """\
PHANTOMS, not slides: a program drew these pictures, and no tissue, patient or scanner stands behind them.
They are for trying software. What a model learns from them says nothing about real tissue.

Drawn with: {command}

slides/ holds pyramidal TIFFs that OpenSlide and QuPath open ({size} px a side, {mpp:g} um per pixel). regions/ holds,
for each slide, the outlines of its tumour as GeoJSON in level-0 pixels (none where there is no tumour). {table} has one
row per slide:
  path          relative to this folder
  label         {negative} or {positive}
  patient       has one slide or two, which share the label
  regions       the slide's file of outlines, relative to this folder
  tumour_share  of the tissue, 0 to 1
  phantom       yes: pictures made from this table say so

Both classes have stroma, glands, fat, slits, inflamed patches (dense small nuclei), pen ink and black borders.
Every slide has one region more: of tumour (large uneven nuclei) in the positives, inflamed like the patches in the
others. Outlines, stain and artefacts are drawn without regard to the label, and both fillings of the region have about
the same mean colour. The spread of the colours is about the same too at full size, but not in smaller pictures of the
slide: averaging leaves more of large nuclei than of small ones. This makes the task easier than it looks.
"""


@dataclass(frozen=True)
class Sample:
    """A row of the table."""

    path: str
    label: str
    patient: str
    regions: str
    tumour_share: float
    phantom: str = "yes"  # every picture drawn from a table with this column says what it shows


def phantom_slides(
    out: str, n: int = 24, size: int = 8192, mpp: float = 0.5, seed: int = 0, workers: int | None = None
) -> None:
    """Draw phantom slides of stained tissue, half of them with tumour, and write their sample table.

    A slide depends on the seed, its number, its size and the resolution alone: a larger set begins with the smaller
    one, and the number of processes does not matter.

    Args:
        out: Folder to write, new or empty.
        n: Number of slides, one or two per patient.
        size: Width and height of each slide in pixels, 1,024 to 100,000.
        mpp: Resolution in µm per pixel, 0.25 to 2.
        seed: Another seed draws other slides.
        workers: Number of processes that draw slides; one per core if not given.

    Raises:
        InputError: a number is out of range, or the folder is not empty or cannot be written.
    """
    check_range("--n", n, 1)
    check_range("--size", size, SMALLEST_PX, LARGEST_PX)
    check_range("--mpp", mpp, FINEST_MPP, COARSEST_MPP)
    check_range("--seed", seed, 0)
    workers = usable_cores() if workers is None else workers
    check_range("--workers", workers, 1)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"--out {out} is not empty: name a new or empty folder, so that nothing is overwritten")
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial_folder:
            _write(Path(partial_folder), n, size, mpp, seed, min(workers, n))
            for name in ("slides", "regions", "README.txt", TABLE):  # the table last: where it is, the rest is complete
                (Path(partial_folder) / name).rename(folder / name)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror or error}") from error
    print(f"Wrote {n} phantom slides to {folder}; their table is {folder / TABLE}")


def patient_of(index: int) -> int:
    """The number of the patient whose slide this is."""
    group, member = divmod(index, len(GROUP))
    return group * (max(GROUP) + 1) + GROUP[member]


def has_tumour(seed: int, index: int) -> bool:
    """Whether a slide is a positive: exactly one of two slides in a row is, and all slides of a patient are alike."""
    from medsoft.data.phantoms.seeds import Purpose, stream

    pair, member = divmod(patient_of(index), 2)
    return bool(stream(seed, Purpose.SLIDE_LABEL, pair).integers(2) == member)


def _write(folder: Path, n: int, size: int, mpp: float, seed: int, workers: int) -> None:
    (folder / "slides").mkdir()
    (folder / "regions").mkdir()
    draw = partial(_draw, folder, size, mpp, seed)
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Sample)], lineterminator="\n")
        table.writeheader()
        if workers == 1:
            table.writerows(asdict(draw(index)) for index in tracked(range(n), "drawing slides", n))
        else:
            protect_children()
            # Not forked: OpenCV may have threads already.
            with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as pool:
                try:
                    table.writerows(asdict(sample) for sample in tracked(pool.map(draw, range(n)), "drawing slides", n))
                except BaseException:
                    pool.shutdown(cancel_futures=True)  # those that are being drawn are waited for
                    raise
    command = f"medsoft data phantom slides --n {n} --size {size} --mpp {mpp:g} --seed {seed}"
    readme = README.format(command=command, table=TABLE, negative=NEGATIVE, positive=POSITIVE, size=size, mpp=mpp)
    (folder / "README.txt").write_text(readme, encoding="utf-8")


def _one_thread() -> None:
    """Each process draws on one core."""
    import cv2

    cv2.setNumThreads(1)


def _draw(folder: Path, size: int, mpp: float, seed: int, index: int) -> Sample:
    """Draw and save one slide and its outlines."""
    from medsoft.data.images.write_pyramid import write_pyramid
    from medsoft.data.phantoms.slides.paint import paint
    from medsoft.data.phantoms.slides.plan import plan_slide
    from medsoft.data.phantoms.slides.regions import tumour_regions, tumour_share

    plan = plan_slide(seed, index, size, mpp, tumour=has_tumour(seed, index))
    path, regions = f"slides/phantom_{index:04d}.tif", f"regions/phantom_{index:04d}.geojson"
    write_pyramid(folder / path, (size, size), partial(paint, plan), mpp, description=DESCRIPTION)
    (folder / regions).write_text(json.dumps(tumour_regions(plan)) + "\n", encoding="utf-8")
    label = POSITIVE if plan.tumour else NEGATIVE
    return Sample(path, label, f"P{patient_of(index):04d}", regions, round(tumour_share(plan), 4))
