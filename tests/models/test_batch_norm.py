"""Networks that normalise over the batch, and batches of one sample."""

from types import SimpleNamespace

import pytest
import torch

from medsoft.classifiers.image import Classifier
from medsoft.errors import InputError
from medsoft.specs import DataSpec
from medsoft.task import Task
from medsoft.training.trainer import check_batches

TASK = Task.of("binary", ("a", "b"))


def classifier(backbone: str, size: int = 32, freeze: bool = False) -> Classifier:
    return Classifier(DataSpec(TASK, 3, (size, size), torch.tensor([1, 1])), backbone, freeze=freeze)


def data(n: int, batch_size: int) -> SimpleNamespace:
    return SimpleNamespace(batch_size=batch_size, part=lambda split: range(n))


@pytest.fixture(scope="module")
def resnet() -> Classifier:
    return classifier("resnet10t")


@pytest.mark.parametrize(("n", "batch_size", "processes"), [(6, 1, 1), (7, 2, 1), (1, 8, 1), (4, 1, 2), (3, 2, 2)])
def test_a_batch_of_one_is_refused_before_training(resnet, n, batch_size, processes):
    with pytest.raises(InputError, match=r"resnet10t normalises over the batch.* one sample.*batch_size"):
        check_batches(resnet, data(n, batch_size), processes)


@pytest.mark.parametrize(("n", "batch_size", "processes"), [(6, 2, 1), (7, 3, 1), (33, 32, 1), (8, 2, 2)])
def test_other_batches_are_not(resnet, n, batch_size, processes):
    assert check_batches(resnet, data(n, batch_size), processes) == []


def test_where_it_can_be_learnt_from_there_is_a_warning_and_nothing_changes():
    model = classifier("resnet10t", size=96)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (said,) = check_batches(model, data(6, 1))
    assert said.startswith("WARNING: resnet10t normalises over the batch")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.backbone.training


def test_networks_without_batches_to_normalise_over_take_one_sample():
    assert check_batches(classifier("resnet10t", freeze=True), data(6, 1)) == []
    vit = Classifier(
        DataSpec(TASK, 3, (32, 32), torch.tensor([1, 1])),
        backbone_args={"patch_size": 8, "depth": 1, "embed_dim": 32, "num_heads": 2},
    )
    assert check_batches(vit, data(6, 1)) == []


def test_processes_that_normalise_together_have_the_whole_batch(resnet):
    assert check_batches(resnet, data(8, 1), processes=2, synchronised=True) == []


def test_fit_refuses_before_there_is_a_run(fit, tmp_path):
    words = ["--model.backbone=resnet10t", "--model.backbone_args=null", "--data.batch_size=1"]
    _, err = fit(*words, f"--out={tmp_path / 'run'}", code=2)
    assert "of which it cannot learn: raise data.batch_size" in err
    assert not (tmp_path / "run").exists()
