"""AutoMix in the training step: the shipped contract, and the invariants of its specification."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from mixcore_plugin_automix import AutoMix, Draw, adjust_masks, ema_momentum, first_weights_left, mask_loss
from mixcore_plugin_automix.schedules import learning_momentum
from torch import Tensor, nn

import mixcore
from mixcore.api import Batch, ConfigError, Step, beta, draw_partners
from mixcore.rng import keyed_generator
from mixcore.step.step import TrainingStep
from mixcore.testing import MixerContract, TinyConvNet, run_example

CLASSES, SIZE, TOTAL = 5, (32, 32), 100


class TestContract(MixerContract):
    plugin = "automix"


@pytest.mark.slow
class TestContractWithEverything(MixerContract):
    plugin = "automix"
    left_out = ("two_processes",)
    options = {
        "stage": "stage1",
        "lam_concat": True,
        "upsample": ["nearest", "bilinear"],
        "mask_adjust": 0.5,
        "switch_off": 0.5,
        "head_one_mix": True,
        "no_repeat": True,
        "layer_norm": True,
        "mask_schedule": "cosine",
    }


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "automix"
    device = "cuda"


def network() -> nn.Module:
    torch.manual_seed(0)
    return TinyConvNet(CLASSES)


def batch(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *SIZE, generator=rng), torch.randint(CLASSES, (count,), generator=rng)


def step_of(model: nn.Module | None = None, *, loss: Any = None, seed: int = 3, **options: Any) -> TrainingStep:
    """A step whose block has large random weights, so that its masks vary."""
    mix = {"name": "automix", "stage": 2, **options}
    step = mixcore.create_step(
        model or network(), mix=mix, loss=loss, num_classes=CLASSES, iterations=TOTAL, image_size=SIZE, seed=seed
    )
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in parts(step)["block"].parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return step


def parts(step: TrainingStep) -> Any:
    return step.parts["automix"]


def named(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


def draws(step_seed: int, iteration: int, count: int) -> tuple[Draw, Draw, torch.Generator]:
    """The draws of an iteration in the order of the method: for the block, for the network; and what is left."""
    rng = keyed_generator(step_seed, 0, iteration, 0, "mix")
    lams = beta(2.0, rng), beta(2.0, rng)
    partners = draw_partners("permutation", count, rng), draw_partners("permutation", count, rng)
    learns, serves = (Draw(lam=lam, partner=partner) for lam, partner in zip(lams, partners, strict=True))
    return learns, serves, rng


class Plain:
    """AutoMix as it is specified, without any economy: every projection on its own, one graph, one backward."""

    def __init__(self, step: TrainingStep) -> None:
        own = parts(step)
        self.q, self.k = copy.deepcopy(step.model), copy.deepcopy(own["k"])
        self.one, self.block = copy.deepcopy(own["one"]), copy.deepcopy(own["block"])
        self.lam_concat = self.block.lam_concat

    def tapped(self, images: Tensor) -> Tensor:
        """The map of stage 2 of k, whose last layers run too."""
        maps: list[Tensor] = []
        tap = self.k.stage2.register_forward_hook(lambda _m, _i, output: maps.append(output))
        with torch.no_grad():
            self.k(images)
        tap.remove()
        return maps[0]

    def masks(self, features: Tensor, draw: Draw) -> Tensor:
        a, b = features, features[draw.partner]
        if self.lam_concat:
            plane = torch.ones_like(a[:, :1])
            a, b = torch.cat((a, plane * draw.lam), 1), torch.cat((b, plane * (1 - draw.lam)), 1)
        query, key, value = self.block.query(a).flatten(2), self.block.query(b).flatten(2), self.block.value(b)
        scores = torch.einsum("ncp,ncs->nps", query, key) / math.sqrt(query.shape[1])
        attended = torch.einsum("nps,ncs->ncp", scores.softmax(-1), value.flatten(2)).view_as(value)
        return 1 - torch.sigmoid(F.interpolate(attended, size=SIZE))

    def run(self, images: Tensor, labels: Tensor, learns: Draw, serves: Draw, smoothing: float = 0.0) -> Tensor:
        def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(logits, target, label_smoothing=smoothing)

        def mixed_loss(logits: Tensor, draw: Draw) -> Tensor:
            own, other = cross_entropy(logits, labels), cross_entropy(logits, labels[draw.partner])
            return draw.lam * own + (1 - draw.lam) * other

        features = self.tapped(images)
        learning, serving = self.masks(features, learns), self.masks(features, serves).detach()
        if min(serves.lam, 1 - serves.lam) <= 0.08:
            serving = torch.full_like(serving, serves.lam)
        x_mb = learning * images + (1 - learning) * images[learns.partner]
        x_bb = serving * images + (1 - serving) * images[serves.partner]
        generator = mixed_loss(self.k(x_mb), learns)
        mask = 0.1 * ((learning.mean() - learns.lam).abs() - 0.1).clamp(min=0)
        clean = cross_entropy(self.one(self.q.forward_features(images).mean((2, 3))), labels)
        mixed = mixed_loss(self.q(x_bb), serves)
        total = mixed + clean + generator + mask
        total.backward()
        return total.detach()


@pytest.mark.parametrize("options", [{}, {"lam_concat": True}], ids=["plain", "lam"])
@pytest.mark.parametrize("iteration", [0, 1, 8])
def test_all_gradients_are_those_of_the_plain_statement(options: dict[str, Any], iteration: int) -> None:
    step = step_of(loss={"name": "soft_cross_entropy", "smoothing": 0.1}, **options)
    images, labels = batch()
    plain = Plain(step)
    learns, serves, _ = draws(3, iteration, len(images))
    expected = plain.run(images, labels, learns, serves, smoothing=0.1)
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
            # a constant of all positions of all keys changes no attention: the shared bias may have any gradient
            assert found[name].abs().max() > 1e-7
    assert not named(own["k"])
    assert not named(own["one_k"])
    for module, wanted in ((step.model, plain.q), (own["k"], plain.k)):
        for name, buffer in wanted.named_buffers():
            torch.testing.assert_close(dict(module.named_buffers())[name], buffer, rtol=1e-5, atol=1e-6)
    assert report.lam.item() == pytest.approx(serves.lam)


def test_the_published_draws_are_independent() -> None:
    learns, serves, _ = draws(3, 0, 16)
    assert learns.lam != serves.lam
    assert learns.partner.tolist() != serves.partner.tolist()


def test_each_loss_trains_its_own() -> None:
    step = step_of()
    images, labels = batch()
    _, report = step(images, labels, epoch=0, iteration=0)
    assert set(report.losses) == {"mix", "automix/generator", "automix/mask"}
    for weights, trained in (
        ({"mixed_weight": 0.0, "clean_weight": 0.0}, {"block"}),
        ({"generator_weight": 0.0, "mask_weight": 0.0}, {"model", "one"}),
    ):
        step = step_of(**weights)
        step(images, labels, epoch=0, iteration=0)[0].backward()
        modules = {"model": step.model, **dict(parts(step).items())}
        moved = {name for name, module in modules.items() if any((g != 0).any() for g in named(module).values())}
        assert moved == trained


def train_once(step: TrainingStep, iteration: int = 0, lr: float = 0.1) -> tuple[Tensor, dict[str, Tensor]]:
    """One optimizer step; the loss, and the network's weights before it."""
    images, labels = batch(seed=iteration)
    optimizer = torch.optim.SGD(step.param_groups(lr=lr), lr=lr)
    loss, _ = step(images, labels, epoch=0, iteration=iteration)
    loss.backward()
    optimizer.step()
    step.after_step()
    return loss.detach(), {}


