"""Slide aggregators: padding, explanations that add up, bags read in chunks, and a real set of bags."""

import csv
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medsoft.layers.attention import ATTENTION
from medsoft.layers.coordinates import CoordinateEmbedding
from medsoft.models.aggregators import AGGREGATORS, build_aggregator, stream_explain, stream_logits

MUSK = Path(__file__).parents[2].parent / "shared" / "data" / "mil_features" / "musk1.csv"
F_, C = 10, 3
POOLINGS = {name: {"dim": 16} for name in AGGREGATORS if name != "transformer"}
POOLINGS |= {f"{name} of features": {"dim": None} for name in POOLINGS}
TRANSFORMERS = {name: {"attention": name, "dim": 16, "num_heads": 2, "coordinates": True} for name in ATTENTION}
KINDS = POOLINGS | TRANSFORMERS
STREAMED = [*POOLINGS, "seqnorm", "sima", "relu_linear"]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}


def make(kind, dtype=torch.float64, **options):
    torch.manual_seed(0)
    name = "transformer" if kind in TRANSFORMERS else kind.split()[0]
    model = build_aggregator(name, F_, C, **KINDS[kind] | options).to(dtype).eval()
    with torch.no_grad():  # away from the initial values, under which mistakes hide
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def bag(n, dtype=torch.float64, seed=1):
    """Features (1, n, F) and coordinates (1, n, 2) in µm."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, n, F_, generator=generator, dtype=torch.float64) * 2 + 1
    return x.to(dtype), torch.randint(0, 40_000, (1, n, 2), generator=generator).to(dtype)


def close(a, b, dtype=torch.float64):
    torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE[dtype] * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_comes_out_the_same_alone_and_padded_in_a_batch_whatever_the_padding_holds(kind, dtype):
    model = make(kind, dtype)
    # Two tokens, the class's and a tile's, may have channels that hardly differ: no test of float32's rounding.
    lengths = (5, 1, 200) if dtype == torch.float64 else (5, 20, 200)
    bags = [bag(n, dtype, seed=n) for n in lengths]
    mask = torch.arange(211) < torch.tensor(lengths)[:, None]
    for junk in (0.0, float("nan"), float("inf"), -1e30):
        x, coords = (
            torch.stack([F.pad(one[i][0], (0, 0, 0, 211 - one[i].shape[1]), value=junk) for one in bags])
            for i in range(2)
        )
        x.requires_grad_()
        together = model(x, mask, coords)
        alone = torch.cat([model(x_1NF, None, coords_1N2) for x_1NF, coords_1N2 in bags])
        close(together, alone, dtype)
        model.zero_grad()
        together.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        assert (x.grad[~mask] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_may_stand_between_tiles(kind):
    model = make(kind)
    x, coords = bag(9)
    where = torch.tensor([0, 2, 3, 7, 8, 12, 13, 14, 19])
    padded, places, mask = torch.full((1, 20, F_), torch.nan), torch.zeros(1, 20, 2), torch.zeros(1, 20).bool()
    padded, places = padded.double(), places.double()
    padded[:, where], places[:, where], mask[:, where] = x, coords, True
    close(model(padded, mask, places), model(x, None, coords))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_head_on_the_embedding_and_every_weight_learns(kind):
    model = make(kind)
    x, coords = bag(63)
    embedding = model.embed(x, None, coords)
    assert embedding.shape == (1, model.head.in_features)
    logits = model(x, None, coords)
    close(model.head(embedding), logits)
    logits.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("padded", [0, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_without_real_tiles(kind, padded):
    model = make(kind)
    x, coords = torch.full((2, padded, F_), torch.nan).double(), torch.zeros(2, padded, 2)
    mask = torch.zeros(2, padded, dtype=torch.bool)
    logits = model(x, mask, coords)
    assert logits.isfinite().all()
    close(logits[0], logits[1])
    if kind in POOLINGS:
        close(logits, model.head.bias.expand(2, -1))
    logits.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    explanation = model.explain(x[:1], 0, mask[:1], coords[:1])
    assert not explanation.contributions_N.any()
    close(explanation.logit, logits[0, 0])


@pytest.mark.parametrize("kind", ["mean", "max", "abmil", "softmax", "seqnorm", "sima", "relu_linear"])
def test_the_order_of_the_tiles_does_not_matter(kind):
    model = make(kind)
    x, coords = bag(63)
    order = torch.randperm(63, generator=torch.Generator().manual_seed(0))
    close(model(x[:, order], None, coords[:, order]), model(x, None, coords))


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_where_the_tiles_lie_matters_and_must_be_told(kind):
    model = make(kind)
    x, coords = bag(63)
    assert (model(x, None, coords) - model(x, None, coords.flip(1))).abs().max() > 1e-4
    with pytest.raises(ValueError, match="coordinates"):
        model(x)
    without = make(kind, coordinates=False)
    close(without(x, None, coords), without(x))


@pytest.mark.parametrize("kind", ["mean", "abmil", "seqnorm", "softmax"])
def test_half_precision_stays_close_over_many_tiles(kind):
    model = make(kind, torch.float32)
    x, coords = bag(4096 if kind == "softmax" else 40_000, torch.float32)
    exact = model(x, None, coords)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x, None, coords)
    assert (half.float() - exact).abs().max() < 0.05 * exact.abs().max()


# Explanations


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n", [1, 63, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_a_logit_add_up(kind, n, dtype):
    model = make(kind, dtype)
    x, coords = bag(n, dtype)
    logits = model(x, None, coords)[0]
    for class_index in range(C):
        e = model.explain(x, class_index, None, coords)
        close(e.logit, logits[class_index], dtype)
        parts = [e.bias, e.residual, e.cls_contribution, *e.contributions_N]
        scale = max(1.0, sum(part.abs().item() for part in parts))  # rounding is relative to what is added
        scale *= 10 if n == 1 else 1  # the deviation of one tile is 0: its rounding is divided by the floor alone
        assert abs(e.logit - sum(parts)) < TOLERANCE[dtype] * scale
        assert abs(e.remainder) < TOLERANCE[dtype] * scale
        assert e.contributions_N.shape == (n,)
        assert (e.cls_contribution != 0) == (kind in TRANSFORMERS)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_has_no_share_and_changes_none(kind):
    model = make(kind)
    x, coords = bag(9)
    padded, places = (F.pad(t, (0, 0, 2, 3), value=torch.nan) for t in (x, coords))
    mask = (torch.arange(14) >= 2) & (torch.arange(14) < 11)
    alone, within = model.explain(x, 1, None, coords), model.explain(padded, 1, mask[None], places)
    close(within.contributions_N[mask], alone.contributions_N)
    assert not within.contributions_N[~mask].any()
    for part in ("logit", "bias", "residual", "cls_contribution"):
        close(getattr(within, part), getattr(alone, part))


def test_shares_of_pooled_tiles_are_those_of_the_definition():
    x, _ = bag(40)
    x[0, 7] = x[0].amax(0)  # wins every channel, and is level with all other winners
    x[0, 3] = x[0, 7]
    mean, largest, abmil = (make(f"{name} of features") for name in ("mean", "max", "abmil"))
    weight = mean.head.weight[2]
    close(mean.explain(x, 2).contributions_N, x[0] @ weight / 40)
    contributions = largest.explain(x, 2).contributions_N
    assert contributions.nonzero().flatten().tolist() == [3]  # the first of level ones
    close(contributions[3], x[0, 3] @ largest.head.weight[2])
    attention = abmil.scores(x[0]).softmax(0)
    close(abmil.explain(x, 2).contributions_N, attention * (x[0] @ abmil.head.weight[2]))


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_the_shares_of_a_transformer_are_gradients_times_values_in_its_last_attention(kind):
    """A contribution is the logit's derivative by a factor on one token's value, the last LayerNorm's scale held."""
    model = make(kind)
    x, coords = bag(12)
    tokens, _ = model._before_last(x, None, coords)
    weights, values = model.last_attn.contributions(model.last_norm(tokens))
    factor = torch.ones(13, dtype=torch.float64, requires_grad=True)
    branch = model.last_attn.proj((weights[..., None] * values * factor[:, None]).sum(2).flatten(1))
    after = tokens[:, 0] + branch
    spread = (after.var(-1, correction=0, keepdim=True) + model.norm.eps).sqrt().detach()
    normed = (after - after.mean(-1, keepdim=True)) / spread * model.norm.weight + model.norm.bias
    logit = model.head(normed)[0, 1]
    e = model.explain(x, 1, None, coords)
    close(e.logit, logit)
    close(torch.cat([e.cls_contribution[None], e.contributions_N]), torch.autograd.grad(logit, factor)[0])


