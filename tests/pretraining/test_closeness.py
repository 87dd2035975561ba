"""Numbers that say how alike two sets of features are."""

import torch

from medsoft.pretraining.closeness import found_again, mean_cosine, neighbours_shared, number_of_neighbours, spread


def features(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_rotated_and_shifted_features_have_the_same_neighbours():
    a = features(40, 8)
    rotation = torch.linalg.qr(features(8, 8, 1))[0]
    assert neighbours_shared(a, a @ rotation + 100) == 1


def test_unrelated_features_share_neighbours_by_chance_alone():
    shared = neighbours_shared(features(400, 16), features(400, 5, 1))
    assert shared < 3 * number_of_neighbours(400) / 399


def test_of_few_images_not_all_are_neighbours():
    assert [number_of_neighbours(n) for n in (2, 4, 7, 16, 1000)] == [1, 1, 2, 5, 5]


def test_a_view_is_found_again_among_others():
    a = features(30, 8)
    assert found_again(a, a + 0.01 * features(30, 8, 1)) == 1
    assert found_again(a, features(30, 8, 2)) < 0.3


def test_collapsed_features_use_one_direction():
    line = torch.outer(features(30, 1)[:, 0], features(1, 8)[0])
    assert spread(line) < 1.01
    assert spread(torch.ones(5, 3)) == 1
    assert spread(features(200, 8)) > 7


def test_cosine_of_equal_features_is_one():
    assert mean_cosine(features(3, 4), 2 * features(3, 4)) > 0.999
