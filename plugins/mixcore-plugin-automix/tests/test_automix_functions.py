"""AutoMix: the pure functions and the block, against the numbers of its specification, in float64 where exact."""

from __future__ import annotations

import math

import pytest
import torch
from mixcore_plugin_automix import (
    AutoMix,
    AutoMixBlock,
    Draw,
    adjust_masks,
    ema_momentum,
    mask_loss,
    mask_weight,
    masks_of_logits,
    mix_by_mask,
)
from mixcore_plugin_automix.partners import draw_pairing
from torch import Tensor

FEATURES = torch.tensor([[[1, 0, 0, 1], [0, 1, 1, 0]], [[2, 0, 1, 0], [0, 2, 1, 0]]], dtype=torch.float64).view(
    2, 2, 2, 2
)
SWAPPED = torch.tensor([1, 0])


def block(channels: int = 2, *, query: list[float] | None = None, value: list[float] | None = None, **options: object):
    """A block in float64, with one query channel of these weights where they are given."""
    made = AutoMixBlock(channels, **options).double()
    if query is not None:
        made.query.weight.data = torch.tensor(query, dtype=torch.float64).view(1, -1, 1, 1)
        made.value.weight.data = torch.tensor(value, dtype=torch.float64).view(1, -1, 1, 1)
    return made


def random_block(channels: int, seed: int = 0, **options: object) -> AutoMixBlock:
    made = block(channels, **options)
    rng = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    return made


def masks(made: AutoMixBlock, features: Tensor, draw: Draw, size: tuple[int, int] | None = None) -> Tensor:
    size = (features.shape[-2], features.shape[-1]) if size is None else size
    return masks_of_logits(made.logits(made.project(features), draw), size, draw.upsample)


def close(found: Tensor, expected: list[float], tolerance: float = 5.1e-7) -> None:
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=found.dtype), rtol=0, atol=tolerance)


def test_the_exact_example() -> None:
    made = block(query=[1, -1], value=[1, -1])
    draw = Draw(lam=0.25, partner=SWAPPED)
    logits = made.logits(made.project(FEATURES), draw)
    close(logits[0], [1.523188, -1.523188, -1.523188, 1.523188])
    close(logits[1], [0.964028, -0.964028, 0, 0])
    found = masks(made, FEATURES, draw)
    close(found[0], [0.178993, 0.821007, 0.821007, 0.178993])
    close(found[1], [0.276073, 0.723927, 0.5, 0.5])


@pytest.mark.parametrize(
    ("lam", "first", "second", "loss"),
    [
        (0.25, [0.071738, 0.543449, 0.543449, 0.071738], [0.149743, 0.538709, 0.229327, 0.229327], 0.0),
        (0.75, [0.097684, 0.236090, 0.236090, 0.097684], [0.223016, 0.552831, 0.239550, 0.239550], 0.409688),
    ],
)
def test_the_exact_example_with_lam(lam: float, first: list[float], second: list[float], loss: float) -> None:
    made = block(query=[1, -1, 2], value=[1, -1, 1], lam_concat=True)
    found = masks(made, FEATURES, Draw(lam=lam, partner=SWAPPED))
    close(found[0], first)
    close(found[1], second)
    assert mask_loss("l1", found, lam, 0.1).item() == pytest.approx(loss, abs=5.1e-7)


def test_logits_are_enlarged_and_not_masks() -> None:
    made = block(query=[1, -1, 2], value=[1, -1, 1], lam_concat=True)
    draw = Draw(lam=0.25, partner=SWAPPED, upsample="bilinear")
    found = masks(made, FEATURES, draw, (4, 4))[0, 0]
    close(found[0], [0.071738, 0.132773, 0.375335, 0.543449])
    close(found[1], [0.132773, 0.177286, 0.299178, 0.375335])
    torch.testing.assert_close(found, found.flip(0, 1))
    nearest = masks(made, FEATURES, Draw(lam=0.25, partner=SWAPPED), (4, 4))[0, 0]
    close(nearest[1], [0.071738, 0.071738, 0.543449, 0.543449])


def test_parameters_are_as_many_as_the_method_says() -> None:
    def count(channels: int, **options: object) -> int:
        return sum(parameter.numel() for parameter in AutoMixBlock(channels, **options).parameters())

    assert [count(256), count(1024)] == [33153, 525825]
    assert count(256, lam_concat=True) == 33153 + 129


def test_masks_start_near_one_half() -> None:
    torch.manual_seed(0)
    found = masks(
        AutoMixBlock(256).double(), torch.randn(4, 256, 8, 8).relu().double(), Draw(lam=0.3, partner=SWAPPED.repeat(2))
    )
    assert found.mean().item() == pytest.approx(0.5, abs=0.05)
    assert found.std().item() < 0.01


def test_a_block_of_zeros_gives_one_half() -> None:
    made = block(query=[0, 0, 0], value=[0, 0, 0], lam_concat=True)
    assert (masks(made, FEATURES, Draw(lam=0.2, partner=SWAPPED)) == 0.5).all()


