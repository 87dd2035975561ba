#!/usr/bin/env python
"""Measures what aggregators need for very long bags that are read from disk: time, and memory of the whole process.

    python scripts/gigapixel_bag.py FOLDER [--tiles 50000,100000,250000,500000,1000000] [--features 384]

FOLDER gets feature files of random numbers (float16; 0.8 GB at 1,000,000 × 384), and a model with random weights for
each aggregator. Every case runs in a process of its own: ``logits`` in pieces, ``contributions`` (a logit taken apart
by tile) in pieces, and at 50,000 tiles both with the whole bag in memory, with which the others are compared. Seconds
are those of the processor, so that what else runs counts little; memory is the most that the process held, libraries
included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medsoft.data.features.native import FeatureWriter
from medsoft.data.features.open import open_bag
from medsoft.data.features.provenance import Provenance

SETTINGS = {"mpp": 0.5, "tile_px": 224, "overlap_px": 0, "min_tissue": 0.25}
ROWS = 4096
WHOLE = 50_000
MODELS = {
    "transformer, seqnorm": ("transformer", {"attention": "seqnorm", "dim": 512, "depth": 2, "coordinates": True}),
    "transformer, sima": ("transformer", {"attention": "sima", "dim": 512, "depth": 2, "coordinates": True}),
    "abmil": ("abmil", {"dim": 512}),
    "mean": ("mean", {"dim": 512}),
}


def write_bag(path: Path, tiles: int, features: int) -> None:
    """A feature file of random numbers, written piece by piece."""
    side = int(np.ceil(np.sqrt(tiles)))
    coords = 224 * np.stack([np.arange(tiles) % side, np.arange(tiles) // side], axis=1)
    facts = Provenance(path.name, path.name, (224 * side,) * 2, 0.5, "option", SETTINGS, "random", "", "random")
    rng = np.random.default_rng(0)
    with FeatureWriter(path, facts, coords, features) as writer:
        for start in range(0, tiles, ROWS):
            n = min(ROWS, tiles - start)
            writer.write(start, rng.standard_normal((n, features), np.float32), np.zeros(n, np.uint8))


def write_model(path: Path, name: str, bag: Path) -> None:
    """A checkpoint with random weights, for features like those of the bag."""
    import torch

    from medsoft.classifiers.slide import SlideClassifier
    from medsoft.specs import BagSpec
    from medsoft.task import Task

    with open_bag(bag) as opened:
        identity, width = asdict(opened.identity), opened.num_features
    torch.manual_seed(0)
    aggregator, options = MODELS[name]
    spec = BagSpec(Task.of("binary", ("healthy", "ill")), np.ones(2), width, True, identity, None)
    model = SlideClassifier(spec, aggregator, options)
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)


def measure(what: str, model: Path, bag: Path) -> None:
    """One case, in this process; prints its seconds and what it found as JSON."""
    from functools import partial

    import torch

    from medsoft.classifiers.slide import load_slide_classifier
    from medsoft.data.datasets.bag_dataset import pieces_of
    from medsoft.inference.attribution.bags import explain_bag
    from medsoft.models.aggregators import read_logits

    loaded = load_slide_classifier(model)
    logit_target = loaded.task.logit_target("ill")
    since = time.process_time()
    with open_bag(bag) as opened:
        if what == "logits":
            values = read_logits(loaded.aggregator, partial(pieces_of, opened))[0].tolist()
        elif what == "contributions":
            values = explain_bag(loaded.aggregator, opened, logit_target).contributions_N.tolist()
        else:
            with torch.no_grad():
                x_1NF = torch.from_numpy(opened.read())[None]
                coords = torch.from_numpy(opened.coords_N2_um)[None]
                values = loaded.aggregator(x_1NF, None, coords)[0].tolist()
                parts = [loaded.aggregator.explain(x_1NF, index, None, coords).contributions_N for index in (0, 1)]
                values += (parts[1] - parts[0]).double().tolist()
    print(json.dumps({"seconds": time.process_time() - since, "values": values}))


def in_a_process(what: str, model: Path, bag: Path) -> dict[str, Any]:
    """The case in a process of its own, with the most memory that it held."""
    command = [sys.executable, __file__, "--measure", what, str(model), str(bag)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        found = json.loads(child.stdout.read())
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    return {**found, "gib": usage.ru_maxrss / 2**20}


def show(name: str, size: int, what: str, found: dict[str, Any]) -> None:
    """A line on one case."""
    took = f"{found['seconds']:6.1f} s, {1e6 * found['seconds'] / size:5.0f} µs a tile"
    print(f"{name:20}  {size:>9,} tiles  {what:6}  {took}  {found['gib']:.2f} GiB", flush=True)


def compare(name: str, whole: dict[str, Any], found: dict[str, dict[str, Any]]) -> None:
    """How far the answers in pieces lie from those with the whole bag in memory."""
    right = np.array(whole["values"])
    of_logits = np.abs(np.array(found["logits"]["values"]) - right[:2]).max()
    print(f"{name:20}  largest difference of logits {of_logits:.1e}", end="")
    if "contributions" in found:
        of_shares = np.abs(np.array(found["contributions"]["values"]) - right[2:]).max() / np.abs(right[2:]).max()
        print(f", of contributions {of_shares:.1e} of the largest", end="")
    print(flush=True)


def main() -> int:
    """Write what is missing, measure all cases, and print a table."""
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiles", default="50000,100000,250000,500000,1000000")
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--what", default="logits,contributions")
    parser.add_argument("--models", default=",".join(name.replace(", ", "+") for name in MODELS))
    chosen = parser.parse_args()
    sizes = [int(word) for word in chosen.tiles.split(",")]
    chosen.folder.mkdir(parents=True, exist_ok=True)
    bags = {size: chosen.folder / f"bag_{size}_{chosen.features}.h5" for size in sorted({WHOLE, *sizes})}
    for size, bag in bags.items():
        if not bag.is_file():
            write_bag(bag, size, chosen.features)
    for name in (name.replace("+", ", ") for name in chosen.models.split(",")):
        model = chosen.folder / f"{name.replace(', ', '_')}_{chosen.features}.ckpt"
        write_model(model, name, bags[WHOLE])
        for size in sizes:
            found = {}
            for what in chosen.what.split(","):
                found[what] = in_a_process(what, model, bags[size])
                show(name, size, what, found[what])
            if size == WHOLE and "logits" in found:
                whole = in_a_process("whole", model, bags[size])
                show(name, size, "whole", whole)
                compare(name, whole, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
