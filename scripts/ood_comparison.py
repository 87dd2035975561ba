#!/usr/bin/env python
"""Compares out-of-distribution detectors on pairs of image sets: the tables of docs/experiments/out_of_distribution.md.

    python scripts/ood_comparison.py DATA WORK

DATA is the folder of public sets (IDRiD, CHASE_DB1, ISIC UDA-1, Kermany, PneumoniaMNIST, IDC patches, CRC-VAL-HE,
MedNIST). Below WORK, small models are trained (or taken, where they are there), and ``results.json`` and ``tables.md``
are written.

What follows was written down before anything was measured:

* The detector is chosen on DEVELOPMENT pairs with models of seed 0, by the mean AUROC over these pairs. Every figure
  of REPORT pairs comes from models of the seeds 1 and 2, other splits and other trainings.
* The limit is the 0.99 quantile of the scores of the validation part. "own" is the share of the model's own test part
  beyond it.
* After development alone was looked at (where pixel statistics told pictures apart but a single odd validation picture
  set their limit), the candidates "cross-fitted" were added: pixel statistics are no model's, so that their limit can
  come from the training part too, each tenth of it and of the validation part scored without itself. The limit of such
  a combination is 1, by each part's own quantile.
* The detector that was chosen had limits at the plain 0.99 quantile. Those of medsoft are conformal since: with fewer
  than 99 pictures there is none. "conformal" was added for this, chosen by no figure, and the tables of pairs show it.
* Corrupted copies are of the model's own test part, whose labels are known: for these the error among all and among
  those that are answered is reported, and the area under risk and coverage of own and corrupted pictures together.
* "bigger" (the same pictures at twice the size) is a control: the model is shown the same, so that nobody should
  abstain.
* Intervals are 95 % by the percentile bootstrap over pictures (1,000 draws), shares have Clopper and Pearson's.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ood_detectors import QUANTILE, Seen, detectors
from PIL import Image, ImageFilter
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from medsoft.classifiers.pixel_statistics import pixel_statistics
from medsoft.data.images.read import read_image
from medsoft.parsing.lightning_cli import CommandLine
from medsoft.runs.checkpoints import find_checkpoint, load_weights
from medsoft.training.silence_warnings import silence_warnings

DRAWS = 1000
SOURCES = {
    "fundus": ("fundus/idrid_512/labels.csv", "dr_grade_0_4", ["--config=fundus", "--data.positive=2,3,4"]),
    "dermoscopy": (
        "derm/isic_uda1_512/labels.csv",
        "benign_malignant",
        ["--config=dermoscopy", "--data.positive=malignant"],
    ),
    "chest": ("cxr/kermany_224/labels.csv", "label", ["--config=chest_xray", "--data.positive=pneumonia"]),
    "histology": ("histo_tiles/idc_patches/labels.csv", "idc", ["--config=histo_tiles", "--data.positive=1"]),
}
TRAINING = [
    "--transforms.size=64",
    "--model.backbone_args={patch_size: 8, depth: 3, embed_dim: 96, num_heads: 3}",
    "--data.task=binary",
    "--data.val_fraction=0.2",
    "--data.test_fraction=0.25",
    "--trainer.max_epochs=20",
    "--trainer.accelerator=cpu",
    "--figures=false",
    "--report=false",
    "--ood_quantile=null",
]
OTHERS = {
    "fundus": "fundus/idrid_512/images",
    "CHASE (another camera)": "seg_fundus_chase_db1/images",
    "dermoscopy": "derm/isic_uda1_512/images",
    "chest": "cxr/kermany_224/images",
    "CRC tiles": "histo_tiles/crc_val_he_7k/images",
    "MedNIST": "radiology2d/medical_mnist/images",
    "PneumoniaMNIST": "cxr/pneumoniamnist/pneumoniamnist_train_val.npz",
}
DEVELOPMENT = {
    "fundus": ["dermoscopy", "chest", "blur", "noise", "gamma"],
    "chest": ["fundus", "dermoscopy", "blur", "noise", "gamma"],
}
REPORT = {
    "fundus": ["CHASE (another camera)", "camera", "CRC tiles", "MedNIST", "jpeg", "colour", "coarse", "bigger"],
    "chest": ["PneumoniaMNIST", "CRC tiles", "MedNIST", "jpeg", "coarse", "bigger"],
    "dermoscopy": ["fundus", "chest", "CRC tiles", "MedNIST", "blur", "noise", "gamma", "jpeg", "colour", "bigger"],
    "histology": ["CRC tiles", "fundus", "dermoscopy", "MedNIST", "blur", "noise", "gamma", "jpeg", "colour", "bigger"],
}


# ---- corrupted copies: of uint8 pictures (H, W, 3)


def _pillow(image: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    return np.asarray(change(Image.fromarray(image)))


def _scaled(image: np.ndarray, factor: float) -> np.ndarray:
    size = tuple(max(8, round(side * factor)) for side in image.shape[1::-1])
    return _pillow(image, lambda picture: picture.resize((size[0], size[1]), Image.Resampling.BICUBIC))


def _as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _clipped(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _camera(image: np.ndarray) -> np.ndarray:
    """Another camera, made up: narrower field, other colours and gamma, darker rim, sharpened, smaller, JPEG."""
    h, w = image.shape[:2]
    image = image[h // 10 : h - h // 10, w // 10 : w - w // 10]
    h, w = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    radius = np.hypot(x * w / h, y)
    mixing = np.array([[0.75, 0.15, 0.0], [0.1, 0.9, 0.1], [0.0, 0.3, 0.9]])
    values = 255 * (np.clip(image @ mixing.T, 0, 255) / 255) ** 1.3
    values *= (1 - 0.35 * np.clip(radius, 0, 1) ** 2)[..., None] * (radius < 1)[..., None]
    sharp = _pillow(_clipped(values), lambda picture: picture.filter(ImageFilter.UnsharpMask(3, 150, 0)))
    return _as_jpeg(_scaled(sharp, 0.8), 60)


def _noise(image: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(int(image.sum()) % 2**32)
    return _clipped(image + rng.normal(0, 40, image.shape))


CORRUPTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "blur": lambda i: _pillow(i, lambda p: p.filter(ImageFilter.GaussianBlur(0.02 * min(i.shape[:2])))),
    "noise": _noise,
    "gamma": lambda i: _clipped(255 * (i / 255) ** 2.0),
    "jpeg": lambda i: _as_jpeg(i, 8),
    "colour": lambda i: _clipped(i * np.array([0.75, 1.0, 1.3])),
    "coarse": lambda i: _scaled(_scaled(i, 28 / min(i.shape[:2])), min(i.shape[:2]) / 28),
    "bigger": lambda i: _scaled(i, 2),
    "camera": _camera,
}


# ---- what a model sees of pictures


def _colour(image: np.ndarray) -> np.ndarray:
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def file_statistics(image: np.ndarray) -> np.ndarray:
    """Of the picture as stored: size, sharpness in its own pixels, edges of JPEG's blocks, noise."""
    grey = image.astype(np.float64).mean(axis=2)
    dx = np.abs(np.diff(grey, axis=1)).mean(axis=0)
    edges = dx[7::8].mean() if len(dx) > 7 else dx.mean()
    block = np.log((edges + 0.1) / (dx.mean() + 0.1))
    second = np.abs(np.diff(grey, n=2, axis=1)) if len(dx) > 1 else np.zeros(1)
    fine = [np.log(dx.mean() + 0.1), np.log(second.mean() + 0.1), np.log(np.median(second) + 0.1)]
    return np.array([np.log(image.shape[0]), np.log(image.shape[1]), block, *fine])


