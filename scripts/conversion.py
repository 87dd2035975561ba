#!/usr/bin/env python
"""What converting a softmax model keeps: a brief training from converted weights, and the same from random ones.

    python scripts/conversion.py run ../shared/data runs/conversion
    python scripts/conversion.py table runs/conversion

For each of three seeds a small softmax ViT is trained on the IDC tiles and converted to seqnorm and to sima with 32
images of the training part. A linear probe (the backbone frozen, two epochs for a new head) says what the features are
worth right after the conversion, beside those of the softmax model and of random weights. Then the converted models are
trained for two epochs more; one of each mechanism starts afresh and gets the same two epochs. A seed draws weights and
split (by patient); all runs of a seed share the split, so that no test patient has been seen by the softmax model.
Learning rates were fixed before the first run: 1e-3 afresh (that of all recipes), 3e-4 from trained weights. The probes
(1e-2) were added when the first seed had been trained.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path

import pandas as pd

SEEDS = (0, 1, 2)
SHAPE = "{patch_size: 5, depth: 4, embed_dim: 128, num_heads: 4, drop_path_rate: 0.1}"
PRETRAINING_EPOCHS, BRIEF_EPOCHS = 12, 2


def medsoft(*words: object) -> None:
    """Run a command line, printed before, and stop at its first failure."""
    from medsoft.cli.main import main

    text = [str(word) for word in words]
    print("medsoft", shlex.join(text), flush=True)
    if code := main(text):
        sys.exit(f"failed with {code}")


def fit(data: Path, out: Path, seed: int, mechanism: str, epochs: int, *more: object) -> None:
    """Train on the IDC tiles, unless that has been done."""
    if (out / "metrics.json").is_file():
        return
    medsoft(
        "fit", "--config=histology", f"--data.table={data / 'histo_tiles/idc_patches/labels.csv'}",
        "--data.path=file", "--data.label=idc", "--data.task=binary", "--data.patient=patient", "--data.batch_size=32",
        "--transforms.size=50", f"--model.backbone=vit_{mechanism}_tiny_patch16_224", f"--model.backbone_args={SHAPE}",
        f"--seed_everything={seed}", f"--trainer.max_epochs={epochs}", "--trainer.accelerator=cpu", "--figures=false",
        f"--out={out}", *more,
    )  # fmt: skip


def run(data: Path, out: Path) -> None:
    """Train, convert and train again, for every seed; what is there already is kept."""
    for seed in SEEDS:
        folder = out / f"seed-{seed}"
        source = folder / "softmax"
        fit(data, source, seed, "softmax", PRETRAINING_EPOCHS)
        images = folder / "calibration.csv"
        write_training_images(data, source / "split.csv", images)
        split = f"--data.splits_from={source / 'split.csv'}"
        probe = [split, "--model.freeze=true", "--model.lr=1e-2", "--model.warmup_epochs=0"]
        trained = f"--model.pretrained={source / 'checkpoints/best.ckpt'}"
        fit(data, folder / "softmax-probe", seed, "softmax", BRIEF_EPOCHS, *probe, trained)
        for mechanism in ("seqnorm", "sima"):
            weights = folder / f"{mechanism}.safetensors"
            if not weights.is_file():
                medsoft(
                    "weights", "convert", "--model=vit_softmax_tiny_patch16_224", f"--model_args={SHAPE}",
                    f"--weights={source / 'checkpoints/best.ckpt'}", f"--to={mechanism}", f"--images={images}",
                    f"--out={weights}",
                )  # fmt: skip
            converted = f"--model.pretrained={weights}"
            fit(data, folder / f"{mechanism}-probe-random", seed, mechanism, BRIEF_EPOCHS, *probe)
            fit(data, folder / f"{mechanism}-probe-converted", seed, mechanism, BRIEF_EPOCHS, *probe, converted)
            brief = [split, "--model.warmup_epochs=0.5"]
            fit(data, folder / f"{mechanism}-afresh", seed, mechanism, BRIEF_EPOCHS, *brief)
            fit(
                data,
                folder / f"{mechanism}-converted",
                seed,
                mechanism,
                BRIEF_EPOCHS,
                *brief,
                converted,
                "--model.lr=3e-4",
            )


def write_training_images(data: Path, split: Path, out: Path) -> None:
    """The training part's images as a table for the calibration."""
    folder = data / "histo_tiles/idc_patches"
    parts = pd.read_csv(split, dtype=str).set_index("id")["split"]
    files = pd.read_csv(folder / "labels.csv")["file"]
    training = files[files.map(lambda file: parts.get(Path(file).stem) == "train")]
    if training.empty:
        sys.exit(f"{split}: no file of the training part was found")
    pd.DataFrame({"path": [str((folder / file).resolve()) for file in training]}).to_csv(out, index=False)


def table(out: Path) -> None:
    """Print test AUROC, mean over the seeds and range."""
    kinds = ("probe-random", "probe-converted", "afresh", "converted")
    names = ["softmax", "softmax-probe", *(f"{m}-{kind}" for m in ("seqnorm", "sima") for kind in kinds)]
    for name in names:
        files = [out / f"seed-{seed}" / name / "metrics.json" for seed in SEEDS]
        values = [json.loads(file.read_text())["test"]["overall"]["auroc"] for file in files if file.is_file()]
        if values:
            shown = f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f}), n={len(values)}"
            print(f"| {name} | {shown} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("data", type=Path)
    running.add_argument("out", type=Path)
    verbs.add_parser("table").add_argument("out", type=Path)
    chosen = parser.parse_args()
    if chosen.verb == "run":
        run(chosen.data, chosen.out)
    else:
        table(chosen.out)