@pytest.mark.parametrize(("iteration", "options"), [(0, {}), (50, {}), (0, {"momentum_constant": 0.0})])
def test_the_momentum_networks_are_averages_of_the_updated_weights(iteration: int, options: dict[str, Any]) -> None:
    step = step_of(**options)
    own = parts(step)
    with torch.no_grad():
        for parameter in own["k"].parameters():
            parameter.add_(torch.randn_like(parameter))
    before = [p.clone() for name in ("k", "one_k") for p in own[name].parameters()]
    train_once(step, iteration)
    m = ema_momentum(iteration, TOTAL, 0.999, 0.999999, options.get("momentum_constant", 0.1))
    trained = [p for module in (step.model, own["one"]) for p in module.parameters()]
    averaged = [p for name in ("k", "one_k") for p in own[name].parameters()]
    assert len(before) == len(trained) == len(averaged)
    for old, new, found in zip(before, trained, averaged, strict=True):
        expected = m * old.double() + (1 - m) * new.detach().double()
        torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-7)
        assert found.grad is None
    if not m:
        assert all(torch.equal(new, found) for new, found in zip(trained, averaged, strict=True))


def after_steps(plugin: AutoMix, iterations: int, accumulate: int = 1) -> float:
    """What is left of ones in the momentum copy of a network of zeros, by the plugin's own work after its steps."""
    zeros = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    copied = {name: nn.Linear(1, 1, bias=False, dtype=torch.float64) for name in ("k", "one", "one_k")}
    for module, value in ((zeros, 0.0), (copied["k"], 1.0), (copied["one"], 0.0), (copied["one_k"], 1.0)):
        nn.init.constant_(module.weight, value).requires_grad_(False)
    for iteration in range(accumulate - 1, iterations, accumulate):
        step = Step(
            epoch=0,
            epochs=1,
            iteration=iteration,
            iterations=iterations,
            seed=0,
            group=0,
            device=torch.device("cpu"),
        )
        plugin.after_step(zeros, copied, step)
    return copied["k"].weight.item()


