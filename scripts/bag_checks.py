#!/usr/bin/env python
"""Trains every slide aggregator on two sets of real bags.

It prints the tables of docs/experiments/from_scratch.md.

    python scripts/bag_checks.py musk1 ../shared/data runs/bags       MUSK1, 10 folds, 5 repeats: accuracy
    python scripts/bag_checks.py encoders ../shared/data runs/bags    a tile encoder a fold, for the next line
    python scripts/bag_checks.py idc ../shared/data runs/bags         IDC bags, 5 folds by patient: AUROC
    python scripts/bag_checks.py table runs/bags                      prints the tables
    python scripts/bag_checks.py intervals runs/bags                  prints them with intervals over bags or patients

``--names mean,seqnorm,torchmil:ABMIL`` trains some of them, and ``--repeats 1`` fewer. ``--features lite0`` takes the
IDC bags of one encoder alone, for which no encoders have to be trained first. Models of torchmil need the extra mil;
those with a graph are trained where tiles have places.

The settings below were fixed before the first run and are the same for every aggregator; nothing is chosen on a test
fold, and the last epoch counts. Features are standardised by the training folds. Aggregators, losses, optimiser and
schedule are medsoft's, in a plain loop: some thousand short trainings of small bags would spend their time on loaders.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from medsoft.classifiers.optimizer import WarmupCosine, aggregator_groups
from medsoft.data.tables.split import split_folds
from medsoft.models.aggregators import build_aggregator
from medsoft.task import Task
from medsoft.task_types import ObjectiveOptions

DIM, HEADS, BATCH, LR, WEIGHT_DECAY, DROP = 64, 4, 16, 2e-3, 0.05, 0.25
MUSK_EPOCHS, IDC_EPOCHS = 40, 20
AGGREGATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean": ("mean", {}),
    "max": ("max", {}),
    "abmil": ("abmil", {"attention_dim": DIM}),
    **{
        name: ("transformer", {"attention": name, "num_heads": HEADS})
        for name in ("seqnorm", "softmax", "sima", "relu_linear", "soft", "soft_norm")
    },
    "torchmil:ABMIL": ("torchmil:ABMIL", {"att_dim": DIM, "gated": True}),
    "torchmil:CLAM_SB": ("torchmil:CLAM_SB", {"att_dim": DIM, "gated": True}),
    "torchmil:DSMIL": ("torchmil:DSMIL", {"att_dim": DIM}),
    "torchmil:DTFDMIL": ("torchmil:DTFDMIL", {"att_dim": DIM}),
    "torchmil:TransMIL": ("torchmil:TransMIL", {"att_dim": DIM, "n_heads": HEADS}),
    "torchmil:PatchGCN": ("torchmil:PatchGCN", {"att_dim": DIM}),
}
GRAPHS = ("torchmil:PatchGCN",)
DRAWS = 1000
TASK = Task.of("binary", ("negative", "positive"))
MUSK_FOLDS, MUSK_REPEATS = 10, 5
IDC_FOLDS, IDC_REPEATS = 5, 2
TILE_PX_FOR_LITE0 = 112
# 50 px tiles as they are; the widths of docs/experiments/from_scratch.md, and a coarser patch for the time of 5 folds.
ENCODER = (
    "--config histo_tiles --data.path file --data.label idc --data.task binary --data.patient patient "
    "--data.batch_size 32 --transforms.size 50 --trainer.max_epochs 4 --trainer.accelerator cpu --figures false "
    "--model.warmup_epochs 1"
)
ENCODER_ARGS = "{patch_size: 10, depth: 4, embed_dim: 128, num_heads: 4, drop_path_rate: 0.1}"

Bags = list[np.ndarray]


def train_and_answer(
    name: str,
    train: Bags,
    targets: np.ndarray,
    test: Bags,
    epochs: int,
    seed: int,
    places: tuple[Bags, Bags] | None = None,
) -> np.ndarray:
    """Probability of the positive class for each test bag; ``places`` of the tiles, of train and test."""
    flat = np.concatenate(train)
    mean, std = flat.mean(axis=0), flat.std(axis=0) + 1e-6
    train, test = ([((bag - mean) / std).astype(np.float32) for bag in bags] for bags in (train, test))
    torch.manual_seed(seed)
    kind, options = AGGREGATORS[name]
    model = build_aggregator(kind, flat.shape[1], 2, dim=DIM, drop=DROP, **options)
    objective = TASK.objective(ObjectiveOptions())
    optimizer = torch.optim.AdamW(aggregator_groups(model, LR, WEIGHT_DECAY), lr=LR)
    steps = -(-len(train) // BATCH)
    schedule = WarmupCosine(optimizer, 2 * steps, epochs * steps, 0.01)
    order = np.random.default_rng(seed)
    for _ in range(epochs):
        for rows in np.array_split(order.permutation(len(train)), steps):
            target = torch.from_numpy(targets[rows])
            features, mask = _padded([train[i] for i in rows])
            coords = None if places is None else _padded([places[0][i] for i in rows])[0]
            loss = objective.loss(model(features, mask, coords), target)
            loss = model.with_own_losses(loss, objective.loss, target)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        answers = []
        for index, bag in enumerate(test):
            coords = None if places is None else torch.from_numpy(places[1][index])[None]
            logits = model(torch.from_numpy(bag)[None], None, coords)
            answers.append(objective.probabilities(logits)[0, 1])
    return torch.stack(answers).numpy()


def _padded(bags: Bags) -> tuple[Tensor, Tensor]:
    """Features (B, N, F) and mask (B, N)."""
    sizes = torch.tensor([len(bag) for bag in bags])
    features = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(bag) for bag in bags], batch_first=True)
    return features, torch.arange(features.shape[1]) < sizes[:, None]


def musk1(data: Path, out: Path, names: list[str], repeats: int) -> None:
    """Accuracy over all bags of a repeat, each answered by the fold that has not seen it."""
    table = pd.read_csv(data / "mil_features" / "musk1.csv", header=None)
    groups = [group.to_numpy(np.float32) for _, group in table.groupby(1)]
    bags, targets = [group[:, 2:] for group in groups], np.array([int(group[0, 0] > 0) for group in groups])
    keys = [str(i) for i in range(len(bags))]

    def run(name: str, repeat: int) -> pd.DataFrame:
        folds = split_folds(targets, keys, MUSK_FOLDS, seed=repeat)
        return _cross_validated(name, bags, targets, folds, lambda fold: bags, MUSK_EPOCHS, seed=repeat)

    _each(run, [name for name in names if name not in GRAPHS], min(repeats, MUSK_REPEATS), out / "musk1")


def idc(data: Path, out: Path, names: list[str], repeats: int, kinds: list[str]) -> None:
    """AUROC a fold, on two kinds of features; each repeat draws anew which patients give the negative bags."""
    table = _idc_table(data)
    folds_of = _folds_of_patients(table)
    places = table[["x", "y"]].to_numpy(np.float32)
    for kind in kinds:
        if kind == "lite0":
            features = [_cached(out / "lite0.npy", lambda: _lite0_features(data, table))] * IDC_FOLDS
        else:
            features = [
                _cached(out / f"encoder{k}.npy", lambda k=k: _own_features(data, table, out, k))
                for k in range(IDC_FOLDS)
            ]

        def run(name: str, repeat: int, features: list[np.ndarray] = features) -> pd.DataFrame:
            rows, targets, patients = _idc_bags(table, folds_of, repeat)
            folds = np.array([folds_of[patient] for patient in patients])
            encoded = {fold: [features[fold][bag] for bag in rows] for fold in range(IDC_FOLDS)}
            where = [places[bag] for bag in rows] if name in GRAPHS else None
            found = _cross_validated(name, rows, targets, folds, encoded.__getitem__, IDC_EPOCHS, repeat, where)
            return found.assign(patient=[patients[bag] for bag in found["bag"]])

        _each(run, names, min(repeats, IDC_REPEATS), out / f"idc_{kind}")


def _cross_validated(
    name: str,
    bags: Bags,
    targets: np.ndarray,
    folds: np.ndarray,
    bags_for: Callable[[int], Bags],
    epochs: int,
    seed: int,
    places: Bags | None = None,
) -> pd.DataFrame:
    parts = []
    for fold in sorted(set(folds)):
        features, train = bags_for(fold), np.flatnonzero(folds != fold)
        test = np.flatnonzero(folds == fold)
        seen, unseen = ([features[i] for i in rows] for rows in (train, test))
        where = None if places is None else ([places[i] for i in train], [places[i] for i in test])
        p = train_and_answer(name, seen, targets[train], unseen, epochs, 100 * seed + fold, where)
        tiles = [len(bags[i]) for i in test]
        parts.append(pd.DataFrame({"bag": test, "fold": fold, "target": targets[test], "p": p, "tiles": tiles}))
    return pd.concat(parts)


def _each(run: Callable[[str, int], pd.DataFrame], names: list[str], repeats: int, out: Path) -> None:
    """One table an aggregator and repeat; what is there already is kept, so that it can be stopped at any time."""
    out.mkdir(parents=True, exist_ok=True)
    for repeat in range(repeats):
        for name in names:
            file = out / f"{name.replace(':', '_')}-{repeat}.csv"
            if not file.is_file():
                started = time.process_time()
                run(name, repeat).to_csv(file, index=False)
                print(f"{out.name} {name} repeat {repeat}: {time.process_time() - started:.0f} s", flush=True)
                if os.environ.get("ONE_PIECE"):  # for machines that are shared by turns
                    raise SystemExit(10)


def _idc_table(data: Path) -> pd.DataFrame:
    return pd.read_csv(data / "histo_tiles" / "idc_patches" / "labels.csv", dtype={"patient": str})


def _folds_of_patients(table: pd.DataFrame) -> dict[str, int]:
    patients = sorted(set(table["patient"]))
    folds = split_folds(np.zeros(len(patients), np.int64), patients, IDC_FOLDS, seed=0)
    return dict(zip(patients, map(int, folds), strict=True))


def _idc_bags(
    table: pd.DataFrame, folds_of: dict[str, int], repeat: int
) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Rows of the table in each bag, the bags' targets and patients.

    Every patient has cancer. In each fold half of the patients, drawn at random, give a negative bag, their class-0
    patches; the others give a positive bag, all of their patches. No patient gives two.
    """
    rng = np.random.default_rng(repeat)
    rows, targets, patients = [], [], []
    for fold in range(IDC_FOLDS):
        members = [patient for patient, its in folds_of.items() if its == fold]
        for place, index in enumerate(rng.permutation(len(members))):
            own = np.flatnonzero(table["patient"] == members[index])
            cancer = table["idc"].to_numpy()[own] == 1
            positive = place % 2 == 1
            if (positive and not cancer.any()) or cancer.all():  # nothing to find, or nothing else
                positive = bool(cancer.any())
            rows.append(own if positive else own[~cancer])
            targets.append(int(positive))
            patients.append(members[index])
    return rows, np.array(targets), patients


