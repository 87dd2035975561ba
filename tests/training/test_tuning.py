"""What a training finds out before it begins, a batch that fits and a learning rate; and the average of its weights."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from medsoft.errors import RunError
from medsoft.training import tuning
from medsoft.training.averaging import MovingAverage
from medsoft.training.tuning import RangeTest
from tests.builders.images import TINY

pytestmark = pytest.mark.long


def config(run):
    return yaml.safe_load((run / "config.yaml").read_text())


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def samples_fit(monkeypatch, n: float):
    """As if the memory that is free were enough for so many samples."""
    asked = tuning.kept_bytes
    monkeypatch.setattr(tuning, "kept_bytes", lambda *a: kept.append(asked(*a)) or kept[-1])
    monkeypatch.setattr(tuning, "available_memory", lambda: int(kept[-1] * n / tuning.SHARE_OF_MEMORY) + 1)
    kept: list[int] = []
    return kept


def test_a_batch_that_fits_learns_what_it_would_have_learnt_and_is_written_down(tmp_path, fit, monkeypatch):
    """28 training samples in steps of 8, of which 4 fit: two batches are accumulated to a step."""
    kept = samples_fit(monkeypatch, 4.5)
    said, _ = fit("--trainer.max_epochs=2", f"--out={tmp_path / 'found'}", "--trainer.batch=auto", "--model.dropout=0")
    assert kept[0] > 0
    assert "trainer.batch auto: data.batch_size 4, 2 of them accumulated to a step of 8" in said
    found = config(tmp_path / "found")
    assert (found["data"]["batch_size"], found["trainer"]["accumulate_grad_batches"]) == (4, 2)
    assert found["trainer"]["batch"] is None
    fit(
        "--trainer.max_epochs=2",
        f"--out={tmp_path / 'given'}",
        "--data.batch_size=4",
        "--trainer.accumulate_grad_batches=2",
    )
    a, b = weights(tmp_path / "found"), weights(tmp_path / "given")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_what_fits_already_is_left_as_it_is_and_accumulation_is_undone(tmp_path, fit, monkeypatch):
    samples_fit(monkeypatch, 1000)
    words = ["--trainer.max_epochs=1", "--trainer.accumulate_grad_batches=2", "--trainer.batch=auto"]
    said, _ = fit(*words, f"--out={tmp_path / 'run'}")
    assert "data.batch_size 16, all 16 samples of a step" in said
    assert config(tmp_path / "run")["trainer"]["accumulate_grad_batches"] == 1


def test_where_not_one_sample_fits_nothing_is_begun(tmp_path, fit, monkeypatch):
    samples_fit(monkeypatch, 0.5)
    _, err = fit("--trainer.max_epochs=1", f"--out={tmp_path / 'run'}", "--trainer.batch=auto", code=1)
    assert "not enough memory for one sample" in err
    assert not (tmp_path / "run").exists()


def test_on_a_gpu_half_of_the_batch_is_tried_where_memory_does_not_suffice(monkeypatch, fit, tmp_path):
    """As CUDA says it: a step with more than 3 samples fails. Lightning's Tuner does the trying."""
    tried: list[int] = []
    monkeypatch.setattr(
        tuning,
        "_fits_in_memory",
        lambda model, data, most: (tuning._fits_by_trying(run_config, model, data, most), "tried"),
    )
    asked = tuning.find_batch

    def found(config, *more):
        nonlocal run_config
        run_config = config
        return asked(config, *more)

    run_config = None
    monkeypatch.setattr("medsoft.workflows.fit.find_batch", found)
    step = tuning._Trial.training_step

    def scarce(self, batch, batch_idx):
        tried.append(len(batch["target"]))
        if tried[-1] > 3:
            raise RuntimeError("CUDA error: out of memory")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(tuning._Trial, "training_step", scarce)
    fit("--trainer.max_epochs=1", f"--out={tmp_path / 'run'}", "--trainer.batch=auto")
    assert tried[:2] == [7, 4]  # 28 samples in batches of 8 at most, then of 4
    assert tried[2:] == [2, 2, 2, 4], "2 fit, and once more 4 do not"
    got = config(tmp_path / "run")
    assert (got["data"]["batch_size"], got["trainer"]["accumulate_grad_batches"]) == (2, 4)