@pytest.mark.parametrize("options", [{}, {"momentum": 0.99}, {"momentum": 0.9, "momentum_constant": 0.0}])
def test_what_is_left_of_the_first_weights(options: dict[str, float]) -> None:
    plugin, iterations = AutoMix(**options), 42
    held = after_steps(plugin, iterations)
    told = first_weights_left(iterations, plugin.momentum, plugin.momentum_end, plugin.momentum_constant)
    assert told == pytest.approx(held, rel=1e-9)
    assert after_steps(plugin, iterations, accumulate=4) >= told, "fewer optimizer steps leave more"


def test_what_a_short_run_says_and_that_its_advice_helps() -> None:
    (said,) = AutoMix().check(42)
    left = after_steps(AutoMix(), 42)
    assert f"still holds at least {int(100 * left)} % of its first weights" in said
    assert 'eval.predictor = "model"' in said
    advised = float(re.search(r"momentum and momentum_end to ([0-9.]+) or less", said)[1])
    followed = AutoMix(momentum=advised, momentum_end=advised)
    assert after_steps(followed, 42) < 0.1
    assert followed.check(42) == []


@pytest.mark.parametrize(("iterations", "silent"), [(2302, False), (25_000, True), (100_000, True)])
def test_a_run_of_usual_length_says_nothing(iterations: int, silent: bool) -> None:
    left = math.prod(ema_momentum(t, iterations, 0.999, 0.999999, 0.1) for t in range(iterations))
    assert (left <= 0.1) == silent
    assert (AutoMix().check(iterations) == []) == silent


@pytest.mark.parametrize("iterations", [1, 3, 10_000, 1_000_000])
def test_the_advised_momentum_suits_any_length(iterations: int) -> None:
    assert 0 <= learning_momentum(iterations) ** iterations < 0.1


def test_momentum_one_freezes_the_copy() -> None:
    step = step_of(momentum=1.0)
    before = {name: p.clone() for name, p in parts(step)["k"].named_parameters()}
    train_once(step)
    assert all(torch.equal(p, before[name]) for name, p in parts(step)["k"].named_parameters())


