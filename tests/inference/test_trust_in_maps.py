"""What is said of maps of contributions: whether their places matter, and whether learning made them."""

import numpy as np
import pytest
import torch

from medsoft.classifiers.image import Classifier
from medsoft.inference.attribution.images import image_contributions
from medsoft.inference.attribution.trust import Mapped, Trust, shuffled_weights, trust_in_maps
from medsoft.specs import DataSpec
from medsoft.task import Task


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    spec = DataSpec(Task.of("binary", ("a", "b")), 3, (96, 96), np.array([1, 1]))
    return Classifier(spec, "test_resnet", {}).eval()


def mapped(model: Classifier, n: int = 6) -> list[Mapped]:
    samples = [{"image": torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(i))} for i in range(n)]
    return [Mapped(one, 1, True, image_contributions(model, one, 1)) for one in samples]


def test_places_that_matter_are_told_from_others(model):
    good = mapped(model)
    bad = [Mapped(one.sample, one.index, one.positive, -one.contributions) for one in good]
    first, turned = trust_in_maps(model, good), trust_in_maps(model, bad)
    assert first.n == 6
    assert first.by_map > first.by_chance > turned.by_map
    assert first.by_chance == pytest.approx(turned.by_chance)
    assert "do not show what the answers rest on" in str(turned)
    assert "do not show" not in str(first)
    assert trust_in_maps(model, []) is None


def test_the_learnt_weights_come_back(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with shuffled_weights(model):
        assert not torch.equal(model.backbone.conv1[0].weight, before["backbone.conv1.0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_maps_that_shuffling_leaves_alone_are_called_so():
    assert "maps are others (rank correlation 0.10)" in str(Trust(3, 1.0, 0.2, 0.1))
    assert "much the same (rank correlation 0.90)" in str(Trust(3, 1.0, 0.2, 0.9))
    assert "rank correlation" not in str(Trust(3, 1.0, 0.2, None))