# Bags in chunks


def chunks_of(size, x, coords):
    def read_chunks():
        return ((x[0, i : i + size], coords[0, i : i + size]) for i in range(0, x.shape[1], size))

    return read_chunks


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", STREAMED)
def test_a_bag_in_chunks_gives_what_it_gives_as_a_whole(kind, dtype, size):
    model = make(kind, dtype)
    x, coords = bag({1: 120, 7: 700, 1000: 2500}[size], dtype)
    read_chunks = chunks_of(size, x, coords)
    whole = model(x, None, coords)
    limit = 1e-5 if dtype == torch.float32 else 1e-11
    assert (stream_logits(model, read_chunks) - whole).norm() <= limit * whole.norm()
    streamed, at_once = stream_explain(model, read_chunks, 1), model.explain(x, 1, None, coords)
    assert (streamed.contributions_N - at_once.contributions_N).norm() <= 10 * limit * at_once.contributions_N.norm()
    for part in ("logit", "bias", "residual", "cls_contribution", "remainder"):
        close(getattr(streamed, part), getattr(at_once, part), dtype)


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), max_size=8), kind=st.sampled_from(STREAMED), depth=st.integers(1, 3))
def test_chunks_may_be_of_any_size_and_empty(sizes, kind, depth):
    model = make(kind, **({"depth": depth} if kind in TRANSFORMERS else {}))
    x, coords = bag(sum(sizes))
    parts = list(zip(x[0].split(sizes), coords[0].split(sizes), strict=True)) if sizes else []
    close(stream_logits(model, lambda: parts), model(x, None, coords))
    e = stream_explain(model, lambda: parts, 0)
    assert e.contributions_N.shape == (sum(sizes),)
    assert abs(e.remainder) < 1e-10


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_bag_is_read_once_a_layer_and_no_chunk_is_kept(depth):
    alive, most, readings = weakref.WeakSet(), 0, 0

    def read_chunks():
        nonlocal most, readings
        readings += 1
        for seed in range(6):
            x = bag(20, torch.float32, seed)[0][0]
            alive.add(x)
            most = max(most, len(alive))
            yield x, None

    stream_logits(make("seqnorm", torch.float32, depth=depth, coordinates=False), read_chunks)
    assert readings == depth
    assert most <= 2  # the one in work and the one being read


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_the_state_between_chunks_does_not_grow(kind):
    model = make(kind, coordinates=False)
    if kind not in STREAMED:
        with pytest.raises(ValueError, match=f"{kind} attention needs all tiles of a bag at once"):
            stream_logits(model, lambda: [])
        return
    short, long = (
        model.last_attn.state(torch.randn(1, n, 16).double()).merge(
            model.last_attn.state(torch.randn(1, n, 16).double())
        )
        for n in (3, 300)
    )
    for ours, other in zip(vars(short).values(), vars(long).values(), strict=True):
        assert ours.shape == other.shape