def test_buffers_of_the_copy_are_made_by_its_own_forwards() -> None:
    """On equal images the mixed batch is the batch, whatever the masks: k has seen it twice, at its old weights."""
    step = step_of()
    own = parts(step)
    for buffers in step.model.buffers():
        buffers.add_(1)  # averaged buffers would show
    twice = copy.deepcopy(own["k"])
    images, labels = batch(1)[0].expand(6, -1, -1, -1).contiguous(), batch()[1]
    for _ in range(2):
        twice(images)
    optimizer = torch.optim.SGD(step.param_groups(lr=0.1), lr=0.1)
    step(images, labels, epoch=0, iteration=0)[0].backward()
    optimizer.step()
    step.after_step()
    for name, buffer in twice.named_buffers():
        torch.testing.assert_close(dict(own["k"].named_buffers())[name], buffer, rtol=1e-5, atol=1e-6)


def counts(module: nn.Module) -> set[int]:
    return {int(b) for name, b in module.named_buffers() if name.endswith("num_batches_tracked")}


def test_how_often_each_network_runs() -> None:
    images, labels = batch()
    for options, of_k, of_q in (
        ({}, {2}, {2}),
        ({"generator_weight": 0.0}, {1}, {2}),
        ({"clean_weight": 0.0}, {2}, {1}),
    ):
        step = step_of(**options)
        step(images, labels, epoch=0, iteration=0)
        assert (counts(parts(step)["k"]), counts(step.model)) == (of_k, of_q)


def test_switch_off_leaves_out_that_share() -> None:
    step = step_of(switch_off=0.8)
    images, labels = batch(2)
    computed = ["automix/generator" in step(images, labels, epoch=0, iteration=i)[1].losses for i in range(TOTAL)]
    assert 68 <= sum(computed) <= 92
    always = step_of(switch_off=1.0)
    assert "automix/generator" in always(images, labels, epoch=0, iteration=0)[1].losses


def extremes(step_seed: int) -> Iterator[tuple[int, Draw]]:
    for iteration in range(400):
        _, serves, _ = draws(step_seed, iteration, 6)
        if min(serves.lam, 1 - serves.lam) <= 0.08:
            yield iteration, serves


def test_near_the_ends_the_network_sees_plain_mixup() -> None:
    step = step_of()
    images, labels = batch()
    iteration, serves = next(extremes(3))
    report = step(images, labels, epoch=0, iteration=iteration, logging=True)[1]
    mix = report.mix
    assert mix.mask is not None
    torch.testing.assert_close(mix.mask, torch.full_like(mix.mask, serves.lam))
    assert set(report.scalars) == {"automix/momentum", "automix/dropped"}, "the block made no mask"
    torch.testing.assert_close(mix.images, serves.lam * images + (1 - serves.lam) * images[serves.partner])
    kept = step_of(lam_margin=0.0)
    mask = kept(images, labels, epoch=0, iteration=iteration)[1].mix.mask
    assert mask is not None
    assert mask.std() > 0.01


def test_the_mix_says_what_was_drawn() -> None:
    images, labels = batch()
    report = step_of()(images, labels, epoch=0, iteration=0, logging=True)[1]
    mix = report.mix
    assert mix.mask is not None
    assert report.scalars["automix/mask_mean"] == mix.mask.mean()
    _, serves, _ = draws(3, 0, 6)
    assert mix.partner.tolist() == serves.partner.tolist()
    assert mix.lam.tolist() == pytest.approx([serves.lam] * 6)
    adjusted = step_of(mask_adjust=1.0)(images, labels, epoch=0, iteration=0)[1].mix
    torch.testing.assert_close(adjusted.mask, adjust_masks(mix.mask, serves.lam))
    torch.testing.assert_close(adjusted.mask.mean((1, 2, 3)), torch.full((6,), serves.lam), rtol=0, atol=1e-6)
    (view,) = mix.views
    assert view.images is images
    assert view.head == "one"


def test_the_one_hot_head_may_train_on_plain_mixes() -> None:
    step = step_of(head_one_mix=True)
    images, labels = batch()
    kinds = set()
    for iteration in range(12):
        (view,) = step(images, labels, epoch=0, iteration=iteration)[1].mix.views
        assert view.mask is not None
        whole = view.masks_on(*SIZE)[:, :1]
        kinds.add("mixup" if view.mask.shape[-1] == 1 else "cutmix")
        torch.testing.assert_close(view.images, whole * images + (1 - whole) * images[view.partner])
        torch.testing.assert_close(whole.mean((1, 2, 3)), view.lam)
    assert kinds == {"mixup", "cutmix"}


