"""Losses, probabilities, class weights, the learning-rate schedule and the optimiser's groups."""

import math

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import medsoft.models  # noqa: F401 (registers our backbones)
from medsoft.classifiers.objectives import Corn, CrossEntropy, MaskedBinaryCrossEntropy
from medsoft.classifiers.optimizer import WarmupCosine, parameter_groups
from medsoft.task import Task
from medsoft.task_types import ObjectiveOptions

NAN = float("nan")


def task(kind: str, classes: int) -> Task:
    return Task.of(kind, tuple("abcdefgh"[:classes]))


@given(
    kind=st.sampled_from(["binary", "multiclass", "ordinal", "multilabel"]),
    classes=st.integers(2, 6),
    scale=st.sampled_from([0.1, 3.0, 80.0]),
    seed=st.integers(0, 10**6),
)
def test_probabilities_are_probabilities(kind, classes, scale, seed):
    objective = task(kind, 2 if kind == "binary" else classes).objective(ObjectiveOptions())
    logits = scale * torch.randn(5, objective.outputs, generator=torch.Generator().manual_seed(seed))
    p = objective.probabilities(logits)
    assert p.shape == (5, 2 if kind == "binary" else classes)
    assert ((p >= 0) & (p <= 1)).all()
    if kind != "multilabel":
        assert torch.allclose(p.sum(dim=1), torch.ones(5), atol=1e-6)