def test_without_lam_the_masks_do_not_depend_on_it() -> None:
    features = torch.randn(3, 4, 2, 3, dtype=torch.float64)
    made, partner = random_block(4), torch.tensor([1, 2, 0])
    low, high = (masks(made, features, Draw(lam=lam, partner=partner)) for lam in (0.1, 0.9))
    assert torch.equal(low, high)
    made = random_block(4, lam_concat=True)
    low, high = (masks(made, features, Draw(lam=lam, partner=partner)) for lam in (0.1, 0.9))
    assert (low - high).abs().max() > 0.01


def plain_masks(made: AutoMixBlock, features: Tensor, draw: Draw) -> Tensor:
    """The block as it is specified, one sample and one position at a time."""
    rows = []
    for own, partner in zip(features, features[draw.partner], strict=True):
        a, b = own.flatten(1), partner.flatten(1)
        if made.lam_concat:
            a = torch.cat((a, torch.full_like(a[:1], draw.lam)))
            b = torch.cat((b, torch.full_like(b[:1], 1 - draw.lam)))
        weight, bias = made.query.weight.flatten(1), made.query.bias
        value = made.value.weight.flatten(1) @ b + made.value.bias
        out = []
        for i in range(a.shape[1]):
            query = weight @ a[:, i] + bias
            scores = torch.stack([query @ (weight @ b[:, j] + bias) for j in range(b.shape[1])]) / math.sqrt(len(bias))
            out.append((scores.softmax(0) * value[0]).sum())
        rows.append(1 - torch.sigmoid(torch.stack(out)).view(1, *own.shape[1:]))
    return torch.stack(rows)


@pytest.mark.parametrize("lam_concat", [False, True])
def test_the_shared_projection_gives_the_masks_and_gradients_of_four(lam_concat: bool) -> None:
    features = torch.randn(3, 4, 2, 3, dtype=torch.float64)
    made = random_block(4, lam_concat=lam_concat)
    learns, serves = Draw(lam=0.3, partner=torch.tensor([1, 2, 0])), Draw(lam=0.6, partner=torch.tensor([0, 2, 1]))
    learning, serving = made.masks(made.project(features), learns, serves, (2, 3))
    expected = plain_masks(made, features, learns)
    torch.testing.assert_close(learning, expected)
    torch.testing.assert_close(serving, plain_masks(made, features, serves).detach())
    assert not serving.requires_grad
    gradients = [torch.autograd.grad(m.square().sum(), list(made.parameters())) for m in (learning, expected)]
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted)
        assert found.abs().max() > 1e-9


def test_relabelling_the_batch_permutes_the_masks() -> None:
    features = torch.randn(5, 4, 3, 3, dtype=torch.float64)
    made, partner = random_block(4, lam_concat=True), torch.tensor([3, 1, 4, 0, 2])
    order = torch.tensor([2, 0, 4, 1, 3])  # row i becomes row order^-1 of the new batch
    inverse = order.argsort()
    plain = masks(made, features, Draw(lam=0.4, partner=partner))
    moved = masks(made, features[order], Draw(lam=0.4, partner=inverse[partner[order]]))
    torch.testing.assert_close(moved, plain[order], rtol=0, atol=1e-15)


def test_equal_images_have_equal_masks_and_stay_as_they_are() -> None:
    features = torch.randn(1, 4, 3, 3, dtype=torch.float64).expand(4, -1, -1, -1)
    partner = torch.tensor([1, 2, 3, 0])
    found = masks(random_block(4), features, Draw(lam=0.4, partner=partner), (6, 6))
    torch.testing.assert_close(found, found[:1].expand_as(found), rtol=0, atol=1e-15)
    images = torch.randn(1, 3, 6, 6, dtype=torch.float64).expand(4, -1, -1, -1)
    torch.testing.assert_close(mix_by_mask(images, partner, found), images)


