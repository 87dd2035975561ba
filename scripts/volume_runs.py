#!/usr/bin/env python
"""The runs on real volumes and radiographs of docs/experiments/from_scratch.md: trains, tests, and prints the tables.

OMP_NUM_THREADS=1 python scripts/volume_runs.py run ../shared/data runs/volumes
python scripts/volume_runs.py table runs/volumes
python scripts/volume_runs.py compare runs/volumes
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

VIT3D = {"ViT seqnorm": "seqnorm", "ViT softmax": "softmax"}


@dataclass(frozen=True)
class LogitTarget:
    """A set and what is asked of it.

    Attributes:
        table: below the data folder.
        options: of every run.
        vit: arguments of the vision transformers' backbone.
        resnet: name and arguments of the residual network.
        epochs: of every model.
        folds: of a cross-validation with seed 0; 0 for seeds 0, 1 and 2 on the table's own test part or a split.
        metrics: shown, from the test part; models are compared by the first.
    """

    table: str
    options: str
    vit: str
    resnet: tuple[str, str]
    epochs: int
    folds: int
    metrics: tuple[str, ...]


SMALL_VIT = "embed_dim: 128, depth: 4, num_heads: 4"
STRIDE_2 = ("resnet18_3d", "{conv1_t_stride: 2}")
HIPPOCAMPUS = (
    "--config=volume --data.path=file --data.root={data}/volume/msd_hippocampus/images --transforms.size=[40,56,48] "
    "--transforms.intensity=zscore --transforms.rotation=10 --data.batch_size=8"
)
KERMANY = "--config=chest_xray --data.path=file --data.label=label --data.positive=pneumonia --data.batch_size=16"
CLASSES = ("auroc", "accuracy")
SIZES = "Hippocampus small or large"
QUESTIONS = {
    "AdrenalMNIST3D": LogitTarget(
        "volume/adrenalmnist3d_split/adrenalmnist3d_trainval.npz",
        "--config=volume --data.task=binary --data.rename_splits={{val: test}} --transforms.size=28 "
        "--transforms.intensity=percentiles --transforms.percentiles=[0,100] --transforms.sides=flip "
        "--transforms.rotation=15 --data.batch_size=32",
        f"{{patch_size: 4, {SMALL_VIT}}}", STRIDE_2, 10, 0, CLASSES,
    ),
    SIZES: LogitTarget(
        "volume/msd_hippocampus/labels.csv", f"{HIPPOCAMPUS} --data.label=size --data.positive=large",
        f"{{patch_size: 8, {SMALL_VIT}}}", STRIDE_2, 20, 5, CLASSES,
    ),
    "Hippocampus volume": LogitTarget(
        "volume/msd_hippocampus/labels.csv", f"{HIPPOCAMPUS} --data.label=volume_mm3 --data.task=regression",
        f"{{patch_size: 8, {SMALL_VIT}}}", STRIDE_2, 20, 5, ("r2", "mae"),
    ),
    "MedNIST studies": LogitTarget(
        "radiology2d/medical_mnist/labels.csv",
        "--data.path=file --data.label=label --transforms.size=64 --transforms.channels=1 --data.batch_size=32",
        f"{{patch_size: 8, {SMALL_VIT}}}", ("resnet18", "{}"), 5, 0, CLASSES,
    ),
    "Kermany 224 px": LogitTarget(
        "cxr/kermany_224/labels.csv", f"{KERMANY} --transforms.size=224",
        f"{{patch_size: 16, {SMALL_VIT}}}", ("resnet18", "{}"), 10, 0, CLASSES,
    ),
    "Kermany 300 px": LogitTarget(
        "cxr/kermany_224/labels.csv", f"{KERMANY} --transforms.size=300",
        f"{{patch_size: 16, {SMALL_VIT}}}", ("resnet18", "{}"), 10, 0, CLASSES,
    ),
}  # fmt: skip
MODELS = ("ViT seqnorm", "ViT softmax", "ResNet-18")
MARGIN = 0.02  # of AUROC, as in real_runs.py
COMMON = (
    "--model.lr=1e-3 --model.warmup_epochs=1 --trainer.accelerator=cpu --trainer.gradient_clip_val=1.0 --figures=false"
)


def options(name: str, model: str, seed: int, table: Path, data: Path) -> list[str]:
    """The command line of one run, without its folder."""
    question = QUESTIONS[name]
    if model in VIT3D:
        backbone, arguments = f"vit_{VIT3D[model]}_tiny_patch8_224", question.vit
    else:
        backbone, arguments = question.resnet
    words = [word for text in (question.options.format(data=data), COMMON) for word in _split(text)]
    words += [f"--data.table={table}", f"--seed_everything={seed}", f"--trainer.max_epochs={question.epochs}"]
    return [*words, f"--model.backbone={backbone}", f"--model.backbone_args={arguments}"]


def _split(text: str) -> list[str]:
    """Words that begin with --; what follows a blank within a value stays with it."""
    first, *others = text.split(" --")
    return [first, *(f"--{word}" for word in others)]


def run(data: Path, out: Path, questions: list[str], models: list[str]) -> None:
    """Train every run that is not there; several of these may run side by side."""
    for repeat in range(3):
        for name in questions:
            if repeat and QUESTIONS[name].folds:
                continue
            for model in models:
                folder = out / _folder(name) / f"{_folder(model)}-{repeat}"
                folder.parent.mkdir(parents=True, exist_ok=True)
                try:
                    folder.with_suffix(".lock").touch(exist_ok=False)
                except FileExistsError:
                    continue
                table = data / QUESTIONS[name].table
                if name == SIZES:
                    table = _with_sizes(table, out)
                _train(folder, options(name, model, repeat, table, data), QUESTIONS[name].folds)


def _train(folder: Path, words: list[str], folds: int) -> None:
    from medsoft.cli.main import main

    verb = ["crossval", f"--folds={folds}"] if folds else ["fit"]
    print("medsoft", shlex.join([*verb, *words]), flush=True)
    started, cpu = time.monotonic(), time.process_time()
    code = main([*verb, *words, f"--out={folder}"])
    if code != 0:
        print(f"failed with {code}: {folder}", file=sys.stderr)
        return
    facts = {"seconds": round(time.monotonic() - started), "cpu_seconds": round(time.process_time() - cpu)}
    (folder / "real_run.json").write_text(json.dumps(facts | {"threads": os.environ.get("OMP_NUM_THREADS")}))


def _with_sizes(table: Path, out: Path) -> Path:
    """The hippocampi with a column that says whether each is larger than the median."""
    frame = pd.read_csv(table)
    frame["size"] = ["large" if value > frame["volume_mm3"].median() else "small" for value in frame["volume_mm3"]]
    path = out / "hippocampus_sizes.csv"
    frame.to_csv(path, index=False)
    return path


def _folder(text: str) -> str:
    return text.replace(" ", "_")


def table(out: Path) -> None:
    """Print test metrics: mean over the seeds and their range; of a cross-validation mean and range of the folds."""
    for name, question in QUESTIONS.items():
        print(f"\n| {name} | " + " | ".join(question.metrics) + " | CPU seconds a model |")
        print("|---" * (len(question.metrics) + 2) + "|")
        for model in MODELS:
            folders = [path.parent for path in sorted((out / _folder(name)).glob(f"{_folder(model)}-*/real_run.json"))]
            if folders:
                print(f"| {model} | " + " | ".join(_cells(folders, question)) + " |")


def _cells(folders: list[Path], question: LogitTarget) -> list[str]:
    seconds = statistics.mean(json.loads((folder / "real_run.json").read_text())["cpu_seconds"] for folder in folders)
    cells = []
    for metric in question.metrics:
        values = _of_folds(folders[0], metric) if question.folds else [_of_test(folder, metric) for folder in folders]
        cells.append(f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f}), n={len(values)}")
    return [*cells, f"{seconds / (question.folds or 1):.0f}"]


def _of_test(folder: Path, metric: str) -> float:
    scores = json.loads((folder / "metrics.json").read_text())["test"]
    value: float = (scores["macro"] | scores["overall"])[metric]
    return value


def _of_folds(folder: Path, metric: str) -> list[float]:
    from medsoft.evaluation.metrics.score import headline, score
    from medsoft.evaluation.tables.read import read_either

    frame, task = read_either(folder / "predictions.csv")
    found = [headline(score(part, task))[metric] for _, part in frame.groupby("fold")]
    return [value for value in found if value is not None]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("data", type=Path)
    running.add_argument("out", type=Path)
    running.add_argument("--questions", default=",".join(QUESTIONS), help="those to train, separated by commas")
    running.add_argument("--models", default=",".join(MODELS), help="those to train, separated by commas")
    verbs.add_parser("table").add_argument("out", type=Path)
    comparing = verbs.add_parser("compare")
    comparing.add_argument("out", type=Path)
    comparing.add_argument("--reference", default="ViT softmax")
    comparing.add_argument("--seeds", default="0,1,2", help="models without all of these are left out")
    chosen = parser.parse_args()
    if chosen.verb == "run":
        run(chosen.data.resolve(), chosen.out, chosen.questions.split(","), chosen.models.split(","))
    elif chosen.verb == "table":
        table(chosen.out)
    else:
        from comparison import compare

        words_of = {
            name: ("--margin", str(MARGIN)) if question.metrics[0] == "auroc" else ("--metric", question.metrics[0])
            for name, question in QUESTIONS.items()
        }
        compare(chosen.out, words_of, MODELS, chosen.reference, tuple(map(int, chosen.seeds.split(","))))
