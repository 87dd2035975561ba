"""A risk set over accumulated batches: the gradients of one batch, with dropout, and in the memory of a single one."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from medsoft.classifiers.slide import SlideClassifier
from medsoft.classifiers.survival import joint_step
from medsoft.classifiers.survival.joint_step import JointStep
from medsoft.specs import BagSpec
from medsoft.task import Task
from medsoft.task_types import ObjectiveOptions
from tests.builders.survival import simulate

FEATURES = {"origin": "test", "encoder": "none", "weights": "", "settings": "", "tiles": ""}


class Recorded(SlideClassifier):
    """Keeps the gradients of every step."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.steps.append({name: p.grad.clone() for name, p in self.named_parameters()})


def gradients(batches: list[dict[str, Tensor]], accumulate: int, drop: float = 0.0) -> list[dict[str, Tensor]]:
    task = Task.of("survival").settled(np.array([[3.0, 1], [5.0, 1]]))
    spec = BagSpec(task, np.zeros(0), 3, False, FEATURES, None)
    torch.manual_seed(0)
    model = Recorded(spec, "abmil", {"dim": 8, "attention_dim": 4, "drop": drop}, survival="cox")
    model.steps = []
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", max_epochs=1, accumulate_grad_batches=accumulate, **quiet)
    trainer.fit(model, torch.utils.data.DataLoader(batches, batch_size=None))
    return model.steps


@pytest.fixture(scope="module")
def bags() -> dict[str, Tensor]:
    """Ten bags of four instances."""
    x, _, targets = simulate(10)
    noise = np.random.default_rng(1).normal(size=(10, 4, 3))
    features = torch.from_numpy(x[:, None] + noise).float()
    return {"features": features, "target": torch.from_numpy(targets).float(), "index": torch.arange(10)}


def cut(bags: dict[str, Tensor], sizes: list[int]) -> list[dict[str, Tensor]]:
    return [dict(zip(bags, parts, strict=True)) for parts in zip(*(v.split(sizes) for v in bags.values()), strict=True)]


def test_gradients_of_accumulated_bags_are_those_of_one_batch(bags):
    together = gradients(cut(bags, [8, 2]), 1)
    apart = gradients(cut(bags, [1] * 10), 8)
    mixed = gradients(cut(bags, [3, 5, 2]), 2)
    assert len(together) == len(apart) == len(mixed) == 2, "the rest of an epoch is a step of its own"
    for name in together[0]:
        for step in (0, 1):
            torch.testing.assert_close(apart[step][name], together[step][name], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(mixed[step][name], together[step][name], rtol=1e-4, atol=1e-6)
    assert any(float(grad.abs().max()) > 1e-3 for grad in together[0].values())


def test_a_risk_set_of_each_bag_alone_would_teach_nothing(bags):
    for step in gradients(cut(bags, [1] * 10), 1):
        assert all(float(grad.abs().max()) == 0 for grad in step.values())


def test_what_is_computed_anew_has_the_same_dropout(bags, monkeypatch):
    module = "medsoft.classifiers.survival.joint_step.checkpoint"
    anew = gradients(cut(bags, [1] * 10), 10, drop=0.3)
    monkeypatch.setattr(module, lambda function, batch, use_reentrant: function(batch))
    kept = gradients(cut(bags, [1] * 10), 10, drop=0.3)
    for name in kept[0]:
        torch.testing.assert_close(anew[0][name], kept[0][name])


def test_the_mean_of_the_gradients_of_two_processes_is_that_of_one_risk_set(monkeypatch):
    """Of five samples the second process has two, and one more that only fills its batch."""
    x, _, targets = (torch.from_numpy(one).float() for one in simulate(5))
    objective = Task.of("survival").settled(targets.numpy()).objective(ObjectiveOptions())
    weight = torch.zeros(3, 1, requires_grad=True)
    with torch.no_grad():
        weight += torch.tensor([[0.3], [-0.2], [0.1]])

    def step(rows: list[tuple[list[int], int]], world: int) -> Tensor:
        """The gradients of one process, which sees these rows in batches, each of which counts or does not."""
        accumulating = iter([True] * (len(rows) - 1) + [False])
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(_should_accumulate=lambda: next(accumulating)))
        trainer = SimpleNamespace(accumulate_grad_batches=len(rows), world_size=world, fit_loop=loop)
        model = SimpleNamespace(
            trainer=trainer,
            objective=objective,
            log=lambda *_, **__: None,
            modules=lambda: iter(()),
            logits=lambda batch: batch["x"] @ weight,
            share=lambda batch: rows[batch][1],
            keep_learnt=lambda *_: None,
        )
        together = JointStep(model)
        losses = [together({"x": x[own], "target": targets[own]}, k) for k, (own, _) in enumerate(rows)]
        weight.grad = None
        (sum(losses) / len(rows)).backward()
        return weight.grad.clone()

    alone = step([([0, 1], 1), ([2, 3], 1), ([4], 1)], 1)
    assert float(alone.abs().max()) > 1e-2
    parts = {0: [([0], 1), ([2], 1), ([4], 1)], 1: [([1], 1), ([3], 1), ([4], 0)]}
    found = []
    for rank, rows in parts.items():
        said = [[row for own, counts in rows_of for row in own if counts] for rows_of in parts.values()]

        def gather(into: list[Any], _: Any, said: list[list[int]] = said) -> None:
            into[:] = [((x[own] @ weight).detach(), targets[own]) for own in said]

        fake = SimpleNamespace(
            is_available=lambda: True,
            is_initialized=lambda: True,
            get_world_size=lambda: 2,
            get_rank=lambda rank=rank: rank,
            all_gather_object=gather,
        )
        monkeypatch.setattr(joint_step, "dist", fake)
        found.append(step(rows, 2))
    torch.testing.assert_close((found[0] + found[1]) / 2, alone, rtol=1e-5, atol=1e-7)
