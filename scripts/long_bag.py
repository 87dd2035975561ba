#!/usr/bin/env python
"""Trains on one very long bag, as ``medsoft fit`` does it, and prints the most memory that the process held.

    python scripts/long_bag.py FOLDER --tiles 400000 --features 1024 [--options "--model.lr 1e-4 ..."]

The folder gets feature files of random numbers: one long bag for the training (0.8 GB at 400,000 × 1024), and three
short ones, because a training needs both classes in its training and validation parts.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import sys
from pathlib import Path

import numpy as np

from medsoft.data.features.native import FeatureWriter
from medsoft.data.features.provenance import Provenance

SETTINGS = {"mpp": 0.5, "tile_px": 224, "overlap_px": 0, "min_tissue": 0.25}
ROWS = 4096


def write(path: Path, tiles: int, features: int) -> None:
    """A feature file of random numbers, written piece by piece."""
    side = int(np.ceil(np.sqrt(tiles)))
    coords = 224 * np.stack([np.arange(tiles) % side, np.arange(tiles) // side], axis=1)
    size = (224 * side, 224 * side)
    facts = Provenance(path.name, path.name, size, 0.5, "option", SETTINGS, "random numbers", "", "random")
    rng = np.random.default_rng(0)
    with FeatureWriter(path, facts, coords, features) as writer:
        for start in range(0, tiles, ROWS):
            n = min(ROWS, tiles - start)
            writer.write(start, rng.standard_normal((n, features), np.float32), np.zeros(n, np.uint8))


def main() -> int:
    """Write the bags and train for one epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiles", type=int, default=400_000)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--options", default="", help="more options of medsoft fit, in quotes")
    chosen = parser.parse_args()
    bags = chosen.folder / f"bags_{chosen.tiles}_{chosen.features}"
    rows = [("long", "ill", "train"), ("b", "healthy", "train"), ("c", "ill", "val"), ("d", "healthy", "val")]
    for name, _, _ in rows:
        if not (bags / f"{name}.h5").is_file():
            write(bags / f"{name}.h5", chosen.tiles if name == "long" else 100, chosen.features)
    table = bags / "slides.csv"
    table.write_text("path,label,split\n" + "".join(f"{name}.h5,{label},{split}\n" for name, label, split in rows))

    from medsoft.cli.main import main as medsoft

    words = f"fit --config histo --data.table {table} --data.positive ill --data.cache none --trainer.max_epochs 1"
    words += " --trainer.accumulate_grad_batches 1 --trainer.accelerator cpu --figures false"
    words += f" --out {chosen.folder / 'run'} {chosen.options}"
    print("medsoft", words, flush=True)
    code = medsoft(shlex.split(words))
    print(f"peak resident memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    return code


if __name__ == "__main__":
    sys.exit(main())
