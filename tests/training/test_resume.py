"""A run that was stopped and resumed ends with the same weights as one that was not."""

import json
import os
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from medsoft.data.datasets.sampling import EpochBatchSampler, SampleKey
from medsoft.evaluation.metrics.epochs import best_epoch
from medsoft.training.callbacks import SeedEachStep, StopGracefully
from tests.builders.forked import Forked
from tests.builders.images import TINY
from tests.builders.waiting import wait_until

pytestmark = pytest.mark.long

# Everything random that there is: augmentation, dropout, stochastic depth, mixing; moving averages, and a first epoch
# in which the backbone is frozen.
RANDOM = [
    "--trainer.max_epochs=3",
    "--model.dropout=0.3",
    "--model.backbone_args.drop_path_rate=0.3",
    "--ema_decay=0.9",
    "--model.mixup=0.4",
    "--model.cutmix=1",
    "--model.freeze_epochs=1",
    "--transforms.rand_augment=0.5",
    "--seed_everything=3",
    "--data.batch_size=6",  # 4 batches an epoch
]


def weights(run, name="last"):
    state = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return {**state["state_dict"], **{f"current.{k}": v for k, v in state["current_model_state"].items()}}


def assert_same_run(resumed, undisturbed):
    a, b = weights(resumed), weights(undisturbed)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    table = [pd.read_csv(run / "metrics.csv") for run in (resumed, undisturbed)]
    assert table[0]["epoch"].tolist() == [1, 2, 3]
    kept = ["epoch", "step", "val_loss", "val_auroc", "train_loss"]
    pd.testing.assert_frame_equal(table[0][kept], table[1][kept])
    assert (resumed / "predictions.csv").read_bytes() == (undisturbed / "predictions.csv").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, table):
    from medsoft.cli.main import main

    out = tmp_path_factory.mktemp("undisturbed") / "run"
    words = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY, *RANDOM]
    assert main(["fit", *words, f"--out={out}"]) == 0
    return out


@pytest.mark.parametrize(
    ("epoch", "batch", "workers"), [(0, 1, 0), (1, 2, 0), (1, 2, 2), (1, 3, 0), (1, 3, 2), (2, 0, 0)]
)
def test_stopped_after_any_step_it_resumes_to_the_same_weights(
    tmp_path, fit, medsoft, monkeypatch, undisturbed, epoch, batch, workers
):
    """Batch 3 is the last of its epoch: the stop then comes after the validation."""

    def ask_at(self, trainer, pl_module, outputs, batch_, batch_idx):
        if (trainer.current_epoch, batch_idx) == (epoch, batch):
            self._ask(signal.SIGINT)
        original(self, trainer, pl_module, outputs, batch_, batch_idx)

    original = StopGracefully.on_train_batch_end
    monkeypatch.setattr(StopGracefully, "on_train_batch_end", ask_at)
    out = tmp_path / "run"
    said, err = fit(*RANDOM, f"--out={out}", f"--data.num_workers={workers}", code=130)
    assert said.count("epoch ") == epoch + (batch == 3), "a line for each epoch that has ended"
    assert "medsoft fit --resume" in err
    assert not (out / "predictions.csv").exists()
    monkeypatch.setattr(StopGracefully, "on_train_batch_end", original)
    assert medsoft("fit", "--resume", out)[0] == 0
    assert_same_run(out, undisturbed)