@torch.no_grad()
def look(model: Any, transforms: Any, pictures: list[np.ndarray]) -> Seen:
    shown = torch.stack([torch.from_numpy(transforms.finish(transforms.prepare(image))) for image in pictures])
    blocks: list[Any] = [[] for _ in model.backbone.blocks]
    hooks = [
        block.register_forward_hook(lambda _, __, out, k=k: blocks[k].append(out.mean(dim=1)))
        for k, block in enumerate(model.backbone.blocks)
    ]
    found = [model.logits_and_layers({"image": part}, last=True) for part in shown.split(64)]
    for hook in hooks:
        hook.remove()
    logits = torch.cat([one for one, _ in found])
    return Seen(
        torch.cat([features for _, (features,) in found]).numpy().astype(np.float64),
        [torch.cat(parts).numpy().astype(np.float64) for parts in blocks],
        logits.numpy(),
        model.objective.probabilities(logits)[:, 1].numpy(),
        torch.cat([pixel_statistics(part) for part in shown.split(64)]).numpy().astype(np.float64),
        np.stack([file_statistics(image) for image in pictures]),
    )


# ---- measures


def interval(statistic: Callable[[np.ndarray], float], n: int, seed: int = 0) -> list[float]:
    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.integers(n, size=n)) for _ in range(DRAWS)]
    return [float(q) for q in np.nanpercentile(drawn, [2.5, 97.5])]


def share(beyond: np.ndarray) -> list[float]:
    """Share and its interval by Clopper and Pearson."""
    k, n = int(beyond.sum()), len(beyond)
    low = beta.ppf(0.025, k, n - k + 1) if k else 0.0
    high = beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    return [k / n, float(low), float(high)]


