#!/usr/bin/env python
"""The runs behind docs/experiments/results.md: what each way of training reaches on each set, seed by seed.

    python scripts/results.py run ../shared/data runs/results                    trains what is not there yet
    python scripts/results.py run ../shared/data runs/results --ways probe,auto --sets "ISIC malignant"
    python scripts/results.py record runs/results docs/experiments/runs.csv      keeps a row of each run
    python scripts/results.py table docs/experiments/runs.csv                    prints the tables
    python scripts/results.py page docs/experiments/runs.csv docs/experiments/results.md    writes them into the page
    python scripts/results.py compare runs/results probe                         intervals of the differences to it

Every command is printed before it runs. The seed draws the split, the same for all ways, so that ranges hold both. The
test part chooses nothing. Several of these may run side by side: each run is taken by one of them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

SEEDS = (0, 1, 2)
MARGIN = 0.02  # of AUROC, named before anything was compared
ENCODER = "efficientnet-lite0"
TEST = "--data.test_fraction=0.25"


@dataclass(frozen=True)
class ImageSet:
    """A set and what is asked of it.

    Attributes:
        config: the shipped configuration of its modality.
        table: below the data folder; {out} for one that is derived there.
        rows: options that say what the table's columns mean.
        sizes: sides in pixels of pooled features, of tokens, and of fine-tuning.
        vit: patch size, image size and epochs of the transformer from scratch.
        shown: settings of the modality's recipe, for all ways alike.
        transforms: the recipe, where it is not the configuration's.
        metric: that ways are compared by.
        test: the option that sets a test part aside; "" where the table does.
        volumes: whether the rows are volumes.
    """

    config: str
    table: str
    rows: str
    sizes: tuple[int, int, int]
    vit: tuple[int, int, int]
    shown: tuple[tuple[str, object], ...] = ()
    transforms: str = ""
    metric: str = "auroc"
    test: str = TEST
    volumes: bool = False


IDRID = "--data.path=file --data.label=dr_grade_0_4"
HIPPOCAMPUS = "--data.path=file --data.root={data}/volume/msd_hippocampus/images"
SETS = {
    "IDRiD referable": ImageSet(
        "fundus", "fundus/idrid_512/labels.csv", f"{IDRID} --data.task=binary --data.positive=2,3,4",
        (224, 512, 224), (8, 96, 15),
    ),
    "IDRiD 5 grades": ImageSet(
        "fundus", "fundus/idrid_512/labels.csv", f"{IDRID} --data.task=ordinal", (224, 512, 224), (8, 96, 15),
        metric="kappa",
    ),
    "ISIC malignant": ImageSet(
        "dermoscopy", "derm/isic_uda1_512/labels.csv",
        "--data.path=file --data.label=benign_malignant --data.positive=malignant", (224, 512, 224), (8, 96, 15),
    ),
    "Kermany pneumonia": ImageSet(
        "chest_xray", "cxr/kermany_224/labels.csv", "--data.path=file --data.label=label --data.positive=pneumonia",
        (224, 320, 224), (8, 64, 10),
    ),
    "PneumoniaMNIST": ImageSet(
        "chest_xray", "cxr/pneumoniamnist/pneumoniamnist_train_val.npz",
        "--data.task=binary --data.rename_splits={{val: test}} --data.on_error=skip",  # 25 images stand there twice
        (96, 128, 64), (4, 28, 5), test="",
    ),
    "IDC tiles": ImageSet(
        "histo_tiles", "histo_tiles/idc_patches/labels.csv",
        "--data.path=file --data.label=idc --data.task=binary --data.patient=patient", (64, 96, 64), (5, 50, 4),
    ),
    "CRC tissue": ImageSet(
        "histo_tiles", "histo_tiles/crc_val_he_7k/labels.csv", "--data.path=file --data.label=label",
        (224, 320, 128), (16, 224, 15),
    ),
    "MedNIST studies": ImageSet(
        "fundus", "radiology2d/medical_mnist/labels.csv",
        "--data.path=file --data.label=label --data.on_error=skip",  # one picture is of one value
        (64, 128, 64), (8, 64, 5),
        transforms="plain",
    ),
    "AdrenalMNIST3D": ImageSet(
        "volume", "volume/adrenalmnist3d_split/adrenalmnist3d_trainval.npz",
        "--data.task=binary --data.rename_splits={{val: test}}", (64, 64, 28), (4, 28, 10), test="", volumes=True,
        shown=(("intensity", "percentiles"), ("percentiles", [0, 100]), ("sides", "flip")),
    ),
    "Hippocampus small or large": ImageSet(
        "volume", "{out}/hippocampus.csv",
        f"{HIPPOCAMPUS} --data.label=size --data.positive=large",
        (64, 128, 48), (8, 48, 20), volumes=True,
    ),
    "Hippocampus volume": ImageSet(
        "volume", "{out}/hippocampus.csv",
        f"{HIPPOCAMPUS} --data.label=volume_mm3 --data.task=regression",
        (64, 128, 48), (8, 48, 20), metric="r2", volumes=True,
    ),
}  # fmt: skip

VIT = "{{patch_size: {patch}, depth: 4, embed_dim: 128, num_heads: 4}}"
ATTENTION = {"tokens seqnorm": "seqnorm", "tokens softmax": "softmax", "tokens soft": "soft"}
WAYS = ("probe", "probe large", *ATTENTION, "tokens gated", "scratch", "finetuned", "hybrid", "distilled", "auto")


def split_words(text: str) -> list[str]:
    """Words that begin with --; what follows a blank within a value stays with it."""
    first, *others = text.split(" --")
    return [first, *(f"--{word}" for word in others)] if text else []


@dataclass(frozen=True)
class Runs:
    """Where data and runs are.

    Attributes:
        data: folder of the sets.
        out: folder of the runs.
        budget: of ``auto``.
    """

    data: Path
    out: Path
    budget: str = "10m"

    def table(self, name: str) -> Path:
        """The table of a set."""
        given = SETS[name].table
        return Path(given.format(out=self.out)) if "{out}" in given else self.data / given

    def folder(self, name: str, way: str, seed: int) -> Path:
        """Of one run."""
        return self.out / name.replace(" ", "_") / f"{way.replace(' ', '_')}-{seed}"

    def features(self, name: str, side: int) -> Path:
        """Of the features at one size."""
        return self.out / name.replace(" ", "_") / f"features-{side}"

    def rows(self, name: str) -> list[str]:
        """Options that say what the table means."""
        return split_words(SETS[name].rows.format(data=self.data))

    def encode(self, name: str, side: int) -> list[str]:
        """The command that makes the features."""
        asked, plain = SETS[name], {"--data.path": "--path", "--data.root": "--root"}
        words = [f"--transforms={asked.transforms or TRANSFORMS[asked.config]}", f"--size={side}"]
        words += [f"--transforms_args={json.dumps(dict(asked.shown))}"] if asked.shown else []
        for word in self.rows(name):
            option, _, value = word.partition("=")
            words += [f"{plain[option]}={value}"] if option in plain else []
        return ["encode", str(self.table(name)), f"--encoder={ENCODER}", f"--out={self.features(name, side)}", *words]

    def command(self, name: str, way: str, seed: int) -> list[str]:
        """The command of one run."""
        asked = SETS[name]
        words = [*self.rows(name), f"--seed_everything={seed}", f"--out={self.folder(name, way, seed)}"]
        words += [asked.test] if asked.test else []
        words += ["--trainer.accelerator=cpu", "--figures=false"]
        table = f"--data.table={self.table(name)}"
        shown = [f"--transforms.{key}={_value(value)}" for key, value in asked.shown]
        if way == "auto":
            return ["auto", str(self.table(name)), *self._config(asked), *words, *shown, f"--budget={self.budget}"]
        if way.startswith(("probe", "tokens")):
            side = asked.sizes[0] if way == "probe" else asked.sizes[1]
            words += [f"--config={way.split()[0]}", f"--data.features={self.features(name, side)}"]
            if way in ATTENTION:
                words += [f"--model.aggregator_args.attention={ATTENTION[way]}"]
            elif way == "tokens gated":
                words += ["--model.aggregator=abmil", "--model.aggregator_args={standardise: true}"]
            return ["fit", table, *words]
        words = [*self._config(asked), *words, *shown]
        if way == "scratch":
            patch, side, epochs = asked.vit
            words += ["--model.encoder=none", f"--model.backbone_args={VIT.format(patch=patch)}", "--model.lr=1e-3"]
            words += ["--model.backbone=vit_seqnorm_tiny_patch16_224"]
            return ["fit", table, *words, f"--transforms.size={side}", f"--trainer.max_epochs={epochs}"]
        words += ["--config=finetune", f"--transforms.size={asked.sizes[2]}"]
        if way == "hybrid":
            words += ["--model.backbone=hybrid", f"--model.encoder={ENCODER}"]
        elif way == "distilled":
            words += [f"--model.encoder={self.student(name, seed)}", f"--transforms.size={asked.vit[1]}"]
        return ["fit", table, *words]

    def student(self, name: str, seed: int) -> Path:
        """Folder of the transformer that learns from the encoder without labels."""
        return self.out / name.replace(" ", "_") / f"student-{seed}"

    def distil(self, name: str, seed: int) -> list[str]:
        """The command that makes the student, from the images that the probe of the same seed did not test on."""
        asked, plain = SETS[name], {"--data.path": "--path", "--data.root": "--root", "--data.patient": "--patient"}
        patch, side, epochs = asked.vit
        words = [f"--teacher={ENCODER}", f"--transforms={asked.transforms or TRANSFORMS[asked.config]}"]
        words += [f"--size={side}", "--backbone=vit_seqnorm_tiny_patch16_224", f"--max_epochs={2 * epochs}"]
        words += [f"--backbone_args={VIT.format(patch=patch)}"]
        words += [f"--splits_from={self.folder(name, 'probe', seed) / 'split.csv'}", f"--seed={seed}"]
        for word in self.rows(name):
            option, _, value = word.partition("=")
            words += [f"{plain[option]}={value}"] if option in plain else []
        return ["pretrain", str(self.table(name)), *words, f"--out={self.student(name, seed)}"]

    def _config(self, asked: ImageSet) -> list[str]:
        return [f"--config={asked.config}"] + ([f"--use.transforms={asked.transforms}"] if asked.transforms else [])


TRANSFORMS = {"fundus": "fundus", "dermoscopy": "dermoscopy", "chest_xray": "chest_xray", "histo_tiles": "histology"}
TRANSFORMS |= {"volume": "volume"}


def _value(value: object) -> str:
    return json.dumps(value) if isinstance(value, list) else str(value)


def derive(runs: Runs) -> None:
    """The table of hippocampi with small and large at the median, which the set leaves to its user."""
    table = runs.out / "hippocampus.csv"
    if not table.is_file():
        frame = pd.read_csv(runs.data / "volume/msd_hippocampus/labels.csv")
        frame["size"] = ["large" if v > frame["volume_mm3"].median() else "small" for v in frame["volume_mm3"]]
        table.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(table, index=False)


def taken(folder: Path) -> bool:
    """Whether this process is the one to make a folder; the lock says so to others."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.with_suffix(".lock").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def call(words: list[str]) -> int:
    """One command of medsoft, printed first."""
    from medsoft.cli.main import main

    print("medsoft", shlex.join(words), flush=True)
    return main(words)