def _lite0_features(data: Path, table: pd.DataFrame) -> np.ndarray:
    import timm

    from medsoft.data.transforms.histology import Histology
    from medsoft.models.weights import EFFICIENTNET_LITE0_WHEEL, load_pretrained

    model = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    load_pretrained(model, EFFICIENTNET_LITE0_WHEEL)
    return _encode(model, Histology(size=TILE_PX_FOR_LITE0), data, table)


def _own_features(data: Path, table: pd.DataFrame, out: Path, fold: int) -> np.ndarray:
    """Features of the encoder that has seen no patient of this fold, for all patients."""
    import timm
    import yaml

    import medsoft.models  # noqa: F401  registers the backbones with timm
    from medsoft.data.transforms.histology import Histology
    from medsoft.models.weights import load_pretrained

    run = out / f"encoder{fold}"
    if not (run / "predictions.csv").is_file():
        raise SystemExit(f"{run}: train the encoders first")
    config = yaml.safe_load((run / "config.yaml").read_text())["model"]
    model = timm.create_model(config["backbone"], num_classes=0, img_size=50, **config["backbone_args"]).eval()
    load_pretrained(model, str(run / "checkpoints" / "best.ckpt"))
    return _encode(model, Histology(size=50), data, table)


@torch.no_grad()
def _encode(model: torch.nn.Module, transforms: Any, data: Path, table: pd.DataFrame) -> np.ndarray:
    from medsoft.data.images.read import read_image

    folder, features = data / "histo_tiles" / "idc_patches", []
    for start in range(0, len(table), 64):
        files = table["file"].iloc[start : start + 64]
        tiles = [transforms.finish(transforms.prepare(read_image(folder / file))) for file in files]
        features.append(model(torch.from_numpy(np.stack(tiles))).numpy())
    return np.concatenate(features)


