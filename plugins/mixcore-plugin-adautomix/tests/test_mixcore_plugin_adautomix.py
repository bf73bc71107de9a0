"""AdAutoMix in the training step: the shipped contract, and the invariants of its method."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mixcore_plugin_adautomix import AdAutoMix, SourcesDraw, draw_sources
from mixcore_plugin_automix import ema_momentum
from torch import Tensor, nn

import mixcore
from mixcore.api import Batch, ConfigError
from mixcore.rng import keyed_generator
from mixcore.step.step import TrainingStep
from mixcore.testing import MixerContract, TinyConvNet, make_step, run_example

CLASSES, SIZE, TOTAL, SEED = 5, (16, 24), 100, 3
ADVERSARIAL, COOPERATIVE = 0, 1
"""Iterations of either kind."""


class TestContract(MixerContract):
    plugin = "adautomix"


@pytest.mark.slow
class TestContractOfTwo(MixerContract):
    plugin = "adautomix"
    options = {"mix_samples": 2, "stage": "stage1", "lam_concat": True, "att_norm": "batch", "upsample": ["nearest"]}


@pytest.mark.slow
class TestContractWithEverything(MixerContract):
    plugin = "adautomix"
    options = {
        "mix_samples": 4,
        "is_random": True,
        "switch_off": 0.5,
        "lam_concat": True,
        "layer_norm": True,
        "upsample": ["nearest", "bilinear"],
        "adv_interval": 3,
        "cos_sign": -1,
    }


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "adautomix"
    device = "cuda"


def network() -> nn.Module:
    torch.manual_seed(0)
    return TinyConvNet(CLASSES)


def batch(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *SIZE, generator=rng), torch.randint(CLASSES, (count,), generator=rng)


def step_of(model: nn.Module | None = None, *, loss: Any = None, **options: Any) -> TrainingStep:
    """A step whose block has large random weights, so that its masks vary."""
    step = mixcore.create_step(
        model or network(),
        mix={"name": "adautomix", "stage": 2, **options},
        loss=loss,
        num_classes=CLASSES,
        iterations=TOTAL,
        image_size=SIZE,
        seed=SEED,
    )
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in parts(step)["block"].parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return step


def parts(step: TrainingStep) -> Any:
    return step.parts["adautomix"]


def named(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


def draws(iteration: int, samples: int = 3, count: int = 6) -> tuple[SourcesDraw, SourcesDraw]:
    rng = keyed_generator(SEED, 0, iteration, 0, "mix")
    return draw_sources(count, samples, 1.0, ("bilinear",), rng, torch.device("cpu"))


class Plain:
    """AdAutoMix as it is specified, without any economy: one graph, cosine targets from forwards of their own."""

    def __init__(self, step: TrainingStep) -> None:
        own = parts(step)
        self.q, self.k = copy.deepcopy(step.model), copy.deepcopy(own["k"])
        self.one, self.block = copy.deepcopy(own["one"]), copy.deepcopy(own["block"])
        self.targets = copy.deepcopy(own["k"])

    def masks(self, features: Tensor, draw: SourcesDraw) -> Tensor:
        queries, keys, values = [], [], []
        for lam, source in zip(draw.lams, draw.sources, strict=True):
            seen = features[source]
            if self.block.lam_concat:
                seen = torch.cat((seen, torch.full_like(seen[:, :1], lam)), 1)
            queries.append(self.block.query(seen).relu().flatten(2))
            keys.append(self.block.key(seen).relu().flatten(2))
            values.append(self.block.value(seen))
        logits = []
        for i, query in enumerate(queries):
            others = sum(torch.einsum("ncp,ncs->nps", query, key) for j, key in enumerate(keys) if j != i)
            weights = (others / math.sqrt(query.shape[1])).softmax(-1)
            logits.append(torch.einsum("nps,ncs->ncp", weights, values[i].flatten(2)).view_as(values[i]))
        return F.interpolate(torch.cat(logits, 1), SIZE, mode="bilinear").softmax(1)

    def run(
        self, images: Tensor, labels: Tensor, learns: SourcesDraw, serves: SourcesDraw, adversarial: bool
    ) -> Tensor:
        def mixed(draw: SourcesDraw, shares: Any) -> Tensor:
            return sum(share * images[rows] for share, rows in zip(shares, draw.sources, strict=True))

        def mixed_loss(logits: Tensor, draw: SourcesDraw) -> Tensor:
            pairs = zip(draw.lams, draw.sources, strict=True)
            return sum(lam * F.cross_entropy(logits, labels[rows]) for lam, rows in pairs)

        maps: list[Tensor] = []
        tap = self.k.stage2.register_forward_hook(lambda _m, _i, output: maps.append(output))
        with torch.no_grad():
            self.k(images)
        tap.remove()
        learning, serving = self.masks(maps[0], learns), self.masks(maps[0], serves).detach()
        if min(serves.lams[0], 1 - serves.lams[0]) <= 0.03:
            serving = torch.tensor(serves.lams).view(1, -1, 1, 1).expand_as(serving)
        z = self.k(mixed(learns, learning.split(1, 1)))
        generator = mixed_loss(z, learns)
        if adversarial:
            cosine: Any = 0.0
            for lam, rows in zip(learns.lams, learns.sources, strict=True):
                with torch.no_grad():
                    target = self.targets(images[rows])
                cosine = cosine + lam * F.cosine_similarity(z, target).mean()
            generator = -0.3 * generator + 0.7 * cosine
        clean = F.cross_entropy(self.one(self.q.forward_features(images).mean((2, 3))), labels)
        total = clean
        if len(serves.sources) > 2:
            total = 0.5 * clean + 0.5 * mixed_loss(self.q(mixed(serves, serves.lams)), serves)
        total = total + mixed_loss(self.q(mixed(serves, serving.split(1, 1))), serves) + generator
        total.backward()
        return total.detach()


@pytest.mark.parametrize("options", [{}, {"lam_concat": True}, {"mix_samples": 2}, {"mix_samples": 4}], ids=str)
@pytest.mark.parametrize("iteration", [ADVERSARIAL, COOPERATIVE])
def test_all_gradients_are_those_of_the_plain_statement(options: dict[str, Any], iteration: int) -> None:
    step = step_of(**options)
    images, labels = batch()
    plain = Plain(step)
    told = draws(iteration, options.get("mix_samples", 3))
    expected = plain.run(images, labels, *told, adversarial=iteration == ADVERSARIAL)
    loss, report = step(images, labels, epoch=0, iteration=iteration)
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-5, atol=1e-6)
    own = parts(step)
    for module, wanted in ((step.model, plain.q), (own["block"], plain.block), (own["one"], plain.one)):
        found, gradients = named(module), named(wanted)
        assert found.keys() == gradients.keys()
        assert len(found) == len(list(module.parameters()))
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
    # the bias of the values shifts the logits of all images alike
    blind = [name for name, gradient in named(own["block"]).items() if gradient.abs().max() < 1e-7]
    assert blind == ["value.bias"]
    assert not named(own["k"])
    assert not named(own["one_k"])
    for module, wanted in ((step.model, plain.q), (own["k"], plain.k)):
        for name, buffer in wanted.named_buffers():
            torch.testing.assert_close(dict(module.named_buffers())[name], buffer, rtol=1e-5, atol=1e-6)
    assert set(report.losses) == {"mix", f"adautomix/{'cooperative' if iteration else 'adversarial'}"}


def test_an_adversarial_step_goes_the_other_way() -> None:
    """With all of the loss and nothing of the cosine (beta 1), its gradient is minus that of a cooperative step."""
    images, labels = batch()
    gradients = []
    for interval in (1, 2):  # iteration 1 is adversarial, and cooperative
        step = step_of(adv_interval=interval, beta_ratio=1.0)
        step(images, labels, epoch=0, iteration=1)[0].backward()
        gradients.append(named(parts(step)["block"]))
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, -gradients[1][name], rtol=1e-5, atol=1e-8)
    assert max(gradient.abs().max() for gradient in gradients[0].values()) > 1e-5


def test_the_sign_of_the_cosine() -> None:
    images, labels = batch()
    gradients = []
    for sign in (1, -1):
        step = step_of(cos_sign=sign, beta_ratio=0.0)
        step(images, labels, epoch=0, iteration=ADVERSARIAL)[0].backward()
        gradients.append(named(parts(step)["block"]))
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, -gradients[1][name], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("interval", "expected"), [(1, "aaaa"), (2, "acac"), (3, "acca")])
def test_the_alternation(interval: int, expected: str) -> None:
    step = step_of(adv_interval=interval)
    images, labels = batch(2)
    kinds = [set(step(images, labels)[1].losses) - {"mix"} for _ in expected]
    assert [kind.pop().removeprefix("adautomix/")[0] for kind in kinds] == list(expected)


def test_each_loss_trains_its_own() -> None:
    step = step_of()
    _, report = step(*batch(), epoch=0, iteration=ADVERSARIAL)
    assert report.mix.losses["adversarial"].requires_grad
    report.mix.losses["adversarial"].backward()
    assert named(parts(step)["block"])
    assert not any(named(module) for name, module in parts(step).items() if name != "block")
    assert not named(step.model)
    skipped = step_of(switch_off=1e-9)
    skipped(*batch(), epoch=0, iteration=ADVERSARIAL)[0].backward()
    assert not named(parts(skipped)["block"])
    assert named(skipped.model)
    assert named(parts(skipped)["one"])


def counts(module: nn.Module) -> set[int]:
    return {int(b) for name, b in module.named_buffers() if name.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    ("options", "of_k", "of_q"),
    [
        ({}, {2}, {3}),
        ({"mix_samples": 2}, {2}, {2}),
        ({"mixup_ratio": 0.0}, {2}, {2}),
        ({"switch_off": 1e-9}, {1}, {3}),
    ],
)
def test_how_often_each_network_runs(options: dict[str, Any], of_k: set[int], of_q: set[int]) -> None:
    step = step_of(**options)
    step(*batch(), epoch=0, iteration=0)
    assert (counts(parts(step)["k"]), counts(step.model)) == (of_k, of_q)


def test_the_block_normalises_the_images_of_each_call_together() -> None:
    for lam_concat, times in ((False, 2), (True, 6)):
        step = step_of(att_norm="batch", lam_concat=lam_concat)
        step(*batch(), epoch=0, iteration=0)
        assert counts(parts(step)["block"]) == {times}


def test_what_the_network_is_fed() -> None:
    step = step_of()
    images, labels = batch()
    report = step(images, labels, epoch=0, iteration=0, logging=True)[1]
    _, serves = draws(0)
    clean, linear = report.mix.views
    assert clean.images is images
    assert (clean.head, clean.scale) == ("one", 0.5)
    assert (linear.head, linear.scale) == (None, 0.5)
    expected = sum(lam * images[rows] for lam, rows in zip(serves.lams, serves.sources, strict=True))
    torch.testing.assert_close(linear.images, expected)
    torch.testing.assert_close(linear.masks_on(1, 1)[:, :, 0, 0], linear.weights)
    mix = report.mix
    assert (mix.head, mix.scale) == (None, 1.0)
    assert torch.equal(mix.sources, torch.stack(serves.sources, 1))
    torch.testing.assert_close(mix.weights, torch.tensor(serves.lams).expand(6, 3))
    masks = mix.masks_on(*SIZE)
    assert masks.std() > 0.01
    expected = sum(masks[:, i, None] * images[rows] for i, rows in enumerate(serves.sources))
    torch.testing.assert_close(mix.images, expected)
    assert {name.removeprefix("adautomix/") for name in report.scalars} == {
        *("mask_mean", "mask_off", "mask_decided", "momentum", "dropped")
    }


def near_an_end(samples: int, margin: float) -> tuple[int, SourcesDraw]:
    """An iteration whose first ratio is that near to 0 or 1, and not one where only another one is."""
    for iteration in range(600):
        _, serves = draws(iteration, samples)
        if min(serves.lams[0], 1 - serves.lams[0]) <= margin:
            return iteration, serves
    raise AssertionError("no such draw")


@pytest.mark.parametrize("samples", [2, 3])
def test_near_the_ends_the_network_sees_a_plain_mix(samples: int) -> None:
    step = step_of(mix_samples=samples)
    images, labels = batch()
    iteration, serves = near_an_end(samples, 0.03)
    mix = step(images, labels, epoch=0, iteration=iteration)[1].mix
    expected = sum(lam * images[rows] for lam, rows in zip(serves.lams, serves.sources, strict=True))
    torch.testing.assert_close(mix.images, expected)
    assert mix.masks is not None
    assert mix.masks.shape == (6, samples - 1, 1, 1)
    torch.testing.assert_close(mix.masks[:, :, 0, 0], mix.weights[:, :-1])
    if samples > 2:
        assert torch.equal(mix.images, mix.views[1].images)
    kept = step_of(mix_samples=samples, lam_margin=0.0)(images, labels, epoch=0, iteration=iteration)[1].mix
    assert kept.masks.std() > 0.01


def test_only_the_first_ratio_is_looked_at() -> None:
    iteration = next(i for i in range(600) if min(draws(i)[1].lams[1:]) <= 0.03 and 0.1 < draws(i)[1].lams[0] < 0.9)
    mix = step_of()(*batch(), epoch=0, iteration=iteration)[1].mix
    assert mix.masks.shape[-2:] == SIZE


def test_how_many_are_mixed_may_be_drawn_for_all_groups_and_processes() -> None:
    step = step_of(mix_samples=4, is_random=True)
    images, labels = batch()
    seen = [step(images, labels, epoch=0, iteration=i)[1].mix.sources.shape[1] for i in range(20)]
    assert set(seen) == {2, 3, 4}
    again = mixcore.create_step(
        network(),
        mix={"name": "adautomix", "stage": 2, "mix_samples": 4, "is_random": True, "group_size": 3},
        num_classes=CLASSES,
        iterations=TOTAL,
        image_size=SIZE,
        seed=SEED,
    )
    assert [again(images, labels, epoch=0, iteration=i)[1].mix.sources.shape[1] for i in range(6)] == seen[:6]


def test_switch_off_leaves_out_that_share_and_says_that_the_block_idles() -> None:
    computed = [AdAutoMix(switch_off=0.8).classifies(make_step(iteration=i)) for i in range(TOTAL)]
    assert 68 <= sum(computed) <= 92
    step = step_of(switch_off=0.5)
    names = [set(step(*batch(2), epoch=0, iteration=i)[1].losses) for i in range(6)]
    assert {frozenset(name) for name in names} >= {frozenset({"mix"}), frozenset({"mix", "adautomix/adversarial"})}
    assert AdAutoMix(switch_off=0.8).find_unused_parameters
    assert not AdAutoMix().find_unused_parameters
    assert not AdAutoMix(switch_off=1.0).find_unused_parameters


def train(step: TrainingStep, optimizer: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    losses = []
    for iteration in range(first, last):
        loss, _ = step(*batch(seed=iteration))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step.after_step()
        losses.append(loss.item())
    return losses


def test_a_resumed_run_goes_on_with_the_other_kind_of_step_and_the_bits_of_the_whole() -> None:
    """The count of steps is the run's own, which is in its state: the loop here passes no iteration."""

    def begin() -> tuple[TrainingStep, torch.optim.Optimizer]:
        step = step_of(is_random=True, att_norm="batch")
        return step, torch.optim.SGD(step.param_groups(lr=0.05, momentum=0.9), lr=0.05)

    whole, optimizer = begin()
    losses = train(whole, optimizer, 0, 6)
    half, optimizer = begin()
    train(half, optimizer, 0, 3)  # the next step is cooperative
    state = copy.deepcopy((half.state_dict(), optimizer.state_dict()))
    resumed, optimizer = begin()
    resumed.load_state_dict(state[0])
    optimizer.load_state_dict(state[1])
    assert train(resumed, optimizer, 3, 6) == losses[3:]
    found = resumed.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in whole.state_dict().items())


