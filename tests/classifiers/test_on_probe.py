"""Aggregators that stand on a linear probe: as networks, as they begin, and as runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medsoft.classifiers.objectives import CrossEntropy
from medsoft.classifiers.optimizer import aggregator_groups
from medsoft.classifiers.probe_training import stand_on_probe
from medsoft.data.datasets.bag_dataset import BagDataset
from medsoft.data.datasets.bag_module import BagDataModule
from medsoft.data.tables.sample_table import SampleTable
from medsoft.models.aggregators import OnProbe, build_aggregator, can_stream, stream_explain, stream_logits
from tests.builders.bags import write_bag, write_table

F, C = 6, 3
KINDS = {
    "seqnorm": ("transformer", {"attention": "seqnorm", "dim": 16, "num_heads": 2, "standardise": True}),
    "softmax": ("transformer", {"attention": "softmax", "dim": 16, "num_heads": 2}),
    "soft": ("transformer", {"attention": "soft", "dim": 16, "num_heads": 2}),
    "gated": ("abmil", {"dim": 16}),
}


def make(kind: str, moved: bool = True) -> OnProbe:
    torch.manual_seed(0)
    name, options = KINDS[kind]
    model = build_aggregator(name, F, C, on_probe=True, **options).double().eval()
    assert isinstance(model, OnProbe)
    rng = np.random.default_rng(0)
    model.solve(rng.normal(size=F), 1 + rng.random(F), rng.normal(size=(C, F)), rng.normal(size=C))
    if moved:
        with torch.no_grad():
            for parameter in model.learnt.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def bags(n: int = 9) -> torch.Tensor:
    return torch.randn(2, n, F, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_as_the_probe_and_only_the_rest_learns(kind):
    model, x = make(kind, moved=False), bags()
    first = model.probe.tile[0]
    standardised = (x.mean(dim=1) - first.mean_F) * first.scale_F
    torch.testing.assert_close(model(x), standardised @ model.probe.head.weight.T + model.probe.head.bias)
    model(x).square().sum().backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learning == {"learnt.head.weight", "learnt.head.bias"}  # at zero it passes nothing back, in the first step
    assert not any(p.requires_grad for p in model.probe.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_parts_add_up_padding_counts_nothing_and_chunks_give_the_same(kind):
    model, x = make(kind), bags()
    logits = model(x)
    torch.testing.assert_close(logits - model.probe(x), model.learnt(x))
    padded = torch.cat([x, torch.full((2, 4, F), torch.nan)], dim=1)
    mask = torch.arange(13).expand(2, -1) < 9
    torch.testing.assert_close(model(padded, mask), logits)
    found = model.explain(padded[:1], 1, mask[:1])
    torch.testing.assert_close(found.logit, logits[0, 1])
    parts = found.bias + found.residual + found.cls_contribution + found.contributions_N.sum()
    torch.testing.assert_close(parts, logits[0, 1])
    assert not found.contributions_N[9:].any()
    assert can_stream(model) == (kind in ("seqnorm", "gated"))
    if can_stream(model):
        pieces = [(x[0, :4], None), (x[0, 4:], None)]
        torch.testing.assert_close(stream_logits(model, lambda: pieces), logits[:1])
        torch.testing.assert_close(stream_explain(model, lambda: pieces, 1).contributions_N, found.contributions_N[:9])


def test_the_class_token_has_no_weight_decay():
    model = make("seqnorm")
    decayed, others = aggregator_groups(model, 1e-3, 0.1)
    token = model.learnt.cls_token
    assert any(one is token for one in others["params"])
    assert not any(one is token for one in decayed["params"])


# ---- on a table


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """40 bags of 4 tiles of 20 patients: the mean says the grade, noisily."""
    folder = tmp_path_factory.mktemp("bags")
    rng, rows = np.random.default_rng(0), []
    for i in range(40):
        grade = i // 2 % 3
        features = rng.normal(size=(4, F)).astype(np.float32)
        features[:, 0] += grade
        write_bag(folder / "features" / f"s{i:02d}.h5", features)
        row = {"path": f"s{i:02d}.svs", "patient": f"P{i // 2:02d}", "grade": grade, "any": int(grade > 0)}
        rows.append(row | {"age": 40 + 10 * grade + float(rng.normal()), "high": int(grade > 1)})
    return write_table(folder / "table.csv", rows)


@pytest.fixture(scope="module")
def training(table) -> tuple[SampleTable, BagDataset]:
    features = str(table.parent / "features")
    data = BagDataModule(str(table), features=features, label="grade", task="multiclass", patient="patient")
    data.load(["train"])
    return data.part("train"), data.dataset("train")


def test_it_learns_beside_logits_of_folds_that_held_the_row_out(training):
    part, dataset = training
    model = build_aggregator("mean", F, C, on_probe=True)
    assert isinstance(model, OnProbe)
    objective = CrossEntropy(C)
    chosen, correction = stand_on_probe(model, part, dataset, objective, inner_folds=4)
    assert chosen.folds == 4
    assert chosen.logits_NK is not None
    target = torch.as_tensor(dataset.targets)
    own = torch.cat([model(torch.from_numpy(dataset.read(i)[0])[None]) for i in range(len(part))])
    held_out = own + correction
    torch.testing.assert_close(held_out, torch.from_numpy(chosen.logits_NK).float(), atol=1e-4, rtol=1e-4)
    assert objective.loss(held_out, target) > objective.loss(own, target)


def test_one_patient_has_no_folds_and_no_correction(training):
    part, dataset = training
    alone = replace(part, frame=part.frame.assign(patient="P00"))
    model = build_aggregator("mean", F, C, on_probe=True)
    chosen, correction = stand_on_probe(model, alone, dataset, CrossEntropy(C))
    assert chosen.folds == 0
    assert correction.shape == (len(part), C)
    assert not correction.any()


WORDS = ["--trainer.accelerator=cpu", "--figures=false", "--report=false", "--shortcuts=false"]
TOKENS = ["--config=tokens", "--trainer.max_epochs=2", "--model.aggregator_args.dim=16"]
TOKENS += ["--model.aggregator_args.num_heads=2", "--model.aggregator_args.coordinates=false"]
GATED = ["--config=tokens", "--trainer.max_epochs=2", "--model.aggregator=abmil"]
GATED += ["--model.aggregator_args={dim: 8, on_probe: true}"]


def fit(medsoft, table: Path, out: Path, *more: str) -> tuple[int, str, str]:
    where = [f"--data.table={table}", f"--data.features={table.parent / 'features'}", f"--out={out}"]
    return medsoft("fit", *WORDS, *where, "--data.patient=patient", *more)


@pytest.mark.parametrize(
    ("question", "more"),
    [
        (["--data.label=grade", "--data.task=ordinal"], TOKENS),
        (["--data.label=any,high"], GATED),
        (["--data.label=age", "--data.task=regression"], [*TOKENS, "--ema_decay=0.9"]),
        (["--data.task=survival", "--data.time=age", "--data.event=any", "--data.time_unit=days"], GATED),
    ],
    ids=["ordinal", "multilabel", "regression", "survival"],
)
def test_the_first_epoch_of_a_run_is_the_probe_and_its_checkpoint_answers(tmp_path, medsoft, table, question, more):
    code, out, err = fit(medsoft, table, tmp_path / "run", *question, *more)
    assert code == 0, err
    assert "Stands on a linear probe" in out
    losses = pd.read_csv(tmp_path / "run" / "metrics.csv")["val_loss"]
    assert losses[1] != losses[0]
    if more is TOKENS:
        code, _, err = fit(medsoft, table, tmp_path / "probe", "--config=probe", *question)
        assert code == 0, err
        assert losses[0] == pytest.approx(pd.read_csv(tmp_path / "probe" / "metrics.csv")["val_loss"][0], rel=1e-4)
        words = [f"--checkpoint={tmp_path / 'run'}", f"--out={tmp_path / 'again'}", *WORDS[1:3]]
        code, _, err = medsoft("test", *words)
        assert code == 0, err
        first = pd.read_csv(tmp_path / "run" / "predictions.csv").query("split == 'test'").reset_index(drop=True)
        pd.testing.assert_frame_equal(first, pd.read_csv(tmp_path / "again" / "predictions.csv"))


def test_heads_of_survival_that_no_linear_model_solves_are_refused(tmp_path, medsoft, table):
    words = [
        "--data.task=survival",
        "--data.time=age",
        "--data.event=any",
        "--data.time_unit=days",
        "--model.survival=discrete",
        *GATED,
    ]
    code, _, err = fit(medsoft, table, tmp_path / "run", *words)
    assert code == 2
    assert "on_probe needs model.survival cox" in err


def test_a_single_epoch_is_refused(tmp_path, medsoft, table):
    code, _, err = fit(medsoft, table, tmp_path / "run", "--data.label=any", "--data.task=binary", *TOKENS[:1],
                       "--trainer.max_epochs=1", *TOKENS[2:])  # fmt: skip
    assert code == 2
    assert "raise trainer.max_epochs to 2 or more, or use --config probe" in err
