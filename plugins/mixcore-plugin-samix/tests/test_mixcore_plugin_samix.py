"""SAMix: the shipped contract, the numbers of its specification in float64, and its block in AutoMix's step."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mixcore_plugin_automix import Draw, cross_attention, ema_momentum, mask_loss, masks_of_logits
from mixcore_plugin_samix import SAMix, SAMixBlock, rescaled
from torch import Tensor, nn

import mixcore
from mixcore.api import beta, draw_partners
from mixcore.rng import keyed_generator
from mixcore.step.step import TrainingStep
from mixcore.testing import MixerContract, TinyConvNet, run_example

FEATURES = torch.tensor([[[1, 0, 0, 1], [0, 1, 1, 0]], [[2, 0, 1, 0], [0, 2, 1, 0]]], dtype=torch.float64).view(
    2, 2, 2, 2
)
SWAPPED = torch.tensor([1, 0])
CLASSES, SIZE = 5, (16, 24)


class TestContract(MixerContract):
    plugin = "samix"


@pytest.mark.slow
class TestContractNearest(MixerContract):
    plugin = "samix"
    left_out = ("two_processes",)
    options = {"stage": 1, "dropout": 0.0, "lam_mul_k": 0.25, "upsample": ["nearest", "bilinear"], "mask_loss": "l1"}


def test_a_short_run_says_that_the_momentum_copy_learns_little() -> None:
    left = math.prod(ema_momentum(t, 66, 0.999, 0.999999, 0.1) for t in range(66))
    assert f"at least {int(100 * left)} % of its first weights" in SAMix().check(66)[0]
    assert SAMix().check(100_000) == []


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "samix"
    device = "cuda"


def random_block(channels: int, seed: int = 0, **options: Any) -> SAMixBlock:
    made = SAMixBlock(channels, **{"dropout": 0.0, **options}).double()
    rng = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    return made


def example_block(**options: Any) -> SAMixBlock:
    """The block of the specification's examples: d = 1, e = 1, k = 0.25."""
    made = SAMixBlock(2, lam_mul_k=0.25, dropout=0.0, **options).double()
    made.query.weight.data = torch.tensor([1, 0, 0, 1]).double().view(1, 4, 1, 1)
    made.key.weight.data = torch.tensor([0, 1, 1, 0]).double().view(1, 4, 1, 1)
    made.hidden.weight.data = torch.tensor([1, -1]).double().view(1, 2, 1, 1)
    made.value.weight.data.fill_(2)
    return made


def masks(made: SAMixBlock, features: Tensor, draw: Draw, size: tuple[int, int] | None = None) -> Tensor:
    size = (features.shape[-2], features.shape[-1]) if size is None else size
    return masks_of_logits(made.logits(made.project(features), draw), size, draw.upsample)


def close(found: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=found.dtype), rtol=0, atol=5.1e-7)


def test_lam_rescaled() -> None:
    found = [rescaled(lam, 0.25) for lam in (0.1, 0.25, 0.75, 0.9)]
    assert found == pytest.approx([0.182286, 0.357143, 0.642857, 0.817714], abs=5.1e-7)
    for k in (-1, 0, 0.25, 0.5, 1, 10):
        values = [rescaled(i / 1000, k) for i in range(1001)]
        assert (values[0], values[500], values[-1]) == pytest.approx((0, 0.5, 1), abs=1e-12)
        assert all(a + b == pytest.approx(1, abs=1e-12) for a, b in zip(values, reversed(values), strict=True))
        assert all(a < b + 1e-12 for a, b in itertools.pairwise(values))
    assert rescaled(0.3, 50) == rescaled(0.3, 10)
    assert rescaled(0.3, -1) == 0.3


class LinearValues(SAMixBlock):
    """The example (a) has values without a network."""

    def _values(self, hidden: Tensor, draw: Draw) -> Tensor:
        return hidden


@pytest.mark.parametrize(
    ("lam", "logits", "first", "second"),
    [
        (
            0.25,
            [1.727519, 2.354731, 1.882481, 1.727519],
            [0.150905, 0.086690, 0.132104, 0.150905],
            [0.790290, 0.703529, 0.802538, 0.5],
        ),
        (0.75, None, [0.308389, 0.311046, 0.318364, 0.308389], [0.793739, 0.739049, 0.792604, 0.5]),
    ],
)
def test_the_exact_example_with_linear_values(
    lam: float, logits: list[float] | None, first: list[float], second: list[float]
) -> None:
    made = example_block()
    made.__class__ = LinearValues
    draw = Draw(lam=lam, partner=SWAPPED)
    if logits is not None:
        close(made.logits(made.project(FEATURES), draw)[0], logits)
    found = masks(made, FEATURES, draw)
    close(found[0], first)
    close(found[1], second)