def test_the_epoch_at_whose_end_a_training_stops_may_be_the_best(tmp_path, fit, medsoft, monkeypatch):
    """Without learning the first one stays the best."""

    def ask(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            self._ask(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(StopGracefully, "on_validation_end", ask, raising=False)
        out = tmp_path / "run"
        fit("--model.lr=0", "--trainer.max_epochs=2", f"--out={out}", code=143)
    assert medsoft("fit", "--resume", out)[0] == 0
    assert torch.load(out / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 0


def test_killed_without_warning_it_resumes_to_the_same_weights(tmp_path, table, medsoft, undisturbed):
    """SIGKILL in the middle of an epoch: what counts is the checkpoint that was written last."""
    out = tmp_path / "run"
    words = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY, *RANDOM]
    process = Forked("fit", *words, f"--out={out}", "--save_every_n_steps=1", before=die_in_the_second_epoch)
    assert process.wait() == -signal.SIGKILL, process.said()
    assert (out / "checkpoints" / "last.ckpt").is_file()
    assert medsoft("fit", "--resume", out)[0] == 0
    assert_same_run(out, undisturbed)


def die_in_the_second_epoch():
    seed = SeedEachStep.on_train_batch_start

    def die(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        seed(self, trainer, pl_module, batch, batch_idx)

    SeedEachStep.on_train_batch_start = die


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_every_process_ends_a_training_in_good_order(tmp_path, table, number):
    """SLURM sends its signals, as a terminal Ctrl-C, to the processes that load images too."""
    out = tmp_path / "run"
    words = [f"--data.table={table}", "--data.classes=[dark, light]", *TINY, "--trainer.max_epochs=10000"]
    process = Forked("fit", *words, f"--out={out}", "--data.num_workers=2")
    wait_until((out / "checkpoints" / "last.ckpt").exists, process)
    os.killpg(process.pid, number)
    _, err = process.communicate()
    assert process.returncode == 128 + number, err
    assert "Go on with: medsoft fit --resume" in err
    assert "could not be saved" not in err
    assert "Traceback" not in err
    torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    assert not list(out.rglob(".*"))


def test_resuming_what_is_no_run_says_so(tmp_path, medsoft):
    code, _, err = medsoft("fit", "--resume", tmp_path)
    assert code == 2
    assert "no folder of a run" in err


def test_an_option_that_changes_the_models_shape_is_refused_at_resume(tmp_path, medsoft, undisturbed):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    deeper = "--model.backbone_args={patch_size: 8, depth: 3, embed_dim: 32, num_heads: 2}"
    code, _, err = medsoft("fit", "--resume", run, deeper)
    assert code == 2
    assert "an added option changes the model's shape" in err
    assert "Traceback" not in err


def test_options_added_at_resume_are_in_the_runs_configuration(tmp_path, medsoft, undisturbed):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    before = yaml.safe_load((run / "config.yaml").read_text())
    assert medsoft("fit", "--resume", run, "--trainer.max_epochs=4", "--patience=9")[0] == 0
    after = yaml.safe_load((run / "config.yaml").read_text())
    assert (after["trainer"].pop("max_epochs"), after.pop("patience")) == (4, 9)
    assert (before["trainer"].pop("max_epochs"), before.pop("patience")) == (3, None)
    assert after.pop("data") | {"splits_from": None} == before.pop("data") | {"splits_from": None}
    assert after == before
    resumed = json.loads((run / "versions.json").read_text())["resumed"]
    assert [entry["command"][-1] for entry in resumed] == ["--patience=9"]
    assert pd.read_csv(run / "metrics.csv")["epoch"].tolist() == [1, 2, 3, 4]


def test_a_run_that_was_moved_keeps_its_best_checkpoint(tmp_path, medsoft, undisturbed):
    """Further epochs that learn nothing are no better: the best one of before stays, and the old folder untouched."""
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    before = (undisturbed / "checkpoints" / "best.ckpt").read_bytes()
    assert medsoft("fit", "--resume", run, "--trainer.max_epochs=5", "--model.lr=0")[0] == 0
    assert (undisturbed / "checkpoints" / "best.ckpt").read_bytes() == before
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] + 1 == best_epoch(pd.read_csv(run / "metrics.csv").set_index("epoch"), "val_auroc")


def test_an_option_that_does_not_fit_leaves_the_configuration_alone(tmp_path, medsoft, undisturbed):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    before = (run / "config.yaml").read_bytes()
    deeper = "--model.backbone_args={patch_size: 8, depth: 3, embed_dim: 32, num_heads: 2}"
    assert medsoft("fit", "--resume", run, deeper, "--trainer.max_epochs=4")[0] == 2
    assert (run / "config.yaml").read_bytes() == before


def test_each_epoch_shows_every_sample_once_in_batches_of_near_equal_size():
    sampler = EpochBatchSampler(n=21, batch_size=8, seed=0)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert [len(batch) for batch in batches] == [7, 7, 7]
        assert all(key.epoch == epoch for batch in batches for key in batch)
        orders.append([key.sample for batch in batches for key in batch])
        assert sorted(orders[-1]) == list(range(21))
    assert orders[0] != orders[1] != orders[2]


def test_balanced_sampling_draws_rare_samples_as_often_as_frequent_ones():
    labels = np.array([0] * 900 + [1] * 100)
    sampler = EpochBatchSampler(1000, 50, seed=0, weights=1 / np.bincount(labels)[labels])
    drawn = [labels[key.sample] for batch in sampler for key in batch]
    assert 0.45 < np.mean(drawn) < 0.55


def test_a_sample_key_keeps_its_epoch_through_workers(table):
    from medsoft.data.datasets.image_module import ImageDataModule
    from medsoft.data.transforms.plain import Plain

    def batch(workers):
        data = ImageDataModule(Plain(size=32), str(table), classes=["dark", "light"], num_workers=workers)
        data.load(["train"])
        dataset = data._parts["train"][1]
        return dataset[SampleKey(4, 2)]["image"], dataset[SampleKey(5, 2)]["image"], dataset[2]["image"]

    first, second = batch(0), batch(2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
