"""A settled loss is the same number with the same gradient, taken early."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixcore.evidence.gradients import input_gradient
from mixcore.evidence.settle import settle
from mixcore.networks.network import Network
from mixcore.networks.scales import looking_scale
from mixcore.step.precision import Precision
from mixcore.testing.fakes import tiny_network


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


def half_network(precision: Precision) -> Network:
    precision.hooks(torch.device("cpu"))
    model = tiny_network((), 5, (16, 16), 3)
    return Network(model, autocast=precision.autocast, loss_scale=precision.loss_scale)


def test_the_scale_is_the_scalers_wherever_there_is_one() -> None:
    cpu, precision = torch.device("cpu"), Precision("fp16")
    network = half_network(precision)
    assert network.gradient_scale(cpu) == 1024.0
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    precision.use_scaler(scaler)
    assert float(network.gradient_scale(cpu)) == 256.0
    scaler.update(8192.0)
    assert float(network.gradient_scale(cpu)) == 8192.0
    assert float(looking_scale(network.gradient_scale(cpu))) == 1024.0, "nobody would hear of an overflow"
    assert half_network(Precision("fp32")).gradient_scale(cpu) == 1.0
    precision.use_scaler(torch.amp.GradScaler("cpu", enabled=False))
    assert network.gradient_scale(cpu) == 1024.0


@pytest.mark.parametrize("told", [True, False])
def test_a_settled_gradient_that_overflows_is_helped_by_the_scaler(told: bool) -> None:
    """At 1024 the gradient of this loss overflows in float16: the scaler finds a scale that it does not overflow at."""
    precision, scaler = Precision("fp16"), torch.amp.GradScaler("cpu")
    network = half_network(precision)
    if told:
        precision.use_scaler(scaler)
    optimizer = torch.optim.SGD(network.module.parameters(), lr=1e-6)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = [p.detach().clone() for p in network.module.parameters()]
    for _ in range(16):
        logits = network.forward(images).logits
        loss = 1e4 * nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3]))
        optimizer.zero_grad()
        scale = network.gradient_scale(images.device)
        scaler.scale(settle(loss, network.module.parameters(), scale)).backward()
        scaler.step(optimizer)
        scaler.update()
    moved = any(not torch.equal(p, old) for p, old in zip(network.module.parameters(), before, strict=True))
    assert moved is told
    assert all(bool(p.isfinite().all()) for p in network.module.parameters())


def test_looking_through_a_scaler_gives_the_same_gradient() -> None:
    precision = Precision("fp16")
    network = half_network(precision)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def look() -> Tensor:
        return input_gradient(network, images, lambda logits: logits.square().mean())

    fixed = look()
    precision.use_scaler(torch.amp.GradScaler("cpu", init_scale=65536.0))
    assert torch.equal(look(), fixed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_delivered_gradients_have_the_bits_of_a_product(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype))
    with torch.no_grad():
        weight.data = weight.data.to(memory_format=torch.channels_last)
    bias = nn.Parameter(torch.ones(3, dtype=torch.float32))
    (plain,) = torch.autograd.grad(weight.float().square().sum() + bias.sum(), weight)
    loss = settle(weight.float().square().sum() + bias.sum(), [weight, bias])
    (loss * 0.3).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert torch.equal(weight.grad, plain * torch.tensor(0.3))
    assert torch.equal(bias.grad, torch.full((3,), 0.3))