def _cached(file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    if not file.is_file():
        started = time.process_time()
        features = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, features)
        print(f"{file.name}: {features.shape}, {time.process_time() - started:.0f} s", flush=True)
    loaded: np.ndarray = np.load(file)
    return loaded


def encoders(data: Path, out: Path) -> None:
    """Train a tile classifier for each fold on the patients of the other folds, a part of them for validation."""
    import shlex

    from medsoft.cli.main import main

    table = _idc_table(data)
    folds = table["patient"].map(_folds_of_patients(table))
    for fold in range(IDC_FOLDS):
        run = out / f"encoder{fold}"
        if (run / "predictions.csv").is_file():
            continue
        if (run / "checkpoints" / "last.ckpt").is_file():
            if main(["fit", "--resume", str(run)]) != 0:
                raise SystemExit(f"{run}: failed")
            continue
        out.mkdir(parents=True, exist_ok=True)
        seen = table[folds != fold]
        seen.to_csv(out / f"encoder{fold}.csv", index=False)
        words = [*ENCODER.split(), "--model.backbone_args", ENCODER_ARGS, "--data.test_fraction", "0"]
        words += ["--data.table", str(out / f"encoder{fold}.csv")]
        words += ["--data.root", str(data / "histo_tiles" / "idc_patches"), "--out", str(run)]
        print("medsoft fit", shlex.join(words), flush=True)
        if main(["fit", *words]) != 0:
            raise SystemExit(f"{run}: failed")