def auroc(own: np.ndarray, other: np.ndarray) -> list[float]:
    """Share of pairs in the right order, ties by half, and its interval."""
    right = (other[:, None] > own[None]) + 0.5 * (other[:, None] == own[None])
    rng = np.random.default_rng(0)
    of_own, of_other = (rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) / n for n in (len(own), len(other)))
    drawn = ((of_other @ right) * of_own).sum(axis=1)
    return [float(right.mean()), *(float(q) for q in np.percentile(drawn, [2.5, 97.5]))]


def area_under_risk(score: np.ndarray, wrong: np.ndarray) -> float:
    order = np.argsort(score, kind="stable")
    return float((np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)).mean())


def safe_auroc(y: np.ndarray, p: np.ndarray) -> float:
    return float(roc_auc_score(y, p)) if len(np.unique(y)) == 2 else float("nan")


def on_answers(score_own: np.ndarray, score: np.ndarray, limit: float, own: Any, other: Any, y: np.ndarray) -> Any:
    """What abstaining does on corrupted copies, whose labels are those of the own test part."""
    wrong_own, wrong = ((own.p >= 0.5) != y).astype(float), ((other.p >= 0.5) != y).astype(float)
    kept = score <= limit
    both, wrongs = np.concatenate([score_own, score]), np.concatenate([wrong_own, wrong])
    kept_both = both <= limit

    def gain(i: np.ndarray) -> float:
        return float(wrongs[i][kept_both[i]].mean() - wrongs[i].mean()) if kept_both[i].any() else float("nan")

    return {
        "auroc_own": safe_auroc(y, own.p),
        "auroc_corrupted": safe_auroc(y, other.p),
        "auroc_corrupted_answered": safe_auroc(y[kept], other.p[kept]),
        "error_own": float(wrong_own.mean()),
        "error_corrupted": float(wrong.mean()),
        "error_corrupted_answered": float(wrong[kept].mean()) if kept.any() else None,
        "error_both": float(wrongs.mean()),
        "error_both_answered": float(wrongs[kept_both].mean()) if kept_both.any() else None,
        "change": [float(wrongs[kept_both].mean() - wrongs.mean()), *interval(gain, len(both))],
        "aurc_both": [
            area_under_risk(both, wrongs),
            *interval(lambda i: area_under_risk(both[i], wrongs[i]), len(both)),
        ],
    }


# ---- runs


def table_of(name: str, data: Path, work: Path) -> Path:
    """The source's table with absolute paths; of the histology set 1,600 patches of whole patients."""
    given = data / SOURCES[name][0]
    with given.open() as file:
        rows = list(csv.DictReader(file))
    if name == "histology":
        patients = np.random.default_rng(0).permutation(sorted({row["patient"] for row in rows}))
        kept: list[Any] = []
        for patient in patients:
            kept += [row for row in rows if row["patient"] == patient] if len(kept) < 1600 else []
        rows = kept
    for row in rows:
        row["file"] = str((given.parent / row["file"]).resolve())
    table = work / f"{name}.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return table


def train(name: str, seed: int, data: Path, work: Path) -> Path:
    from medsoft.cli.main import main as medsoft

    run = work / f"{name}_{seed}"
    if not (run / "predictions.csv").is_file():
        _, label, options = SOURCES[name]
        words = [f"--data.table={table_of(name, data, work)}", "--data.path=file", f"--data.label={label}"]
        words += ["--data.patient=patient"] if name == "histology" else []
        code = medsoft(["fit", *options, *words, *TRAINING, f"--seed_everything={seed}", f"--out={run}"])
        assert code == 0, code
    return run


