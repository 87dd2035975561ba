"""Models of torchmil as aggregators: padding, heads, losses of their own, attention, and what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medsoft.classifiers.slide import SlideClassifier
from medsoft.errors import InputError
from medsoft.inference.export.network import inputs_of
from medsoft.models.aggregators import arguments_of, build_aggregator, can_stream, read_logits
from medsoft.models.aggregators.graph import neighbour_graph
from medsoft.models.aggregators.torchmil import KINDS, NOT_USED, clam_instance_loss
from medsoft.specs import BagSpec
from medsoft.task import Task

F_ = 6
SMALL = {
    "TransMIL": {"att_dim": 8, "n_heads": 2},
    "CAMIL": {"nystrom_att_dim": 8, "n_heads": 2, "n_landmarks": 4},
    "TransformerABMIL": {"transf_att_dim": 8, "transf_n_heads": 2},
    "SmTransformerABMIL": {"transf_att_dim": 8, "transf_n_heads": 2},
}


@pytest.fixture(scope="module", autouse=True)
def _torchmil():
    pytest.importorskip("torchmil", reason="the models are in an optional package: pip install 'medsoft[mil]'")


def make(short, classes=2, **options):
    torch.manual_seed(0)
    return build_aggregator(f"torchmil:{short}", F_, classes, **{"dim": 8, **SMALL.get(short, {}), **options})


def bag(n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, n, F_, generator=generator)
    return x, torch.randint(0, 40, (1, n, 2), generator=generator).float() * 448


@pytest.mark.parametrize("short", KINDS)
def test_a_bag_comes_out_the_same_alone_and_padded_in_a_batch_whatever_the_padding_holds(short):
    model = make(short).eval()
    bags = [bag(n, seed=n) for n in (12, 1, 5)]
    x, coords = torch.full((3, 14, F_), torch.nan), torch.full((3, 14, 2), torch.nan)
    mask = torch.zeros(3, 14, dtype=torch.bool)
    for i, (x_1NF, coords_1N2) in enumerate(bags):
        n = x_1NF.shape[1]
        x[i, 2 : n + 2], coords[i, 2 : n + 2], mask[i, 2 : n + 2] = x_1NF[0], coords_1N2[0], True
    alone = torch.cat([model(x_1NF, None, coords_1N2) for x_1NF, coords_1N2 in bags])
    torch.testing.assert_close(model(x, mask, coords), alone)
    assert alone.shape == (3, 2)
    assert len(set(alone[:, 0].tolist())) == 3  # each bag has an answer of its own


@pytest.mark.parametrize("short", KINDS)
def test_every_weight_that_a_model_uses_learns(short):
    model = make(short)
    x, coords = bag(30)
    target = torch.tensor([1])
    loss = model.with_own_losses(F.cross_entropy(model(x, None, coords), target), F.cross_entropy, target)
    loss.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # torchmil makes the norms of an MLP also where it makes no MLP.
    assert [name for name in still if not (short in ("TransMIL", "CAMIL") and ".norm2." in name)] == []
    before = model(x, None, coords)
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    model.eval()
    assert model(x, None, coords).isfinite().all()
    assert not torch.equal(model(x, None, coords), before)


@pytest.mark.parametrize("short", [short for short, kind in KINDS.items() if not kind.binary])
def test_heads_have_as_many_outputs_as_the_task(short):
    x, coords = bag(6)
    for classes in (1, 4):
        assert make(short, classes).eval()(x, None, coords).shape == (1, classes)


@pytest.mark.parametrize("short", ["ABMIL", "DTFDMIL", "PatchGCN"])
def test_a_bag_without_real_tiles_gives_the_heads_bias(short):
    model = make(short)
    x, coords = bag(3)
    logits = model(x, torch.zeros(1, 3, dtype=torch.bool), coords)
    torch.testing.assert_close(logits, model.head.bias[None])
    target = torch.tensor([0])
    loss = model.with_own_losses(F.cross_entropy(logits, target), F.cross_entropy, target)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# ---- losses


def test_the_loss_of_dsmil_is_half_that_of_its_most_positive_tile():
    model, (x, coords), target = make("DSMIL"), bag(9), torch.tensor([1])
    task = F.cross_entropy(model(x, None, coords), target)
    found = model.with_own_losses(task, F.cross_entropy, target)
    scores = model.model.inst_classifier(model.tile(x)).flatten()
    most = F.binary_cross_entropy_with_logits(scores.max(), torch.tensor(1.0))
    torch.testing.assert_close(found, (task + most) / 2)


def test_the_loss_of_dtfd_adds_the_mean_of_its_first_tier():
    model, (x, coords), target = make("DTFDMIL", n_groups=1), bag(9), torch.tensor([0])
    task = F.cross_entropy(model(x, None, coords), target)
    found = model.with_own_losses(task, F.cross_entropy, target)
    score = model.model.classifier(model.model.attention_pool(model.tile(x)))[0, 0]
    torch.testing.assert_close(found, task + F.binary_cross_entropy_with_logits(score, torch.tensor(0.0)))


def test_the_loss_of_clam_is_that_of_its_definition():
    torch.manual_seed(0)
    scores, tiles = torch.randn(9), torch.randn(9, 5)
    classifiers = [nn.Linear(5, 2), nn.Linear(5, 2)]

    def svm(logits, answer):  # τ log Σ exp((margin + s_j − s_y) / τ), margin and τ 1
        return torch.logsumexp(torch.stack([logits[j] - logits[answer] + (j != answer) for j in (0, 1)]), 0)

    order = scores.argsort(descending=True)
    for target in (0, 1):
        own, other = classifiers[target], classifiers[1 - target]
        of_own = [svm(own(tiles[i]), 1) for i in order[:3]] + [svm(own(tiles[i]), 0) for i in order[-3:]]
        of_other = [svm(other(tiles[i]), 0) for i in order[:3]]
        expected = (torch.stack(of_own).mean() + torch.stack(of_other).mean()) / 2
        torch.testing.assert_close(clam_instance_loss(scores, tiles, classifiers, target, 3), expected)
    assert clam_instance_loss(scores[:1], tiles[:1], classifiers, 0, 3).isfinite()  # fewer tiles than it asks for
    model, (x, coords), target = make("CLAM_SB"), bag(9), torch.tensor([1])
    task = F.cross_entropy(model(x, None, coords), target)
    found = model.with_own_losses(task, F.cross_entropy, target)
    _, attention, emb = model.model(model.tile(x), return_att=True, return_emb=True)
    of_tiles = clam_instance_loss(attention[0], emb[0], list(model.model.inst_classifiers), 1, 10)
    torch.testing.assert_close(found, 0.7 * task + 0.3 * of_tiles)


def test_own_losses_are_the_mean_over_the_bags_and_others_add_nothing():
    x = torch.cat([bag(5, seed)[0] for seed in (1, 2)])
    targets = torch.tensor([0, 1])
    model = make("DSMIL")
    extra = [model.with_own_losses(_zero(model(x[i : i + 1])), F.cross_entropy, targets[i : i + 1]) for i in (0, 1)]
    both = model.with_own_losses(_zero(model(x)), F.cross_entropy, targets)
    torch.testing.assert_close(both, (extra[0] + extra[1]) / 2)
    plain = make("ABMIL")
    loss = plain(x).sum()
    assert plain.with_own_losses(loss, F.cross_entropy, targets) is loss


def _zero(logits):
    return 0 * logits.sum()


def test_groups_of_tiles_are_the_same_in_each_prediction_and_numpy_is_left_alone():
    model, (x, _) = make("DTFDMIL", n_groups=3).eval(), bag(20)
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    first = model(x)
    np.random.random(2)
    assert torch.equal(model(x), first)
    np.random.seed(5)
    model(x)
    assert (np.random.random(3) == expected).all()
    model.train()
    torch.manual_seed(0)
    drawn = {tuple(model(x)[0].tolist()) for _ in range(4)}
    assert len(drawn) > 1


# ---- attention


@pytest.mark.parametrize("short", [short for short, kind in KINDS.items() if kind.attention])
def test_attention_is_one_number_a_tile(short):
    model = make(short).eval()
    x, coords = bag(12)
    found = model.attention_of_tiles(x, coords)
    assert found.shape == (12,)
    assert found.isfinite().all()
    if short != "TransMIL":
        torch.testing.assert_close(found.sum(), torch.tensor(1.0))
        assert (found >= 0).all()


def test_attention_is_that_of_the_pooling():
    model, (x, _) = make("ABMIL", gated=True).eval(), bag(12)
    weights = model.attention_of_tiles(x)
    torch.testing.assert_close(model.head((weights @ model.tile(x)[0])[None]), model(x))


def test_there_are_no_contributions_and_no_chunks():
    model, (x, coords) = make("TransMIL").eval(), bag(4)
    with pytest.raises(ValueError, match="logits of torchmil:TransMIL are no sums over tiles"):
        model.explain(x, 0)
    with pytest.raises(ValueError, match="DTFDMIL gives no attention"):
        make("DTFDMIL").eval().attention_of_tiles(x)
    with pytest.raises(ValueError, match="training mode"):
        make("ABMIL").attention_of_tiles(x)
    assert not can_stream(model)
    parts = [(x[0, :3], coords[0, :3]), (x[0, 3:], coords[0, 3:])]
    torch.testing.assert_close(read_logits(model, lambda: parts), model(x).detach())


# ---- the graph


def test_a_graph_joins_each_tile_to_its_nearest_with_normalised_weights():
    line = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])  # 0 and 1 are each other's nearest, 1 is that of 2
    graph = neighbour_graph(line, 1, torch.float64).to_dense()
    half = 0.5**0.5
    expected = torch.tensor([[0, half, 0], [half, 0, half], [0, half, 0]], dtype=torch.float64)
    torch.testing.assert_close(graph, expected)
    assert neighbour_graph(line[:1], 8, torch.float32).to_dense().tolist() == [[0.0]]


def test_a_graph_does_not_depend_on_the_unit_nor_the_order():
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(40, 2, generator=generator)
    graph = neighbour_graph(places, 5, torch.float64)
    order = torch.randperm(40, generator=generator)
    dense, shuffled = graph.to_dense(), neighbour_graph(places[order] * 250, 5, torch.float64).to_dense()
    torch.testing.assert_close(shuffled, dense[order][:, order])
    torch.testing.assert_close(dense, dense.T)
    assert not dense.diagonal().any()
    assert ((dense > 0).sum(1) >= 5).all()
    eigenvalues = torch.linalg.eigvalsh(dense)
    assert eigenvalues.abs().max() == pytest.approx(1, abs=1e-9)  # of D^(−1/2) A D^(−1/2)


def test_tiles_at_one_place_have_a_graph():
    graph = neighbour_graph(torch.zeros(20, 2), 3, torch.float32).to_dense()
    assert graph.isfinite().all()
    assert not graph.diagonal().any()


@pytest.mark.parametrize("short", ["ABMIL", "TransMIL", "PatchGCN"])
def test_half_precision_stays_close(short):
    model, (x, coords) = make(short).eval(), bag(40)
    exact = model(x, None, coords)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x, None, coords)
    assert (half.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_where_the_tiles_lie_matters_to_a_graph_and_must_be_told():
    model = make("PatchGCN").eval()
    x, coords = bag(30)
    assert (model(x, None, coords) - model(x, None, coords[:, torch.randperm(30)])).abs().max() > 1e-4
    with pytest.raises(ValueError, match="torchmil:PatchGCN needs the tiles' coordinates"):
        model(x)


# ---- what is refused


def test_names_and_options_that_there_are_not_get_the_list(monkeypatch):
    with pytest.raises(ValueError, match=r"'TransMIL2' is not a model of torchmil. Models: torchmil:ABMIL, .*TransMIL"):
        build_aggregator("torchmil:TransMIL2", F_, 2)
    for short, reason in NOT_USED.items():
        with pytest.raises(ValueError, match=f"{short}' cannot be used: {reason}"):
            build_aggregator(f"torchmil:{short}", F_, 2)
    with pytest.raises(TypeError, match="has no option depth: it takes dim, drop, att_dim"):
        build_aggregator("torchmil:ABMIL", F_, 2, depth=3)
    with pytest.raises(TypeError, match="no option neighbours"):
        build_aggregator("torchmil:ABMIL", F_, 2, neighbours=3)
    with pytest.raises(ValueError, match="neighbours 0"):
        build_aggregator("torchmil:PatchGCN", F_, 2, neighbours=0)
    assert "neighbours" in arguments_of("torchmil:PatchGCN")
    assert "standardise" in arguments_of("torchmil:ABMIL")


def test_every_model_of_torchmil_is_used_or_refused_with_a_reason():
    from torchmil import models

    known = {name for name in vars(models) if isinstance(getattr(models, name), type)}
    assert known - {"MILModel", "MILModelWrapper"} == KINDS.keys() | NOT_USED.keys()


def spec(kind="binary", classes=2, has_coordinates=True):
    names = tuple("abcd"[:classes])
    counts = np.ones((classes, 2) if kind == "multilabel" else classes)
    return BagSpec(Task.of(kind, names), counts, F_, has_coordinates, {}, None, target_scale=(50.0, 10.0))


@pytest.mark.parametrize(("kind", "classes"), [("multiclass", 3), ("ordinal", 3), ("multilabel", 2), ("regression", 0)])
def test_models_of_two_classes_refuse_other_tasks(kind, classes):
    for short, entry in KINDS.items():
        if entry.binary:
            with pytest.raises(InputError, match=f"torchmil:{short} can only tell two classes .*the task is {kind}"):
                SlideClassifier(spec(kind, classes), f"torchmil:{short}")
    model = SlideClassifier(spec(kind, classes), "torchmil:ABMIL", {"dim": 8})
    x, coords = bag(4)
    target = {"regression": torch.tensor([50.0]), "multilabel": torch.tensor([[1.0, 0.0]])}.get(kind, torch.tensor([1]))
    assert model.training_loss({"features": x, "coords": coords, "target": target}).isfinite()


def test_a_graph_is_refused_where_bags_have_no_places():
    with pytest.raises(InputError, match="torchmil:PatchGCN makes a graph from the places"):
        SlideClassifier(spec(has_coordinates=False), "torchmil:PatchGCN")


def test_an_export_as_a_network_is_refused():
    with pytest.raises(InputError, match=r"torchmil:ABMIL cannot be exported as a network.*Leave out --format"):
        inputs_of(SlideClassifier(spec(), "torchmil:ABMIL", {"dim": 8}), any_size=False)


def test_a_training_loss_has_the_models_own():
    model = SlideClassifier(spec(), "torchmil:DSMIL", {"dim": 8})
    x, coords = bag(4)
    batch = {"features": x, "coords": coords, "target": torch.tensor([1])}
    own = model.training_loss(batch)
    of_task = model.objective.loss(model.logits(batch), batch["target"])
    assert own.item() != of_task.item()
    torch.testing.assert_close(own, model.aggregator.with_own_losses(of_task, model.objective.loss, batch["target"]))
