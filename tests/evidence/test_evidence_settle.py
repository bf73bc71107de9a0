"""A settled loss is the same number with the same gradient, taken early."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixcore.evidence.settle import settle


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 4, generator=generator), torch.randint(0, 3, (8,), generator=generator)


def cross_entropy(module: nn.Module, seed: int) -> Tensor:
    images, labels = batch(seed)
    return nn.functional.cross_entropy(module(images.to(module[0].weight)), labels)


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in module.parameters()]


def test_value_and_gradient_equal_the_plain_ones() -> None:
    plain, early = network(), network()
    total = cross_entropy(plain, 0) + 0.3 * cross_entropy(plain, 1)
    total.backward()
    first = settle(cross_entropy(early, 0), early.parameters())
    assert gradients(early) == [None] * 6, "nothing arrives before the backward"
    ours = first + 0.3 * cross_entropy(early, 1)
    torch.testing.assert_close(ours, total, rtol=0, atol=0)
    ours.backward()
    for theirs, mine in zip(gradients(plain), gradients(early), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_loss_scaling_and_accumulation() -> None:
    plain, early = network().double(), network().double()
    for seed in (0, 1, 2):
        (cross_entropy(plain, seed) * 1024 / 3).backward()
        (settle(cross_entropy(early, seed), early.parameters()) * 1024 / 3).backward()
    for theirs, mine in zip(gradients(plain), gradients(early), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_times_zero_delivers_zeros_even_where_it_was_nan() -> None:
    module = network()
    with torch.no_grad():
        module[3].weight[0, 0] = float("nan")
    loss = settle(cross_entropy(module, 0), module.parameters())
    assert bool(loss.isnan())
    torch.where(loss.isnan(), 0.0, loss).backward()
    for gradient in gradients(module):
        assert gradient is not None
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_graph_is_freed() -> None:
    module = network()
    loss = cross_entropy(module, 0)
    settle(loss, module.parameters())
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_unused_and_frozen_parameters_get_nothing() -> None:
    module, idle = network(), nn.Linear(2, 2)
    module[0].bias.requires_grad_(False)
    settle(cross_entropy(module, 0), [*module.parameters(), *idle.parameters()]).backward()
    assert module[0].bias.grad is None
    assert idle.weight.grad is None
    assert module[0].weight.grad is not None


def test_the_scale_is_divided_out_of_shared_gradients_once() -> None:
    """Gradients of summands are one tensor: dividing it in place would divide it twice."""
    left, right = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    settle(((left + right) ** 2).sum(), [left, right], scale=8.0).backward()
    assert left.grad is not None
    assert right.grad is not None
    assert left.grad.tolist() == right.grad.tolist() == [4.0, 4.0, 4.0]


def test_half_gradients_do_not_vanish() -> None:
    weight = nn.Parameter(torch.ones(1))
    tiny = (weight.half() * 1e-4).float() * 1e-4
    settle(tiny.sum(), [weight]).backward()
    without = weight.grad.item()
    weight.grad = None
    settle(((weight.half() * 1e-4).float() * 1e-4).sum(), [weight], scale=1024.0).backward()
    assert weight.grad.item() == pytest.approx(1e-8, rel=2e-2)
    assert without != pytest.approx(1e-8, rel=2e-2)
