"""Tokens of one sequence over two processes: a sum of their moments makes the layer exact, gradients included."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from medsoft.layers.seqnorm import SeqNormAttention

D, N, FIRST = 12, 50, 20  # the first process holds 20 of 50 tokens


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
    mp.spawn(part_of_one_process, (str(tmp_path),), nprocs=2)
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