@pytest.mark.parametrize("where", ["generator", "mask"])
def test_a_nan_of_the_block_is_dropped_and_counted(where: str) -> None:
    step = step_of()
    own = parts(step)
    images, labels = batch()
    with torch.no_grad():
        (own["k"].fc if where == "generator" else own["block"].value).weight.fill_(torch.nan)
    learns, _, _ = draws(3, 0, 6)
    loss, report = step(images, labels, epoch=0, iteration=0, logging=True)
    loss.backward()
    assert report.losses["automix/generator"] == 0
    if where == "generator":
        assert loss.isfinite()
        assert report.scalars["automix/dropped"] == 1
        # the mask loss goes on
        plain = Plain(step)
        wanted = 0.1 * mask_loss("l1", plain.masks(plain.tapped(images), learns), learns.lam, 0.1)
        gradients = torch.autograd.grad(wanted, list(plain.block.parameters()))
        for found, gradient in zip(own["block"].parameters(), gradients, strict=True):
            torch.testing.assert_close(found.grad, gradient, rtol=1e-3, atol=1e-6)
    else:
        assert report.scalars["automix/dropped"] == 2
        assert report.losses["automix/mask"] == 0
        assert all((parameter.grad == 0).all() for parameter in own["block"].parameters())
    assert not loss.isnan() or where == "mask", "a NaN in the network's own losses is not hidden"


def test_bce_is_bce_in_all_terms() -> None:
    images, labels = batch()
    losses = {}
    for kind in ("bce", "soft_cross_entropy"):
        losses[kind] = step_of(loss=kind)(images, labels, epoch=0, iteration=0)[1].losses
    assert losses["bce"]["automix/generator"] < 0.9 * losses["soft_cross_entropy"]["automix/generator"]
    torch.testing.assert_close(losses["bce"]["automix/mask"], losses["soft_cross_entropy"]["automix/mask"])


def test_the_block_has_its_own_optimizer_group() -> None:
    step = step_of(block_lr=0.03, block_momentum=0.0, block_min_lr=0.001)
    groups = {group["name"]: group for group in step.param_groups(lr=0.1, weight_decay=0.01, momentum=0.9)}
    assert set(groups) == {"backbone", "automix.block", "automix.one"}
    block = groups["automix.block"]
    assert [block[key] for key in ("lr", "momentum", "min_lr", "weight_decay")] == [0.03, 0.0, 0.001, 0.01]
    assert groups["automix.one"]["lr"] == 0.1
    frozen = {id(p) for name in ("k", "one_k") for p in parts(step)[name].parameters()}
    assert not frozen & {id(p) for group in groups.values() for p in group["params"]}


def test_predictors_and_export() -> None:
    step = step_of()
    assert set(step.predictors()) == {"model", "k_mix", "k_one", "q_one"}
    assert AutoMix.suggests == {"predictor": "k_mix"}
    train_once(step)
    k, head = step.predictors()["k_mix"]
    assert head is None
    alone = network()
    alone.load_state_dict(k.state_dict())
    images, _ = batch()
    assert torch.equal(alone.eval()(images), k.eval()(images))
    assert set(step_of(clean_weight=0.0).predictors()) == {"model", "k_mix"}


def test_at_the_start_the_copies_are_copies() -> None:
    step = step_of()
    own = parts(step)
    for copied, original in ((own["k"], step.model), (own["one_k"], own["one"])):
        assert all(torch.equal(p, q) for p, q in zip(copied.parameters(), original.parameters(), strict=True))
        assert not any(p.requires_grad for p in copied.parameters())
        assert copied.training