def test_the_momentum_networks_are_averages_of_the_updated_weights() -> None:
    step = step_of()
    own = parts(step)
    with torch.no_grad():
        for parameter in own["k"].parameters():
            parameter.add_(torch.randn_like(parameter))
    before = [p.clone() for name in ("k", "one_k") for p in own[name].parameters()]
    train(step, torch.optim.SGD(step.param_groups(lr=0.1), lr=0.1), 0, 1)
    m = ema_momentum(0, TOTAL, 0.999, 0.999999, 0.1)
    trained = [p for module in (step.model, own["one"]) for p in module.parameters()]
    averaged = [p for name in ("k", "one_k") for p in own[name].parameters()]
    for old, new, found in zip(before, trained, averaged, strict=True):
        torch.testing.assert_close(found, (m * old.double() + (1 - m) * new.detach().double()).float())
    assert set(step.predictors()) == {"model", "k_mix", "k_one", "q_one"}


def test_a_nan_of_the_momentum_copy_is_dropped_and_counted() -> None:
    step = step_of()
    own = parts(step)
    with torch.no_grad():
        own["k"].fc.weight.fill_(torch.nan)
    loss, report = step(*batch(), epoch=0, iteration=ADVERSARIAL, logging=True)
    loss.backward()
    assert loss.isfinite()
    assert report.scalars["adautomix/dropped"] == 1
    assert report.losses["adautomix/adversarial"] == 0
    assert all((parameter.grad == 0).all() for parameter in own["block"].parameters())