def test_the_exact_example() -> None:
    made, draw = example_block(), Draw(lam=0.25, partner=SWAPPED)
    hidden = made.project(FEATURES)[2][SWAPPED] * (2 - rescaled(0.25, 0.25))
    values = made._values(hidden, draw)
    close(values[0], [3.265982, -1.609311, 0, 0])
    close(values[1], [1.632991, -1.116044, -1.116044, 1.632991])
    found = masks(made, FEATURES, draw)
    close(found[0], [0.143597, 0.087648, 0.128660, 0.143597])
    close(found[1], [0.700883, 0.614090, 0.713966, 0.435739])


def test_parameters_are_as_many_as_the_method_says() -> None:
    counts = [sum(p.numel() for p in SAMixBlock(channels).parameters()) for channels in (256, 384, 768, 1024)]
    assert counts == [164480, 369600, 1476480, 2624000]


def test_a_block_of_zeros_gives_one_half() -> None:
    made = random_block(2)
    for parameter in made.parameters():
        parameter.data.zero_()
    assert (masks(made, FEATURES, Draw(lam=0.2, partner=SWAPPED)) == 0.5).all()


def plain_logits(made: SAMixBlock, features: Tensor, draw: Draw) -> Tensor:
    """The block as it is specified: scaled maps, their concatenation, two convolutions, the value network."""
    ratio = rescaled(draw.lam, made.lam_mul_k)
    a = features * (1 + ratio * made.lam_mul)
    b = features[draw.partner] * (1 + (1 - ratio) * made.lam_mul)
    pair = torch.cat((a, b), 1)
    query, key = made.query(pair).flatten(2), made.key(pair).flatten(2)
    hidden = made.hidden(b)
    mean, var = hidden.mean((0, 2, 3), keepdim=True), hidden.var((0, 2, 3), correction=0, keepdim=True)
    normal = (hidden - mean) / (var + 1e-5).sqrt() * made.norm.weight[:, None, None] + made.norm.bias[:, None, None]
    value = made.value(F.elu(normal))
    scores = torch.einsum("ncp,ncs->nps", query, key) / math.sqrt(query.shape[1])
    return torch.einsum("nps,ncs->ncp", scores.softmax(-1), value.flatten(2)).view_as(value)


@pytest.mark.parametrize("lam_mul", [1.0, 0.5])
def test_the_shared_projection_gives_the_masks_and_gradients_of_the_plain_block(lam_mul: float) -> None:
    features = torch.randn(3, 4, 2, 3, dtype=torch.float64)
    made = random_block(4, lam_mul=lam_mul, lam_mul_k=0.25)
    learns = Draw(lam=0.3, partner=torch.tensor([1, 2, 0]), upsample="bilinear")
    serves = Draw(lam=0.6, partner=torch.tensor([0, 2, 1]), upsample="bilinear")
    learning, serving = made.masks(made.project(features), learns, serves, (4, 6))
    expected = [
        1 - torch.sigmoid(F.interpolate(plain_logits(made, features, d), (4, 6), mode="bilinear"))
        for d in (learns, serves)
    ]
    torch.testing.assert_close(learning, expected[0])
    torch.testing.assert_close(serving, expected[1].detach())
    assert not serving.requires_grad
    names = [name for name, _ in made.named_parameters()]
    gradients = [torch.autograd.grad(m.square().sum(), list(made.parameters())) for m in (learning, expected[0])]
    for name, found, wanted in zip(names, *gradients, strict=True):
        torch.testing.assert_close(found, wanted, msg=lambda m, n=name: f"{n}: {m}")
        # the key's bias adds a constant to each row of the softmax
        assert (found.abs().max() > 1e-9) == (name != "key.bias")


def test_both_calls_move_the_statistics_in_turn() -> None:
    features = torch.randn(3, 4, 2, 3, dtype=torch.float64)
    made, plain = random_block(4), nn.BatchNorm2d(2).double()
    learns, serves = Draw(lam=0.3, partner=torch.tensor([1, 2, 0])), Draw(lam=0.9, partner=torch.tensor([0, 2, 1]))
    made.masks(made.project(features), learns, serves, (2, 3))
    for draw in (learns, serves):
        plain(made.hidden(features[draw.partner] * (2 - draw.lam)))
    assert int(made.norm.num_batches_tracked) == 2
    torch.testing.assert_close(made.norm.running_mean, plain.running_mean)
    torch.testing.assert_close(made.norm.running_var, plain.running_var)


