"""Facts of bags: how many tiles, at which resolution, of how large a slide; of a picture's tokens, of the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from medsoft.data.facts.pictures import Facts, picture_facts
from medsoft.data.facts.volumes import VOLUME_FACTS, volume_facts, volume_file_facts
from medsoft.data.features.provenance import ImageProvenance, Provenance
from medsoft.data.images.read import locate, read_image
from medsoft.data.volumes.read import read_volume
from medsoft.errors import ReadError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".dcm", ".jp2", ".npz")
VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".npz")
"""Files that are read for their facts; of slides that of the file itself is enough."""


def bag_facts(tiles: Sequence[int], made_from: Sequence[Provenance | ImageProvenance | None]) -> Facts:
    """Facts of a bag, of one feature file or of several that are pooled; all but the number of files are logarithms.

    Args:
        tiles: of each file.
        made_from: what each file says of its slide or image; None for those of other tools.
    """
    mpp = [math.log10(one.mpp) if isinstance(one, Provenance) and one.mpp else math.nan for one in made_from]
    sizes = [one.size_px0 if isinstance(one, Provenance) else one.size if one else (0,) for one in made_from]
    pixels = [float(np.prod(size, dtype=float)) for size in sizes]
    total = sum(tiles)
    return {
        "tiles": math.log10(total) if total else math.nan,
        "slides": float(len(tiles)),
        "um a pixel": float(np.mean(mpp)),
        "pixels of the original": float(np.mean([math.log10(n) if n > 0 else math.nan for n in pixels])),
    }


def source_facts(path: Path) -> Facts:
    """Facts of what a bag was made from, where that is still there: of a picture or volume all, of a slide its file's.

    Args:
        path: of the slide, picture or volume; one of many in an ``.npz`` as for ``read_image``.
    """
    file = Path(locate(str(path))[0])
    if not file.exists():
        return {}
    stat = file.stat()
    return dict(_source_facts(str(path), stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=100_000)  # the folds of a cross-validation ask for the same files
def _source_facts(path: str, changed_ns: int, size: int) -> Facts:
    file = locate(path)[0].lower()
    if file.endswith(PICTURES):
        try:
            return picture_facts(path, read_image(path))
        except ReadError:  # a volume in an .npz, or a slide that is no picture
            pass
    if file.endswith(VOLUMES) or Path(path).is_dir():
        try:
            values = volume_facts(read_volume(path)).tolist()
            return dict(zip(VOLUME_FACTS, values, strict=True)) | volume_file_facts(path)
        except ReadError:
            pass
    return {"bytes of the file": math.log10(size) if size else math.nan, "format": Path(file).suffix.lstrip(".")}