def train(step: TrainingStep, optimizer: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    losses = []
    for iteration in range(first, last):
        loss, _ = step(*batch(seed=iteration), epoch=0, iteration=iteration)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step.after_step()
        losses.append(loss.item())
    return losses


def test_a_resumed_run_has_the_bits_of_the_whole() -> None:
    def begin() -> tuple[TrainingStep, torch.optim.Optimizer]:
        step = step_of(block_lr=0.03, block_momentum=0.5)
        return step, torch.optim.SGD(step.param_groups(lr=0.05, momentum=0.9), lr=0.05)

    whole, optimizer = begin()
    losses = train(whole, optimizer, 8, 14)  # the momentum schedule begins to rise at 10
    half, optimizer = begin()
    train(half, optimizer, 8, 11)
    state = copy.deepcopy((half.saved_state(), optimizer.state_dict()))
    resumed, optimizer = begin()
    resumed.load_saved_state(state[0])
    optimizer.load_state_dict(state[1])
    assert train(resumed, optimizer, 11, 14) == losses[3:]
    found = resumed.saved_state()
    assert all(torch.equal(value, found[name]) for name, value in whole.saved_state().items())


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str | int]] = {
    "resnet": (lambda: timm.create_model("resnet10t", num_classes=CLASSES), 3),
    "vit": (
        lambda: timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=4, num_classes=CLASSES
        ),
        2,
    ),
    "swin": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=32,
            patch_size=2,
            window_size=2,
            embed_dim=12,
            depths=(1, 1, 1, 1),
            num_classes=CLASSES,
        ),
        "layers.3.downsample",
    ),
    "convnext": (lambda: timm.create_model("convnext_atto", depths=(1, 1, 1, 1), num_classes=CLASSES), 3),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks(kind: str) -> None:
    make, stage = NETWORKS[kind]
    torch.manual_seed(0)
    step = step_of(make(), stage=stage)
    loss, report = step(*batch(4), epoch=0, iteration=0)
    loss.backward()
    assert loss.isfinite()
    mask = report.mix.mask
    assert mask is not None
    assert mask.shape == (4, 1, *SIZE)
    assert mask.std() > 1e-4
    for module in (step.model, parts(step)["block"], parts(step)["one"]):
        assert all(p.grad is not None for p in module.parameters())


def test_a_stage_that_does_not_exist_is_refused_with_those_that_do() -> None:
    for stage in ("layer3", 5):
        with pytest.raises(ConfigError, match=r"1 \(stage1\), 2 \(stage2\)"):
            step_of(stage=stage)


def test_it_comes_as_a_whole_step_only() -> None:
    with pytest.raises(ConfigError, match="create_step"):
        mixcore.create_mixer("automix", num_classes=CLASSES, model=network(), stage=2)


def test_bf16_learns_too() -> None:
    step = step_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, report = step(*batch(), epoch=0, iteration=0)
    loss.backward()
    assert report.mix.mask.dtype == torch.float32
    assert report.mix.images.dtype == torch.float32
    plain = step_of()
    expected = plain(*batch(), epoch=0, iteration=0)[0]
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.05)
    for found, wanted in zip(parts(step)["block"].parameters(), parts(plain)["block"].parameters(), strict=True):
        assert F.cosine_similarity(found.grad.flatten(), wanted.grad.flatten(), dim=0) > 0.9


def test_masks_over_lam_leave_no_trace() -> None:
    step = step_of(lam_concat=True)
    images, labels = batch()
    step(images, labels, epoch=0, iteration=0)
    before = {name: value.clone() for name, value in step.state_dict().items() if isinstance(value, Tensor)}
    modes = [module.training for module in step.modules()]
    low, high = step.previews(Batch(images=images, labels=labels), (0.1, 0.9))["automix"]
    assert all(torch.equal(value, before[name]) for name, value in step.state_dict().items() if name in before)
    assert [module.training for module in step.modules()] == modes
    assert low.mask is not None
    assert high.mask is not None
    assert (low.mask - high.mask).abs().max() > 0.01
    assert low.partner.tolist() == [1, 2, 3, 4, 5, 0]
    again = step.previews(Batch(images=images[:2], labels=labels[:2]), (0.1,))["automix"][0]
    torch.testing.assert_close(again.mask[:1], low.mask[:1], msg="in eval mode other images do not matter")


def test_the_example_of_the_readme_runs() -> None:
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
    assert "k_mix" in names["step"].predictors()
