"""The attention family: each mechanism against its definition, written as an N × N product, and its contract."""

import math

import pytest
import torch
from torch import nn

from medsoft.layers.attention import build_attention
from medsoft.layers.attribution import token_contributions
from medsoft.layers.seqnorm import SeqNormAttention
from medsoft.ops.moments import Moments
from medsoft.ops.seqnorm import normalise_tokens

D, H = 24, 3
LENGTHS = [1, 63, 1000]
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}


def heads(x):
    return x.unflatten(-1, (H, D // H)).transpose(1, 2)


def quadratic_seqnorm(layer: SeqNormAttention, x):
    """One sequence without padding; every weight between two tokens is written out."""

    norm = layer.qkv_norm

    def normalised(part):
        t = x @ layer.qkv.weight.chunk(3)[part].T
        mean, var = t.mean(1, keepdim=True), t.var(1, correction=0, keepdim=True)
        return norm.weight.chunk(3)[part] * (t - mean) / torch.sqrt(var + norm.eps) + norm.bias.chunk(3)[part]

    q, k, v = (heads(normalised(part)) for part in range(3))
    weights = q @ k.transpose(-2, -1) / x.shape[1]  # (B, H, N, N)
    return layer.proj((weights @ v).transpose(1, 2).flatten(-2))


def quadratic_softmax(layer, x):
    q, k, v = (heads(t) for t in layer.qkv(x).chunk(3, -1))
    weights = (q @ k.transpose(-2, -1) / math.sqrt(D // H)).softmax(-1)
    return layer.proj((weights @ v).transpose(1, 2).flatten(-2))


def quadratic_sima(layer, x):
    q, k, v = (heads(t) for t in layer.qkv(x).chunk(3, -1))
    q, k = (t / t.abs().sum(2, keepdim=True) for t in (q, k))
    return layer.proj((x.shape[1] * (q @ k.transpose(-2, -1)) @ v).transpose(1, 2).flatten(-2))


def quadratic_relu_linear(layer, x):
    q, k, v = (heads(t) for t in layer.qkv(x).chunk(3, -1))
    weights = q.relu() @ k.relu().transpose(-2, -1)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=layer.floor)
    return layer.proj((layer.scale[:, None, None] * weights @ v).transpose(1, 2).flatten(-2))


MEMBERS = {  # every mechanism and, of seqnorm, both forms
    "softmax": ("softmax", {}),
    "seqnorm": ("seqnorm", {"form": "reordered"}),
    "moments": ("seqnorm", {"form": "moments"}),
    "sima": ("sima", {}),
    "relu_linear": ("relu_linear", {}),
    "relu_linear floor": ("relu_linear", {"floor": 100.0}),
    "soft": ("soft", {}),
    "soft_norm": ("soft_norm", {}),
}
TWIN = {  # of soft and soft_norm: tests/layers/test_soft.py
    "softmax": quadratic_softmax,
    "seqnorm": quadratic_seqnorm,
    "moments": quadratic_seqnorm,
    "sima": quadratic_sima,
    "relu_linear": quadratic_relu_linear,
    "relu_linear floor": quadratic_relu_linear,
}
STREAMING = ["moments", "sima", "relu_linear"]


def make(name, dtype=torch.float64, width=D, num_heads=H):
    torch.manual_seed(0)
    mechanism, options = MEMBERS[name]
    layer = build_attention(mechanism, width, num_heads, **options).to(dtype)
    with torch.no_grad():  # away from the initial values, under which mistakes hide
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def tokens(n, dtype=torch.float64, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, n, D, generator=generator, dtype=torch.float64) * 2 + 3).to(dtype)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("name", TWIN)
def test_output_and_every_gradient_equal_the_quadratic_twin(name, n):
    layer = make(name)
    inputs = [tokens(n).requires_grad_() for _ in range(2)]
    outputs = layer(inputs[0]), TWIN[name](layer, inputs[1])
    direction = torch.randn_like(outputs[0])
    gradients = [
        torch.autograd.grad(out, [x, *layer.parameters()], direction) for out, x in zip(outputs, inputs, strict=True)
    ]
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-9)
    for ours, twin in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("name", MEMBERS)
def test_padding_changes_nothing_whatever_it_holds(name, n, dtype):
    layer = make(name, dtype)
    x = tokens(n, dtype)
    alone = layer(x)
    for junk in (0.0, float("nan"), float("inf"), -1e30):
        padded = torch.full((2, n + 37, D), junk, dtype=dtype)
        where = torch.randperm(n + 37, generator=torch.Generator().manual_seed(n))[:n].sort().values
        padded[:, where] = x
        mask = torch.zeros(2, n + 37, dtype=torch.bool)
        mask[:, where] = True
        padded.requires_grad_()
        y = layer(padded, mask)
        scale = alone.abs().max().item()
        torch.testing.assert_close(y[:, where], alone, rtol=0, atol=TOLERANCE[dtype] * scale)
        y[:, where].sum().backward()
        assert all(p.grad.isfinite().all() for p in layer.parameters())
        assert padded.grad.isfinite().all()
        assert (padded.grad[~mask] == 0).all()


@pytest.mark.parametrize("name", MEMBERS)
def test_a_sample_comes_out_the_same_alone_and_in_a_batch_of_unequal_ones(name):
    layer = make(name)
    bags = [tokens(n, batch=1, seed=n) for n in (5, 1, 40)]
    batch = nn.utils.rnn.pad_sequence([bag[0] for bag in bags], batch_first=True, padding_value=float("nan"))
    lengths = torch.tensor([bag.shape[1] for bag in bags])
    together = layer(batch, torch.arange(40) < lengths[:, None])
    for i, bag in enumerate(bags):
        torch.testing.assert_close(together[i, : bag.shape[1]], layer(bag)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in MEMBERS if not name.startswith("soft_") and name != "soft"])
