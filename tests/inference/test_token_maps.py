"""Maps of what the tokens of an image add to an answer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from medsoft.classifiers.slide import SlideClassifier
from medsoft.data.features.native import ImageFeatureWriter
from medsoft.inference.attribution.tokens import answer_target, explains_tokens, token_map
from medsoft.specs import BagSpec
from medsoft.task import Task
from tests.builders.image_features import OF_IMAGES

F = 4


def model(task: str = "binary", aggregator: str = "mean", **options) -> SlideClassifier:
    torch.manual_seed(0)
    spec = BagSpec(Task.of(task, ("a", "b")), np.ones(2), F, True, {}, None, frame="cells")
    return SlideClassifier(spec, aggregator, options).eval()


def features(path: Path, pooled_is_mean: bool = True) -> tuple[Path, np.ndarray]:
    """An image of 128 x 96 px in cells of 32 px; the cell at the lower right stands out."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(12, F)).astype(np.float32)
    tokens[-1] *= 20
    cells = np.stack([axis.ravel() for axis in np.indices((3, 4))[::-1]], axis=1)
    pooled = tokens.mean(axis=0) + (0 if pooled_is_mean else 3)
    with ImageFeatureWriter(path, OF_IMAGES, (cells * 32).astype(np.float32), F, F, "float32") as writer:
        writer.write(tokens, pooled, None)
    return path, tokens


def test_a_token_lies_where_the_encoder_saw_it_and_all_add_up(tmp_path):
    file, tokens = features(tmp_path / "a.h5")
    probe = model(dim=None)
    target = answer_target(probe, "b", True)
    drawn = token_map(probe, file, target, (48, 64), pooled=True)  # half the size of the image
    weight = (probe.aggregator.head.weight[1] - probe.aggregator.head.weight[0]).detach().numpy()
    expected = (tokens @ weight / 12).reshape(3, 4)
    np.testing.assert_allclose(drawn, np.kron(expected, np.ones((16, 16))), atol=1e-6)
    against = token_map(probe, file, answer_target(probe, "b", False), (48, 64), pooled=True)
    np.testing.assert_allclose(against, -drawn)


def test_a_vector_that_is_no_mean_of_tokens_has_no_map(tmp_path):
    file, _ = features(tmp_path / "a.h5", pooled_is_mean=False)
    probe = model(dim=None)
    target = answer_target(probe, "b", True)
    assert token_map(probe, file, target, (48, 64), pooled=True) is None
    assert token_map(probe, file, target, (48, 64), pooled=False) is not None


def test_a_transformer_at_places_has_a_map_and_neighbours_have_none(tmp_path):
    file, _ = features(tmp_path / "a.h5")
    transformer = model(aggregator="transformer", dim=8, num_heads=2, coordinates=True)
    assert transformer.aggregator_options["coordinates"] == "cells"
    drawn = token_map(transformer, file, answer_target(transformer, "a", True), (3, 4), pooled=False)
    assert np.isfinite(drawn).all()
    assert np.abs(drawn).max() > 0
    assert explains_tokens(transformer)
    assert not explains_tokens(model(aggregator="neighbours"))


@pytest.mark.parametrize(("name", "sign"), [("a", -1.0), ("b", 1.0)])
def test_the_lowest_grade_is_explained_against_the_step_to_the_next(name, sign):
    found = answer_target(model("ordinal", dim=None), name, True)
    assert found.weights == {0: sign}
