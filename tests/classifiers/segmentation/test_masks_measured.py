"""What is measured of masks, against plain formulas; losses that leave unknown pixels out."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from medsoft.classifiers.segmentation.measure import measure
from medsoft.classifiers.segmentation.objective import MaskObjective
from medsoft.task import Task
from tests.builders.masks import disc_and_cup

TASK = Task.of("segmentation", ("disc", "cup"))


def measured(predicted, truth, **options):
    values = measure(predicted, truth, 2, (1.0, 1.0), **({"tolerance": 2.0} | options))
    return dict(zip(TASK.p_columns, values, strict=True))


def masks(shift):
    truth = disc_and_cup(0)[1] + np.uint8(1)
    return np.roll(truth, shift, axis=1), truth


def test_overlap_is_that_of_the_formulas():
    found, truth = masks(3)
    got = measured(found, truth)
    for name, value in (("disc", 2), ("cup", 3)):
        a, b = found == value, truth == value
        assert got[f"dice_{name}"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert got[f"iou_{name}"] == pytest.approx((a & b).sum() / (a | b).sum())
        assert got[f"area_{name}"] == a.sum() == got[f"true_area_{name}"]
        assert got[f"components_{name}"] == 1
    assert got["dice"] == pytest.approx((got["dice_disc"] + got["dice_cup"]) / 2)


def test_distances_of_outlines_are_those_of_all_pairs():
    truth = np.full((40, 40), 1, np.uint8)
    truth[10:20, 10:20] = 2
    found = np.roll(truth, 4, axis=1)

    def outline(mask):
        inner = mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
        return np.argwhere(mask & ~inner)

    pairs = cdist(outline(found == 2), outline(truth == 2))
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    got = measured(found, truth)
    assert got["hd95_disc"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert measured(found, truth, tolerance=4.0)["surface_dice_disc"] == 1
    assert 0.3 < got["surface_dice_disc"] < 1
    assert measured(truth, truth)["hd95_disc"] == 0


def test_empty_masks_are_treated_as_said():
    nothing, truth = np.full((60, 72), 1, np.uint8), masks(0)[1]
    both = measured(nothing, nothing)
    assert np.isnan([both["dice"], both["dice_disc"], both["hd95_disc"], both["surface_dice_disc"]]).all()
    for found, true in ((nothing, truth), (truth, nothing)):
        one = measured(found, true)
        assert one["dice"] == one["iou_cup"] == one["surface_dice_disc"] == 0
        assert np.isnan(one["hd95_disc"])
    unknown = measured(truth, None)
    assert np.isnan([unknown["dice"], unknown["true_area_disc"]]).all()
    assert unknown["area_disc"] > 0
    half = truth.copy()
    half[half == 3] = 2  # no cup in truth or prediction: it is left out of the image's mean
    assert measured(half, half)["dice"] == 1


def test_ignored_pixels_are_not_scored():
    found, truth = masks(3)
    truth = truth.copy()
    truth[found != truth] = 0
    assert measured(found, truth)["dice"] == 1


@pytest.mark.parametrize("loss", ["dice_ce", "dice_focal", "tversky"])
def test_a_loss_falls_as_logits_become_right_and_leaves_unknown_pixels_out(loss):
    objective = MaskObjective(3, loss)
    target = torch.from_numpy(np.stack([disc_and_cup(i)[1] for i in range(2)]).astype(np.int64))
    right = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    losses = [float(objective.loss(scale * right, target)) for scale in (0.0, 3.0, 30.0)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.01
    partly = target.clone()
    partly[:, :20] = -1
    logits = (3 * right).requires_grad_()
    other = logits.detach().clone()
    other[:, :, :20] = torch.randn(2, 3, 20, 72)
    value = objective.loss(logits, partly)
    assert float(value.detach()) == pytest.approx(float(objective.loss(other, partly)), abs=1e-6)
    value.backward()
    assert not logits.grad[:, :, :20].any()
    assert logits.grad[:, :, 20:].any()


def test_a_batch_without_a_known_pixel_has_a_finite_loss():
    target = torch.full((1, 8, 8), -1)
    for loss in ("dice_ce", "dice_focal", "tversky"):
        assert torch.isfinite(MaskObjective(2, loss).loss(torch.randn(1, 2, 8, 8), target))