def test_permuting_the_tokens_permutes_the_output(name):
    layer, x = make(name), tokens(63)
    order = torch.randperm(63)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])


@pytest.mark.parametrize("name", MEMBERS)
def test_degenerate_sequences_give_finite_outputs_and_gradients(name):
    layer = make(name, torch.float32)
    constant_channel = tokens(50, torch.float32)
    constant_channel[..., 3] = 7
    identical = torch.ones(2, 50, D)
    cases = [
        (tokens(1, torch.float32), None),
        (constant_channel, None),
        (identical, None),
        (torch.zeros(2, 9, D), None),
    ]
    cases.append((tokens(9, torch.float32), torch.zeros(2, 9, dtype=torch.bool)))
    for x, mask in cases:
        layer.zero_grad()
        x = x.clone().requires_grad_()
        y = layer(x, mask)
        assert y.isfinite().all()
        y.sum().backward()
        assert x.grad.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("name", MEMBERS)
def test_a_bag_without_real_tokens_gives_the_output_bias(name):
    layer = make(name)
    y = layer(tokens(9), torch.zeros(2, 9, dtype=torch.bool))
    torch.testing.assert_close(y, layer.proj.bias.expand_as(y))


@pytest.mark.parametrize(("dtype", "n"), [(torch.bfloat16, 100_000), (torch.float16, 200_000)])
@pytest.mark.parametrize("name", [name for name in MEMBERS if name != "softmax"])
def test_half_precision_stays_close_over_many_tokens(name, dtype, n):
    """A sum over 200,000 leaves the range of float16, which ends at 65,504; bfloat16's is that of float32."""
    layer = make(name, torch.float32, width=8, num_heads=1)
    x = tokens(n, torch.float32, batch=1)[..., :8].to(dtype)  # rounded once: only the computation differs
    with torch.no_grad():
        exact = layer(x.float())
        with torch.autocast("cpu", dtype=dtype):
            y = layer(x)
    assert y.dtype == dtype
    assert y.isfinite().all()
    assert (y.float() - exact).abs().max() / exact.abs().max() < 0.03


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MEMBERS)
def test_half_precision_gradients_are_close_to_float32s(name, dtype):
    layer = make(name, torch.float32)
    x = tokens(500, torch.float32, batch=1).to(dtype)
    direction = torch.randn(1, 500, D)
    gradients = []
    for enabled in (False, True):
        ours = x.float().requires_grad_()
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            y = layer(ours)
        gradients.append(torch.autograd.grad((y.float() * direction).sum(), [ours, *layer.parameters()]))
    for exact, half in zip(*gradients, strict=True):
        assert (half - exact).norm() <= 0.1 * exact.norm() + 1e-4 * direction.norm()


def test_autocast_leaves_the_second_moment_form_in_float32():
    layer, x = make("moments", torch.float32), tokens(100, torch.float32)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), exact)


@pytest.mark.parametrize("n", [2, 100, 5000])
def test_seqnorm_mixes_by_correlations(n):
    one, zero = torch.ones(D, dtype=torch.float64), torch.zeros(D, dtype=torch.float64)
    k, v = (normalise_tokens(tokens(n, seed=seed), one, zero, eps=0.0) for seed in (2, 3))
    correlation = k[0].T @ v[0] / n
    expected = torch.corrcoef(torch.cat([tokens(n, seed=2)[0], tokens(n, seed=3)[0]], 1).T)[:D, D:]
    torch.testing.assert_close(correlation, expected)
    assert correlation.abs().max() <= 1 + 1e-12


@pytest.mark.parametrize("name", ["seqnorm", "moments"])
def test_a_constant_added_to_all_tokens_changes_nothing(name):
    # What a bias of the projections to queries, keys and values would be: hence they have none.
    layer, x = make(name), tokens(63)
    torch.testing.assert_close(layer(x + torch.randn(D, dtype=torch.float64)), layer(x))