def test_layer_norm_is_plain() -> None:
    made = AutoMixBlock(4, layer_norm=True)
    features = torch.randn(2, 4, 3, 3)
    flat = features.movedim(1, -1)
    normal = (flat - flat.mean(-1, keepdim=True)) / (flat.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = torch.nn.functional.conv2d(normal.movedim(-1, 1), made.query.weight)
    torch.testing.assert_close(made.project(features)[0][:, :2], expected, atol=1e-6, rtol=1e-4)


def test_an_overflow_of_the_scores_gives_masks() -> None:
    made = random_block(4).float()
    found = masks(made, torch.full((2, 4, 2, 2), 1e30), Draw(lam=0.4, partner=SWAPPED))
    assert not found.isnan().any()


def test_mixing_by_masks() -> None:
    images = torch.randn(4, 3, 6, 8)
    partner, mask = torch.tensor([2, 0, 3, 1]), torch.rand(4, 1, 6, 8)
    mask[0], mask[1] = 0, 1
    mixed = mix_by_mask(images, partner, mask)
    others = images[partner]
    assert torch.equal(mixed[0], others[0])
    assert torch.equal(mixed[1], images[1])
    torch.testing.assert_close(mixed, mask * images + (1 - mask) * others)
    assert (mixed <= torch.maximum(images, others) + 1e-6).all()
    assert (mixed >= torch.minimum(images, others) - 1e-6).all()


def test_adjusted_masks() -> None:
    mask = torch.tensor([0.8, 0.6, 0.4, 0.2], dtype=torch.float64).view(1, 1, 2, 2)
    close(adjust_masks(mask, 0.25), [0.4, 0.3, 0.2, 0.1])
    close(adjust_masks(mask, 0.8), [0.92, 0.84, 0.76, 0.68])
    close(adjust_masks(mask, 0.5), [0.8, 0.6, 0.4, 0.2])
    many = torch.rand(16, 1, 8, 8, dtype=torch.float64)
    many[0], many[1] = 0, 1
    for lam in (0.0, 0.1, 0.5, 0.93, 1.0):
        found = adjust_masks(many, lam)
        assert ((found >= 0) & (found <= 1)).all()
        torch.testing.assert_close(found.mean((1, 2, 3)), torch.full((16,), lam).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "lam", "expected"),
    [
        ("l1", 0.45, 0.0),
        ("l1", 0.9, 0.3),
        ("l1_variance", 0.3, 0.0),
        ("l1_variance", 0.9, 0.2),
        ("l2_variance", 0.9, 0.15 - 0.1),
        ("sparsity", 0.9, 0.1),
    ],
)
def test_mask_losses(kind: str, lam: float, expected: float) -> None:
    mask = torch.tensor([0.8, 0.6, 0.4, 0.2], dtype=torch.float64).view(1, 1, 2, 2)
    assert mask_loss(kind, mask, lam, 0.1).item() == pytest.approx(expected, abs=1e-12)  # type: ignore[arg-type]


def test_the_mask_loss_drives_the_mean_into_the_margin_and_stops() -> None:
    made = random_block(4, seed=2, lam_concat=True)
    features = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    draw = Draw(lam=0.8, partner=torch.tensor([1, 2, 3, 4, 5, 0]))
    optimizer = torch.optim.SGD(made.parameters(), lr=0.5)
    for _ in range(400):
        optimizer.zero_grad()
        loss = mask_loss("l1", masks(made, features, draw), draw.lam, 0.1)
        loss.backward()
        optimizer.step()
    assert abs(masks(made, features, draw).mean().item() - draw.lam) <= 0.1
    assert loss.item() == 0
    assert all((parameter.grad == 0).all() for parameter in made.parameters())


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0, 0.999),
        (0.0999, 0.999),
        (0.1, 0.99902445),
        (0.25, 0.99914630),
        (0.5, 0.9994995),
        (0.75, 0.9998527),
        (0.9, 0.99997455),
    ],
)
def test_momentum(progress: float, expected: float) -> None:
    total = 10_000
    assert ema_momentum(round(progress * total), total, 0.999, 0.999999, 0.1) == pytest.approx(expected, abs=6e-9)


def test_momentum_without_a_constant_share_copies_first() -> None:
    assert ema_momentum(0, 100, 0.999, 0.999999, 0) == 0
    assert ema_momentum(1, 100, 0.999, 0.999999, 0) > 0.999


def test_mask_weights() -> None:
    assert mask_weight(0.1, "constant", 900, 1000) == 0.1
    assert mask_weight(0.1, "cosine", 500, 1000) == pytest.approx(0.05)
    total = 100_000
    compounded = [mask_weight(1.0, "cosine_compounding", t, total) for t in (2300, 3900, 42_000)]
    assert compounded[0] == pytest.approx(math.exp(-1), rel=0.02)
    assert compounded[1] == pytest.approx(0.01, rel=0.25)
    assert compounded[2] == pytest.approx(0, abs=1e-300)


def test_partners() -> None:
    def draw(seed: int, count: int, **options: bool) -> list[int]:
        return draw_pairing(count, torch.Generator().manual_seed(seed), **options).tolist()

    assert sorted(draw(0, 7)) == list(range(7))
    fixed = sum(any(i == j for i, j in enumerate(draw(seed, 5))) for seed in range(300))
    assert fixed == pytest.approx(300 * (1 - 0.3667), abs=40), "fixed points are allowed"
    kept = sum(any(i == j for i, j in enumerate(draw(seed, 5, no_repeat=True))) for seed in range(300))
    assert kept < 12
    shifted = [draw(seed, 3, no_repeat=True, shift=True) for seed in range(300)]
    assert all(i != j for found in shifted for i, j in enumerate(found))
    assert [draw(seed, 2, no_repeat=True, shift=True) for seed in range(50)] == [[1, 0]] * 50
    assert draw(0, 1, no_repeat=True, shift=True) == [0]


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.0},
        {"upsample": ()},
        {"upsample": ("bicubic",)},
        {"mask_loss": "l3"},
        {"lam_margin": 0.6},
        {"switch_off": 1.5},
        {"momentum": 1.1},
        {"block_lr": -1.0},
        {"mask_schedule": "linear"},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        AutoMix(**options)