def run(runs: Runs, sets: list[str], ways: list[str], seeds: tuple[int, ...]) -> None:
    """Every run that is not there; those that wait for features that another process makes come at the next call."""
    derive(runs)
    for way in ways:
        for name in sets:
            for seed in seeds:
                side = SETS[name].sizes[0] if way == "probe" else SETS[name].sizes[1]
                features = runs.features(name, side)
                if way.startswith(("probe", "tokens")) and not (features / "made.json").is_file():
                    if not taken(features):
                        continue
                    started = time.monotonic()
                    if call(runs.encode(name, side)) not in (0, 3):
                        print(f"failed: {features}", file=sys.stderr)
                        features.with_suffix(".lock").unlink()
                        continue
                    facts = {"seconds": round(time.monotonic() - started, 1)}
                    (features / "made.json").write_text(json.dumps(facts))
                folder = runs.folder(name, way, seed)
                if (way == "distilled" and SETS[name].volumes) or not taken(folder):
                    continue  # pretrain knows images only
                started = time.monotonic()
                if way == "distilled" and call(runs.distil(name, seed)) not in (0, 3):
                    print(f"failed: {runs.student(name, seed)}", file=sys.stderr)
                    folder.with_suffix(".lock").unlink()
                    continue
                code = call(runs.command(name, way, seed))
                if code not in (0, 3):
                    print(f"failed with {code}: {folder}", file=sys.stderr)
                    folder.with_suffix(".lock").unlink()
                    continue
                facts = {"seconds": round(time.monotonic() - started, 1), "threads": os.environ.get("OMP_NUM_THREADS")}
                (folder / "real_run.json").write_text(json.dumps(facts))