def test_chunks_of_half_precision_are_brought_to_the_models():
    model = make("seqnorm", torch.float32)
    x, coords = bag(300, torch.float16)
    streamed = stream_logits(model, chunks_of(100, x, coords.int()))
    close(streamed, model(x.float(), None, coords.int()), torch.float32)


@pytest.mark.parametrize("kind", ["seqnorm", "mean"])
def test_a_reading_that_grows_is_refused_in_an_explanation_too(kind):
    x, coords = bag(25)
    sizes = iter([20, 25, 25])

    def growing():
        n = next(sizes)
        return chunks_of(5, x[:, :n], coords[:, :n])()

    with pytest.raises(ValueError, match="gave 20 tiles, a later one more"):
        stream_explain(make(kind), growing, 0)


@pytest.mark.parametrize("kind", ["seqnorm", "sima", "mean"])
def test_a_reading_that_cannot_be_repeated_is_refused(kind):
    x, coords = bag(20)
    once = chunks_of(5, x, coords)()
    with pytest.raises(ValueError, match="gave 20 tiles, a later one 0"):
        stream_explain(make(kind), lambda: once, 0)


# Bad input


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_refused(kind):
    model = make(kind)
    x, coords = bag(8)
    with pytest.raises(ValueError, match=r"features must be \(bags, tiles, 10\)"):
        model(x[..., :9], None, coords)
    with pytest.raises(ValueError, match="mask"):
        model(x, torch.ones(1, 9).bool(), coords)
    with pytest.raises(ValueError, match="coordinates"):
        model(x, None, coords[:, :7])
    with pytest.raises(ValueError, match="class 3 of a model with 3"):
        model.explain(x, 3, None, coords)
    with pytest.raises(ValueError, match="one bag at a time"):
        model.explain(x.repeat(2, 1, 1), 0, None, coords.repeat(2, 1, 1))
    model.train()
    for call in (
        lambda: model.explain(x, 0, None, coords),
        lambda: stream_logits(model, chunks_of(2, x, coords)),
        lambda: stream_explain(model, chunks_of(2, x, coords), 0),
    ):
        with pytest.raises(ValueError, match="training mode"):
            call()