def test_the_range_test_takes_the_rate_at_which_the_loss_falls_most_steeply():
    rates = np.logspace(-6, 0, 100)
    losses = 1 - 0.8 / (1 + np.exp(-6 * (np.log10(rates) + 3)))  # falls about 1e-3
    losses = losses + np.where(rates > 0.1, 50 * (rates - 0.1), 0)  # and diverges
    losses += np.random.default_rng(0).normal(0, 0.005, 100)
    found = RangeTest.of(rates, losses)
    assert 3e-4 < found.suggestion < 3e-3
    losses[95:] = np.nan
    assert RangeTest.of(rates, losses).suggestion == found.suggestion


@pytest.mark.parametrize(
    ("losses", "said"), [(np.linspace(1, 2, 100), "falls at no learning rate"), (np.full(100, np.nan), "0 steps")]
)
def test_losses_that_say_nothing_are_told(losses, said):
    with pytest.raises(RunError, match=said):
        RangeTest.of(np.logspace(-6, 0, 100), losses)


def test_the_learning_rate_that_was_found_is_the_runs_and_repeats_it(tmp_path, fit, medsoft):
    run = tmp_path / "run"
    words = ["--trainer.max_epochs=1", "--model.layer_decay=0.5", "--model.freeze_epochs=0"]
    said, _ = fit(*words, "--lr_find", f"--out={run}")
    found = config(run)
    rate = found["model"]["lr"]
    assert f"lr_find: model.lr {rate:g}" in said
    assert found["lr_find"] is False
    tested = pd.read_csv(run / "lr_find.csv")
    assert tested["lr"].min() == pytest.approx(tuning.LOWEST)
    assert tested["lr"].is_monotonic_increasing
    assert tested["lr"].min() < rate < tested["lr"].max()
    assert (run / "lr_find.png").stat().st_size > 5000
    groups = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert max(group["initial_lr"] for group in groups) == rate
    assert medsoft("fit", "--config", run / "config.yaml", f"--out={tmp_path / 'again'}")[0] == 0
    a, b = weights(run), weights(tmp_path / "again")
    assert all(torch.equal(a[name], b[name]) for name in a)
    code, _, err = medsoft("fit", "--resume", run, "--lr_find=true", "--trainer.max_epochs=2")
    assert code == 2
    assert "the stopped run goes on with the values that it began with" in err


def test_layers_that_learn_slower_do_so_in_the_range_test_too():
    class Model(torch.nn.Module):
        lr = 1.0

        def __init__(self):
            super().__init__()
            self.a, self.b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))

        def parameter_groups(self):
            return [{"params": [self.a], "lr": 1.0}, {"params": [self.b], "lr": 0.25}]

    trial = tuning._Trial(Model(), lambda size: None, 1)
    optimizer = trial.configure_optimizers()
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = 0.1, 0.0  # as Lightning's range test sets it
    (trial.model.a + trial.model.b).backward()
    optimizer.step()
    assert float(trial.model.a.detach()) == pytest.approx(-0.1, rel=1e-4)
    assert float(trial.model.b.detach()) == pytest.approx(-0.025, rel=1e-4)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]


@pytest.mark.parametrize("asked", ["--trainer.batch=auto", "--lr_find=true"])
def test_several_processes_find_nothing_out(fit, tmp_path, asked):
    _, err = fit(asked, "--trainer.devices=2", f"--out={tmp_path / 'run'}", code=2)
    assert "found out by one process alone" in err


def test_the_average_of_few_steps_is_not_mostly_what_it_began_with():
    decay, steps = 0.999, 50
    average = MovingAverage(decay)._kwargs["avg_fn"]
    value = torch.tensor(0.0)
    for n in range(1, steps):
        value = average(value, torch.tensor(1.0), torch.tensor(n))
    assert float(value) > 0.99, "a constant decay would leave 0.05"
    late = average(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(10**6))
    assert float(late) == pytest.approx(1 - decay, rel=1e-3)


HYBRID = "--model.backbone_args={encoder: test_resnet, embed_dim: 24, depth: 2, num_heads: 2}"


