"""The tripwire: what it catches, what it lets through."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mixcore.testing import HostReadError, TinyConvNet, Tripwire, tiny_vit


def wire(*shape: int) -> Tripwire:
    return torch.arange(float(torch.Size(shape).numel())).view(shape).as_subclass(Tripwire)


READS = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "asarray": lambda x: np.asarray(x),
    "cpu": lambda x: x.cpu(),
    "to cpu": lambda x: x.to("cpu"),
    "to device": lambda x: x.to(torch.device("cpu")),
    "to keyword": lambda x: x.to(device="cpu", dtype=torch.float64),
    "bool": lambda x: 1 if x.sum() > 0 else 0,
    "int": lambda x: int(x.sum()),
    "float": lambda x: float(x.sum()),
    "index": lambda x: [1, 2, 3][x[0, 0].long()],
    "range": lambda x: range(x[0, 0].long()),
    "format": lambda x: f"{x.sum():.3f}",
    "contains": lambda x: 1.0 in x,
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 1),
    "argwhere": lambda x: torch.argwhere(x),
    "masked_select": lambda x: x.masked_select(x > 1),
    "mask index": lambda x: x[x > 1],
    "mask index of a plain tensor": lambda x: torch.zeros(2, 3)[x > 1],
    "mask assignment": lambda x: x.__setitem__(x > 1, torch.ones(4)),
    "scalar index": lambda x: torch.zeros(5)[x[0, 0].long()],
    "slice": lambda x: torch.zeros(5)[x[0, 0].long() :],
    "unique": lambda x: x.unique(),
    "torch.unique": lambda x: torch.unique(x, return_counts=True),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "bincount": lambda x: x.long().flatten().bincount(),
    "repeat_interleave": lambda x: torch.zeros(3).repeat_interleave(x[0].long()),
    "combined with a plain tensor": lambda x: (torch.ones(3) * x[0]).sum().item(),
    "after a network": lambda x: nn.Linear(3, 1)(x).mean().item(),
    "after in-place work": lambda x: torch.zeros(2, 3).as_subclass(Tripwire).add_(x).sum().item(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_reads_are_caught(read):
    with pytest.raises(HostReadError, match="reads on the host"):
        read(wire(2, 3))


def test_what_stays_on_the_device_passes():
    x = wire(4, 3)
    y = torch.where(x > 1, x, torch.zeros_like(x)).lerp_(x.flip(0), 0.5)
    y[:, 1] = 0
    y[x > 2] = 0.0
    z = y.index_select(0, torch.tensor([1, 0, 3, 2])).to(x.device, torch.float16).to(y)
    assert isinstance(z, Tripwire)
    assert isinstance(x[torch.tensor([True, False, True, False])], Tripwire)
    assert isinstance(torch.stack(list(x)), Tripwire)
    assert x.argmax(1).shape == (4,)
    assert isinstance(torch.arange(4, device=x.device), torch.Tensor)
    assert isinstance(torch.zeros(3).scatter(0, x[:, 0].long() % 3, 1.0), Tripwire)


def test_numbers_drawn_on_the_host_may_be_read():
    rng = torch.Generator().manual_seed(0)
    partner = torch.randperm(4, generator=rng)
    assert sorted(partner.tolist()) == [0, 1, 2, 3]
    assert isinstance(wire(4, 3)[partner[0].item()], Tripwire)


@pytest.mark.parametrize("network", [TinyConvNet(5), tiny_vit(5, (8, 12))], ids=["conv", "vit"])
def test_networks_pass_the_tripwire_on(network):
    images = torch.randn(3, 3, 8, 12).as_subclass(Tripwire)
    logits = network(images)
    assert isinstance(logits, Tripwire)
    (gradient,) = torch.autograd.grad(logits.sum(), images.requires_grad_(), allow_unused=True)
    assert gradient is None or isinstance(gradient, Tripwire)
    with pytest.raises(HostReadError):
        logits.argmax(1).tolist()