def test_a_wrong_name_or_option_is_refused():
    with pytest.raises(ValueError, match="unknown aggregator 'median': one of mean, max, abmil, transformer"):
        build_aggregator("median", F_, C)
    with pytest.raises(ValueError, match="unknown attention 'hard'"):
        build_aggregator("transformer", F_, C, attention="hard")
    with pytest.raises(ValueError, match="depth 0"):
        build_aggregator("transformer", F_, C, depth=0)
    with pytest.raises(TypeError, match="heads"):
        build_aggregator("mean", F_, C, heads=3)


# Coordinates


def test_a_wavelength_is_one_turn():
    embed = CoordinateEmbedding(16, shortest=500, longest=4000)  # 500, 1000, 2000, 4000 µm
    here = torch.tensor([[[130.0, 70_000.0]]], dtype=torch.float64)
    for i, wavelength_um in enumerate((500, 1000, 2000, 4000)):
        for axis in range(2):
            there, half = here.clone(), here.clone()
            there[..., axis] += wavelength_um
            half[..., axis] += wavelength_um / 2
            # sines then cosines of x, then of y
            mine = [8 * axis + i, 8 * axis + 4 + i]
            close(embed(there)[..., mine], embed(here)[..., mine])
            close(embed(half)[..., mine], -embed(here)[..., mine])


def test_tiles_beside_each_other_are_told_apart_at_the_far_end_of_a_slide():
    embed = CoordinateEmbedding(64)
    place, beside = torch.tensor([[[75_000, 25_000]]]), torch.tensor([[[75_112, 25_000]]])
    assert embed(place).dtype == torch.float32
    assert embed(place).abs().max() <= 1
    assert (embed(place) - embed(beside)).norm() > 0.5
    torch.testing.assert_close(embed(place).double(), embed(place.double()), rtol=0, atol=2e-3)


def test_impossible_coordinate_embeddings_are_refused():
    with pytest.raises(ValueError, match="divisible by 4"):
        CoordinateEmbedding(18)
    with pytest.raises(ValueError, match="wavelengths"):
        CoordinateEmbedding(16, "um", 100, 50)