def table(out: Path) -> None:
    """Print what is there: mean ± standard deviation, and the difference of each aggregator to seqnorm."""
    from sklearn.metrics import roc_auc_score

    def accuracies(frame: pd.DataFrame) -> list[float]:
        return [float(((frame["p"] > 0.5) == frame["target"]).mean())]

    def aurocs(frame: pd.DataFrame, column: str = "p") -> list[float]:
        return [float(roc_auc_score(part["target"], part[column])) for _, part in frame.groupby("fold")]

    for folder, metric, score in (
        ("musk1", "accuracy, mean ± s.d. over repeats", accuracies),
        ("idc_lite0", "AUROC, mean ± s.d. over folds and repeats", aurocs),
        ("idc_histo_tiles", "AUROC, mean ± s.d. over folds and repeats", aurocs),
    ):
        print(f"\n{folder}\n\n| aggregator | {metric} | minus seqnorm, mean ± s.d. | n |\n|---|---|---|---|")
        scores: dict[str, np.ndarray] = {}
        for name in AGGREGATORS:
            files = sorted((out / folder).glob(f"{name.replace(':', '_')}-*.csv"))
            scores[name] = np.array([value for file in files for value in score(pd.read_csv(file))])
        for name, values in scores.items():
            if len(values):
                reference = scores["seqnorm"]
                paired = _spread(values - reference, signed=True) if len(values) == len(reference) else "–"
                print(f"| {name} | {_spread(values)} | {paired} | {len(values)} |")
        if folder.startswith("idc") and len(scores["seqnorm"]):
            frames = [pd.read_csv(file) for file in sorted((out / folder).glob("seqnorm-*.csv"))]
            by_size = np.array([value for frame in frames for value in aurocs(frame, "tiles")])
            print(f"| the number of tiles alone | {_spread(by_size)} | – | {len(by_size)} |")
    for file in sorted(out.glob("encoder?/metrics.json")):
        of_tiles = json.loads(file.read_text())["val"]["overall"]["auroc"]
        print(f"{file.parent.name}: AUROC of tiles on its validation patients {of_tiles:.3f}")