@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5))
def test_the_loss_is_the_negative_log_probability_of_the_truth(seed, classes):
    """For cross-entropy over classes and, summed over its steps, for CORN: its product is the chain rule."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, (6,), generator=generator)
    logits = torch.randn(6, classes, generator=generator)
    p = CrossEntropy(classes).probabilities(logits)
    assert torch.allclose(CrossEntropy(classes).loss(logits, target), -p[range(6), target].log().mean(), atol=1e-5)
    p = Corn(classes).probabilities(logits[:, 1:])
    answered_steps = (target + 1).clamp(max=classes - 1).sum()
    likelihood = -p[range(6), target].log().sum() / answered_steps
    assert torch.allclose(Corn(classes).loss(logits[:, 1:], target), likelihood, atol=1e-4)


def test_corn_by_hand():
    """Three grades, P(y > 0) = 0.8, P(y > 1 | y > 0) = 0.25: 0.2, 0.8 · 0.75 and 0.8 · 0.25."""
    logits = torch.tensor([[math.log(0.8 / 0.2), math.log(0.25 / 0.75)]])
    assert torch.allclose(Corn(3).probabilities(logits), torch.tensor([[0.2, 0.6, 0.2]]))
    two = logits.expand(2, 2)
    by_hand = -(math.log(0.2) + math.log(0.8) + math.log(0.75)) / 3  # grade 0 answers one step, grade 1 both
    assert Corn(3).loss(two, torch.tensor([0, 1])).item() == pytest.approx(by_hand, abs=1e-6)


def test_corn_learns_a_step_from_the_samples_that_reach_it_alone():
    logits = torch.zeros(2, 3, requires_grad=True)
    Corn(4).loss(logits, torch.tensor([0, 2])).backward()
    assert ((logits.grad != 0) == torch.tensor([[True, False, False], [True, True, True]])).all()
    # A batch in which nobody reaches a step is no division by zero.
    assert Corn(4).loss(torch.zeros(2, 3), torch.tensor([0, 0])).isfinite()


def test_a_missing_label_has_no_gradient():
    logits = torch.randn(3, 2, requires_grad=True)
    target = torch.tensor([[1.0, NAN], [NAN, NAN], [0.0, 1.0]])
    objective = MaskedBinaryCrossEntropy(2, positive_weights=torch.tensor([2.0, 3.0]), label_smoothing=0.1)
    objective.loss(logits, target).backward()
    assert torch.equal(logits.grad == 0, target.isnan())
    assert logits.grad.isfinite().all()


def test_missing_labels_do_not_thin_out_the_loss():
    logits = torch.tensor([[0.3, -2.0], [1.0, 0.5]])
    known = torch.tensor([[1.0, NAN], [NAN, 0.0]])
    expected = (math.log1p(math.exp(-0.3)) + math.log1p(math.exp(0.5))) / 2
    assert MaskedBinaryCrossEntropy(2).loss(logits, known).item() == pytest.approx(expected, abs=1e-6)


def test_a_batch_without_any_label_costs_nothing():
    logits = torch.randn(2, 2, requires_grad=True)
    loss = MaskedBinaryCrossEntropy(2).loss(logits, torch.full((2, 2), NAN))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_smoothed_labels_are_what_the_best_answer_is(kind):
    """With a share ε spread over two answers the loss is least at p = 1 − ε/2."""
    objective = task(kind, 2).objective(ObjectiveOptions(label_smoothing=0.2))
    target = torch.tensor([1]) if kind == "binary" else torch.tensor([[1.0, 1.0]])
    logit = math.log(0.9 / 0.1)
    best = torch.tensor([[0.0, logit]]) if kind == "binary" else torch.tensor([[logit, logit]])
    best.requires_grad_()
    objective.loss(best, target).backward()
    assert best.grad.abs().max() < 1e-6
    assert objective.loss(2 * best.detach(), target) > objective.loss(best, target)


def test_an_ordinal_task_has_no_label_smoothing():
    with pytest.raises(ValueError, match="ordinal"):
        task("ordinal", 3).objective(ObjectiveOptions(label_smoothing=0.1))


def test_balanced_weights_make_every_class_count_the_same():
    weights = task("multiclass", 3).class_weights(np.array([60, 30, 10]))
    assert torch.allclose(weights * torch.tensor([60.0, 30, 10]), torch.full((3,), 100 / 3))
    weights = task("multilabel", 2).class_weights(np.array([[90, 10], [25, 75]]))
    assert torch.allclose(weights, torch.tensor([9.0, 1 / 3]))
    assert task("multiclass", 2).class_weights(np.array([5, 0])).isfinite().all()
    assert task("multilabel", 2).class_weights(np.array([[5, 0], [0, 5]])).isfinite().all()


@pytest.mark.parametrize(("kind", "outputs"), [("multiclass", 3), ("ordinal", 2)])
def test_class_weights_scale_the_samples_of_their_class(kind, outputs):
    logits = torch.randn(2, outputs, requires_grad=True)
    target = torch.tensor([0, 2])

    def gradient(weights):
        logits.grad = None
        task(kind, 3).objective(ObjectiveOptions(weights)).loss(logits, target).backward()
        return logits.grad.clone()

    plain, weighted = gradient(None), gradient(torch.tensor([3.0, 1.0, 1.0]))
    ratio = (weighted / plain)[plain != 0]
    assert ratio[0] / ratio[-1] == pytest.approx(3, rel=1e-4)


def rates(warmup, total, final, steps=None):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupCosine(optimizer, warmup, total, final)
    seen = []
    for _ in range(steps or total + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_the_rate_rises_to_its_peak_and_falls_to_its_end():
    seen = rates(warmup=10, total=50, final=0.01)
    assert seen[0] == pytest.approx(2 / 11)
    assert np.allclose(np.diff(seen[:11]), 2 / 11)
    assert seen[10] == max(seen) == 2.0
    assert all(np.diff(seen[10:]) < 0)
    assert seen[30] == pytest.approx(2 * (0.01 + 0.99 / 2))
    assert seen[-1] == pytest.approx(0.02)


def test_the_rate_without_warm_up_begins_at_its_peak_and_stays_at_its_end():
    seen = rates(warmup=0, total=4, final=0.1, steps=8)
    assert seen[0] == 2.0
    assert seen[4:] == pytest.approx([0.2] * 4)


@pytest.fixture(scope="module")
def vit():
    return timm.create_model(
        "vit_seqnorm_tiny_patch16_224", img_size=32, patch_size=8, depth=3, embed_dim=32, num_heads=2, num_classes=0
    )


@pytest.mark.parametrize("name", ["vit", "resnet10t"])
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_every_parameter_is_learnt_once_and_vectors_do_not_decay(request, name, layer_decay):
    backbone = request.getfixturevalue("vit") if name == "vit" else timm.create_model(name, num_classes=0)
    head = nn.Linear(backbone.num_features, 2)
    groups = parameter_groups(backbone, head, lr=0.1, weight_decay=0.05, layer_decay=layer_decay)
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for module in (backbone, head) for p in module.parameters()}
    decay_of = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for module in (backbone, head):
        for key, p in module.named_parameters():
            exempt = p.ndim <= 1 or key in ("pos_embed", "cls_token")
            assert decay_of[id(p)] == (0 if exempt else 0.05), key
    if layer_decay == 1:
        assert {group["lr"] for group in groups} == {0.1}


def test_earlier_layers_learn_slower(vit):
    head = nn.Linear(32, 2)
    groups = parameter_groups(vit, head, lr=0.1, weight_decay=0.05, layer_decay=0.5)
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    rate = {key: rate_of[id(p)] for key, p in vit.named_parameters()}
    assert rate["blocks.0.mlp.fc1.weight"] == pytest.approx(0.5 * rate["blocks.1.mlp.fc1.weight"])
    assert rate["blocks.1.mlp.fc1.weight"] == pytest.approx(0.5 * rate["blocks.2.mlp.fc1.weight"])
    assert rate["patch_embed.proj.weight"] == rate["pos_embed"] == pytest.approx(0.5 * rate["blocks.0.norm1.weight"])
    assert rate["blocks.2.mlp.fc1.weight"] <= rate["norm.weight"] <= rate_of[id(head.weight)] == 0.1


def test_what_is_frozen_is_left_out():
    backbone = timm.create_model("resnet10t", num_classes=0).requires_grad_(False)
    head = nn.Linear(backbone.num_features, 2)
    groups = parameter_groups(backbone, head, lr=0.1, weight_decay=0.05, layer_decay=0.7)
    assert [id(p) for group in groups for p in group["params"]] == [id(head.weight), id(head.bias)]
