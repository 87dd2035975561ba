"""Tokens of one sequence over two processes: a sum of their moments makes the layer exact, gradients included."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from medsoft.layers.seqnorm import SeqNormAttention
from medsoft.models.aggregators import build_aggregator
from tests.builders.forked import fork_server

D, N, FIRST = 12, 50, 20  # the first process holds 20 of 50 tokens


def in_two_processes(part, folder):
    """``part(rank, folder)`` for two ranks, which import nothing anew."""
    fork_server()
    mp.start_processes(part, (str(folder),), nprocs=2, start_method="forkserver")


def make():
    torch.manual_seed(0)
    layer = SeqNormAttention(D, 3, form="moments").double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(2, N, D, dtype=torch.float64) + 2
    mask = torch.rand(2, N) < 0.8
    direction = torch.where(mask[..., None], torch.randn_like(x), 0)
    return layer, x, mask, direction


def part_of_one_process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    layer, x, mask, direction = make()
    mine = slice(0, FIRST) if rank == 0 else slice(FIRST, N)
    layer.group = dist.group.WORLD
    x = x[:, mine].clone().requires_grad_()
    y = layer(x, mask[:, mine])
    (y * direction[:, mine]).sum().backward()  # this process's part of the loss
    torch.save([y.detach(), x.grad, *(p.grad for p in layer.parameters())], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
def test_two_processes_with_a_part_of_the_tokens_each_equal_one(tmp_path):
    in_two_processes(part_of_one_process, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    layer, x, mask, direction = make()
    x.requires_grad_()
    y = layer(x, mask)
    (y * direction).sum().backward()
    for i, whole in enumerate([y.detach(), x.grad]):
        both = torch.cat([first[i], second[i]], 1)
        torch.testing.assert_close(both[mask], whole[mask])
    for parameter, a, b in zip(layer.parameters(), first[2:], second[2:], strict=True):
        torch.testing.assert_close(a + b, parameter.grad)  # DDP would average: half of this


def aggregator(**options):
    torch.manual_seed(0)
    model = build_aggregator("transformer", 6, 3, dim=D, num_heads=3, depth=3, coordinates=True, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def bags():
    """Two bags, of 12 and of 50 tiles."""
    torch.manual_seed(1)
    mask = torch.ones(2, N, dtype=torch.bool)
    mask[0, 12:] = False
    return 3 * torch.randn(2, N, 6, dtype=torch.float64) + 1, mask, 1000 * torch.rand(2, N, 2, dtype=torch.float64)


def loss_of(model, x, mask, coords):
    logits = model(x, mask, coords)
    return logits, torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2]))


def bag_of_one_process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    mine = slice(0, FIRST) if rank == 0 else slice(FIRST, N)
    model = aggregator()
    model.divide(dist.group.WORLD)
    model = torch.nn.parallel.DistributedDataParallel(model)
    x, mask, coords = bags()
    logits, loss = loss_of(model, x[:, mine], mask[:, mine], coords[:, mine])
    loss.backward()
    torch.save([logits.detach(), *(p.grad for p in model.parameters())], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
def test_a_bag_over_two_processes_trains_as_the_whole_bag(tmp_path):
    """The second process holds no tile of the first bag. DDP takes the mean of the gradients."""
    in_two_processes(bag_of_one_process, tmp_path)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    model = aggregator()
    logits, loss = loss_of(model, *bags())
    loss.backward()
    for part in parts:
        torch.testing.assert_close(part[0], logits.detach())
        for parameter, grad in zip(model.parameters(), part[1:], strict=True):
            torch.testing.assert_close(grad, parameter.grad)


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
def test_what_cannot_be_divided_is_refused(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="softmax attention cannot divide"):
            aggregator(attention="softmax").divide(dist.group.WORLD)
        with pytest.raises(ValueError, match="set drop to 0"):
            aggregator(drop=0.1).divide(dist.group.WORLD)
        model = aggregator().eval()
        x, mask, coords = bags()
        whole = model(x, mask, coords)
        model.divide(dist.group.WORLD)
        torch.testing.assert_close(model(x, mask, coords), whole)
        with pytest.raises(ValueError, match="divided over processes"):
            model.explain(x[1:], 0, None, coords[1:])
        model.divide(None)
        torch.testing.assert_close(model(x, mask, coords), whole)
        model.explain(x[1:], 0, None, coords[1:])
    finally:
        dist.destroy_process_group()