def record(runs: Runs, path: Path) -> None:
    """Write a row of each finished run into the kept table."""
    from records import keep, row_of

    rows = []
    for name, asked in SETS.items():
        for way in WAYS:
            for seed in SEEDS:
                folder = runs.folder(name, way, seed)
                if (folder / "real_run.json").is_file():
                    rows.append(row_of(folder, asked.metric, name, way, seed))
    keep(path, rows)


def page(csv: Path, text: str) -> str:
    """The page of results with the tables of the kept runs."""
    from records import page_with, print_tables

    tables = io.StringIO()
    with redirect_stdout(tables):
        print_tables(csv, list(SETS), WAYS, len(SEEDS))
    return page_with(text, tables.getvalue())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("data", type=Path)
    running.add_argument("out", type=Path)
    running.add_argument("--sets", default=",".join(SETS), help="those to train on, separated by commas")
    running.add_argument("--ways", default=",".join(WAYS), help="those to train, separated by commas")
    running.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    running.add_argument("--budget", default="10m", help="of auto")
    recording = verbs.add_parser("record")
    recording.add_argument("out", type=Path)
    recording.add_argument("csv", type=Path)
    verbs.add_parser("table").add_argument("csv", type=Path)
    writing = verbs.add_parser("page")
    writing.add_argument("csv", type=Path)
    writing.add_argument("page", type=Path)
    comparing = verbs.add_parser("compare")
    comparing.add_argument("out", type=Path)
    comparing.add_argument("reference")
    chosen = parser.parse_args()
    if chosen.verb == "run":
        places = Runs(chosen.data.resolve(), chosen.out.resolve(), chosen.budget)
        run(places, chosen.sets.split(","), chosen.ways.split(","), tuple(map(int, chosen.seeds.split(","))))
    elif chosen.verb == "table":
        from records import print_tables

        print_tables(chosen.csv, list(SETS), WAYS, len(SEEDS))
    elif chosen.verb == "page":
        chosen.page.write_text(page(chosen.csv, chosen.page.read_text()))
    elif chosen.verb == "record":
        record(Runs(Path(), chosen.out), chosen.csv)
    else:
        from comparison import compare

        options_of = {name: ("--margin", str(MARGIN)) for name in SETS}
        compare(chosen.out, options_of, WAYS, chosen.reference, SEEDS)
