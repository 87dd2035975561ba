"""The steps of a distillation, on networks so small that they are checked number by number."""

import pytest
import torch

from medsoft.encoders.recipes import Recipe
from medsoft.errors import InputError
from medsoft.pretraining.base import Rates
from medsoft.pretraining.distil import Distillation, to_grid
from medsoft.pretraining.networks import create_student, features_and_map
from medsoft.pretraining.teacher import Teacher

TINY_VIT = {"patch_size": 8, "depth": 1, "embed_dim": 16, "num_heads": 1}


def recipe(name="vit_softmax_tiny_patch16_224", arguments=TINY_VIT, channels=3, px=32, pooling="model"):
    more = {"pooling": pooling, "channels": channels, "arguments": dict(arguments)}
    return Recipe(name, name, (0.5,) * channels, (0.5,) * channels, px, px, **more)


def teacher_of(channels=3, **more) -> Teacher:
    torch.manual_seed(0)
    made = recipe(**more)
    return Teacher(create_student(made), made, "", channels)


def images(n=8, channels=3, px=32):
    return torch.randint(0, 256, (n, channels, px, px), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_coarser_grid_averages_and_the_same_grid_changes_nothing():
    fine = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert to_grid(fine, (4, 4)) is fine
    coarse = to_grid(fine, (2, 2))
    assert coarse.shape == (1, 1, 2, 2)
    assert torch.allclose(coarse.mean(), fine.mean())
    assert (coarse[0, 0, 0, 1] - coarse[0, 0, 0, 0]).item() == pytest.approx(2, abs=0.6)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_seqnorm_tiny_patch16_224", TINY_VIT),
        ("vit_seqnorm_tiny_patch16_224", TINY_VIT | {"global_pool": "map", "class_token": False}),
        ("vit_soft_tiny_patch16_224", TINY_VIT),
        ("soft_tiny", {"embed_dims": [32, 32, 32, 32], "depths": [1, 1, 1, 1]}),
        ("resnet10t", {}),
    ],
)
def test_pooled_features_and_map_of_one_pass_are_those_of_the_network(name, arguments):
    model = create_student(recipe(name, arguments, px=64)).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled, places = features_and_map(model, image)
        assert torch.allclose(pooled, model(image), atol=1e-5)
    assert places.shape[0] == 2
    assert places.shape[2] == places.shape[3] > 1


def test_class_token_and_mean_are_joined_for_recipes_that_say_so():
    made = recipe("vit_tiny_patch16_224", TINY_VIT | {"global_pool": "cls+mean"}, pooling="cls+mean")
    model = create_student(made).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        pooled, places = features_and_map(model, image, "cls+mean")
        tokens = model.forward_features(image)
    assert torch.equal(pooled, torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1))
    assert torch.allclose(places.flatten(2).mean(2), pooled[:, 16:], atol=1e-6)


def test_a_student_learns_its_teacher():
    """A copy of another network's features is learnt from images alone."""
    teacher = teacher_of()
    torch.manual_seed(1)
    scale = ((0.5,) * 3, (0.5,) * 3)
    model = Distillation(create_student(recipe()), teacher, 32, *scale, Rates(1e-2, 0.0, 0))
    # Images that differ in something: each of one colour, with little noise.
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(32, 3, 1, 1, generator=generator)
    batch = ((0.9 * colours + 0.1 * torch.rand(32, 3, 32, 32, generator=generator)) * 255).to(torch.uint8)
    model.learn_scale(batch.split(8))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = float(model.loss({"image": batch}).detach())
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss({"image": batch})
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * first
    assert all(parameter.grad is None for parameter in teacher._model.parameters())


def test_the_scale_is_that_of_the_teachers_features():
    teacher = teacher_of()
    scale = ((0.5,) * 3, (0.5,) * 3)
    model = Distillation(create_student(recipe()), teacher, 32, *scale, Rates(1e-3, 0.0, 0))
    batch = images(10)
    model.learn_scale(batch.split(3))
    pooled, places = teacher(batch)
    assert torch.allclose(model.pooled_mean, pooled.mean(0), atol=1e-5)
    flat = places.flatten(2)
    assert torch.allclose(model.map_mean, flat.mean((0, 2)), atol=1e-4)
    least = 0.05 * flat.transpose(0, 1).flatten(1).std(1, correction=0).mean()
    wanted = flat.transpose(0, 1).flatten(1).std(1, correction=0).clamp_min(least)
    assert torch.allclose(model.map_std, wanted, rtol=1e-2)


def test_the_teacher_is_in_no_checkpoint_and_never_trains():
    model = Distillation(create_student(recipe()), teacher_of(), 32, (0.5,) * 3, (0.5,) * 3, Rates(1e-3, 0.0, 0))
    assert not [name for name in model.state_dict() if "teacher" in name]
    model.train()
    assert not model.teacher._model.training


def test_a_teacher_for_colours_sees_grey_as_three_equal_channels():
    teacher = teacher_of(channels=1)
    grey = images(2, 1)
    same = teacher_of(channels=3)
    assert torch.allclose(teacher(grey)[0], same(grey.repeat(1, 3, 1, 1))[0])
    assert "three equal channels" in teacher.note


def test_a_teacher_for_grey_images_refuses_colours():
    made = recipe(channels=1, arguments=TINY_VIT)
    with pytest.raises(InputError, match="takes images of 1 channel"):
        Teacher(create_student(made), made, "", 3)


def test_a_teacher_of_another_size_sees_the_view_resampled():
    teacher = teacher_of(px=64)
    pooled, places = teacher(images(2, px=32))
    assert pooled.shape == (2, 16)
    assert places.shape[2:] == (8, 8)