def test_lam_reaches_the_values_in_eval_mode_only() -> None:
    features = 3 * torch.randn(4, 8, 3, 3, dtype=torch.float64)
    made, partner = random_block(8), torch.tensor([1, 2, 3, 0])

    def values(lam: float) -> Tensor:
        hidden = made.project(features)[2].index_select(0, partner)
        return made._values((2 - lam) * hidden, Draw(lam=lam, partner=partner))

    torch.testing.assert_close(values(0.1), values(0.9), rtol=1e-4, atol=1e-4)
    made.eval()
    assert (values(0.1) - values(0.9)).abs().max() > 0.01


def test_dropout_draws_from_the_given_generator() -> None:
    features = torch.randn(4, 8, 5, 5, dtype=torch.float64)
    made, partner = random_block(8, dropout=0.4), torch.tensor([1, 2, 3, 0])

    def values(seed: int | None) -> Tensor:
        noise = None if seed is None else torch.Generator().manual_seed(seed)
        return made._values(made.project(features)[2], Draw(lam=0.5, partner=partner, noise=noise))

    state = torch.random.get_rng_state()
    whole, dropped = values(None), values(1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(dropped, values(1))
    assert not torch.equal(dropped, values(2))
    kept = dropped != 0
    assert 0.4 < kept.double().mean() < 0.8
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.6)
    made.eval()
    assert torch.equal(values(1), values(None))


def test_equal_images_have_equal_masks() -> None:
    features = torch.randn(1, 4, 3, 3, dtype=torch.float64).expand(4, -1, -1, -1)
    found = masks(random_block(4), features, Draw(lam=0.4, partner=torch.tensor([1, 2, 3, 0])), (6, 6))
    torch.testing.assert_close(found, found[:1].expand_as(found), rtol=0, atol=1e-14)


def test_the_attention_of_the_two_methods_is_one() -> None:
    queries, keys, values = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2), torch.randn(2, 1, 2, 2)
    found = cross_attention(queries, keys, values)
    weights = (queries[1].flatten(1).T @ keys[1].flatten(1) / math.sqrt(3)).softmax(1)
    torch.testing.assert_close(found[1].flatten(), weights @ values[1].flatten())


# --- in the step -----------------------------------------------------------------------------------------------------


def step_of(**options: Any) -> TrainingStep:
    torch.manual_seed(0)
    mix = {"name": "samix", "stage": 2, "dropout": 0.0, **options}
    step = mixcore.create_step(
        TinyConvNet(CLASSES), mix=mix, num_classes=CLASSES, iterations=100, image_size=SIZE, seed=3
    )
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in step.parts["samix"]["block"].parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return step


def test_the_block_gets_the_gradient_of_the_plain_statement() -> None:
    step = step_of(lam_mul_k=0.25)
    own: Any = step.parts["samix"]
    rng = torch.Generator().manual_seed(1)
    images, labels = torch.randn(6, 3, *SIZE, generator=rng), torch.randint(CLASSES, (6,), generator=rng)
    keyed = keyed_generator(3, 0, 0, 0, "mix")
    lam, _, partner = beta(2.0, keyed), beta(2.0, keyed), draw_partners("permutation", 6, keyed)
    draw = Draw(lam=lam, partner=partner)
    maps: list[Tensor] = []
    tap = own["k"].stage2.register_forward_hook(lambda _m, _i, output: maps.append(output))
    own["k"](images)
    tap.remove()
    logits = plain_logits(own["block"], maps[0].detach(), draw)
    mask = 1 - torch.sigmoid(F.interpolate(logits, SIZE, mode="bilinear"))
    out = own["k"](mask * images + (1 - mask) * images[partner])
    expected = lam * F.cross_entropy(out, labels) + (1 - lam) * F.cross_entropy(out, labels[partner])
    expected = expected + 0.1 * mask_loss("l1_variance", mask, lam, 0.1)
    gradients = torch.autograd.grad(expected, list(own["block"].parameters()))
    step(images, labels, epoch=0, iteration=0)[0].backward()
    for (name, found), gradient in zip(own["block"].named_parameters(), gradients, strict=True):
        torch.testing.assert_close(found.grad, gradient, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert int(own["block"].norm.num_batches_tracked) == 2


def test_options_that_have_no_meaning_are_refused() -> None:
    for options in ({"lam_mul_k": -0.5}, {"dropout": 1.0}, {"lam_mul": -1.0}, {"upsample": ("cubic",)}):
        with pytest.raises(ValueError, match=next(iter(options))):
            SAMix(**options)  # type: ignore[arg-type]


def test_the_example_of_the_readme_runs() -> None:
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
    assert "k_mix" in names["step"].predictors()
