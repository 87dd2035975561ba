"""Average precision and FROC from the predictions table, beside COCO's own code and a plain twin."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medsoft.errors import InputError
from medsoft.evaluation.detection.answers import pack
from medsoft.evaluation.detection.matching import IOU_THRESHOLDS, hits, overlaps
from medsoft.evaluation.detection.measures import CURVE, CURVE_RATES, RATES, RECALLS, Detections
from medsoft.evaluation.evaluate import evaluate_table
from medsoft.evaluation.metrics.weighted import Key
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.tables.predictions import make_predictions, read_predictions, write_predictions
from medsoft.task import Task

TASK = Task.of("detection", ("cell", "platelet"))
SLOTS = 12


def image_of(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """True boxes, and predicted ones: some near a true one, some anywhere, of either class."""
    true = boxes(rng, int(rng.integers(0, 5)))
    near = true + rng.normal(0, 4, true.shape)
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    found = np.concatenate([near, near[:1] + 1, boxes(rng, int(rng.integers(0, 5)))])
    true_class = rng.integers(0, 2, len(true))
    classes = np.where(rng.random(len(found)) < 0.8, np.resize(np.append(true_class, [0]), len(found)), 1)
    scores = rng.choice(np.linspace(0.05, 0.99, 400), len(found), replace=False)
    order = np.argsort(-scores)
    return {
        "true": true,
        "true_class": true_class,
        "boxes": found[order],
        "classes": classes[order],
        "scores": scores[order].round(6),
    }


def boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    low = rng.uniform(0, 80, (n, 2))
    return np.concatenate([low, low + rng.uniform(8, 40, (n, 2))], axis=1)


def table(images: list[dict[str, np.ndarray]], patients: int = 7) -> pd.DataFrame:
    rows = []
    for one in images:
        bits = hits(one["boxes"], one["classes"], one["true"], one["true_class"])
        counts = np.bincount(one["true_class"], minlength=2).astype(float)
        rows.append(pack(2, SLOTS, one["classes"], one["scores"], bits, 0.5, counts))
    of_patient = [f"P{number % patients}" for number in range(len(images))]
    targets = [float(len(one["true"])) for one in images]
    ids = [str(number) for number in range(len(images))]
    return make_predictions(TASK, ids, np.stack(rows), targets, patient=of_patient, split="test")


@pytest.fixture(scope="module")
def images() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [image_of(rng) for _ in range(40)]


def test_the_mean_average_precision_is_that_of_torchmetrics(images):
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    def of(one, *names):
        keys = ("boxes", "labels", "scores")[: len(names)]
        return {key: torch.from_numpy(one[name]) for key, name in zip(keys, names, strict=True)}

    # Its own defaults are of single precision: a recall of exactly 0.3 then lies below 0.3.
    exact = {"rec_thresholds": RECALLS.tolist(), "iou_thresholds": IOU_THRESHOLDS.tolist()}
    oracle = MeanAveragePrecision(class_metrics=True, **exact)
    oracle.update(
        [of(one, "boxes", "classes", "scores") for one in images], [of(one, "true", "true_class") for one in images]
    )
    theirs = oracle.compute()
    ours = Detections(table(images), TASK.classes, np.arange(40))(np.ones((1, 40)))
    assert ours[Key("map")][0] == pytest.approx(float(theirs["map"]), abs=1e-6)
    assert ours[Key("map50")][0] == pytest.approx(float(theirs["map_50"]), abs=1e-6)
    each = [ours[Key("map", name)][0] for name in TASK.classes]
    np.testing.assert_allclose(each, theirs["map_per_class"].numpy(), atol=1e-6)


def plain_sensitivity(images: list[dict[str, np.ndarray]], rate: float, class_: int | None) -> float:
    """At each score as a threshold, count; take the best that is allowed."""
    rows, n_true = [], 0
    for one in images:
        bits = hits(one["boxes"], one["classes"], one["true"], one["true_class"])
        keep = np.ones(len(bits), bool) if class_ is None else one["classes"] == class_
        rows += list(zip(one["scores"][keep], bits[keep] & 1, strict=True))
        n_true += len(one["true"]) if class_ is None else int((one["true_class"] == class_).sum())
    best = 0.0
    for threshold, _ in rows:
        called = [hit for score, hit in rows if score >= threshold]
        if (len(called) - sum(called)) / len(images) <= rate:
            best = max(best, sum(called) / n_true)
    return best


@pytest.mark.parametrize("class_", [None, 0, 1])
def test_froc_is_what_counting_at_each_threshold_gives(images, class_):
    values = Detections(table(images), TASK.classes, np.arange(40), curves=True)(np.ones((1, 40)))
    name = "" if class_ is None else TASK.classes[class_]
    expected = [plain_sensitivity(images, rate, class_) for rate in RATES.values()]
    assert [values[Key(metric, name)][0] for metric in RATES] == pytest.approx(expected)
    assert values[Key("froc", name)][0] == pytest.approx(np.mean(expected))
    assert values[Key(CURVE, name)].shape == (1, len(CURVE_RATES))
    assert 0 < expected[0] < expected[-1]


def test_a_draw_is_the_table_with_its_images_repeated(images):
    frame = table(images[:12])
    weights = np.random.default_rng(0).integers(0, 3, (5, 12)).astype(float)
    drawn = Detections(frame, TASK.classes, np.arange(12), curves=True)(weights)
    for number, counts in enumerate(weights):
        repeated = frame.loc[np.repeat(np.arange(12), counts.astype(int))]
        whole = Detections(repeated, TASK.classes, np.arange(len(repeated)), curves=True)(np.ones((1, len(repeated))))
        for key, values in whole.items():
            np.testing.assert_allclose(drawn[key][number], values[0], err_msg=str(key), atol=1e-12)


def test_a_true_box_is_hit_once_by_the_best_box_of_its_class():
    true = np.array([[0.0, 0, 10, 10]])
    found = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 6], [20, 20, 30, 30]])
    assert hits(found, np.array([1, 0, 0, 0]), true, np.array([0])).tolist() == [0, 0x3FF, 0, 0]
    assert hits(found[2:], np.array([0, 0]), true, np.array([0])).tolist() == [0b111, 0]  # IoU of 0.6
    assert overlaps(found[:1], np.zeros((1, 4)))[0, 0] == 0
    assert hits(found, np.zeros(4, int), true[:0], np.zeros(0, int)).tolist() == [0, 0, 0, 0]


def test_images_without_true_boxes_count_as_images_and_a_class_without_any_has_no_value(images):
    empty = {name: value[:0] for name, value in images[0].items() if name.startswith("true")}
    frame = table([*images[:10], *({**one, **empty} for one in images[10:20])])
    fewer = Detections(frame[:10], TASK.classes, np.arange(10))(np.ones((1, 10)))
    values = Detections(frame, TASK.classes, np.arange(20))(np.ones((1, 20)))
    assert values[Key("map")][0] < fewer[Key("map")][0]  # false boxes on negatives
    alone = Detections(frame[10:], TASK.classes, np.arange(10))(np.ones((1, 10)))
    assert all(np.isnan(value).all() for value in alone.values())


def test_a_table_is_read_back_and_evaluated_with_intervals_over_patients(tmp_path, images):
    frame = table(images)
    write_predictions(frame, tmp_path / "p.csv")
    back, task = read_predictions(tmp_path / "p.csv")
    assert task == TASK
    part = evaluate_table(back, task, Settings(draws=100)).parts
    assert [one.level for one in part] == ["row"]
    assert part[0].bootstrap.startswith("7 patients")
    found = part[0].find("map", class_name="")
    assert found.value == pytest.approx(Detections(frame, TASK.classes, np.arange(40))(np.ones((1, 40)))[Key("map")][0])
    assert found.low < found.value < found.high
    assert set(part[0].froc) == {"", *TASK.classes}
    with pytest.raises(InputError, match="not pooled to one answer"):
        evaluate_table(back, task, Settings(draws=100, levels=("patient",)))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("matches_cell", "0.5;3ff", "matches_cell is no list of score:hits"),
        ("boxes", "1.5", "boxes is no whole number"),
        ("best_score", "1.2", "best_score is above 1"),
        ("true_cell", "", "true_cell is no number, though the true boxes are known"),
        ("detections_cell", "-1", "detections_cell is below 0"),
    ],
)
def test_a_table_with_values_that_cannot_be_is_refused(tmp_path, images, column, value, said):
    frame = table(images[:4]).astype(object)
    frame.loc[2, column] = value
    frame.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(InputError, match=said):
        read_predictions(tmp_path / "p.csv")