def others(data: Path, name: str) -> list[np.ndarray]:
    """Up to 100 pictures of another set, evenly spread over its files."""
    place = data / OTHERS[name]
    if place.suffix == ".npz":
        with np.load(place) as arrays:
            grey = arrays["val_images"][:100]
        return [_colour(image[..., None]) for image in grey]
    files = sorted(file for file in place.iterdir() if file.suffix.lower() in (".png", ".jpg", ".jpeg"))
    return [_colour(read_image(str(file))) for file in files[:: max(len(files) // 100, 1)][:100]]


def measure(run: Path, source: str, seed: int, pairs: list[str], data: Path) -> list[dict[str, Any]]:
    checkpoint = find_checkpoint(str(run))
    line = CommandLine("fit", ["--config", str(checkpoint.config)])
    module, model = line.datamodule, line.model.eval()
    load_weights(model, checkpoint.file)
    module.load(["train", "val", "test"])
    pictures = {
        split: [_colour(read_image(path)) for path in module.part(split).frame["path"]]
        for split in ("train", "val", "test")
    }
    seen = {split: look(model, module.transforms, images) for split, images in pictures.items()}
    scores = detectors(seen["train"], module.part("train").targets, seen["val"])
    y = module.part("test").targets
    rows = []
    for pair in pairs:
        corrupted = pair in CORRUPTIONS
        images = [CORRUPTIONS[pair](i) for i in pictures["test"]] if corrupted else others(data, pair)
        other = look(model, module.transforms, images)
        for detector, score in scores.items():
            limit = float(np.quantile(score(seen["val"]), QUANTILE, method="higher"))
            limit = 1.0 if "cross-fitted" in detector else limit
            own, strange = score(seen["test"]), score(other)
            row: dict[str, Any] = {"source": source, "seed": seed, "pair": pair, "detector": detector}
            row |= {"n": len(images), "n_val": len(seen["val"].p), "own": share(own > limit)}
            row |= {"auroc": auroc(own, strange), "beyond": share(strange > limit)}
            if corrupted:
                row["answers"] = on_answers(own, strange, limit, seen["test"], other, y)
            rows.append(row)
        print(run.name, pair, flush=True)
    return rows


CHOSEN = "max(all layers, pixels), cross-fitted, conformal"
BEFORE = "Mahalanobis, last layer (0.1)"


def _over_seeds(rows: list[dict[str, Any]], name: str) -> str:
    """Mean over the seeds, and the lowest and highest end of their intervals."""
    values = [row[name] for row in rows]
    low, high = min(value[1] for value in values), max(value[2] for value in values)
    return f"{np.mean([value[0] for value in values]):.2f} ({low:.2f}–{high:.2f})"


def tables(parts: list[dict[str, Any]]) -> str:
    """The tables of docs/experiments/out_of_distribution.md."""
    lines = []
    kinds = {kind: [row for row in parts if row["kind"] == kind] for kind in ("development", "report")}
    of_report = [row for row in kinds["report"] if row["pair"] != "bigger"]
    for kind, rows in (("development", kinds["development"]), ("report", of_report)):
        lines += [
            f"{kind}: means over pairs",
            "",
            "| detector | AUROC | beyond the limit | own test part beyond |",
            "|---|---|---|---|",
        ]
        for detector in dict.fromkeys(row["detector"] for row in rows):
            mine = [row for row in rows if row["detector"] == detector]
            means = [np.mean([row[name][0] for row in mine]) for name in ("auroc", "beyond", "own")]
            lines.append(f"| {detector} | {means[0]:.3f} | {means[1]:.2f} | {means[2]:.3f} |")
        lines.append("")
    lines += ["| model | shown | AUROC 0.1 | AUROC now | beyond 0.1 | beyond now |", "|---|---|---|---|---|---|"]
    for key in dict.fromkeys((row["source"], row["pair"]) for row in kinds["report"]):
        mine = [row for row in kinds["report"] if (row["source"], row["pair"]) == key]
        of = [[row for row in mine if row["detector"] == name] for name in (BEFORE, CHOSEN)]
        cells = [_over_seeds(rows, name) for name in ("auroc", "beyond") for rows in of]
        lines.append(f"| {key[0]} | {key[1]} | {' | '.join(cells)} |")
    lines += ["", "| model, seed | copy | AUROC own | copy | error own | copy | both | both answered | change |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for row in kinds["report"]:
        if row["detector"] == CHOSEN and "answers" in row:
            one = row["answers"]
            names = (
                "auroc_own",
                "auroc_corrupted",
                "error_own",
                "error_corrupted",
                "error_both",
                "error_both_answered",
            )
            cells = ["–" if one[name] is None else f"{one[name]:.2f}" for name in names]
            change = "{:+.2f} ({:+.2f} to {:+.2f})".format(*one["change"])
            lines.append(f"| {row['source']}, {row['seed']} | {row['pair']} | {' | '.join(cells)} | {change} |")
    return "\n".join(lines) + "\n"


def main(data: Path, work: Path) -> None:
    silence_warnings()
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    parts = []
    for kind, seeds, sources in (("development", (0,), DEVELOPMENT), ("report", (1, 2), REPORT)):
        for source, pairs in sources.items():
            for seed in seeds:
                file = work / f"{kind}_{source}_{seed}.json"
                if not file.is_file():
                    rows = measure(train(source, seed, data, work), source, seed, pairs, data)
                    file.write_text(json.dumps(rows))
                parts += [{"kind": kind, **row} for row in json.loads(file.read_text())]
    (work / "results.json").write_text(json.dumps(parts, indent=1))
    (work / "tables.md").write_text(tables(parts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