def intervals(out: Path) -> None:
    """Print what is there with 95 % intervals, and differences to seqnorm on the same draws.

    A draw takes bags, or patients of the IDC bags, at random with replacement; each brings its answers of all repeats,
    and all aggregators see the same draws. So the intervals are those of these bags, and not of other trainings.
    """
    for folder, metric in (("musk1", "accuracy"), ("idc_lite0", "AUROC"), ("idc_histo_tiles", "AUROC")):
        found: dict[str, tuple[float, np.ndarray, int]] = {}
        for name in AGGREGATORS:
            files = sorted((out / folder).glob(f"{name.replace(':', '_')}-*.csv"))
            if files:
                found[name] = (*_drawn([pd.read_csv(file) for file in files], metric), len(files))
        if "seqnorm" not in found:
            continue
        print(f"\n{folder}\n\n| aggregator | {metric} (95 % interval) | minus seqnorm (95 % interval) | repeats |")
        print("|---|---|---|---|")
        for name, (value, drawn_K, repeats) in found.items():
            reference, reference_K, same = found["seqnorm"]
            paired = _with_interval(value - reference, drawn_K - reference_K, "+") if same == repeats else "–"
            print(f"| {name} | {_with_interval(value, drawn_K)} | {paired if name != 'seqnorm' else ''} | {repeats} |")


def _drawn(frames: list[pd.DataFrame], metric: str) -> tuple[float, np.ndarray]:
    """The metric, the mean over repeats (and folds), and its values over ``DRAWS`` draws of units."""
    unit = "patient" if "patient" in frames[0] else "bag"
    units = sorted({value for frame in frames for value in frame[unit]})
    rng = np.random.default_rng(0)
    counts_KU = np.stack(
        [np.bincount(rng.integers(len(units), size=len(units)), minlength=len(units)) for _ in range(DRAWS)]
    )
    counts_KU = np.concatenate([np.ones((1, len(units)), int), counts_KU])  # the first is the sample itself
    values = []
    for frame in frames:
        weights_KN = counts_KU[:, [units.index(value) for value in frame[unit]]]
        if metric == "accuracy":
            right_N = ((frame["p"] > 0.5) == frame["target"]).to_numpy()
            values.append((weights_KN * right_N).sum(1) / weights_KN.sum(1))
            continue
        for rows in frame.reset_index().groupby("fold").indices.values():
            target, p = frame["target"].to_numpy()[rows], frame["p"].to_numpy()[rows]
            yes, no = weights_KN[:, rows[target == 1]], weights_KN[:, rows[target == 0]]
            above = p[target == 1][:, None] - p[target == 0]
            won = (above > 0) + 0.5 * (above == 0)
            values.append(((yes @ won) * no).sum(1) / (yes.sum(1) * no.sum(1)))
    mean_K = np.stack(values).mean(0)
    return float(mean_K[0]), mean_K[1:]


def _with_interval(value: float, drawn_K: np.ndarray, sign: str = "") -> str:
    low, high = np.quantile(drawn_K, [0.025, 0.975])
    return f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def _spread(values: np.ndarray, signed: bool = False) -> str:
    return f"{values.mean():{'+' if signed else ''}.3f} ± {values.std(ddof=1) if len(values) > 1 else 0:.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("musk1", "encoders", "idc"):
        running = verbs.add_parser(verb)
        running.add_argument("data", type=Path)
        running.add_argument("out", type=Path)
        if verb != "encoders":
            running.add_argument("--names", default=",".join(AGGREGATORS), help="those to train, separated by commas")
            running.add_argument("--repeats", type=int, default=MUSK_REPEATS)
        if verb == "idc":
            running.add_argument("--features", default="lite0,histo_tiles", help="of which encoders")
    verbs.add_parser("table").add_argument("out", type=Path)
    verbs.add_parser("intervals").add_argument("out", type=Path)
    chosen = parser.parse_args()
    if chosen.verb == "table":
        table(chosen.out)
    elif chosen.verb == "intervals":
        intervals(chosen.out)
    elif chosen.verb == "encoders":
        encoders(chosen.data, chosen.out)
    elif chosen.verb == "musk1":
        musk1(chosen.data, chosen.out, chosen.names.split(","), chosen.repeats)
    else:
        idc(chosen.data, chosen.out, chosen.names.split(","), chosen.repeats, chosen.features.split(","))