@pytest.mark.parametrize("mean", [0.0, 3.0, 1000.0])
def test_the_second_moment_form_is_as_exact_as_the_reordered_one(mean):
    x = tokens(4000, batch=1) * 0.5 - 1.5 + mean
    exact = make("seqnorm")(x)
    errors = {}
    for name in ("seqnorm", "moments"):
        errors[name] = (make(name, torch.float32)(x.float()).double() - exact).abs().max() / exact.abs().max()
    assert errors["moments"] < max(1e-5, 2 * errors["seqnorm"])


def test_auto_takes_the_form_for_the_length_and_both_give_one_result():
    layer = make("seqnorm")
    layer.form = "auto"
    for n in (2 * D - 1, 2 * D):
        torch.testing.assert_close(layer(tokens(n)), make("moments")(tokens(n)))


def test_nothing_that_grows_with_the_tokens_is_kept_for_the_backward_pass_but_the_input():
    layer, x = make("moments"), tokens(5000).requires_grad_()
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    del kept[x.untyped_storage().data_ptr()]
    assert max(kept.values()) <= 2 * 3 * D * D * 8  # batch × 3D × D


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("name", STREAMING)
def test_streaming_in_chunks_equals_the_whole(name, size):
    layer, x = make(name, torch.float32), tokens(2100, torch.float32)
    mask = torch.rand(2, 2100, generator=torch.Generator().manual_seed(0)) < 0.8
    x = torch.where(mask[..., None], x, math.nan)
    parts = [slice(start, start + size) for start in range(0, 2100, size)]
    with torch.no_grad():
        state = layer.state(x[:, parts[0]], mask[:, parts[0]])
        for part in parts[1:]:
            state = state.merge(layer.state(x[:, part], mask[:, part]))
        y = torch.cat([layer.attend(x[:, part], state) for part in parts], 1)
        whole = layer(x, mask)
    scale = whole[mask].abs().max()
    assert (y[mask] - whole[mask]).abs().max() < 1e-5 * scale


@pytest.mark.parametrize("count", [0, 1, 50])
def test_moments_are_those_of_the_definition(count):
    x = tokens(50)
    mask = torch.arange(50).expand(2, 50) < count
    moments = Moments.of(x, mask)
    if count:
        torch.testing.assert_close(moments.mean_BD, x[:, :count].mean(1))
        expected = torch.stack([torch.cov(sequence[:count].T, correction=0) for sequence in x])
        torch.testing.assert_close(moments.covariance_BDD, expected.reshape(2, D, D))
    else:
        assert not moments.mean_BD.any()
        assert not moments.covariance_BDD.any()


def test_moments_update_by_parts_in_any_order():
    x = tokens(90)
    whole = Moments.of(x)
    for order in ([0, 1, 2], [2, 0, 1]):
        a, b, c = (x[:, 30 * i : 30 * (i + 1)] for i in order)
        parts = Moments.of(a).update(b).merge(Moments.of(c))
        torch.testing.assert_close(parts.scatter_BDD, whole.scatter_BDD)
        torch.testing.assert_close(parts.mean_BD, whole.mean_BD)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", MEMBERS)
def test_contributions_add_up_to_the_output_and_shares_to_the_logit(name, masked):
    layer, x = make(name), tokens(63)
    mask = None
    if masked:
        mask = torch.arange(63).expand(2, 63) < torch.tensor([[63], [40]])
        x = torch.where(mask[..., None], x, math.nan)
    y = layer(x, mask)[:, 0]
    weights, values = layer.contributions(x, 0, mask)
    total = (weights.unsqueeze(-1) * values).sum(2).flatten(1)
    torch.testing.assert_close(layer.proj(total), y)
    gradient = torch.randn(2, D, dtype=torch.float64)
    contributions = token_contributions(layer, x, gradient, 0, mask)
    torch.testing.assert_close(contributions.sum(1), ((y - layer.proj.bias) * gradient).sum(1))
    if masked:
        assert (contributions[~mask] == 0).all()


@pytest.mark.parametrize("name", STREAMING)
def test_contributions_of_chunks_are_those_of_the_whole(name):
    layer, x = make(name), tokens(63)
    state = layer.state(x)
    whole = layer.contributions(x)
    parts = [layer.chunk_contributions(x[:, s : s + 10], x[:, :1], state) for s in range(0, 63, 10)]
    for i in range(2):
        torch.testing.assert_close(torch.cat([part[i] for part in parts], 2), whole[i])


def test_seqnorm_branch_averages_to_its_constant_part():
    layer, x = make("seqnorm"), tokens(63)
    with torch.no_grad():
        layer.qkv_norm.bias[:D].zero_()
    mean = layer(x).mean(1)
    torch.testing.assert_close(mean, layer.proj.bias.expand_as(mean))


def test_unknown_name_and_indivisible_width_are_refused():
    with pytest.raises(ValueError, match="one of softmax, seqnorm, sima, relu_linear"):
        build_attention("soft-max", 24, 3)
    with pytest.raises(ValueError, match="not divisible"):
        build_attention("seqnorm", 25, 3)
    with pytest.raises(ValueError, match="unknown form 'fast'"):
        build_attention("seqnorm", 24, 3, form="fast")