def test_a_hybrid_is_trained_predicts_is_exported_and_sets_aside_as_a_vision_transformer(tmp_path, fit, medsoft, table):
    run = tmp_path / "run"
    fit(
        *("--trainer.max_epochs=2", f"--out={run}", "--model.backbone=hybrid", HYBRID, "--model.freeze_epochs=1"),
        *("--figures=true", "--examples=2", "--ema_decay=0.9"),
    )
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert state["medsoft"]["backbone"] == "hybrid"
    assert any(name.startswith("backbone.encoder.") for name in state["state_dict"])
    from safetensors import safe_open

    with safe_open(run / "out_of_distribution.safetensors", framework="numpy") as file:
        assert {name.split(".")[0] for name in file.keys() if name.startswith("layer")} == {"layer0", "layer1"}  # noqa: SIM118
    assert len(list((run / "examples").glob("*_contributions.jpg"))) == 2
    assert medsoft("export", run, "--out", tmp_path / "bundle", "--format=torch-export")[0] == 0
    code, _, err = medsoft(
        "predict",
        f"--bundle={tmp_path / 'bundle'}",
        f"--data.table={table}",
        f"--out={tmp_path / 'p'}",
        "--figures=false",
    )
    assert code == 0, err
    own = pd.read_csv(run / "predictions.csv").set_index("id")
    theirs = pd.read_csv(tmp_path / "p" / "predictions.csv").set_index("id").loc[own.index]
    assert np.allclose(own["p_light"], theirs["p_light"], atol=1e-5)


def test_mixing_needs_a_batch(fit, tmp_path):
    _, err = fit("--model.mixup=0.2", "--data.batch_size=1", f"--out={tmp_path / 'run'}", code=2)
    assert "model.mixup needs batches of two or more" in err


def test_a_backbone_that_is_frozen_to_the_end_is_asked_for_otherwise(fit, tmp_path):
    _, err = fit("--model.freeze_epochs=2", "--trainer.max_epochs=2", f"--out={tmp_path / 'run'}", code=2)
    assert "model.freeze_epochs 2" in err
    assert "model.freeze" in err


def test_folds_are_fine_tuned_with_the_same_options_and_find_their_own_batch(tmp_path, medsoft, table):
    words = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY, "--folds=2"]
    tuned = ["--model.freeze_epochs=1", "--model.mixup=0.2", "--ema_decay=0.9", "--model.layer_decay=0.8"]
    found = ["--trainer.batch=auto", "--trainer.accumulate_grad_batches=2"]
    out = tmp_path / "crossval"
    code, said, err = medsoft("crossval", *words, *tuned, *found, "--trainer.max_epochs=2", f"--out={out}")
    assert code == 0, err
    assert said.count("trainer.batch auto: data.batch_size 16, all 16 samples of a step") == 2
    for run in sorted(out.glob("**/checkpoints/best.ckpt")):
        own = config(run.parent.parent)
        assert (own["data"]["batch_size"], own["trainer"]["accumulate_grad_batches"]) == (16, 1)
        assert (own["model"]["freeze_epochs"], own["model"]["mixup"], own["ema_decay"]) == (1, 0.2, 0.9)
    assert len(list(out.glob("**/checkpoints/best.ckpt"))) == 2


@pytest.mark.parametrize("further", [[], ["--model.backbone=hybrid"]])
def test_the_configuration_of_fine_tuning_stands_behind_a_modalitys_and_keeps_its_images(capfd, further):
    from medsoft.cli.main import main

    words = ["--config=fundus", "--config=finetune", "--data.table=t.csv", *further, "--print_config"]
    with pytest.raises(SystemExit):
        main(["fit", *words])
    values = yaml.safe_load(capfd.readouterr().out)
    assert values["use"]["transforms"] == "fundus"
    assert (values["transforms"]["size"], values["data"]["batch_size"]) == (224, 16)
    assert (values["model"]["encoder"], values["trainer"]["max_epochs"]) == ("efficientnet-lite0", 12)
    assert "depth" not in (values["model"]["backbone_args"] or {}), "which is for the network trained from scratch"
