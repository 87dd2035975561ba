"""SOFT attention: its kernel, inverses and landmarks, and the layer against its definition as an N × N matrix."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from medsoft.layers.soft import LANDMARKS, SoftAttention
from medsoft.ops.inverse import cholesky, damped, damped_inverse, identity_start
from medsoft.ops.landmarks import grid_means, segment_means
from medsoft.ops.soft import gaussian_kernel

D, H = 24, 3
GRIDS = {0: None, 1: (29,), 2: (9, 5), 3: (3, 4, 5)}
every_dims = pytest.mark.parametrize("dims", GRIDS)
both_kinds = pytest.mark.parametrize("symmetric", [False, True], ids=["soft", "soft_norm"])
both_inverses = pytest.mark.parametrize("inverse", ["converged", "newton"])


def make(dims=0, dtype=torch.float64, **options):
    torch.manual_seed(0)
    layer = SoftAttention(D, H, spatial_dims=dims, num_prefix_tokens=2 if dims else 0, **options).to(dtype)
    with torch.no_grad():  # away from the initial values, under which mistakes hide
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


def tokens(n, dtype=torch.float64, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, n, D, generator=generator, dtype=torch.float64) + 1).to(dtype)


def length(grid):
    return 63 if grid is None else 2 + math.prod(grid)


# --- the definition, written plainly ----------------------------------------------------------------------------------


def kernel(a, b):
    return torch.exp(-(a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1) / 2)


def inverse_as_defined(A, method):
    I = torch.eye(A.shape[-1], dtype=A.dtype)  # noqa: E741
    if method == "converged":
        return torch.linalg.inv(A + 0.01 * I)
    with torch.no_grad():
        norm = A.abs().sum(-2).amax(-1)[..., None, None]  # of each matrix
        X = 1.8 / norm**2 * (A + 0.01 * I)
        for _ in range(20):
            X = 2 * X - X @ (A + 0.01 * I) @ X
    return X - X @ (A - A.detach()) @ X  # the value X, with the gradient −Xᵀ G Xᵀ


def landmarks_as_defined(layer, q, grid):
    if grid is None:
        n = q.shape[2]
        segments = [slice(j * n // 49, -(-(j + 1) * n // 49)) for j in range(49)]
        return torch.stack([q[:, :, segment].mean(2) for segment in segments], dim=2)
    dims, prefix, r = len(grid), layer.num_prefix_tokens, layer.landmark_stride
    convolve = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    average = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[dims - 1]
    heads = []
    for h in range(H):
        image = q[:, h, prefix : prefix + math.prod(grid)].mT.unflatten(2, grid)
        padded = image.new_zeros(*image.shape[:2], *(-(-size // r) * r for size in grid))
        padded[(..., *(slice(size) for size in grid))] = image
        x = average(convolve(padded, layer.landmark_conv.weight, stride=r), LANDMARKS[dims]).flatten(2).mT
        heads.append(F.gelu(layer.landmark_norm(x)))
    return torch.stack(heads, dim=1)


def as_defined(layer, x, grid=None):
    q, v = (
        projection(x).unflatten(-1, (H, D // H)).transpose(1, 2) for projection in (layer.q, layer.v)
    )  # (B, H, N, d)
    q = q / (D // H) ** 0.25
    L = landmarks_as_defined(layer, q, grid)
    P, A = kernel(q, L), kernel(L, L)
    X = inverse_as_defined(A, layer.inverse)
    if layer.symmetric:
        root = torch.diag_embed(A.sum(-1) ** -0.5)
        X = root @ X @ root
    weights = P @ X @ P.mT  # (B, H, N, N)
    y = (weights / x.shape[1] if layer.average else weights) @ v
    y = y.transpose(1, 2).flatten(2)
    if grid is not None:
        dims, prefix, n = len(grid), layer.num_prefix_tokens, math.prod(grid)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
        image = layer.v(x)[:, prefix : prefix + n].mT.unflatten(2, grid)
        depthwise = layer.local.weight.repeat_interleave(D // H, dim=0)  # one kernel a head
        local = convolve(image, depthwise, padding=depthwise.shape[-1] // 2, groups=D).flatten(2).mT
        y = y + F.pad(local, (0, 0, prefix, x.shape[1] - prefix - n))
    return layer.proj(y)


def assert_same_output_and_gradients(layer, x, grid):
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = layer(inputs[0], grid=grid), as_defined(layer, inputs[1], grid)
    direction = torch.randn_like(outputs[0])
    ours, twin = (
        torch.autograd.grad(y, [x, *layer.parameters()], direction) for y, x in zip(outputs, inputs, strict=True)
    )
    torch.testing.assert_close(*outputs, rtol=1e-8, atol=1e-8 * outputs[1].abs().max().item())
    for a, b in zip(ours, twin, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7 * b.abs().max().item() + 1e-9)


@both_inverses
@both_kinds
@every_dims
def test_output_and_every_gradient_equal_the_quadratic_twin(dims, symmetric, inverse):
    layer = make(dims, symmetric=symmetric, inverse=inverse)
    assert_same_output_and_gradients(layer, tokens(length(GRIDS[dims])), GRIDS[dims])


@both_kinds
@pytest.mark.parametrize("n", [1, 1000])
def test_short_and_long_bags_equal_the_quadratic_twin(n, symmetric):
    assert_same_output_and_gradients(make(symmetric=symmetric), tokens(n), None)


@pytest.mark.parametrize(("grid", "stride", "width"), [((1, 1), 8, 9), ((28, 28), 4, 5), ((15, 22), 8, 3)])
def test_strides_kernels_and_undivided_sums_equal_the_quadratic_twin(grid, stride, width):
    layer = make(2, landmark_stride=stride, local_kernel=width, average=False)
    assert_same_output_and_gradients(layer, tokens(length(grid)), grid)


# --- kernel and inverses ----------------------------------------------------------------------------------------------


def test_kernel_is_exact_far_from_the_origin_and_never_above_1():
    a = torch.randn(2, 50, 8) + 100
    exact = kernel(a.double(), a.double())
    ours = gaussian_kernel(a, a)
    assert (ours - exact).abs().max() < 1e-5
    assert ours.max() <= 1
    assert gaussian_kernel(1e15 * a, a[:, :1]).isfinite().all()


def kernel_matrices(case):
    generator = torch.Generator().manual_seed(0)
    centre, noise = (torch.randn(4, n, 8, generator=generator, dtype=torch.float64) for n in (1, 49))
    if case == "layers":
        layer = make(2)
        image = layer.q(tokens(length((20, 20)))).unflatten(-1, (H, -1)).transpose(1, 2)
        landmarks = layer._landmarks(image, None, (20, 20)).flatten(0, 1).detach()
    else:
        landmarks = centre + {"blank": 0.0, "correlated": 0.02, "random": 1.0}[case] * noise
    return gaussian_kernel(landmarks, landmarks)


def residual(X, A):
    return torch.linalg.matrix_norm(torch.eye(A.shape[-1]) - X @ damped(A))


@pytest.mark.parametrize("case", ["blank", "correlated", "random", "layers"])
def test_converged_inverses_leave_no_residual(case):
    A = kernel_matrices(case)
    assert A.dtype == torch.float64
    assert residual(cholesky(A), A).max() <= 1e-6
    assert residual(identity_start(A), A).max() <= 1e-6
    assert damped_inverse(A).equal(cholesky(A))


@pytest.mark.parametrize("case", ["blank", "correlated", "random"])
def test_the_faithful_inverse_takes_20_steps_of_its_own_size_for_each_matrix(case):
    matrices = kernel_matrices(case) * torch.tensor([1, 1, 0.5, 2.0])[:, None, None]
    together = damped_inverse(matrices, "newton")
    for A, ours in zip(matrices, together, strict=True):
        damped_A = A + 0.01 * torch.eye(49)
        norm = max(A[:, j].abs().sum() for j in range(49))
        X = 1.8 / norm**2 * damped_A
        for _ in range(20):
            X = 2 * X - X @ damped_A @ X
        torch.testing.assert_close(ours, X, rtol=1e-6, atol=1e-6)  # rounding doubles with each step
    if case != "random":
        assert residual(together, matrices).max() > 0.5  # as the module says: these are not inverted


def test_the_gradient_is_that_of_the_inverse():
    def of_factor(f):
        return damped_inverse(f @ f.mT)

    torch.autograd.gradcheck(of_factor, torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True))


@both_inverses
def test_one_matrix_with_nan_spoils_no_other(inverse):
    A = kernel_matrices("random")
    A[1] = math.nan
    X = damped_inverse(A, inverse)
    assert X[1].isnan().all()
    assert X[[0, 2, 3]].isfinite().all()


# --- landmarks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 30, 49, 50, 1000])
def test_segment_means_are_adaptive_averages_of_the_real_tokens(n):
    x = tokens(n)
    expected = F.adaptive_avg_pool1d(x.mT, 49).mT
    torch.testing.assert_close(segment_means(x, 49), expected)
    mask = torch.zeros(2, n + 20, dtype=torch.bool)
    for row in mask:  # padding anywhere, elsewhere in each bag
        row[torch.randperm(n + 20)[:n]] = True
    padded = torch.full((2, n + 20, D), 1e30, dtype=torch.float64)
    padded[mask] = x.flatten(0, 1)
    padded = torch.where(mask[..., None], padded, 7)
    torch.testing.assert_close(segment_means(padded, 49, mask), expected)


@pytest.mark.parametrize("grid", [(5,), (49,), (7, 7), (3, 20), (1, 1), (4, 5, 9)])
def test_grid_means_are_adaptive_averages(grid):
    average = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(grid) - 1]
    x, shape = torch.randn(2, 3, *grid, dtype=torch.float64), LANDMARKS[len(grid)]
    torch.testing.assert_close(grid_means(x, shape), average(x, shape))


@pytest.mark.parametrize(("dims", "m"), [(1, 49), (2, 49), (3, 64)])
@pytest.mark.parametrize("side", [1, 2, 13, 64])
def test_landmarks_are_as_many_at_every_size_and_every_token_counts(dims, m, side):
    grid = (side, 7, 3)[:dims]
    layer = make(dims, landmark_stride=4)
    q = torch.randn(1, H, 2 + math.prod(grid), D // H, dtype=torch.float64, requires_grad=True)
    landmarks = layer._landmarks(q, None, grid)
    assert landmarks.shape == (1, H, m, D // H)
    (gradient,) = torch.autograd.grad((landmarks * torch.randn_like(landmarks)).sum(), q)
    assert (gradient[:, :, :2] == 0).all()  # class tokens are no part of the picture
    assert (gradient[:, :, 2:].abs().sum(-1) > 0).all()


# --- what has to stay finite and close --------------------------------------------------------------------------------


def pictures(case):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 16, 16, D, generator=generator, dtype=torch.float64)
    if case == "blank":
        x = x[:, :1, :1].expand(2, 16, 16, D)
    elif case == "black border":
        x[:, :5], x[:, :, 11:] = 0, 0
    elif case == "repeated":
        x = x[:, :4, :4].repeat(1, 4, 4, 1)
    return torch.cat((torch.randn(2, 2, D, generator=generator, dtype=torch.float64), x.flatten(1, 2)), dim=1)


@both_kinds
@pytest.mark.parametrize("dims", [0, 2])
@pytest.mark.parametrize("case", ["blank", "black border", "repeated"])
def test_float32_gradients_are_close_to_float64s(case, dims, symmetric):
    exact, grid = make(dims, symmetric=symmetric), (16, 16)
    ours, x = copy.deepcopy(exact).float(), pictures(case)
    direction = torch.randn(x.shape)
    gradients = []
    for layer, dtype in ((exact, torch.float64), (ours, torch.float32)):
        inputs = x.to(dtype).requires_grad_()
        y = layer(inputs, grid=grid)
        gradients.append(torch.autograd.grad(y, [inputs, *layer.parameters()], direction.to(dtype)))
    for double, single in zip(*gradients, strict=True):
        assert (single - double).norm() <= 1e-2 * double.norm()


@both_inverses
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_masked_tokens_count_nowhere_whatever_they_hold(dims, inverse):
    """Behind the grid they are padding; within it they count as 0 in the convolutions."""
    grid, layer = GRIDS[dims], make(dims, inverse=inverse)
    n = length(grid)
    x = tokens(n)
    alone = layer(x, grid=grid)
    for junk in (0.0, math.nan, math.inf, -1e30):
        padded = torch.cat((x, torch.full((2, 5, D), junk, dtype=x.dtype)), dim=1).requires_grad_()
        y = layer(padded, torch.arange(n + 5).expand(2, -1) < n, grid)
        torch.testing.assert_close(y[:, :n], alone, rtol=1e-10, atol=1e-10)
        y.sum().backward()
        assert (padded.grad[:, n:] == 0).all()
        assert all(p.grad.isfinite().all() for p in layer.parameters())

    mask = torch.rand(2, n, generator=torch.Generator().manual_seed(0)) < 0.7
    outputs = [layer(torch.where(mask[..., None], x, junk), mask, grid) for junk in (0.0, math.nan)]
    assert torch.equal(*outputs)
    q, v = layer._queries_and_values(x, mask)
    assert (q.transpose(1, 2)[~mask] == 0).all()
    assert (v.transpose(1, 2)[~mask] == 0).all()


@every_dims
def test_degenerate_sequences_give_finite_outputs_and_gradients(dims):
    layer, grid = make(dims, torch.float32), GRIDS[dims]
    n = length(grid)
    one = dims and (1,) * dims
    for x, mask, shape in (
        (tokens(1 + 2 * bool(dims), torch.float32), None, one or None),
        (torch.ones(2, n, D), None, grid),
        (torch.zeros(2, n, D), None, grid),
        (torch.full((2, n, D), math.nan), torch.zeros(2, n, dtype=torch.bool), grid),
    ):
        layer.zero_grad()
        x.requires_grad_()
        y = layer(x, mask, shape)
        y.sum().backward()
        assert y.isfinite().all()
        assert x.grad.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())
        if mask is not None:
            torch.testing.assert_close(y, layer.proj.bias.expand_as(y))


@both_kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_on_a_grid(dtype, symmetric):
    layer, grid = make(2, torch.float32, symmetric=symmetric), (60, 50)
    x = tokens(length(grid), dtype)
    with torch.no_grad():
        exact = layer(x.float(), grid=grid)
        with torch.autocast("cpu", dtype=dtype):
            mixed = layer(x, grid=grid)
        converted = copy.deepcopy(layer).to(dtype)(x, grid=grid)
    for y in (mixed, converted):
        assert y.dtype == dtype
        assert (y.float() - exact).abs().max() / exact.abs().max() < 0.05


@pytest.mark.parametrize("average", [True, False])
def test_identical_tokens_are_averaged_or_added(average):
    layer = make(average=average)
    constant = layer.proj.bias
    few, many = (layer(tokens(1, batch=1).expand(1, n, D))[0, 0] - constant for n in (50, 5000))
    torch.testing.assert_close(many, few if average else 100 * few)


# --- one layer's interface --------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_contributions_of_a_class_token_add_up_to_its_output(dims, symmetric):
    layer, grid = make(dims, symmetric=symmetric), GRIDS[dims]
    n = length(grid)
    mask = torch.arange(n + 4).expand(2, -1) < n
    x = torch.where(mask[..., None], tokens(n + 4), math.nan)
    for query in (0, 1):
        weights, values = layer.contributions(x, query, mask, grid)
        total = (weights.unsqueeze(-1) * values).sum(2).flatten(1)
        torch.testing.assert_close(layer.proj(total), layer(x, mask, grid)[:, query])
        assert (weights[:, :, n:] == 0).all()
    with pytest.raises(ValueError, match="token 2 lies within the grid, where a local term is added"):
        layer.contributions(x, 2, mask, grid)


@pytest.mark.parametrize("dims", [0, 2])
def test_it_compiles_into_one_graph_and_exports_as_matrix_products(dims):
    layer, x, grid = make(dims, torch.float32).eval(), tokens(length(GRIDS[dims]), torch.float32), GRIDS[dims]
    with torch.no_grad():
        expected = layer(x, grid=grid)
        compiled = torch.compile(layer, fullgraph=True, backend="eager")(x, grid=grid)
        exported = torch.export.export(layer, (x,), {"grid": grid})
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(exported.module()(x, grid=grid), expected, rtol=1e-4, atol=1e-5)
    assert not any("cholesky" in str(node.target) for node in exported.graph.nodes)


def test_what_cannot_be_built_or_called_is_refused():
    for options, message in (
        ({"inverse": "exact"}, "unknown inverse 'exact'.*converged, newton"),
        ({"spatial_dims": 4}, "4 spatial dimensions"),
        ({"local_kernel": 4}, "odd"),
        ({"num_heads": 5}, "not divisible"),
    ):
        with pytest.raises(ValueError, match=message):
            SoftAttention(**({"dim": D, "num_heads": H} | options))
    layer = make(2)
    for grid in (None, (63,)):
        with pytest.raises(ValueError, match="needs their grid"):
            layer(tokens(65), grid=grid)
    with pytest.raises(ValueError, match=r"grid of \(8, 8\) are more than 65 tokens"):
        layer(tokens(65), grid=(8, 8))
