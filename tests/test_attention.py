"""The attention family: each mechanism against its definition, written as an N × N product, and its contract."""

import math

import pytest
import torch
from torch import nn

from medsoft.layers.attention import ATTENTION, SeqNormAttention, build_attention
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


TWIN = {"seqnorm": quadratic_seqnorm, "softmax": quadratic_softmax}


def make(name, dtype=torch.float64):
    torch.manual_seed(0)
    layer = build_attention(name, D, H).to(dtype)
    with torch.no_grad():  # away from the initial values, under which mistakes hide
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def tokens(n, dtype=torch.float64, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, n, D, generator=generator, dtype=torch.float64) * 2 + 3).to(dtype)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("name", ATTENTION)
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
@pytest.mark.parametrize("name", ATTENTION)
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


@pytest.mark.parametrize("name", ATTENTION)
def test_a_sample_comes_out_the_same_alone_and_in_a_batch_of_unequal_ones(name):
    layer = make(name)
    bags = [tokens(n, batch=1, seed=n) for n in (5, 1, 40)]
    batch = nn.utils.rnn.pad_sequence([bag[0] for bag in bags], batch_first=True, padding_value=float("nan"))
    lengths = torch.tensor([bag.shape[1] for bag in bags])
    together = layer(batch, torch.arange(40) < lengths[:, None])
    for i, bag in enumerate(bags):
        torch.testing.assert_close(together[i, : bag.shape[1]], layer(bag)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ATTENTION)
def test_permuting_the_tokens_permutes_the_output(name):
    layer, x = make(name), tokens(63)
    order = torch.randperm(63)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])


@pytest.mark.parametrize("name", ATTENTION)
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


@pytest.mark.parametrize("name", ATTENTION)
def test_a_bag_without_real_tokens_gives_the_output_bias(name):
    layer = make(name)
    y = layer(tokens(9), torch.zeros(2, 9, dtype=torch.bool))
    torch.testing.assert_close(y, layer.proj.bias.expand_as(y))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_over_a_million_tokens(dtype):
    layer = make("seqnorm", torch.float32)
    x = tokens(1_000_000, torch.float32, batch=1).to(dtype)  # rounded once, so that only the computation differs
    with torch.no_grad():
        exact = layer(x.float())
        with torch.autocast("cpu", dtype=dtype):
            y = layer(x)
    assert y.dtype == dtype
    assert y.isfinite().all()
    assert (y.float() - exact).abs().max() / exact.abs().max() < 0.03


def test_autocast_keeps_the_sums_in_float32():
    layer = make("seqnorm", torch.float32)
    seen = []
    layer.qkv_norm.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(tokens(8, torch.float32))
    assert seen == [torch.float32]


@pytest.mark.parametrize("n", [2, 100, 5000])
def test_seqnorm_mixes_by_correlations(n):
    one, zero = torch.ones(D, dtype=torch.float64), torch.zeros(D, dtype=torch.float64)
    k, v = (normalise_tokens(tokens(n, seed=seed), one, zero, eps=0.0) for seed in (2, 3))
    correlation = k[0].T @ v[0] / n
    expected = torch.corrcoef(torch.cat([tokens(n, seed=2)[0], tokens(n, seed=3)[0]], 1).T)[:D, D:]
    torch.testing.assert_close(correlation, expected)
    assert correlation.abs().max() <= 1 + 1e-12


def test_biases_of_the_projections_would_cancel():
    layer, x = make("seqnorm"), tokens(63)
    before = layer(x)
    shift = torch.randn(3 * D, dtype=torch.float64)
    layer.qkv.register_forward_hook(lambda module, args, out: out + shift)
    torch.testing.assert_close(layer(x), before)


def test_seqnorm_branch_averages_to_its_constant_part():
    layer, x = make("seqnorm"), tokens(63)
    with torch.no_grad():
        layer.qkv_norm.bias[:D].zero_()
    mean = layer(x).mean(1)
    torch.testing.assert_close(mean, layer.proj.bias.expand_as(mean))


def test_unknown_name_and_indivisible_width_are_refused():
    with pytest.raises(ValueError, match="one of softmax, seqnorm"):
        build_attention("soft-max", 24, 3)
    with pytest.raises(ValueError, match="not divisible"):
        build_attention("seqnorm", 25, 3)