@pytest.mark.parametrize(("frame", "axes", "neighbour"), [("cells", 2, 1.0), ("mm", 3, 4.0), ("cells_3d", 3, 1.0)])
def test_places_of_pictures_and_volumes_are_told_apart_beside_each_other_and_far_away(frame, axes, neighbour):
    embed = CoordinateEmbedding(192, frame)
    places = torch.zeros(1, 1 + 2 * axes, axes)
    for axis in range(axes):
        places[0, 1 + axis, axis] = neighbour
        places[0, 1 + axes + axis, axis] = 300.0
    found = embed(places)[0]
    assert found.shape[-1] == 192
    apart = torch.cdist(found, found) + 9 * torch.eye(len(found))
    assert apart.min() > 0.5
    aggregator = build_aggregator("transformer", 4, 2, dim=16, num_heads=2, coordinates=frame)
    with pytest.raises(ValueError, match=f"{axes} axes"):
        aggregator(torch.zeros(1, 5, 4), None, torch.zeros(1, 5, 5 - axes))


def test_a_width_that_three_axes_do_not_divide_ends_in_zeros():
    found = CoordinateEmbedding(16, "mm")(torch.full((1, 1, 3), 7.0))
    assert (found[..., -4:] == 0).all()
    assert (found[..., :12] != 0).all()


@pytest.mark.parametrize("name", ["mean", "abmil", "transformer"])
def test_standardised_features_answer_as_features_that_were_standardised_before(name):
    options = {} if name == "mean" else {"dim": 8}
    options |= {"num_heads": 2} if name == "transformer" else {}
    with_it = build_aggregator(name, 4, 2, standardise=True, **options).double().eval()
    mean, sd = (torch.tensor(one).double() for one in ([1.0, -2, 0, 5], [2.0, 0.5, 1, torch.inf]))
    with_it.tile[0].learn(mean, sd)
    without = build_aggregator(name, 4, 2, **options).double().eval()
    without.load_state_dict(
        {k.replace("tile.1.", "tile."): v for k, v in with_it.state_dict().items() if "tile.0." not in k}
    )
    x = torch.randn(1, 7, 4, dtype=torch.float64)
    close(with_it(x), without((x - mean) / sd))
    found = with_it.explain(x, 1)
    parts = found.bias + found.residual + found.cls_contribution + found.contributions_N.sum()
    close(parts, found.logit)
    chunks = lambda: [(x[0, :3], None), (x[0, 3:], None)]  # noqa: E731
    close(stream_logits(with_it, chunks), with_it(x))


# Real bags


def musk_bags():
    """Features (92, N, 166), standardised, masks and labels."""
    with MUSK.open(newline="") as file:
        rows = torch.tensor([[float(value) for value in row] for row in csv.reader(file)])
    features = (rows[:, 2:] - rows[:, 2:].mean(0)) / rows[:, 2:].std(0)
    bags = [features[rows[:, 1] == number] for number in rows[:, 1].unique()]
    labels = torch.stack([rows[rows[:, 1] == number, 0].max() for number in rows[:, 1].unique()])
    lengths = torch.tensor([len(tiles) for tiles in bags])
    x = nn.utils.rnn.pad_sequence(bags, batch_first=True, padding_value=torch.nan)
    return x, torch.arange(x.shape[1]) < lengths[:, None], labels


@pytest.mark.skipif(not MUSK.is_file(), reason="the MUSK1 bags are not here")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mean", {}),
        ("max", {}),
        ("abmil", {}),
        *(("transformer", {"attention": name, "num_heads": 4}) for name in ("seqnorm", "sima", "softmax")),
    ],
)
def test_real_bags_are_learnt(name, options):
    x, mask, labels = musk_bags()
    assert x.shape[0] == 92
    assert labels.sum() == 47
    torch.manual_seed(0)
    model = build_aggregator(name, 166, 1, dim=64, **options)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = F.binary_cross_entropy_with_logits(model(x, mask)[:, 0], labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