def test_masks_of_pairs_over_lam_leave_no_trace() -> None:
    step = step_of(lam_concat=True, att_norm="batch")
    images, labels = batch()
    step(images, labels, epoch=0, iteration=0)
    before = {name: value.clone() for name, value in step.state_dict().items() if isinstance(value, Tensor)}
    low, high = step.previews(Batch(images=images, labels=labels), (0.1, 0.9))["adautomix"]
    assert all(torch.equal(value, before[name]) for name, value in step.state_dict().items() if name in before)
    assert low.mask is not None
    assert high.mask is not None
    assert low.mask.shape == (6, 1, *SIZE)
    assert (low.mask - high.mask).abs().max() > 0.01


def test_bf16_learns_too() -> None:
    step = step_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, report = step(*batch(), epoch=0, iteration=0)
    loss.backward()
    assert report.mix.masks.dtype == torch.float32
    plain = step_of()
    expected = plain(*batch(), epoch=0, iteration=0)[0]
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.05)


def test_options_that_have_no_meaning_are_refused() -> None:
    for options in (
        {"mix_samples": 1},
        {"adv_interval": 0},
        {"cos_sign": 0},
        {"mixup_ratio": 1.0},
        {"att_norm": "layer"},
        {"lam_margin": 0.6},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            AdAutoMix(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="create_step"):
        mixcore.create_mixer("adautomix", num_classes=CLASSES, model=network(), stage=2)


def test_the_example_of_the_readme_runs() -> None:
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
    assert "k_mix" in names["step"].predictors()
